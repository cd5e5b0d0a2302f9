"""What the service's accounts may not do in the stores, and that the gateways need all of what they may do."""

from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pymysql
import pytest
import redis
from pydantic import SecretStr

from deploy.local import MariaDB, Redis
from deploy.programs import PROJECT
from service.comparing import BEGIN, Comparing, SeatState
from service.config import Settings
from service.counters import ClaimBatch, Counters, key
from service.model import CouponSeed, Return, Wish
from tests.acceptance.conftest import Stores
from tests.counters.given import CODE, loaded
from tests.stores import Admin, flush
from tests.usher_process import run_usher

TABLE_DENIED = 1142
DATABASE_DENIED = 1044
RIGHT_NEEDED = 1227
FILE_DENIED = 1045
LOGIN_DENIED = 1045

Cursor = pymysql.cursors.Cursor
STORES = PROJECT / "deploy" / "stores"


def connect(server: MariaDB, user: str, password: str) -> "pymysql.Connection[Cursor]":
    return pymysql.connect(
        host="127.0.0.1", port=server.port, user=user, password=password, database=server.database, autocommit=True
    )


@pytest.fixture
def service(stores: Stores) -> Iterator[Cursor]:
    """MariaDB as `usher serve` sees it."""
    server = stores.mariadb
    with closing(connect(server, server.user, server.password)) as connection, connection.cursor() as cursor:
        yield cursor


@pytest.fixture
def migration(stores: Stores) -> Iterator[Cursor]:
    """MariaDB as `usher migrate` sees it."""
    server = stores.mariadb
    account = server.migration_user, server.migration_password
    with closing(connect(server, *account)) as connection, connection.cursor() as cursor:
        yield cursor


def refused(cursor: Cursor, statement: str) -> int:
    """The number of the error with which a statement was refused; 0 if it was not."""
    try:
        cursor.execute(statement)
    except pymysql.err.MySQLError as error:
        return int(error.args[0])
    return 0


EVERYBODY_REFUSED = [
    ("DELETE FROM redemption", TABLE_DENIED),
    ("DELETE FROM coupon WHERE id = 1", TABLE_DENIED),
    ("DELETE FROM coupon_history", TABLE_DENIED),
    ("DELETE FROM api_key", TABLE_DENIED),
    ("DELETE FROM leader", TABLE_DENIED),
    ("REPLACE INTO schema_migration VALUES (1, 'x', 'x', NOW())", TABLE_DENIED),
    ("CREATE TEMPORARY TABLE mine (id INT)", DATABASE_DENIED),
    ("CREATE TRIGGER mine BEFORE INSERT ON coupon FOR EACH ROW SET NEW.version = 1", TABLE_DENIED),
    ("CREATE PROCEDURE mine() DO 0", DATABASE_DENIED),
    ("CREATE EVENT mine ON SCHEDULE EVERY 1 DAY DO DO 0", DATABASE_DENIED),
    ("LOCK TABLES redemption WRITE", DATABASE_DENIED),
    ("CREATE DATABASE mine", DATABASE_DENIED),
    ("GRANT SELECT ON usher.* TO usher@'127.0.0.1'", DATABASE_DENIED),
    ("CREATE USER mine IDENTIFIED BY 'mine'", RIGHT_NEEDED),
    ("SET PASSWORD FOR root@localhost = PASSWORD('mine')", DATABASE_DENIED),
    ("LOAD DATA INFILE '/etc/passwd' INTO TABLE coupon", FILE_DENIED),
    ("SELECT code INTO OUTFILE '/tmp/mine' FROM usher.coupon", RIGHT_NEEDED),
    ("SET GLOBAL innodb_flush_log_at_trx_commit = 2", RIGHT_NEEDED),
    ("SET GLOBAL read_only = 0", RIGHT_NEEDED),
    ("SHUTDOWN", RIGHT_NEEDED),
    ("SELECT * FROM mysql.global_priv", TABLE_DENIED),
    ("UPDATE mysql.global_priv SET Priv = '{}'", TABLE_DENIED),
]


