"""The commands of docs/backup.md, as they stand there: backed up under traffic, restored elsewhere, served again."""

import asyncio
import itertools
import os
import re
import stat
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from deploy.local import MARIADB_FOR_TESTS, MariaDB, write_private
from deploy.programs import MARIADB_DUMP, PROJECT, provide
from tests.acceptance.conftest import StartUsher, Stores
from tests.auditor import Auditor
from tests.driver import Answer, Client, orders, repeating, tally
from tests.faults import Proxy, holding
from tests.reconciler_process import run_reconciler
from tests.stores import Admin, Cell, flush
from tests.usher_process import environment, run_usher
from tests.waiting import until, until_async

PAGE = (PROJECT / "docs" / "backup.md").read_text(encoding="utf-8")
SECTION = re.compile(r"^## (.+)$", re.MULTILINE)
BLOCK = re.compile(r"^ *```(\w+)\n(.*?)^ *```$", re.MULTILINE | re.DOTALL)
PLACE = "usher_backup"
PASSWORD = "one-for-backups"
COMMAND_TIMEOUT_S = 60
AT_ONCE = 5
"""Coupons that are made and redeemed beside the backup at the same time."""
CODES = ("OLD-REDIS", "REPAIRED", "EMPTY-REDIS")
LIMIT = 60
BEFORE, AFTER = 20, 30
"""Redemptions of each of these coupons before the backup, and after it."""

Rows = dict[Cell, dict[str, Cell]]


def blocks(section: str, language: str) -> list[str]:
    """The blocks of a section of the page, from the top."""
    _, *parts = SECTION.split(PAGE)
    text = dict(zip(parts[::2], parts[1::2], strict=True))[section]
    return [textwrap.dedent(block) for found, block in BLOCK.findall(text) if found == language]


@pytest.fixture(scope="module")
def programs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `mariadb-dump` and `mariadb` that run, wherever they are on this machine."""
    folder = tmp_path_factory.mktemp("programs")
    dump = provide(MARIADB_DUMP)
    variables = " ".join(f"{name}='{value}'" for name, value in dump.environment.items())
    for name in ("mariadb-dump", "mariadb"):
        script = folder / name
        script.write_text(f'#!/bin/sh\nexec env {variables} {dump.path.parent / name} "$@"\n', encoding="utf-8")
        script.chmod(stat.S_IRWXU)
    return folder


@dataclass(frozen=True)
class Operator:
    """Pastes what the page says into a shell with these variables."""

    variables: Mapping[str, str]
    path: str

    def paste(self, block: str) -> str:
        """What a block prints; it must not fail."""
        done = subprocess.run(
            ["bash", "-eu", "-c", block],
            env={**os.environ, **self.variables, "PATH": self.path},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=COMMAND_TIMEOUT_S,
            check=False,
        )
        assert done.returncode == 0, f"{block}\n{done.stdout}\n{done.stderr}"
        return done.stdout


@pytest.fixture
def target(tmp_path: Path) -> Iterator[MariaDB]:
    """The server that is restored to: an empty database with its accounts."""
    with MariaDB(tmp_path / "target", settings=MARIADB_FOR_TESTS) as server:
        yield server


@pytest.fixture
def proxy(stores: Stores, faults: Callable[[int], Proxy]) -> Proxy:
    """Stands between the backup and the ledger."""
    return faults(stores.mariadb.port)


@pytest.fixture
def operator(target: MariaDB, admin: Admin, tmp_path: Path, programs: Path, proxy: Proxy) -> Iterator[Operator]:
    """With the account and the files that the page describes."""
    (accounts,) = blocks("Before the first backup", "sql")
    for statement in accounts.replace("…", PASSWORD).split(";\n"):
        if statement.strip():
            admin.run(statement)
    (login,) = blocks("Before the first backup", "ini")
    login = login.replace("host = db", "host = 127.0.0.1\nport = {port}").replace("…", "{password}")
    migrating = login.replace("usher_backup", target.migration_user)
    write_private(tmp_path / "backup.cnf", login.format(port=proxy.port, password=PASSWORD))
    write_private(tmp_path / "restore.cnf", migrating.format(port=target.port, password=target.migration_password))
    variables = {
        "BACKUP_LOGIN": str(tmp_path / "backup.cnf"),
        "RESTORE_LOGIN": str(tmp_path / "restore.cnf"),
        "BACKUP": str(tmp_path / "usher.sql.gz"),
        "USHER_MIGRATION_DATABASE_URL": target.migration_url,
    }
    yield Operator(variables, f"{programs}:{Path(sys.executable).parent}:{os.environ['PATH']}")
    admin.run("DROP USER 'usher_backup'@'%'")


def rows(admin: Admin, table: str, by: str) -> Rows:
    """A table's rows by their key."""
    return {row[by]: row for row in admin.run(f"SELECT * FROM {table}")}


