"""What a command says when a store fails it: which store, where, as whom, what is wrong, and what to try; never a password."""

from collections.abc import Callable, Iterator

import pytest

from deploy.ports import free_port
from tests.acceptance.conftest import Stores
from tests.stores import Admin
from tests.usher_process import Finished, run_usher

SECRET = "Sekr3t-Passw0rd"
COULD_NOT = 2
UNREACHABLE = "Check host and port in {}, and that it runs."

Url = Callable[..., str]


@pytest.fixture
def lean(admin: Admin) -> Iterator[str]:
    """An account that may only read, in `usher` and in the empty database `usher_other`."""
    admin.run(f"CREATE OR REPLACE USER 'lean'@'127.0.0.1' IDENTIFIED BY '{SECRET}'")
    admin.run("CREATE OR REPLACE DATABASE usher_other CHARACTER SET utf8mb4")
    for database in ("usher", "usher_other"):
        admin.run(f"GRANT SELECT ON {database}.* TO 'lean'@'127.0.0.1'")
    yield "lean"
    admin.run("DROP DATABASE usher_other")
    admin.run("DROP USER 'lean'@'127.0.0.1'")


@pytest.fixture
def url(stores: Stores) -> Url:
    """An address of a ledger, of these stores unless said otherwise."""

    def make(user: str = "lean", *, password: str = SECRET, where: str = "", name: str = "usher") -> str:
        return f"mysql://{user}:{password}@{where or f'127.0.0.1:{stores.mariadb.port}'}/{name}"

    return make


def line(done: Finished) -> str:
    """The one line of a command that could not, without the beginning that all have."""
    lines = done.errors.splitlines()
    assert (COULD_NOT, "", 1) == (done.status, done.output, len(lines)), done
    assert SECRET not in done.errors
    return lines[0].removeprefix("usher: the ledger (MariaDB) at ")


@pytest.mark.parametrize("command", [["coupon", "list"], ["coupon", "list", "--json"], ["coupon", "show", "A"]], ids=str)
def test_nobody_listens(url: Url, command: list[str]) -> None:
    where = f"127.0.0.1:{free_port()}"
    expected = f"{where}/usher cannot be used: no connection, nothing answers there (error 2003). "
    assert expected + UNREACHABLE.format("USHER_DATABASE_URL") == line(run_usher(*command, database_url=url(where=where)))


@pytest.mark.parametrize("command", [["migrate"], ["key", "list"]], ids=str)
def test_nobody_listens_where_the_schema_is_changed(url: Url, command: list[str]) -> None:
    """The variable is the one that the address was taken from."""
    where = f"127.0.0.1:{free_port()}"
    said = {
        line(run_usher(*command, database_url=url(where=where))),
        line(run_usher(*command, database_url="mysql://u@127.0.0.1:1/n", migration_url=url(where=where))),
    }
    expected = f"{where}/usher cannot be used: no connection, nothing answers there (error 2003). "
    assert {
        expected + UNREACHABLE.format("USHER_DATABASE_URL"),
        expected + UNREACHABLE.format("USHER_MIGRATION_DATABASE_URL"),
    } == said


def test_no_variable_is_set() -> None:
    """The address is not one that anybody has chosen, and the line says so."""
    done = run_usher("coupon", "list")
    assert "127.0.0.1:3306/usher cannot be used: " in line(done)
    assert line(done).endswith(
        "Check host and port in USHER_DATABASE_URL, which is not set: this is the default, and that it runs."
    )


def test_a_ledger_that_is_read_only(stores: Stores, admin: Admin) -> None:
    admin.run("SET GLOBAL read_only = 1")
    try:
        said = line(run_usher("coupon", "create", "READ-ONLY", database_url=stores.mariadb.url))
    finally:
        admin.run("SET GLOBAL read_only = 0")
    assert said.endswith("the ledger is read-only. Is the one in USHER_DATABASE_URL a replica, or a failover under way?")


def test_redis_without_a_password(stores: Stores) -> None:
    made = run_usher("coupon", "create", "NO-PASSWORD", database_url=stores.mariadb.url, redis_url=stores.redis.url).check()
    assert "" == made.errors
    bare = f"redis://127.0.0.1:{stores.redis.port}/0"
    done = run_usher(
        "coupon", "update", "NO-PASSWORD", "--status", "paused", database_url=stores.mariadb.url, redis_url=bare
    ).check()
    assert "cannot be used: it wants a user and a password" in done.errors


def test_host_that_is_mistyped(url: Url) -> None:
    said = line(run_usher("coupon", "list", database_url=url(where="no-such-host.invalid")))
    expected = "no-such-host.invalid:3306/usher cannot be used: no connection, there is no host of this name. "
    assert expected + UNREACHABLE.format("USHER_DATABASE_URL") == said