@pytest.mark.parametrize(
    ("statement", "number"),
    [
        *EVERYBODY_REFUSED,
        ("CREATE TABLE mine (id INT)", TABLE_DENIED),
        ("ALTER TABLE redemption DROP KEY redemption_seat", TABLE_DENIED),
        ("CREATE INDEX mine ON coupon (version)", TABLE_DENIED),
        ("DROP INDEX redemption_seat ON redemption", TABLE_DENIED),
        ("RENAME TABLE redemption TO mine", TABLE_DENIED),
        ("TRUNCATE TABLE redemption", TABLE_DENIED),
        ("TRUNCATE TABLE reconcile_run", TABLE_DENIED),
        ("CREATE OR REPLACE TABLE reconcile_run (id INT)", TABLE_DENIED),
        ("DROP TABLE redemption", TABLE_DENIED),
        ("DROP DATABASE usher", DATABASE_DENIED),
        ("CREATE VIEW mine AS SELECT * FROM coupon", TABLE_DENIED),
    ],
)
def test_the_service_is_refused_by_mariadb(service: Cursor, statement: str, number: int) -> None:
    assert number == refused(service, statement)


@pytest.mark.parametrize(("statement", "number"), EVERYBODY_REFUSED)
def test_who_migrates_is_refused_by_mariadb(migration: Cursor, statement: str, number: int) -> None:
    assert number == refused(migration, statement)


def test_the_service_may_delete_runs_and_what_they_found(service: Cursor) -> None:
    """So the refusals above are not those of an account that may delete nothing anywhere."""
    assert [0, 0] == [refused(service, f"DELETE FROM {table}") for table in ("reconcile_run", "reconcile_finding")]


def test_running_the_accounts_again_leaves_them_as_they_are(stores: Stores, admin: Admin) -> None:
    """All rights are taken away first, those on single tables too, and given again; on tables that are there or not."""

    def granted() -> dict[str, list[str]]:
        users = (stores.mariadb.user, stores.mariadb.migration_user)
        return {user: sorted(admin.column(f"SHOW GRANTS FOR '{user}'@'127.0.0.1'")) for user in users}

    before = granted()
    admin.run(f"GRANT DELETE ON coupon TO '{stores.mariadb.user}'@'127.0.0.1'")
    assert before != granted()
    admin.run(
        "SET @usher_password = %s, @usher_migrate_password = %s, @usher_host = '127.0.0.1'",
        stores.mariadb.password,
        stores.mariadb.migration_password,
    )
    for statement in (STORES / "accounts.sql").read_text(encoding="utf-8").splitlines():
        if statement.endswith(";"):
            admin.run(statement)
    assert before == granted()


def test_who_migrates_may_change_the_schema(migration: Cursor) -> None:
    """So the refusals above are not those of an account that may do nothing."""
    statements = [
        "CREATE TABLE mine (id INT)",
        "ALTER TABLE mine ADD COLUMN other INT",
        "CREATE INDEX mine_other ON mine (other)",
        "INSERT INTO mine VALUES (1, 2)",
        "UPDATE mine SET other = 3",
        "DROP TABLE mine",
    ]
    assert [0] * len(statements) == [refused(migration, statement) for statement in statements]


def test_nobody_comes_into_mariadb_without_a_password(stores: Stores, admin: Admin) -> None:
    """Neither with the accounts' names nor with others."""
    users = [stores.mariadb.user, stores.mariadb.migration_user, "root", ""]
    for user in users:
        with pytest.raises(pymysql.err.OperationalError) as caught:
            connect(stores.mariadb, user, "")
        assert LOGIN_DENIED == caught.value.args[0]
    assert {"root", "usher", "usher_migrate"} == set(admin.column("SELECT User FROM mysql.user")) - {"mariadb.sys", "mysql"}


