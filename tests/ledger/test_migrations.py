import asyncio
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pymysql
import pytest
from pydantic import SecretStr

from deploy.local import MariaDB
from service.config import Settings
from service.errors import LedgerUnavailable, MigrationChanged, SchemaNotCurrent
from service.ledger import Ledger, migrations, sql
from service.ledger.sql import Migration
from service.model import RecordEnding
from tests.ledger import given
from tests.stores import Admin
from tests.waiting import until

PROJECT = Path(__file__).resolve().parents[2]
NAMES = [f"{migration.number:04d}_{migration.name}" for migration in sql.migrations()]
RUN = """
import asyncio, json, sys
from pydantic import SecretStr
from service.ledger import migrations
print(json.dumps(asyncio.run(migrations.run(SecretStr(sys.argv[1])))))
"""


@pytest.fixture
async def bare(bare_database_url: str) -> Any:  # noqa: ANN401 - an async generator's type says less
    """A ledger whose database has no table."""
    ledger = await Ledger.connect(Settings(database_url=SecretStr(bare_database_url)))
    yield ledger
    await ledger.close()


def tables(admin: Admin, database: str) -> dict[str, str]:
    """The definition of each table."""
    admin.run(f"USE {database}")
    names = [next(iter(row.values())) for row in admin.run("SHOW TABLES")]
    return {name: admin.run(f"SHOW CREATE TABLE `{name}`")[0]["Create Table"] for name in names}


async def test_migrations_end_in_the_schema(bare_migration_url: str, admin: Admin) -> None:
    """The migrations and schema.sql make the same tables."""
    # Given
    await migrations.run(SecretStr(bare_migration_url))
    migrated = tables(admin, "usher_bare")
    # When
    admin.run("CREATE OR REPLACE DATABASE usher_bare CHARACTER SET utf8mb4")
    admin.run("USE usher_bare")
    for statement in sql.statements(sql.schema()):
        admin.run(statement)
    # Then
    assert tables(admin, "usher_bare") == migrated
    assert {"coupon", "redemption", "api_key", "schema_migration"} <= set(migrated)


async def test_once_and_again(bare_migration_url: str, bare: Ledger) -> None:
    """The first run applies all, the second nothing; in between, the schema is not current."""
    # Given
    with pytest.raises(SchemaNotCurrent):
        await bare.check_schema()
    # When
    names = await migrations.run(SecretStr(bare_migration_url))
    # Then
    assert NAMES == names
    assert names[0] == "0001_begin"
    await bare.check_schema()
    assert [] == await migrations.run(SecretStr(bare_migration_url))


