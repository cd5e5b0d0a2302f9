"""The record statement while MariaDB, or the way to it, misbehaves."""

import asyncio
import itertools
from collections.abc import Awaitable

import pytest

from service.ledger import Ledger, connections
from service.model import Record, RecordEnding
from tests.faults import Proxy, holding
from tests.ledger import given
from tests.stores import Admin
from tests.waiting import stalls, until

RECORDED = RecordEnding.RECORDED
NOT_RECORDED = RecordEnding.NOT_RECORDED
UNKNOWN = RecordEnding.UNKNOWN
RECORD = holding(b"skip locked")
WAITING = "Innodb_row_lock_current_waits"
BATCHES = 200
KILLS_MIN = 10
"""A machine that writes all batches before so many connections are killed writes more."""
LOCKED_S = 60
"""For rows that wait for a lock again and again, each time a second and longer on a busy machine."""


def now() -> float:
    return asyncio.get_running_loop().time()


async def waits_for_a_lock(admin: Admin) -> None:
    await until(lambda: admin.status(WAITING) > 0, what="Usher's statement waits for a lock")


def lose_connections(ledger: Ledger) -> None:
    """Usher's writers lose their connections without the server's noticing: what was sent may be carried out yet."""
    for connection in ledger.redemptions._recorder._connections._all:
        connection._driver._writer.transport.abort()


# --- Others in the way -------------------------------------------------------------------------------------------


async def test_deadlock(ledger: Ledger, admin: Admin, other: Admin) -> None:
    """A batch that InnoDB chooses as a deadlock's victim is sent again."""
    # Given: another session, heavy enough not to be chosen, sits on seat 2 and will want seat 1.
    coupon = await given.coupon(ledger, max_redemptions=1_000)
    await given.endings(ledger, given.row(ledger, coupon, seat=99))
    other.run("BEGIN")
    for seat in range(100, 160):
        given.insert(other, given.row(ledger, coupon, seat=seat))
    given.insert(other, given.row(ledger, coupon, seat=2))
    deadlocks = admin.status("Innodb_deadlocks")
    sessions = admin.connections("usher")
    rows = [given.row(ledger, coupon, seat=seat) for seat in (1, 2)]
    # When
    recording = asyncio.create_task(given.endings(ledger, *rows))
    await waits_for_a_lock(admin)
    await asyncio.to_thread(given.insert, other, given.row(ledger, coupon, seat=1))
    assert 1 == admin.status("Innodb_deadlocks") - deadlocks
    other.run("ROLLBACK")
    # Then
    assert [RECORDED] * 2 == await recording
    assert 3 == admin.value("SELECT COUNT(*) FROM redemption")
    assert set(sessions) <= set(admin.connections("usher")), "nothing was lost"


async def test_lock_wait(ledger: Ledger, admin: Admin, other: Admin, monkeypatch: pytest.MonkeyPatch) -> None:
    """A batch that waited in vain for a lock (1205) is rolled back and sent again."""
    # Given
    shorter = connections.SESSION.replace("innodb_lock_wait_timeout = 2", "innodb_lock_wait_timeout = 1")
    monkeypatch.setattr(connections, "SESSION", shorter)
    coupon = await given.coupon(ledger)
    other.run("BEGIN")
    given.insert(other, given.row(ledger, coupon, seat=2))
    rows = [given.row(ledger, coupon, seat=seat) for seat in (1, 2)]
    # When
    recording = asyncio.create_task(given.endings(ledger, *rows))
    await asyncio.sleep(1.5)
    assert not recording.done()
    other.run("ROLLBACK")
    # Then
    assert [RECORDED] * 2 == await recording
    assert 0 == admin.value("SELECT COUNT(*) FROM information_schema.INNODB_TRX")