def test_a_migration_with_the_service_s_account_names_the_variable(
    bare_database_url: str, stores: Stores, admin: Admin
) -> None:
    """A person who forgot the second account sees which variable is missing; nothing has been done."""
    done = run_usher("migrate", database_url=bare_database_url, redis_url=stores.redis.url)
    assert 0 != done.status
    assert "USHER_MIGRATION_DATABASE_URL" in done.errors
    assert stores.mariadb.password not in done.errors
    assert [] == admin.column("SHOW TABLES FROM usher_bare")


# --- Redis ------------------------------------------------------------------------------------------------------------

OTHERS_KEY = "usher:2:{GOLD20}:counter"


@pytest.fixture
def counters_url(stores: Stores) -> str:
    """A Redis in which somebody else keeps something, too."""
    flush(stores.redis)
    with redis.Redis.from_url(stores.redis.operator_url) as operator:
        operator.hset(OTHERS_KEY, mapping={"next": 7})
        operator.set("session:1", "secret")
    return stores.redis.url


def reply(url: str, *command: str) -> Any:  # noqa: ANN401 - what Redis answers
    """Redis' answer, or its error, to a command on a connection of its own."""
    with redis.Redis.from_url(url, decode_responses=True, driver_info=None) as client:
        try:
            return client.execute_command(*command)
        except redis.exceptions.RedisError as error:
            return error


FORBIDDEN = [
    ("FLUSHALL",), ("FLUSHDB",), ("SWAPDB", "0", "1"), ("CONFIG", "GET", "*"), ("CONFIG", "SET", "maxmemory", "1"),
    ("KEYS", "*"), ("SCAN", "0"), ("RANDOMKEY",), ("DBSIZE",),
    ("EVAL", "return 1", "0"), ("EVAL_RO", "return 1", "0"), ("FUNCTION", "LIST"), ("FUNCTION", "FLUSH"),
    ("SCRIPT", "FLUSH"), ("SCRIPT", "KILL"), ("SCRIPT", "EXISTS", "0" * 40),
    ("SHUTDOWN", "NOSAVE"), ("SAVE",), ("BGSAVE",), ("REPLICAOF", "NO", "ONE"), ("MODULE", "LIST"),
    ("ACL", "LIST"), ("ACL", "WHOAMI"), ("ACL", "SETUSER", "usher", "+@all"),
    ("MONITOR",), ("CLIENT", "LIST"), ("CLIENT", "KILL", "TYPE", "normal"), ("SUBSCRIBE", "x"), ("PUBLISH", "x", "y"),
    ("GET", key(CODE, "counter")), ("SET", key(CODE, "counter"), "1"), ("DEL", key(CODE, "counter")),
    ("RENAME", key(CODE, "free"), key(CODE, "counter")), ("DUMP", key(CODE, "counter")),
    # Commands that it may use, on keys that are not its own.
    ("HGETALL", OTHERS_KEY), ("HSET", OTHERS_KEY, "next", "1"), ("UNLINK", OTHERS_KEY), ("TYPE", "session:1"),
    ("UNLINK", "session:1"), ("EXPIRE", "session:1", "1"), ("UNLINK", key(CODE, "free"), "session:1"),
]  # fmt: skip


@pytest.mark.parametrize("command", FORBIDDEN, ids=" ".join)
def test_the_service_is_refused_by_redis(counters_url: str, command: tuple[str, ...]) -> None:
    assert redis.exceptions.NoPermissionError is type(reply(counters_url, *command))


def test_nobody_may_stop_redis_to_think(stores: Stores) -> None:
    """Its DEBUG command is off for everybody, the operator included."""
    assert ["DEBUG command not allowed"] * 2 == [
        str(reply(url, "DEBUG", "SLEEP", "0")).partition(".")[0] for url in (stores.redis.url, stores.redis.operator_url)
    ]