def migrate_twice(url: str) -> list[str]:
    """What two processes print that migrate at once."""
    command = [sys.executable, "-c", RUN, url]
    runners = [subprocess.Popen(command, cwd=PROJECT, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    printed = [runner.communicate(timeout=60)[0].strip() for runner in runners]
    assert [0, 0] == [runner.returncode for runner in runners]
    return printed


async def test_two_processes_at_once(bare_migration_url: str, bare: Ledger) -> None:
    """Of two that run at once, one applies each migration, the other waits for it; both succeed."""
    printed = await asyncio.to_thread(migrate_twice, bare_migration_url)
    assert {"[]", json.dumps(NAMES)} == set(printed)
    await bare.check_schema()


async def test_a_runner_waits_for_the_lock(bare_migration_url: str, admin: Admin) -> None:
    """Nothing is applied while another runner works; locks of other databases are others."""
    # Given
    admin.run("SELECT GET_LOCK(%s, 0)", migrations._lock_name("usher_bare"))
    # When
    running = asyncio.create_task(migrations.run(SecretStr(bare_migration_url)))
    await asyncio.sleep(0.3)
    # Then
    assert not running.done()
    assert {} == tables(admin, "usher_bare")
    admin.run("SELECT RELEASE_LOCK(%s)", migrations._lock_name("usher_bare"))
    assert NAMES == await running
    assert migrations._lock_name("usher_bare") != migrations._lock_name("usher")


async def test_a_runner_holds_the_lock(bare_migration_url: str, admin: Admin, monkeypatch: pytest.MonkeyPatch) -> None:
    """The lock is held as long as statements run, and let go then."""
    # Given
    slow = Migration(1, "slow", "1" * 64, ("DO GET_LOCK('tests_gate', 60)",))
    monkeypatch.setattr(migrations, "migrations", lambda: [slow])
    lock = migrations._lock_name("usher_bare")
    assert 1 == admin.value("SELECT GET_LOCK('tests_gate', 0)")
    # When
    running = asyncio.create_task(migrations.run(SecretStr(bare_migration_url)))
    at_the_gate = "SELECT COUNT(*) FROM information_schema.PROCESSLIST WHERE INFO LIKE 'DO GET_LOCK%%'"
    await until(lambda: bool(admin.value(at_the_gate)), what="the statement runs")
    # Then
    assert admin.value("SELECT IS_USED_LOCK(%s)", lock) is not None
    admin.run("DO RELEASE_LOCK('tests_gate')")
    await running
    assert admin.value("SELECT IS_USED_LOCK(%s)", lock) is None


async def test_an_applied_migration_was_changed(bare_migration_url: str, bare: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that was changed after it had been applied is told, not applied."""
    # Given
    await migrations.run(SecretStr(bare_migration_url))
    (first, *_) = sql.migrations()
    monkeypatch.setattr(migrations, "migrations", lambda: [replace(first, checksum="0" * 64)])
    # When, Then
    with pytest.raises(MigrationChanged, match="0001_begin"):
        await migrations.run(SecretStr(bare_migration_url))
    with pytest.raises(SchemaNotCurrent, match="0001_begin"):
        await bare.check_schema()


async def test_a_migration_is_missing(bare_migration_url: str, bare: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    """A ledger that lacks a migration is not current; one that has more than this version knows, is."""
    # Given
    await migrations.run(SecretStr(bare_migration_url))
    known = sql.migrations()
    later = Migration(len(known) + 1, "later", "1" * 64, ("CREATE TABLE IF NOT EXISTS later (id INT)",))
    with monkeypatch.context() as newer:
        newer.setattr(migrations, "migrations", lambda: [*known, later])
        with pytest.raises(SchemaNotCurrent):
            await bare.check_schema()
        # When
        assert [f"{later.number:04d}_later"] == await migrations.run(SecretStr(bare_migration_url))
        # Then
        await bare.check_schema()
    await bare.check_schema()
    assert [] == await migrations.run(SecretStr(bare_migration_url))


async def test_a_runner_that_died(bare_migration_url: str, bare: Ledger, admin: Admin) -> None:
    """A migration that was interrupted between two statements is completed by the next run."""
    # Given
    admin.run("USE usher_bare")
    for statement in sql.migrations()[0].statements[:2]:
        admin.run(statement)
    # When, Then
    assert NAMES == await migrations.run(SecretStr(bare_migration_url))
    await bare.check_schema()


async def test_a_migration_lets_redemptions_through(
    bare_migration_url: str, bare: Ledger, admin: Admin, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A change of a table that somebody's transaction uses waits for it, and redemptions do not wait with the change."""
    # Given
    await migrations.run(SecretStr(bare_migration_url))
    change = "ALTER TABLE redemption ADD COLUMN IF NOT EXISTS note INT NULL, ALGORITHM = INSTANT, LOCK = NONE"
    later = Migration(len(sql.migrations()) + 1, "later", "1" * 64, (change,))
    known = sql.migrations()
    monkeypatch.setattr(migrations, "migrations", lambda: [*known, later])
    coupon = await given.coupon(bare)
    admin.run("USE usher_bare")
    admin.run("BEGIN")
    admin.run("SELECT COUNT(*) FROM redemption")
    # When
    running = asyncio.create_task(migrations.run(SecretStr(bare_migration_url)))
    endings = []
    for seat in range(1, 7):
        await asyncio.sleep(0.5)
        endings += await given.endings(bare, given.row(bare, coupon, seat=seat, deadline_s=3.0))
    # Then
    assert [RecordEnding.RECORDED] * 6 == endings
    assert not running.done()
    admin.run("COMMIT")
    assert [f"{later.number:04d}_later"] == await running
    assert "note" in tables(admin, "usher_bare")["redemption"]


def test_migrations_can_be_repeated() -> None:
    """Every statement that creates says what to do when it was run before."""
    for migration in sql.migrations():
        for statement in migration.statements:
            assert not statement.startswith("CREATE TABLE") or statement.startswith("CREATE TABLE IF NOT EXISTS")


async def test_without_rights(mariadb_server: MariaDB, admin: Admin, database_url: str) -> None:
    """The service's own account needs to read and write rows, and nothing more."""
    # Given
    admin.run("CREATE OR REPLACE USER 'lean'@'127.0.0.1' IDENTIFIED BY 'p@ss/word:1'")
    admin.run("GRANT SELECT, INSERT, UPDATE ON usher.* TO 'lean'@'127.0.0.1'")
    url = f"mysql://lean:p%40ss%2Fword%3A1@127.0.0.1:{mariadb_server.port}/usher"
    ledger = await Ledger.connect(Settings(database_url=SecretStr(url)))
    try:
        # When, Then
        await ledger.ping()
        await ledger.check_schema()
        assert [] == await ledger.durability_warnings()
        with pytest.raises(LedgerUnavailable, match=r"^the account lacks the right CREATE \(error 1142\)$"):
            await migrations.run(SecretStr(url))
    finally:
        await ledger.close()
        admin.run("DROP USER 'lean'@'127.0.0.1'")


async def test_durability(bare: Ledger, admin: Admin) -> None:
    """A setting by which a power loss takes acknowledged redemptions is a warning; it is none when it is as promised."""
    assert [] == await bare.durability_warnings()
    try:
        for value in (0, 2):
            admin.run(f"SET GLOBAL innodb_flush_log_at_trx_commit = {value}")
            (warning,) = await bare.durability_warnings()
            assert warning.startswith(f"innodb_flush_log_at_trx_commit is {value}, not 1")
        admin.run("SET GLOBAL innodb_flush_log_at_trx_commit = 1")
        # Without a binary log, nothing depends on it.
        admin.run("SET GLOBAL sync_binlog = 0")
        assert [] == await bare.durability_warnings()
    finally:
        admin.run("SET GLOBAL innodb_flush_log_at_trx_commit = 1, GLOBAL sync_binlog = 1")


async def test_a_server_that_is_not_there() -> None:
    """The service starts without the ledger, and says what it lacks when it is asked."""
    ledger = await Ledger.connect(Settings(database_url=SecretStr("mysql://usher@127.0.0.1:1/usher")))
    for asking in (ledger.ping, ledger.check_schema, ledger.durability_warnings):
        with pytest.raises(LedgerUnavailable):
            await asking()
    await ledger.close()


def test_a_script_is_cut_at_its_statements() -> None:
    """Comments are dropped; a semicolon ends a statement at the end of a line only."""
    script = "-- first; one\nSELECT ';';\n\n  -- and\nSELECT\n 2;\n"
    assert ("SELECT ';'", "SELECT\n 2") == sql.statements(script)


def test_pymysql_is_what_it_was() -> None:
    """The driver's escapes are those of a session in which the backslash escapes."""
    assert "\\'" == pymysql.converters.escape_string("'")
    assert "\\\\" == pymysql.converters.escape_string("\\")
