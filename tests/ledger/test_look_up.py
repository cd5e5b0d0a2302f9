from datetime import timedelta

import pytest

from service.errors import LedgerUnavailable
from service.ledger import Ledger
from service.model import CouponStatus, LookUp, RedemptionStatus, Refusal, Standing
from tests.faults import Proxy, holding
from tests.ledger import given
from tests.stores import Admin

NOTHING = Standing(coupon=None, live=None, refusal=None, customer_seats=())


async def look_up(ledger: Ledger, code: str, customer_id: str = "c", order_id: str = "o") -> Standing:
    (standing,) = await ledger.redemptions.look_up([LookUp(code, customer_id, order_id)], given.soon())
    return standing


@pytest.mark.parametrize("code", ["NONE", "gold20", "GOLD20 ", "GÖLD20", "'", "\\", ""])
async def test_a_code_of_no_coupon(ledger: Ledger, code: str) -> None:
    """No coupon: nothing else is said."""
    # Given
    await given.coupon(ledger, "GOLD20")
    # When, Then
    assert NOTHING == await look_up(ledger, code)


async def test_the_coupon_as_it_is(ledger: Ledger) -> None:
    """A coupon comes whole, with its times and whatever its metadata hold."""
    # Given
    metadata = {"name": "Grüße 😀 \"quoted\" 'single' \\ back", "deep": {"list": [1, 2.5, None, True]}}
    made = await given.coupon(
        ledger,
        max_redemptions=5,
        max_per_customer=2,
        starts_at=ledger.now() - timedelta(days=1),
        ends_at=(ledger.now() + timedelta(days=1)).replace(microsecond=0),
        metadata=metadata,
    )
    # When
    standing = await look_up(ledger, "GOLD20")
    # Then
    assert Standing(coupon=made, live=None, refusal=None, customer_seats=()) == standing


@pytest.mark.parametrize(
    ("status", "starts_in_s", "ends_in_s", "refusal"),
    [
        (CouponStatus.ACTIVE, None, None, None),
        (CouponStatus.ACTIVE, -60, 60, None),
        (CouponStatus.ARCHIVED, None, None, Refusal.COUPON_NOT_FOUND),
        (CouponStatus.ARCHIVED, 60, None, Refusal.COUPON_NOT_FOUND),
        (CouponStatus.PAUSED, None, None, Refusal.COUPON_PAUSED),
        (CouponStatus.PAUSED, None, -60, Refusal.COUPON_PAUSED),
        (CouponStatus.ACTIVE, 60, None, Refusal.COUPON_NOT_STARTED),
        (CouponStatus.ACTIVE, None, -60, Refusal.COUPON_ENDED),
    ],
)
async def test_refusal(
    ledger: Ledger, status: CouponStatus, starts_in_s: int | None, ends_in_s: int | None, refusal: Refusal | None
) -> None:
    """Status comes before window, both by the ledger's clock."""

    # Given
    def at(seconds: int | None) -> timedelta:
        return timedelta(seconds=seconds or 0)

    await given.coupon(
        ledger,
        status=status,
        starts_at=None if starts_in_s is None else ledger.now() + at(starts_in_s),
        ends_at=None if ends_in_s is None else ledger.now() + at(ends_in_s),
    )
    # When, Then
    assert refusal is (await look_up(ledger, "GOLD20")).refusal


async def test_a_live_order(ledger: Ledger, admin: Admin) -> None:
    """The order's live redemption comes whole, whoever asks; an ended one, another coupon's or another order's does not."""
    # Given
    coupon = await given.coupon(ledger, max_per_customer=1)
    other = await given.coupon(ledger, "OTHER")
    name = "o😀'\"\\ "
    live = given.row(ledger, coupon, seat=3, customer_seat=1, order_id=name, customer_id="c'\\😀")
    ended = given.row(ledger, coupon, seat=4, customer_seat=1, order_id="ended")
    await given.endings(ledger, live, ended, given.row(ledger, other, seat=1, order_id="o"))
    given.cancel(admin, ended.id)
    # When
    standing = await look_up(ledger, "GOLD20", "somebody else", name)
    # Then
    (record,) = await given.records(ledger, [live._replace(id=b"x" * 16)])
    assert standing.live is not None
    assert record.redemption == standing.live
    assert (live.id, live.customer_id, name, 3, RedemptionStatus.CONFIRMED, live.created_at) == (
        standing.live.id,
        standing.live.customer_id,
        standing.live.order_id,
        standing.live.seat,
        standing.live.status,
        standing.live.confirmed_at,
    )
    assert [None, None, None] == [
        (await look_up(ledger, "GOLD20", order_id=order_id)).live for order_id in ("ended", "o", name.strip())
    ]


async def test_customer_seats(ledger: Ledger, admin: Admin) -> None:
    """The customer's seats of live redemptions, ascending, by number; none where the coupon does not limit its customers."""
    # Given
    coupon = await given.coupon(ledger, max_redemptions=None, max_per_customer=1_000)
    unlimited = await given.coupon(ledger, "UNLIMITED", max_redemptions=None)
    rows = [given.row(ledger, coupon, customer_seat=seat, customer_id="c") for seat in (1, 2, 9, 10, 1_000, 100)]
    others = [given.row(ledger, coupon, customer_seat=5, customer_id=name) for name in ("C", "c ")]
    await given.endings(ledger, *rows, *others, given.row(ledger, unlimited, customer_id="c"))
    given.cancel(admin, rows[1].id)
    # When, Then
    assert (1, 9, 10, 100, 1_000) == (await look_up(ledger, "GOLD20")).customer_seats
    assert () == (await look_up(ledger, "GOLD20", "d")).customer_seats
    assert () == (await look_up(ledger, "UNLIMITED")).customer_seats


