"""The private stores: they answer, survive, end with their owner, and keep what they promise."""

import itertools
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pymysql
import pytest
import redis

from deploy.local import MARIADB_FOR_TESTS, PORTS, MariaDB, Redis, Store, StoreError, free_port
from deploy.programs import PROJECT
from tests.waiting import wait_until


@pytest.fixture
def mariadb(tmp_path: Path) -> Iterator[MariaDB]:
    with MariaDB(tmp_path / "mariadb", settings=MARIADB_FOR_TESTS) as store:
        yield store


@pytest.fixture
def redis_store(tmp_path: Path) -> Iterator[Redis]:
    with Redis(tmp_path / "redis") as store:
        yield store


def ask(store: MariaDB, statement: str, *, root: bool = False) -> object:
    """The first column of a statement's first row, asked as who may change the schema, or as `root`."""
    door = (
        {"unix_socket": str(store.socket), "user": "root"}
        if root
        else {
            "host": "127.0.0.1",
            "port": store.port,
            "user": store.migration_user,
            "password": store.migration_password,
        }
    )
    connection = pymysql.connect(**door, database=store.database, autocommit=True, connect_timeout=5, read_timeout=5)
    with connection, connection.cursor() as cursor:
        cursor.execute(statement)
        row = cursor.fetchone()
    return row[0] if row else None


