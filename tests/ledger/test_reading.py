from datetime import timedelta

import pytest

from service.errors import LedgerContended
from service.ledger import Ledger
from service.model import Redemption, RedemptionStatus
from service.transition import Transition, Verb
from tests.faults import Proxy, holding
from tests.ledger import given
from tests.stores import Admin


async def found(ledger: Ledger, **by: object) -> list[bytes]:
    redemptions = await ledger.redemptions.find(**{"limit": 50, **by}, deadline=given.soon())  # type: ignore[arg-type]
    return [redemption.id for redemption in redemptions]


async def test_get(ledger: Ledger, admin: Admin) -> None:
    """A redemption by its id, whole, also when it has ended."""
    # Given
    coupon = await given.coupon(ledger)
    row = given.row(ledger, coupon, seat=4)
    await given.endings(ledger, row)
    live = Redemption(
        id=row.id,
        coupon_id=coupon.id,
        code="GOLD20",
        customer_id=row.customer_id,
        order_id=row.order_id,
        status=RedemptionStatus.CONFIRMED,
        seat=4,
        expires_at=None,
        created_at=row.created_at,
        confirmed_at=row.created_at,
        ended_at=None,
        end_reason=None,
    )
    # When, Then
    assert live == await ledger.redemptions.get(row.id, given.soon())
    given.cancel(admin, row.id)
    ended = await ledger.redemptions.get(row.id, given.soon())
    assert ended is not None
    assert ended.ended_at is not None
    assert (RedemptionStatus.CANCELLED, None, "changed_mind") == (ended.status, ended.seat, ended.end_reason)
    assert await ledger.redemptions.get(b"x" * 16, given.soon()) is None


async def test_find(ledger: Ledger, admin: Admin) -> None:
    """Redemptions by coupon, customer, order, status and all of these, newest first, page by page."""
    # Given
    a, b = await given.coupon(ledger, "A"), await given.coupon(ledger, "B")
    rows = [
        given.row(ledger, a, seat=1, customer_id="c", order_id="o"),
        given.row(ledger, b, seat=1, customer_id="c", order_id="o"),
        given.row(ledger, a, seat=2, customer_id="C", order_id="p"),
        given.row(ledger, a, seat=3, customer_id="c", order_id="o "),
        given.row(ledger, a, seat=4, customer_id="d", order_id="q"),
    ]
    await given.endings(ledger, *rows)
    given.cancel(admin, rows[3].id)
    ids = [row.id for row in rows]
    # When, Then
    assert [ids[4], ids[3], ids[2], ids[0]] == await found(ledger, code="A")
    assert [ids[3], ids[1], ids[0]] == await found(ledger, customer_id="c")
    assert [ids[1], ids[0]] == await found(ledger, order_id="o")
    assert [ids[0]] == await found(ledger, order_id="o", code="A")
    assert [ids[3], ids[0]] == await found(ledger, customer_id="c", code="A")
    assert [ids[3]] == await found(ledger, code="A", status=RedemptionStatus.CANCELLED)
    assert [ids[1], ids[0]] == await found(ledger, customer_id="c", status=RedemptionStatus.CONFIRMED)
    assert [ids[4], ids[3]] == await found(ledger, code="A", limit=2)
    assert [ids[2], ids[0]] == await found(ledger, code="A", limit=2, before_id=ids[3])
    assert [ids[0]] == await found(ledger, customer_id="c", before_id=ids[1])
    assert [] == await found(ledger, code="NONE")
    assert [] == await found(ledger, code="Ä", customer_id="c")
    assert [] == await found(ledger, customer_id="'; --")


@pytest.mark.parametrize(
    "by", [{"code": "GOLD20"}, {"code": "GOLD20", "status": RedemptionStatus.CONFIRMED}, {"order_id": "o"}]
)
async def test_a_page_reads_a_page(ledger: Ledger, admin: Admin, by: dict[str, str]) -> None:
    """The newest of many redemptions are read by key, not sorted out of all of them."""
    # Given
    coupon = await given.coupon(ledger, max_redemptions=1_000)
    await given.endings(ledger, *(given.row(ledger, coupon, seat=seat) for seat in range(1, 1_001)))

    def read() -> int:
        names = ("Handler_read_next", "Handler_read_prev", "Handler_read_rnd_next", "Handler_read_rnd")
        return sum(admin.status(name) for name in names)

    before = read()
    read_by_asking = read() - before
    before = read()
    # When
    await found(ledger, **by, limit=10)
    # Then
    assert read() - before - read_by_asking < 100


