import asyncio

import pytest
import structlog

from service.ledger import Ledger
from service.model import Coupon, RecordEnding
from tests.faults import Proxy, holding
from tests.ledger import given
from tests.stores import Admin
from tests.waiting import stalls, until

RECORD = holding(b"skip locked")
WAITING = "Innodb_row_lock_current_waits"


async def connected(ledger: Ledger) -> Coupon:
    """A coupon, on whose last seat somebody sits by now: a connection that would have to be opened first may take a while."""
    coupon = await given.coupon(ledger)
    assert [RecordEnding.RECORDED] == await given.endings(ledger, given.row(ledger, coupon, seat=20))
    return coupon


async def waits_for_a_lock(admin: Admin) -> None:
    await until(lambda: admin.status(WAITING) > 0, what="a statement waits for a lock")


async def test_an_id_that_was_never_there(ledger: Ledger, admin: Admin) -> None:
    """An abandoned id is an ended row on no seat, and can never be recorded; asking again says the same."""
    # Given
    coupon = await given.coupon(ledger, max_per_customer=1)
    row = given.row(ledger, coupon, seat=1, customer_seat=1)
    # When, Then
    assert [False] == await ledger.redemptions.abandon([row], given.soon())
    assert [False] == await ledger.redemptions.abandon([row], given.soon())
    assert [RecordEnding.NOT_RECORDED] == await given.endings(ledger, row)
    (there,) = admin.run("SELECT * FROM redemption")
    assert ("cancelled", "abandoned", None, None, None, None) == (
        there["status"],
        there["end_reason"],
        there["seat"],
        there["customer_seat"],
        there["live_order_id"],
        there["confirmed_at"],
    )
    anew = given.row(ledger, coupon, seat=1, customer_seat=1, order_id=row.order_id, customer_id=row.customer_id)
    assert [RecordEnding.RECORDED] == await given.endings(ledger, anew)


async def test_an_id_that_was_recorded(ledger: Ledger, admin: Admin) -> None:
    """A recorded redemption stands, untouched; also one that its client has cancelled since, with whatever reason."""
    # Given
    coupon = await given.coupon(ledger)
    rows = [given.row(ledger, coupon, seat=seat) for seat in (1, 2, 3)]
    await given.endings(ledger, *rows[:2])
    given.cancel(admin, rows[1].id, "abandoned")
    # When
    found = await ledger.redemptions.abandon(rows, given.soon())
    # Then
    assert [True, True, False] == found
    assert [rows[0].id] == given.ids(admin, "status = 'confirmed'")


async def test_no_ids(ledger: Ledger) -> None:
    """Nothing is known of nothing."""
    assert [] == await ledger.redemptions.abandon([], given.soon())


async def test_a_statement_that_lands_late(far: Ledger, ledger: Ledger, proxy: Proxy, admin: Admin) -> None:
    """The zombie that comes after the tombstone lands nothing: its seat and order stay free."""
    # Given: the statement is held back on its way, and its client has given up.
    coupon = await connected(far)
    rows = [given.row(far, coupon, seat=seat, deadline_s=0.3) for seat in (1, 2)]
    held = proxy.hold(RECORD, times=1)
    assert [RecordEnding.UNKNOWN] * 2 == await given.endings(far, *rows)
    # When
    assert [False] * 2 == await ledger.redemptions.abandon(rows, given.soon())
    held.release()
    await until(lambda: held.landed == 1, what="the delayed statement arrives")
    # Then
    assert not {row.id for row in rows} & {*given.ids(admin, "live_order_id IS NOT NULL")}
    again = [given.row(ledger, coupon, seat=row.seat, order_id=row.order_id) for row in rows]
    assert [RecordEnding.RECORDED] * 2 == await given.endings(ledger, *again)


async def test_a_statement_that_landed_before(far: Ledger, ledger: Ledger, proxy: Proxy, admin: Admin) -> None:
    """The zombie that comes before the tombstone stands."""
    # Given
    coupon = await connected(far)
    row = given.row(far, coupon, seat=1, deadline_s=0.3)
    held = proxy.hold(RECORD, times=1)
    assert [RecordEnding.UNKNOWN] == await given.endings(far, row)
    held.release()
    await until(lambda: held.landed == 1, what="the delayed statement arrives")
    # When, Then
    assert [True] == await ledger.redemptions.abandon([row], given.soon())
    assert row.id in given.ids(admin, "status = 'confirmed'")