def process_is_there(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


def test_stores_listen_on_loopback_below_the_ephemeral_ports(mariadb: MariaDB, redis_store: Redis) -> None:
    assert mariadb.port in PORTS
    assert redis_store.port in PORTS
    assert ask(mariadb, "SELECT @@bind_address") == "127.0.0.1"
    with redis.Redis.from_url(redis_store.operator_url) as client:
        assert client.config_get("bind") == {"bind": "127.0.0.1"}


def test_the_account_has_rights_in_its_database_only(mariadb: MariaDB) -> None:
    ask(mariadb, "CREATE TABLE coupon (id INT)")
    with pytest.raises(pymysql.err.OperationalError, match="denied"):
        ask(mariadb, "CREATE DATABASE another")
    ask(mariadb, "SET GLOBAL read_only = 1", root=True)
    with pytest.raises(pymysql.err.OperationalError, match="read-only"):
        ask(mariadb, "INSERT INTO coupon VALUES (1)")


def test_root_comes_in_by_the_socket_alone(mariadb: MariaDB) -> None:
    assert str(ask(mariadb, "SELECT CURRENT_USER()", root=True)) == "root@localhost"
    with pytest.raises(pymysql.err.OperationalError, match="denied"):
        pymysql.connect(host="127.0.0.1", port=mariadb.port, user="root", connect_timeout=5)
    assert mariadb.socket.parent.stat().st_mode & 0o077 == 0


def test_passwords_are_random_and_for_this_user_only(mariadb: MariaDB, redis_store: Redis) -> None:
    passwords = {
        mariadb.folder / "password": mariadb.password,
        mariadb.folder / "migration-password": mariadb.migration_password,
        redis_store.folder / "password": redis_store.password,
        redis_store.folder / "operator-password": redis_store.operator_password,
    }
    assert len(set(passwords.values())) == len(passwords)
    for path, password in passwords.items():
        assert len(password) == 32
        assert path.read_text() == password
    holding = [
        path
        for store in (mariadb, redis_store)
        for path in store.folder.iterdir()
        if path.is_file() and any(password in path.read_text(errors="replace") for password in passwords.values())
    ]
    assert [path for path in holding if path.stat().st_mode & 0o077] == []
    for pid in (mariadb.pid, redis_store.pid):
        words = Path(f"/proc/{pid}/cmdline").read_text() + Path(f"/proc/{pid}/environ").read_text()
        assert [password for password in passwords.values() if password in words] == []


def test_the_account_of_an_earlier_version_loses_its_rights_and_keeps_its_password(mariadb: MariaDB) -> None:
    ask(mariadb, "DROP USER usher_migrate@'127.0.0.1'", root=True)
    ask(mariadb, "GRANT ALL PRIVILEGES ON *.* TO usher@'127.0.0.1' WITH GRANT OPTION", root=True)
    ask(mariadb, "GRANT ALL PRIVILEGES ON usher.* TO usher@'127.0.0.1'", root=True)
    (mariadb.folder / "migration-password").unlink()
    before = mariadb.password

    mariadb.stop()
    mariadb.start()

    assert mariadb.password == before
    assert grants(mariadb, "usher") == [
        "DELETE ON `usher`.`reconcile_finding`",
        "DELETE ON `usher`.`reconcile_run`",
        "SELECT, INSERT, UPDATE ON `usher`.*",
        "USAGE ON *.*",
    ]
    assert grants(mariadb, "usher_migrate") == [
        "SELECT, INSERT, UPDATE, CREATE, DROP, INDEX, ALTER ON `usher`.*",
        "USAGE ON *.*",
    ]
    assert ask(mariadb, "SELECT 1") == 1


def grants(store: MariaDB, user: str) -> list[str]:
    """What an account may do where."""
    with pymysql.connect(unix_socket=str(store.socket), user="root") as connection, connection.cursor() as cursor:
        cursor.execute(f"SHOW GRANTS FOR {user}@'127.0.0.1'")
        return sorted(row[0].removeprefix("GRANT ").partition(" TO ")[0] for row in cursor.fetchall())


def test_a_killed_mariadb_comes_back_with_its_port_and_what_was_committed(mariadb: MariaDB) -> None:
    ask(mariadb, "CREATE TABLE coupon (id INT)")
    ask(mariadb, "INSERT INTO coupon VALUES (7)")
    before = mariadb.url
    mariadb.kill()
    assert not mariadb.running
    mariadb.start()
    assert mariadb.url == before
    assert ask(mariadb, "SELECT id FROM coupon") == 7


def test_redis_keeps_nothing(redis_store: Redis) -> None:
    before = redis_store.url, redis_store.operator_url
    with redis.Redis.from_url(redis_store.operator_url) as client:
        client.set("key", "value")
    redis_store.stop()
    redis_store.start()
    assert (redis_store.url, redis_store.operator_url) == before
    with redis.Redis.from_url(redis_store.operator_url) as client:
        assert client.dbsize() == 0


def test_a_paused_store_answers_only_when_it_goes_on(redis_store: Redis) -> None:
    redis_store.pause()
    with redis.Redis.from_url(redis_store.url, socket_timeout=0.2, retry=None) as hasty, pytest.raises(redis.TimeoutError):
        hasty.ping()
    redis_store.resume()
    with redis.Redis.from_url(redis_store.url) as client:
        assert client.ping()


def test_a_paused_store_can_be_stopped(redis_store: Redis) -> None:
    redis_store.pause()
    redis_store.stop()
    assert not redis_store.running


def test_a_long_path_does_not_keep_mariadb_from_its_socket(tmp_path: Path) -> None:
    with MariaDB(tmp_path / ("long" * 30) / "mariadb", settings=MARIADB_FOR_TESTS) as store:
        assert str(ask(store, "SELECT CURRENT_USER()", root=True)) == "root@localhost"


def test_a_store_that_does_not_start_says_why(tmp_path: Path) -> None:
    store = Redis(tmp_path / "redis", settings={"no-such-directive": "1"})
    with pytest.raises(StoreError, match="no-such-directive"):
        store.start()


def test_a_port_that_somebody_takes_first_is_left_to_him(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        ports = itertools.chain([taken.getsockname()[1]], iter(free_port, None))
        monkeypatch.setattr("deploy.instance.free_port", lambda: next(ports))
        with Redis(tmp_path / "redis") as store:
            assert store.port in PORTS


@pytest.mark.parametrize("store", [MariaDB, Redis])
def test_a_store_ends_when_its_owner_is_killed(tmp_path: Path, store: type[Store]) -> None:
    settings = MARIADB_FOR_TESTS if store is MariaDB else {}
    program = (
        f"import sys, time; from pathlib import Path; from deploy.local import {store.__name__} as Store\n"
        f"store = Store(Path(sys.argv[1]), settings={settings!r}); store.start()\n"
        "print(store.pid, flush=True); time.sleep(60)"
    )
    command = [sys.executable, "-c", program, str(tmp_path / "store")]
    with subprocess.Popen(command, cwd=PROJECT, stdout=subprocess.PIPE, text=True) as owner:
        assert owner.stdout is not None
        pid = int(owner.stdout.readline())
        assert process_is_there(pid)
        owner.send_signal(signal.SIGKILL)
    wait_until(lambda: not process_is_there(pid), timeout_s=15, what="the store outlives its owner")


def test_a_store_ends_when_its_keeper_is_killed(redis_store: Redis) -> None:
    keeper = int(Path(f"/proc/{redis_store.pid}/stat").read_text().rsplit(")", 1)[1].split()[1])
    pid = redis_store.pid
    os.kill(keeper, signal.SIGKILL)
    wait_until(lambda: not process_is_there(pid), timeout_s=15, what="the store outlives its keeper")