async def test_overdue_holds_of_the_customer(ledger: Ledger, admin: Admin) -> None:
    """They are among the customer's seats until they are ended, and named."""
    coupon = await given.coupon(ledger, max_per_customer=3)
    holds = [await given.hold(ledger, coupon, seat=seat, customer_seat=seat, customer_id="c") for seat in (1, 2, 3)]
    given.overdue(admin, holds[1].id)
    standing = await look_up(ledger, "GOLD20")
    assert ((1, 2, 3), (holds[1].id,)) == (standing.customer_seats, standing.overdue)


async def test_a_customer_with_many(ledger: Ledger) -> None:
    """A thousand seats of one customer come complete."""
    # Given
    coupon = await given.coupon(ledger, max_redemptions=None, max_per_customer=1_000)
    rows = [given.row(ledger, coupon, customer_seat=seat, customer_id="c") for seat in range(1, 1_001)]
    await given.endings(ledger, *rows)
    # When, Then
    assert tuple(range(1, 1_001)) == (await look_up(ledger, "GOLD20")).customer_seats


async def test_many_questions_are_one_statement(far: Ledger, proxy: Proxy) -> None:
    """Questions about several coupons, unknown ones and the same again: one statement, one answer each, in their order."""
    # Given
    a = await given.coupon(far, "A")
    b = await given.coupon(far, "B", status=CouponStatus.PAUSED, metadata={"b": 1})
    row = given.row(far, a, seat=1, order_id="live")
    await given.endings(far, row)
    questions = [
        LookUp("B", "c", "o"),
        LookUp("A", "c", "live"),
        LookUp("NONE", "c", "o"),
        LookUp("A", "c", "o"),
        LookUp("A", "c", "live"),
        LookUp("Ä", "c", "o"),
        LookUp("B", "c", "o"),
    ]
    statements = proxy.count(holding(b"select"))
    # When
    found = await far.redemptions.look_up(questions, given.soon())
    # Then
    assert 1 == statements.hits
    assert [b, a, None, a, a, None, b] == [standing.coupon for standing in found]
    assert [None, row.id, None, None, row.id, None, None] == [standing.live.id if standing.live else None for standing in found]
    paused = Refusal.COUPON_PAUSED  # Said once by the ledger, and so of every question about this coupon.
    assert [paused, None, None, None, None, None, paused] == [standing.refusal for standing in found]
    assert [] == await far.redemptions.look_up([], given.soon())


async def test_a_busy_coupon_is_busy_for_every_question(ledger: Ledger, admin: Admin) -> None:
    """Also for those of which there is nothing else to say."""
    await given.coupon(ledger, "A", max_per_customer=None)
    admin.run("UPDATE coupon SET busy_until = UTC_TIMESTAMP(6) + INTERVAL 1 MINUTE")
    questions = [LookUp("A", f"c-{number}", f"o-{number}") for number in range(3)]
    assert [True] * 3 == [one.is_busy for one in await ledger.redemptions.look_up(questions, given.soon())]


async def test_a_look_up_waits_for_no_lock(ledger: Ledger, other: Admin) -> None:
    """Locks of others, on the coupon or on the order's row, hold no look-up up."""
    # Given
    coupon = await given.coupon(ledger)
    row = given.row(ledger, coupon, seat=1)
    await given.endings(ledger, row)
    other.run("BEGIN")
    other.run("UPDATE coupon SET status = 'paused'")
    other.run("UPDATE redemption SET api_key_id = 2")
    # When, Then
    (standing,) = await ledger.redemptions.look_up([LookUp(coupon.code, row.customer_id, row.order_id)], given.soon(1.0))
    assert coupon == standing.coupon
    assert standing.live is not None


async def test_keys_are_used(ledger: Ledger, admin: Admin) -> None:
    """A look-up reads some rows by key, not the table: its literals fit their columns' character sets."""
    # Given
    coupon = await given.coupon(ledger, max_redemptions=1_000, max_per_customer=1)
    columns = "status, metadata, version, created_at, updated_at"
    admin.run(f"INSERT INTO coupon (code, {columns}) SELECT seq, {columns} FROM coupon, seq_1_to_100")
    rows = [given.row(ledger, coupon, seat=seat, customer_seat=1) for seat in range(1, 501)]
    await given.endings(ledger, *rows)
    before = admin.status("Handler_read_next") + admin.status("Handler_read_rnd_next")
    # When
    questions = [LookUp("GOLD20", row.customer_id, row.order_id) for row in rows[:50]]
    found = await ledger.redemptions.look_up(questions, given.soon())
    # Then
    read = admin.status("Handler_read_next") + admin.status("Handler_read_rnd_next") - before
    assert [row.id for row in rows[:50]] == [standing.live.id for standing in found if standing.live]
    assert read < 1_000


async def test_a_lost_connection_is_replaced(far: Ledger, proxy: Proxy) -> None:
    """A look-up whose connection was lost is made again; without a server it fails."""
    # Given
    coupon = await given.coupon(far)
    proxy.lose_reply(holding(b"with v"))
    # When, Then
    assert coupon == (await look_up(far, "GOLD20")).coupon
    proxy.refuse()
    with pytest.raises(LedgerUnavailable):
        await look_up(far, "GOLD20")