async def test_lock_wait_in_halves(ledger: Ledger, admin: Admin, other: Admin, monkeypatch: pytest.MonkeyPatch) -> None:
    """From the third time on the batch is halved, and those that nobody stops land."""
    # Given
    shorter = connections.SESSION.replace("innodb_lock_wait_timeout = 2", "innodb_lock_wait_timeout = 1")
    monkeypatch.setattr(connections, "SESSION", shorter)
    coupon = await given.coupon(ledger)
    other.run("BEGIN")
    given.insert(other, given.row(ledger, coupon, seat=4))
    rows = [given.row(ledger, coupon, seat=seat, deadline_s=LOCKED_S) for seat in (1, 2, 3, 4)]
    # When
    recording = asyncio.create_task(given.endings(ledger, *rows))
    # Then
    landed = "SELECT GROUP_CONCAT(seat ORDER BY seat) FROM redemption WHERE seat < 4"
    await until(lambda: bool(admin.value(landed) == "1,2,3"), what="three of four rows land")
    other.run("COMMIT")
    assert [RECORDED] * 3 + [RecordEnding.SEAT_TAKEN] == await recording


# --- Connections ------------------------------------------------------------------------------------------------


async def test_a_lost_reply(far: Ledger, proxy: Proxy, admin: Admin) -> None:
    """When the reply to the commit is lost, the same ids are sent again: one row, and recorded."""
    # Given
    coupon = await given.coupon(far)
    rows = [given.row(far, coupon, seat=seat) for seat in (1, 2, 3)]
    lost = proxy.lose_reply(RECORD)
    # When
    found = await given.endings(far, *rows)
    # Then
    assert 1 == lost.hits
    assert [RECORDED] * 3 == found
    assert [row.id for row in rows] == given.ids(admin)


async def test_a_reply_that_never_comes(far: Ledger, proxy: Proxy, admin: Admin) -> None:
    """A switch that died takes the row's time: unknown, soon after its deadline; and it stands, as abandoning it says."""
    # Given
    coupon = await given.coupon(far)
    row = given.row(far, coupon, seat=1, deadline_s=1.0)
    proxy.lose_reply(RECORD, silent=True)
    # When
    async with stalls() as stood_still:
        found = await given.endings(far, row)
    # Then
    assert [UNKNOWN] == found
    assert now() - row.deadline < 0.1 + stood_still.total_s
    assert [True] == await far.redemptions.abandon([row], given.soon())
    assert [row.id] == given.ids(admin, "status = 'confirmed'")
    assert [RECORDED] == await given.endings(far, given.row(far, coupon, seat=2)), "the connection was replaced"


async def test_killed_connections_under_load(ledger: Ledger, admin: Admin, database_url: str) -> None:
    """While Usher's connections are killed again and again: what is recorded is there once, what is there was not denied."""
    # Given
    coupon = await given.coupon(ledger, max_redemptions=1_000_000)
    found: dict[bytes, RecordEnding] = {}
    numbers = itertools.count()
    kills = 0

    async def write() -> None:
        while (number := next(numbers)) < BATCHES or kills < KILLS_MIN:
            batch = [given.row(ledger, coupon, seat=100 * number + seat, deadline_s=30) for seat in range(1, 101)]
            found.update(zip([row.id for row in batch], await given.endings(ledger, *batch), strict=True))

    # When
    writers = asyncio.gather(write(), write())
    while not writers.done():
        await asyncio.sleep(0.04)
        for connection in admin.connections("usher"):
            admin.kill(connection)
            kills += 1
    await writers
    # Then
    there = given.ids(admin)
    recorded = {row_id for row_id, ending in found.items() if ending is RECORDED}
    assert len(found) >= 100 * BATCHES
    assert len(there) == len(set(there))
    assert recorded <= set(there)
    assert {RECORDED, UNKNOWN} >= {found[row_id] for row_id in there}
    assert len(recorded) > 0.75 * len(found), "most batches had time enough"