@pytest.mark.parametrize("command", [("PING",), ("GET", "session:1"), ("INFO",), ("FLUSHALL",), ("EVALSHA", "0" * 40, "0")])
@pytest.mark.parametrize("login", ["", "default:@", "usher:@", "operator:@", "usher:wrong@", "nobody:wrong@"])
def test_redis_lets_nobody_in_without_a_password(stores: Stores, login: str, command: tuple[str, ...]) -> None:
    error = reply(f"redis://{login}127.0.0.1:{stores.redis.port}/0", *command)
    assert isinstance(error, redis.exceptions.AuthenticationError), error


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("return redis.call('FLUSHALL')", "can't run this command"),
        ("return redis.call('GET', 'session:1')", "can't run this command"),
        ("return redis.call('HGETALL', 'session:1')", "can't access at least one of the keys"),
        (f"return redis.call('UNLINK', '{OTHERS_KEY}')", "can't access at least one of the keys"),
    ],
)
def test_a_script_may_do_no_more_than_its_account(counters_url: str, text: str, words: str) -> None:
    """Whoever can load a script can write one; Redis checks every call inside."""
    sha = reply(counters_url, "SCRIPT", "LOAD", text)
    error = reply(counters_url, "EVALSHA", sha, "0")
    assert isinstance(error, redis.exceptions.ResponseError), error
    assert words in str(error)


def test_a_script_is_not_given_the_keys_of_others(counters_url: str) -> None:
    sha = reply(counters_url, "SCRIPT", "LOAD", "return 1")
    assert redis.exceptions.NoPermissionError is type(reply(counters_url, "EVALSHA", sha, "1", OTHERS_KEY))
    assert 1 == reply(counters_url, "EVALSHA", sha, "1", key(CODE, "counter"))


async def use_all(counters: Counters) -> None:
    """Every method of the gateway, on every way through its scripts that sends another command."""

    async def claim(*wishes: Wish, settled: tuple[tuple[str, int | None], ...] = ()) -> None:
        await counters.claim([ClaimBatch(CODE, wishes, settled)])

    await counters.ping()
    await counters.load([loaded(5, 1)])
    await claim(Wish("a", "ann"), Wish("b", "bob"), Wish("c", "cy"))
    await claim(Wish("d", "dan"), settled=(("a", 1),))
    await counters.release({CODE: [Return("b", "bob", 2)]})
    assert [2] == [one.count for one in await counters.remaining([CODE]) if one is not None]
    await claim(Wish("e", "eve"))
    assert ["e"] == [one.order_id for one in await counters.holders(CODE, [2])]
    await counters.shrink(CODE, 5)
    look = await counters.look(CODE)
    assert look is not None
    await counters.refill(CODE, look, seats=[1, 2], complete=True)
    comparing = Comparing(counters)
    assert {CODE: (BEGIN, ["1"])} == await comparing.free_page({CODE: BEGIN})
    assert {CODE: (BEGIN, {"ann": "1", "cy": "1", "dan": "1", "eve": "1"})} == await comparing.customers_page({CODE: BEGIN})
    states = (await comparing.seat_states({CODE: [1]}))[CODE]
    assert states is not None
    assert [SeatState.FREE] == states.states
    await counters.reseed([CouponSeed(CODE, 5, 77, 4, "active", 9, 0, 0, 0)])
    assert await counters.memory_share() < 1
    await counters.set_mark((await counters.mark()).run_id)


async def test_the_gateway_needs_all_that_it_may_do_in_redis(stores: Stores) -> None:
    """Used through and through, it sends every command of its account, and none is refused."""
    database_1 = stores.redis.url.removesuffix("/0") + "/1"
    with redis.Redis.from_url(stores.redis.operator_url, decode_responses=True, driver_info=None) as operator:
        allowed = {rule.removeprefix("+") for rule in operator.acl_getuser(Redis.user)["commands"]} - {"-@all"}
        operator.flushall()
        operator.acl_log_reset()
        operator.config_resetstat()
        counters = await Counters.connect(Settings(redis_url=SecretStr(database_1)))
        operator.script_flush()  # Scripts that are gone are loaded together with their call.
        await use_all(counters)
        await counters.close()
        used = {name.removeprefix("cmdstat_") for name in operator.info("commandstats")}
        assert [] == operator.acl_log()
    assert allowed | {"auth"} == used - {"config|resetstat", "script|flush"}