async def back_up_under_traffic(operator: Operator, client: Client, proxy: Proxy) -> list[Answer]:
    """The page's backup, while coupons are made and redeemed at once; the answers to those redemptions.

    It is held up between the two tables, so that coupons are made and redeemed after it has read the first one.
    """
    write, look = blocks("Back up", "sh")
    numbers = itertools.count()
    answers: list[Answer] = []

    async def make_some() -> None:
        await asyncio.gather(*(make_and_redeem(next(numbers)) for _ in range(AT_ONCE)))

    async def make_and_redeem(number: int) -> None:
        assert 201 == (await client.create_coupon(f"BESIDE-{number}", max_redemptions=1)).status
        answers.append(await client.redeem(f"BESIDE-{number}", "customer", f"order-{number}"))

    redemptions = proxy.hold(holding(b"from `redemption`"))
    async with repeating(make_some, every_s=0.001) as done:
        writing = asyncio.create_task(asyncio.to_thread(operator.paste, write))
        await until(lambda: redemptions.hits > 0 or writing.done(), what="the redemptions are to be read")
        times = done.times
        await until(lambda: done.times > times + 1, what="some are made meanwhile")
        redemptions.release()
        await writing
    assert 1 == redemptions.hits
    assert {"201": len(answers)} == tally(answers)
    assert (await asyncio.to_thread(operator.paste, look)).startswith("-- Dump completed on 2")
    return answers


def assert_is_of_one_moment(before: list[Answer], beside: list[Answer], source: Admin, restored: Admin) -> None:
    """All that was promised before the backup, the same rows as in the source, and no redemption without its coupon."""
    found = rows(restored, "redemption", "id")
    assert {row["order_id"] for row in found.values()} >= {answer.body["order_id"] for answer in before}
    assert len(before) <= len(found) < len(before) + len(beside)
    all_rows = rows(source, "redemption", "id")
    assert found == {redemption_id: all_rows[redemption_id] for redemption_id in found}
    coupons, all_coupons = rows(restored, "coupon", "id"), rows(source, "coupon", "id")
    assert coupons == {coupon_id: all_coupons[coupon_id] for coupon_id in coupons}
    assert {row["coupon_id"] for row in found.values()} <= set(coupons)
    # A coupon without its redemption was one of those under way at that moment.
    assert 0 <= len(coupons) - len(CODES) - (len(found) - len(before)) <= AT_ONCE
    for table, by in (("api_key", "digest"), ("schema_migration", "version")):
        assert rows(source, table, by).keys() == rows(restored, table, by).keys()


async def test_backup_and_restore(
    stores: Stores,
    start_usher: StartUsher,
    api_key: str,
    admin: Admin,
    operator: Operator,
    proxy: Proxy,
    target: MariaDB,
) -> None:
    """One moment of the ledger comes back; on it, with an old Redis, repaired or not, or an empty one, the limit is reached."""
    # Given
    usher = start_usher()
    async with Client(usher.url, key=api_key) as client:
        before: list[Answer] = []
        for code in CODES:
            assert 201 == (await client.create_coupon(code, max_redemptions=LIMIT, max_per_customer=1)).status
            before += await client.redeem_all(code, orders(BEFORE, f"before-{code}"))
        # When
        beside = await back_up_under_traffic(operator, client, proxy)
        after = [
            answer
            for code in CODES
            for answer in await client.redeem_all(code, orders(AFTER, f"after-{code}") + orders(LIMIT, f"more-{code}"))
        ]
    assert {"201": len(CODES) * BEFORE} == tally(before)
    assert len(CODES) * (LIMIT - BEFORE) == tally(after)["201"]
    usher.stop()
    restore, migrate, look = blocks("Restore", "sh")
    assert "" == operator.paste(restore)
    assert "the schema is current\n" == operator.paste(migrate)
    # Then
    assert re.search(r"above_limit \| without_coupon \|\n.*\n\| +0 \| +0 \|\n", operator.paste(look))
    with Admin(target) as restored:
        assert_is_of_one_moment(before, beside, admin, restored)
        for code in CODES:
            if code == "EMPTY-REDIS":
                flush(stores.redis)
            if code == "REPAIRED":
                await assert_repair_follows_the_ledger(code, environment(database_url=target.url, redis_url=stores.redis.url))
            await assert_serves_to_the_limit(start_usher, target.url, api_key, (code, Auditor(restored)))


