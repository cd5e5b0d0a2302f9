import asyncio
import socket
import time
from datetime import UTC, datetime, timedelta

import pytest
from pydantic import SecretStr
from pymysql.constants import CLIENT

from deploy.local import free_port
from service.config import Settings
from service.errors import LedgerRefusedData, LedgerReplyLost, LedgerUnavailable
from service.ledger import Ledger, connections
from service.ledger.clock import Clock
from service.ledger.connections import Address, Connection, Connections
from service.ledger.literals import literal
from service.model import Scope
from tests.faults import Proxy, holding
from tests.ledger import given
from tests.stores import Admin
from tests.waiting import stalls

SESSION = (
    "SELECT @@autocommit, @@time_zone, @@collation_connection, @@character_set_client, @@innodb_lock_wait_timeout, "
    "@@idle_transaction_timeout, @@tx_isolation, @@sql_mode"
)


async def test_a_session_is_what_the_statements_rely_on(ledger: Ledger, admin: Admin) -> None:
    """Whatever the server's own settings are, Usher's sessions have theirs."""
    # Given
    ((own_mode,),) = [tuple(row.values()) for row in admin.run("SELECT @@GLOBAL.sql_mode")]
    admin.run("SET GLOBAL sql_mode = 'NO_BACKSLASH_ESCAPES,ANSI_QUOTES', GLOBAL time_zone = '+05:00'")
    admin.run("SET GLOBAL tx_isolation = 'REPEATABLE-READ', GLOBAL autocommit = 0")
    try:
        # When
        ((*found, mode),) = await ledger._reading.fetch(SESSION, given.soon())
    finally:
        admin.run("SET GLOBAL sql_mode = %s, GLOBAL time_zone = '+00:00'", own_mode)
        admin.run("SET GLOBAL tx_isolation = 'READ-COMMITTED', GLOBAL autocommit = 1")
    # Then
    assert [1, "+00:00", "utf8mb4_nopad_bin", "utf8mb4", 2, 5.0, "READ-COMMITTED"] == [*found[:5], float(found[5]), found[6]]
    assert "STRICT_ALL_TABLES" in mode
    assert not {"NO_BACKSLASH_ESCAPES", "ANSI_QUOTES"} & set(mode.split(","))


async def test_affected_rows_count_changes(ledger: Ledger) -> None:
    """FOUND_ROWS is off: a row that stays as it is does not count."""
    async with ledger._reading.use(given.soon()) as connection:
        assert not connection._driver.client_flag & CLIENT.FOUND_ROWS
        await given.coupon(ledger)
        assert 0 == await connection.run("UPDATE coupon SET code = 'GOLD20'", given.soon())


async def test_connections_are_few(ledger: Ledger, admin: Admin) -> None:
    """However many ask at once, no more connections are open than settings say; all are served."""
    # Given
    settings = Settings()
    # When
    await asyncio.gather(*(ledger.coupons.get(f"C{n}", given.soon()) for n in range(200)))
    # Then
    assert len(admin.connections("usher")) <= settings.read_connections + settings.record_connections + 1


async def test_a_call_that_is_cut_short(far: Ledger, proxy: Proxy) -> None:
    """A call without an answer in time fails then, and its connection is never used again: the answer may come later."""
    # Given
    await given.coupon(far, "A")
    b = await given.coupon(far, "B")
    held = proxy.hold(holding(b"'A'"), times=1)
    deadline = given.soon(0.2)
    # When
    async with stalls() as stood_still:
        with pytest.raises(LedgerUnavailable):
            await far.coupons.get("A", deadline)
    # Then
    assert asyncio.get_running_loop().time() - deadline < 0.1 + stood_still.total_s
    held.release()
    await far.keys.create("nothing is sent on it, so nothing is tried twice", [Scope.READ], deadline=given.soon())
    assert [b] * 20 == await asyncio.gather(*(far.coupons.get("B", given.soon()) for _ in range(20)))


async def test_a_caller_that_goes_away(far: Ledger, proxy: Proxy) -> None:
    """A cancelled call takes its connection with it, and leaves its place to the next."""
    # Given
    b = await given.coupon(far, "B")
    held = proxy.hold(holding(b"'A'"))
    asking = [asyncio.create_task(far.coupons.get("A", given.soon())) for _ in range(8)]
    await asyncio.sleep(0.1)
    # When
    for task in asking:
        task.cancel()
    await asyncio.gather(*asking, return_exceptions=True)
    held.release()
    # Then
    assert [b] * 20 == await asyncio.gather(*(far.coupons.get("B", given.soon()) for _ in range(20)))


async def test_a_server_that_says_nothing() -> None:
    """A server that lets in and does not greet costs the time to connect, not for ever."""
    # Given: the system accepts connections for a program that has been stopped.
    with socket.create_server(("127.0.0.1", free_port())) as server:
        silent = Connections(Address("127.0.0.1", server.getsockname()[1], "usher", "", "usher"), Clock(), size=1)
        begin = asyncio.get_running_loop().time()
        # When, Then
        async with stalls() as stood_still:
            with pytest.raises(LedgerUnavailable):
                await silent.fetch("SELECT 1", given.soon(0.3))
        assert asyncio.get_running_loop().time() - begin < 0.5 + stood_still.total_s