async def test_by_coupon_is_one_statement(far: Ledger, proxy: Proxy) -> None:
    """All statuses of a coupon are one statement."""
    await given.coupon(far)
    statements = proxy.count(holding(b"redemption"))
    assert [] == await found(far, code="GOLD20")
    assert 1 == statements.hits


async def test_one_of_three_is_needed(ledger: Ledger) -> None:
    """Nobody reads the whole table."""
    with pytest.raises(AssertionError):
        await found(ledger, status=RedemptionStatus.CONFIRMED)


async def test_what_is_abandoned_is_no_redemption(ledger: Ledger) -> None:
    """The tombstone of an id is not read and not listed; a hold that was cancelled with the same reason is."""
    coupon = await given.coupon(ledger)
    hold = await given.hold(ledger, coupon, seat=1)
    await ledger.transitions.carry_out([Transition(Verb.CANCEL, hold.id, reason="abandoned")], given.soon())
    row = given.row(ledger, coupon, seat=2)
    assert [False] == await ledger.redemptions.abandon([row], given.soon())
    assert await ledger.redemptions.get(row.id, given.soon()) is None
    assert await ledger.redemptions.get(hold.id, given.soon()) is not None
    assert [hold.id] == await found(ledger, code="GOLD20")
    assert [] == await found(ledger, order_id=row.order_id)


async def test_an_orders_live_redemption(ledger: Ledger, admin: Admin) -> None:
    """By code and order; a hold whose time is over is still found, until somebody ends it."""
    coupon = await given.coupon(ledger)
    held, gone, confirmed = [await given.hold(ledger, coupon, seat=seat) for seat in (1, 2, 3)]
    await ledger.transitions.carry_out([Transition(Verb.CONFIRM, confirmed.id)], given.soon())
    given.overdue(admin, gone.id)
    live = [await ledger.redemptions.find_live("GOLD20", one.order_id, given.soon()) for one in (held, gone, confirmed)]
    assert [held.id, gone.id, confirmed.id] == live
    assert [None, None] == [await ledger.redemptions.find_live(code, held.order_id, given.soon()) for code in ("NONE", "Ä")]


async def test_orders_recorded_since_they_claimed(ledger: Ledger) -> None:
    """Live, whenever that was recorded; or recorded since and ended. Neither one that ended before, nor another coupon's."""
    coupon, other = await given.coupon(ledger), await given.coupon(ledger, "OTHER")
    live, ended, elsewhere = [await given.hold(ledger, of, seat=seat) for of, seat in [(coupon, 1), (coupon, 2), (other, 1)]]
    await ledger.transitions.carry_out([Transition(Verb.CANCEL, ended.id)], given.soon())
    later = ledger.now() + timedelta(hours=1)
    claims = [(live.order_id, later), (ended.order_id, ended.created_at), (elsewhere.order_id, later), ("nobody's", later)]

    async def recorded() -> set[str]:
        return await ledger.redemptions.recorded(coupon.id, claims, given.soon())

    assert {live.order_id, ended.order_id} == await recorded()
    claims[1] = (ended.order_id, ended.created_at + timedelta(microseconds=1))
    assert {live.order_id} == await recorded()
    assert set() == await ledger.redemptions.recorded(coupon.id, [], given.soon())


async def test_an_order_that_is_just_being_recorded(ledger: Ledger, other: Admin) -> None:
    """Nobody waits for it with a connection in the hand: it is an error at once, and found afterwards."""
    coupon = await given.coupon(ledger)
    row = given.row(ledger, coupon, seat=1)
    other.run("BEGIN")
    given.insert(other, row)
    with pytest.raises(LedgerContended):
        await ledger.redemptions.find_live("GOLD20", row.order_id, given.soon())
    other.run("COMMIT")
    assert row.id == await ledger.redemptions.find_live("GOLD20", row.order_id, given.soon())