async def test_read_only(ledger: Ledger, admin: Admin) -> None:
    """A ledger that takes no writes: certainly not recorded, at once; and recorded when it takes them again."""
    # Given
    coupon = await given.coupon(ledger)
    row = given.row(ledger, coupon, seat=1)
    admin.run("SET GLOBAL read_only = 1")
    try:
        begin = now()
        # When
        async with stalls() as stood_still:
            found = await given.endings(ledger, row)
        took_s = now() - begin
    finally:
        admin.run("SET GLOBAL read_only = 0")
    # Then
    assert [NOT_RECORDED] == found
    assert took_s < 1 + stood_still.total_s
    assert [RECORDED] == await given.endings(ledger, row)


async def test_a_server_that_is_away(far: Ledger, proxy: Proxy) -> None:
    """Without a server: certainly not recorded, at once; and recorded when it is back."""
    # Given
    coupon = await given.coupon(far)
    row = given.row(far, coupon, seat=1)
    proxy.refuse()
    # When
    begin = now()
    async with stalls() as stood_still:
        found = await given.endings(far, row)
    # Then
    assert [NOT_RECORDED] == found
    assert now() - begin < 1 + stood_still.total_s
    proxy.accept()
    assert [RECORDED] == await given.endings(far, row)


async def test_a_server_that_comes_back_in_time(far: Ledger, proxy: Proxy, admin: Admin) -> None:
    """A row whose reply was lost waits for the server until its deadline, and is then known."""
    # Given
    coupon = await given.coupon(far)
    row = given.row(far, coupon, seat=1)
    held = proxy.hold(RECORD)
    recording = asyncio.create_task(given.endings(far, row))
    await until(lambda: held.hits == 1, what="the statement is under way")
    # When
    proxy.refuse()
    await asyncio.sleep(0.5)
    assert not recording.done()
    proxy.heal()
    # Then
    assert [RECORDED] == await recording
    assert [row.id] == given.ids(admin)


# --- Deadlines --------------------------------------------------------------------------------------------------


async def test_each_row_has_its_own_deadline(far: Ledger, proxy: Proxy) -> None:
    """A slow statement: the row without time is told at its deadline, the others get the statement's own answer."""
    # Given
    coupon = await given.coupon(far)
    assert [RECORDED] == await given.endings(far, given.row(far, coupon, seat=4))
    rows = [given.row(far, coupon, seat=seat, deadline_s=seconds) for seat, seconds in ((1, 0.3), (2, 0.9), (3, 10))]
    held = proxy.hold(RECORD)
    # When
    async with stalls() as stood_still:
        told, soon, later = await far.redemptions.record(rows)
        told_at = now()
        # Then
        assert Record(UNKNOWN) == told
        assert isinstance(soon, asyncio.Future)
        assert Record(UNKNOWN) == await soon
        soon_at = now()
    assert told_at - rows[0].deadline < 0.1 + stood_still.total_s
    assert 0 <= soon_at - rows[1].deadline < 0.1 + stood_still.total_s
    assert isinstance(later, asyncio.Future)
    held.release()
    assert Record(RECORDED) == await later
    assert 1 == held.hits


async def test_a_row_is_not_sent_after_its_deadline(far: Ledger, proxy: Proxy, admin: Admin) -> None:
    """A batch that is sent again leaves out the rows whose time is over: they are unknown, and the others are recorded."""
    # Given
    coupon = await given.coupon(far)
    before = given.row(far, coupon, seat=3)
    assert [RECORDED] == await given.endings(far, before)
    short, long = given.row(far, coupon, seat=1, deadline_s=0.3), given.row(far, coupon, seat=2)
    held = proxy.hold(RECORD, times=1)
    # When
    told, later = await far.redemptions.record([short, long])
    again = proxy.count(RECORD)
    with_short = proxy.count(holding(b"skip locked", short.id.hex().encode()))
    lose_connections(far)
    assert isinstance(later, asyncio.Future)
    # Then
    assert Record(RECORDED) == await later
    assert Record(UNKNOWN) == told
    assert (1, 0) == (again.hits, with_short.hits)
    assert [before.id, long.id] == given.ids(admin)
    held.end()