async def assert_repair_follows_the_ledger(code: str, variables: Mapping[str, str]) -> None:
    """Repair says which seats and customers Redis knew of and the ledger does not; then check is clean.

    What was claimed last counts as pending for some seconds, and is found by the next repair.
    """
    seats: list[int] = []
    customers: list[str] = []

    async def repair() -> bool:
        done = await asyncio.to_thread(run_reconciler, "repair", "--code", code, "--json", variables=variables)
        assert 0 == done.check().json["not_mended"]
        for finding in done.json["findings"]:
            match finding:
                case {"kind": "leaked", "seat": seat, "before": "handed out", "after": "free"}:
                    seats.append(seat)
                case {"kind": "customer_count", "customer_id": customer_id, "before": 1, "after": 0}:
                    customers.append(customer_id)
                case _:
                    raise AssertionError(finding)
        return len(seats) == LIMIT - BEFORE

    await until_async(repair, what=f"all that was forgotten is found, and not only {seats}")
    assert list(range(BEFORE + 1, LIMIT + 1)) == sorted(seats)
    assert len(set(customers)) == LIMIT - BEFORE == len(customers)
    clean = await asyncio.to_thread(run_reconciler, "check", "--code", code, "--json", variables=variables)
    assert (0, []) == (clean.status, clean.json["findings"])


async def assert_serves_to_the_limit(
    start_usher: StartUsher, database_url: str, api_key: str, coupon: tuple[str, Auditor]
) -> None:
    """What was redeemed before the backup is known, what came after it is redeemed anew, and there is room up to the limit."""
    code, auditor = coupon
    usher = start_usher(database_url=database_url)
    async with Client(usher.url, key=api_key) as client:
        assert BEFORE == len(auditor.live(code))
        again = await client.redeem_all(code, orders(BEFORE, f"before-{code}"))
        anew = await client.redeem_all(code, orders(AFTER, f"after-{code}"))
        assert ({"200": BEFORE}, {"201": AFTER}) == (tally(again), tally(anew))
        assert LIMIT == len(await auditor.fill(client, code))
    usher.stop()


async def test_a_restore_does_not_overwrite(operator: Operator, target: MariaDB) -> None:
    """A database that is not empty is left as it is."""
    write, _ = blocks("Back up", "sh")
    restore, *_ = blocks("Restore", "sh")
    run_usher("migrate", migration_url=target.migration_url).check()
    operator.paste(write)
    with Admin(target) as restored:
        restored.run("INSERT INTO api_key (name, digest, scopes, created_at) VALUES ('kept', 'x', 'read', UTC_TIMESTAMP(6))")
        with pytest.raises(AssertionError, match="Table 'api_key' already exists"):
            operator.paste(restore)
        assert ["kept"] == restored.column("SELECT name FROM api_key")


def test_spoilt_tables_are_moved_out_of_the_way(operator: Operator, target: MariaDB) -> None:
    """The backup goes into the database that the accounts may use, and the spoilt rows are kept."""
    write, _ = blocks("Back up", "sh")
    (move,) = blocks("Restore", "sql")
    restore, *_ = blocks("Restore", "sh")
    run_usher("migrate", migration_url=target.migration_url).check()
    operator.paste(write)
    with Admin(target) as administrator:
        administrator.run("INSERT INTO schema_migration VALUES (99, 'spoilt', 'x', UTC_TIMESTAMP(6))")
        for statement in move.split(";\n"):
            if statement.strip():
                administrator.run(statement)
        assert [] == administrator.run("SHOW TABLES FROM usher")
        assert "" == operator.paste(restore)
        spoilt = administrator.column("SELECT version FROM usher_spoilt.schema_migration")
        assert [*administrator.column("SELECT version FROM usher.schema_migration"), 99] == spoilt


def test_a_backup_that_failed_does_not_get_the_name(operator: Operator, tmp_path: Path) -> None:
    """In a shell that knows no pipefail, too; and nobody else may read what there is of it."""
    write, _ = blocks("Back up", "sh")
    (tmp_path / "backup.cnf").write_text("[client]\nhost = 127.0.0.1\nport = 1\n", encoding="utf-8")
    with pytest.raises(AssertionError, match="Can't connect"):
        operator.paste(write)
    (written,) = tmp_path.glob("usher.sql.gz*")
    assert ("usher.sql.gz.part", 0o600) == (written.name, written.stat().st_mode & 0o777)