async def test_a_wrong_password(database_url: str) -> None:
    """Who is not let in hears that the ledger is unavailable, and no password is told."""
    head, _, tail = database_url.rpartition("@")
    user, _, _ = head.rpartition(":")
    wrong = await Ledger.connect(Settings(database_url=SecretStr(f"{user}:s3cret@{tail}")))
    with pytest.raises(LedgerUnavailable) as caught:
        await wrong.ping()
    assert "s3cret" not in f"{caught.value!r} {caught.value.__cause__!r} {Address.of(SecretStr(f'{user}:s3cret@{tail}'))}"
    await wrong.close()


async def test_an_idle_connection_is_looked_after(ledger: Ledger, admin: Admin, monkeypatch: pytest.MonkeyPatch) -> None:
    """A connection that was idle for long and has been dropped meanwhile is replaced before anything is sent on it."""
    # Given
    await given.coupon(ledger)
    monkeypatch.setattr(connections, "IDLE_TRUSTED_S", 0.0)
    for connection in admin.connections("usher"):
        admin.kill(connection)
    # When, Then
    key, _ = await ledger.keys.create("a", [Scope.REDEEM], deadline=given.soon())
    assert "a" == key.name


async def test_a_transaction_is_whole(ledger: Ledger, admin: Admin) -> None:
    """What fails within a transaction is rolled back, and its connection goes on without it."""
    await given.coupon(ledger)

    async def change_in_two_steps(connection: Connection) -> None:
        async with connection.transaction(given.soon()):
            await connection.run("UPDATE coupon SET version = 7", given.soon())
            await connection.run("UPDATE coupon SET version = 0", given.soon())

    async with ledger._writing.use(given.soon()) as connection:
        with pytest.raises(LedgerRefusedData):
            await change_in_two_steps(connection)
        await connection.run("UPDATE coupon SET max_redemptions = 30", given.soon())
    assert (1, 30) == tuple(admin.run("SELECT version, max_redemptions FROM coupon")[0].values())


async def test_a_commit_that_could_not_be_sent(ledger: Ledger, admin: Admin) -> None:
    """The time was over by then: nothing is committed, neither now nor by whoever uses the session next."""
    # Given
    coupon = await given.coupon(ledger)
    deadline = given.soon(0.3)

    async def change() -> None:
        async with ledger._reading.use(deadline) as session, session.transaction(deadline):
            await session.run("UPDATE coupon SET version = 9", deadline)
            time.sleep(0.4)  # noqa: ASYNC251 - the loop is late

    # When
    with pytest.raises(LedgerUnavailable):
        await change()
    async with ledger._reading.use(given.soon()) as session, session.transaction(given.soon()):
        pass
    # Then
    # It waits until the server has noticed.
    assert coupon.version == await asyncio.to_thread(admin.value, "SELECT version FROM coupon FOR UPDATE")


async def test_an_unknown_statement(ledger: Ledger) -> None:
    """A table that is not there is not a value's fault, and the connection lives on."""
    async with ledger._reading.use(given.soon()) as connection:
        with pytest.raises(LedgerUnavailable) as caught:
            await connection.run("SELECT 1 FROM nothing_of_the_kind", given.soon())
        assert LedgerReplyLost is not caught.type
        assert ((1,),) == await connection.fetch("SELECT 1", given.soon())


# --- The clock --------------------------------------------------------------------------------------------------


async def test_the_ledgers_clock(ledger: Ledger, admin: Admin) -> None:
    """`now` is the ledger's time within some milliseconds."""
    before = ledger.now()
    ledger_now = admin.value("SELECT UTC_TIMESTAMP(6)").replace(tzinfo=UTC)
    some = timedelta(milliseconds=50)
    assert before - some < ledger_now < ledger.now() + some
    assert UTC is ledger.now().tzinfo


async def test_the_clock_is_set_now_and_then(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    """The ledger is asked for its time again, by connections that are in use anyway."""
    # Given
    wrong = datetime(2020, 1, 1, tzinfo=UTC)
    ledger._clock._ledger_zero = wrong
    monkeypatch.setattr(connections, "CLOCK_AGE_MAX_S", 0.0)
    # When
    await ledger.ping()
    # Then
    assert abs(ledger.now() - datetime.now(UTC)) < timedelta(seconds=2)


# --- Literals ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "value",
    [
        *["", "a", "'", "\\", '"', "\\'", "''", "a\0b\n\r\x1a", "%s %d {0}", "é😀", "\\\\'; -- "],
        *[0, -1, 2**63, None, b"", b"\x00\xff'"],
        datetime(2026, 11, 22, 10, 15, 30, tzinfo=UTC),
        datetime(1, 2, 3, 4, 5, 6, 7, tzinfo=UTC),
    ],
)
async def test_literals(ledger: Ledger, value: object) -> None:
    """What goes into a statement comes out of it."""
    form = "CAST({} AS DATETIME(6))" if isinstance(value, datetime) else "{}"
    assert ((value,),) == await ledger._reading.fetch(f"SELECT {form.format(literal(value))}", given.soon())


@pytest.mark.parametrize("value", [1.5, True, [1], datetime(2026, 1, 1)])  # noqa: DTZ001 - without a zone, that is the point
def test_what_has_no_literal(value: object) -> None:
    """Values of other types, and times of which nobody knows where, go into no statement."""
    with pytest.raises((TypeError, ValueError)):
        literal(value)