@pytest.mark.parametrize(("end", "stands"), [("ROLLBACK", True), ("COMMIT", False)])
async def test_a_statement_that_still_runs(ledger: Ledger, admin: Admin, other: Admin, *, end: str, stands: bool) -> None:
    """A statement whose client has gone holds the id while it runs: the tombstone waits for it, and tells how it ended."""
    # Given: the statement waits for a seat that somebody else may or may not take.
    coupon = await connected(ledger)
    other.run("BEGIN")
    given.insert(other, given.row(ledger, coupon, seat=1))
    row = given.row(ledger, coupon, seat=1, deadline_s=0.4)
    assert [RecordEnding.UNKNOWN] == await given.endings(ledger, row)
    # When
    abandoning = asyncio.create_task(ledger.redemptions.abandon([row], given.soon()))
    await until(lambda: admin.status(WAITING) == 2, what="the statement and the tombstone wait")
    assert not abandoning.done()
    other.run(end)
    # Then
    assert [stands] == await abandoning
    assert ([row.id] if stands else []) == given.ids(admin, "status = 'confirmed' AND order_id = '" + row.order_id + "'")


@pytest.mark.parametrize(("end", "stands"), [("COMMIT", True), ("ROLLBACK", False)])
async def test_an_open_transaction_holds_the_id(ledger: Ledger, admin: Admin, other: Admin, *, end: str, stands: bool) -> None:
    """A transaction that holds the id is waited for: committed, the redemption stands; rolled back, it never will."""
    # Given
    coupon = await given.coupon(ledger)
    row = given.row(ledger, coupon, seat=1)
    other.run("BEGIN")
    given.insert(other, row)
    # When
    abandoning = asyncio.create_task(ledger.redemptions.abandon([row], given.soon()))
    await waits_for_a_lock(admin)
    other.run(end)
    # Then
    assert [stands] == await abandoning
    assert [row.id] == given.ids(admin, f"status = '{'confirmed' if stands else 'cancelled'}'")


async def test_a_transaction_that_stays_open(ledger: Ledger, other: Admin) -> None:
    """An id that is held for too long is not known yet; the others of the batch are, and the next question succeeds."""
    # Given
    coupon = await given.coupon(ledger)
    rows = [given.row(ledger, coupon, seat=seat) for seat in range(1, 11)]
    other.run("BEGIN")
    given.insert(other, rows[4])
    begin = asyncio.get_running_loop().time()
    # When
    async with stalls() as stood_still:
        found = await ledger.redemptions.abandon(rows, given.soon())
    # Then
    assert [False] * 4 + [None] + [False] * 5 == found
    assert asyncio.get_running_loop().time() - begin < 3.5 + stood_still.total_s, "it was waited for once"
    other.run("COMMIT")
    assert [False] * 4 + [True] + [False] * 5 == await ledger.redemptions.abandon(rows, given.soon())


async def test_a_ledger_that_is_away(far: Ledger, proxy: Proxy) -> None:
    """Without the ledger nothing is known; nothing is raised."""
    # Given
    coupon = await given.coupon(far)
    row = given.row(far, coupon, seat=1)
    proxy.refuse()
    # When, Then
    assert [None] == await far.redemptions.abandon([row], given.soon())
    proxy.accept()
    assert [False] == await far.redemptions.abandon([row], given.soon())


async def test_a_lost_reply(far: Ledger, proxy: Proxy) -> None:
    """When the reply to the tombstone is lost, it is not known; asked again, it is."""
    # Given
    coupon = await given.coupon(far)
    row = given.row(far, coupon, seat=1)
    lost = proxy.lose_reply(holding(b"'abandoned'", b"insert"))
    # When, Then
    assert [None] == await far.redemptions.abandon([row], given.soon())
    assert 1 == lost.hits
    assert [False] == await far.redemptions.abandon([row], given.soon())


async def test_a_row_that_the_ledger_cannot_hold(ledger: Ledger) -> None:
    """A row with a value that the ledger refuses never will be; the others are abandoned."""
    # Given
    coupon = await given.coupon(ledger)
    rows = [given.row(ledger, coupon, seat=1), given.row(ledger, coupon, seat=2, order_id="x" * 129)]
    # When
    with structlog.testing.capture_logs() as logs:
        found = await ledger.redemptions.abandon(rows, given.soon())
    # Then
    assert [False, False] == found
    assert ["error"] == [event["log_level"] for event in logs]
    assert "xxx" not in str(logs)