def test_port_of_something_else(stores: Stores, url: Url) -> None:
    """Redis waits for a command while MariaDB's client waits for a greeting."""
    said = line(run_usher("coupon", "list", database_url=url(where=f"127.0.0.1:{stores.redis.port}")))
    assert "cannot be used: no connection, no answer in time. " + UNREACHABLE.format("USHER_DATABASE_URL") in said


def test_wrong_password(stores: Stores, url: Url, lean: str) -> None:
    at = f"127.0.0.1:{stores.mariadb.port}/usher cannot be used: no connection, user or password is wrong (error 1045). "
    asked = f"{at}It was asked as {lean}, from "
    wrong = url(password="wrong")
    assert f"{asked}USHER_DATABASE_URL." == line(run_usher("coupon", "list", database_url=wrong))
    assert f"{asked}USHER_MIGRATION_DATABASE_URL." == line(run_usher("migrate", migration_url=wrong))
    advised = f"{asked}USHER_DATABASE_URL; this command takes USHER_MIGRATION_DATABASE_URL where that is set."
    assert [advised, advised] == [line(run_usher(*command, database_url=wrong)) for command in (["migrate"], ["key", "list"])]


def test_wrong_database(url: Url, lean: str) -> None:
    said = line(run_usher("coupon", "list", database_url=url(name="no_such")))
    assert f"no rights on this database, or there is none of this name (error 1044). It was asked as {lean}" in said


@pytest.mark.parametrize(
    ("command", "name", "right"),
    [
        (["migrate"], "usher_other", "CREATE"),
        (["key", "create", "--name", "x", "--scope", "read"], "usher", "INSERT"),
        (["coupon", "create", "X"], "usher", "INSERT"),
    ],
    ids=str,
)
def test_right_that_is_lacking(url: Url, lean: str, command: list[str], name: str, right: str) -> None:
    said = line(run_usher(*command, database_url=url(name=name)))
    assert f"the account lacks the right {right} (error 1142). It was asked as {lean}, from USHER_DATABASE_URL" in said
    assert ("where that is set" in said) == (command[0] != "coupon")


def test_database_without_tables(url: Url, lean: str) -> None:
    said = line(run_usher("coupon", "list", database_url=url(name="usher_other")))
    assert "it has no tables for this version of Usher: run `usher migrate`" in said


@pytest.mark.parametrize("workers", ["1", "2"])
def test_serve_without_tables(stores: Stores, url: Url, lean: str, workers: str) -> None:
    done = run_usher("serve", "--port", "0", "--workers", workers, database_url=url(name="usher_other"))
    assert COULD_NOT == done.status
    assert (
        "usher: The ledger's schema is not the one that this version of Usher works with: run `usher migrate`. "
        f"The ledger (MariaDB) is at 127.0.0.1:{stores.mariadb.port}/usher_other (USHER_DATABASE_URL)."
    ) == done.errors.splitlines()[-1]


# --- Redis -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("redis_url", "reason"),
    [
        ("redis://127.0.0.1:{free}/0", "nothing answers there"),
        (f"redis://:{SECRET}@127.0.0.1:{{redis}}/0", "user or password is wrong"),
        ("redis://no-such-host.invalid/0", "there is no host of this name"),
        ("rediss://127.0.0.1:{mariadb}/0", "it does not speak TLS as rediss:// wants it"),
        ("rediss://127.0.0.1:{redis}/0", "no answer in time"),
    ],
)
def test_update_without_redis(stores: Stores, redis_url: str, reason: str) -> None:
    """The change is made, the exit status is that of success, and one line says what becomes of the counter."""
    code = f"NO-REDIS-{free_port()}"
    run_usher("coupon", "create", code, "--max-redemptions", "1", database_url=stores.mariadb.url).check()
    where = redis_url.format(free=free_port(), redis=stores.redis.port, mariadb=stores.mariadb.port)

    done = run_usher(
        "coupon", "update", code, "--max-redemptions", "2", "--json", database_url=stores.mariadb.url, redis_url=where
    ).check()

    assert 2 == done.json["max_redemptions"]
    shown_at = where.rpartition("@")[2].rpartition("//")[2].replace(".invalid/", ".invalid:6379/")
    assert (
        f"usher: the change is in force, since the ledger decides; but Redis at {shown_at} (USHER_REDIS_URL) cannot be used: "
        f"{reason}. So the counter keeps the old values until the service notices, at the first redemption that they mislead.\n"
    ) == done.errors
    assert 2 == run_usher("coupon", "show", code, "--json", database_url=stores.mariadb.url).check().json["max_redemptions"]