async def test_a_row_without_time_among_others(far: Ledger, proxy: Proxy) -> None:
    """A row whose deadline has passed is left out of the batch: certainly not recorded, and the others are."""
    # Given
    coupon = await given.coupon(far)
    await given.endings(far, given.row(far, coupon, seat=3))
    late, fresh = given.row(far, coupon, seat=1, deadline_s=-0.001), given.row(far, coupon, seat=2)
    with_late = proxy.count(holding(late.id.hex().encode()))
    # When, Then
    assert [NOT_RECORDED, RECORDED] == await given.endings(far, late, fresh)
    assert 0 == with_late.hits


async def test_waiting_for_a_writer(far: Ledger, proxy: Proxy) -> None:
    """A row that got no connection before its deadline is certainly not recorded."""
    # Given: the only writer is busy.
    coupon = await given.coupon(far)
    held = proxy.hold(RECORD, times=1)
    busy = asyncio.create_task(given.endings(far, given.row(far, coupon, seat=1)))
    await until(lambda: held.hits == 1, what="the writer is busy")
    # When
    row = given.row(far, coupon, seat=2, deadline_s=0.2)
    async with stalls() as stood_still:
        found = await given.endings(far, row)
    # Then
    assert [NOT_RECORDED] == found
    assert now() - row.deadline < 0.1 + stood_still.total_s
    held.release()
    assert [RECORDED] == await busy


async def test_close_finishes(far: Ledger, proxy: Proxy, admin: Admin) -> None:
    """Closing the ledger waits for what is being recorded, also when nobody waits for it."""
    # Given
    coupon = await given.coupon(far)
    held = proxy.hold(RECORD, times=1)
    asking: Awaitable[object] = asyncio.create_task(given.endings(far, given.row(far, coupon, seat=1)))
    await until(lambda: held.hits == 1, what="the statement is under way")
    asyncio.get_running_loop().call_later(0.2, held.end)
    # When
    closing = asyncio.create_task(far.close())
    await asyncio.sleep(0.1)
    held.release()
    await closing
    # Then
    assert [RECORDED] == await asking
    assert 1 == admin.value("SELECT COUNT(*) FROM redemption")


# --- Rows in doubt ----------------------------------------------------------------------------------------------


async def test_a_delayed_statement_cannot_land_after_a_refusal(far: Ledger, proxy: Proxy, admin: Admin) -> None:
    """A row in doubt that is refused the second time is refused for ever: its first statement finds the id used up."""
    # Given: the first statement is under way and its connection lost; meanwhile the coupon is paused.
    coupon = await given.coupon(far)
    row = given.row(far, coupon, seat=1)
    held = proxy.hold(RECORD, times=1)
    recording = asyncio.create_task(given.endings(far, row))
    await until(lambda: held.hits == 1, what="the statement is under way")
    admin.run("UPDATE coupon SET status = 'paused'")
    lose_connections(far)
    # When
    assert [RecordEnding.COUPON_REFUSES] == await recording
    admin.run("UPDATE coupon SET status = 'active'")
    held.release()
    await until(lambda: held.landed == 1, what="the delayed statement arrives")
    # Then
    assert [] == given.ids(admin, "live_order_id IS NOT NULL")
    assert [RECORDED] == await given.endings(far, given.row(far, coupon, seat=1, order_id=row.order_id))


async def test_a_row_without_doubt_leaves_no_trace(ledger: Ledger, admin: Admin) -> None:
    """A row that is refused at once needs no tombstone, and its id may be tried again on another seat."""
    # Given
    coupon = await given.coupon(ledger)
    await given.endings(ledger, given.row(ledger, coupon, seat=1))
    row = given.row(ledger, coupon, seat=1)
    # When
    assert [RecordEnding.SEAT_TAKEN] == await given.endings(ledger, row)
    # Then
    assert 1 == admin.value("SELECT COUNT(*) FROM redemption")
    assert [RECORDED] == await given.endings(ledger, given.row(ledger, coupon, id=row.id, seat=2))
