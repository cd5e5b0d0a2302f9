import asyncio
from datetime import timedelta

import pytest
import structlog

from service.ledger import Ledger
from service.model import NewRedemption, Record, RecordEnding, RedemptionStatus
from tests.faults import Proxy, holding
from tests.ledger import given
from tests.stores import Admin
from tests.waiting import stalls

RECORDED = RecordEnding.RECORDED
RECORD = holding(b"skip locked")


async def test_what_was_recorded_is_what_was_claimed(ledger: Ledger, admin: Admin) -> None:
    """A recorded row has all values of the claim, is confirmed, and was made when the service said."""
    # Given
    coupon = await given.coupon(ledger, max_per_customer=3)
    new = given.row(ledger, coupon, seat=7, customer_seat=2, api_key_id=5)
    # When
    assert [RECORDED] == await given.endings(ledger, new)
    # Then
    (row,) = admin.run("SELECT * FROM redemption")
    expected = {
        "id": new.id,
        "coupon_id": coupon.id,
        "customer_id": new.customer_id,
        "order_id": new.order_id,
        "status": "confirmed",
        "seat": 7,
        "customer_seat": 2,
        "live_order_id": new.order_id,
        "was_seat": None,
        "api_key_id": 5,
        "idempotency_key": None,
        "expires_at": None,
        "created_at": new.created_at.replace(tzinfo=None),
        "confirmed_at": new.created_at.replace(tzinfo=None),
        "ended_at": None,
        "end_reason": None,
    }
    assert expected == row


async def test_a_batch_is_one_statement(far: Ledger, proxy: Proxy) -> None:
    """256 rows of several coupons are written by one statement, and nothing else is asked."""
    # Given
    coupons = [await given.coupon(far, code, max_redemptions=100) for code in ("A", "B", "C")]
    await given.endings(far, given.row(far, coupons[0], seat=100))
    rows = [given.row(far, coupon, seat=seat) for seat in range(1, 86) for coupon in coupons]
    statements = proxy.count(holding(b"redemption"))
    # When
    found = await given.endings(far, *rows)
    # Then
    assert [RECORDED] * 255 == found
    assert 1 == statements.hits


async def test_unlimited(ledger: Ledger) -> None:
    """Rows of an unlimited coupon have no seats; with one they are refused."""
    # Given
    coupon = await given.coupon(ledger, max_redemptions=None)
    rows = [given.row(ledger, coupon), given.row(ledger, coupon, seat=1), given.row(ledger, coupon, customer_seat=1)]
    # When, Then
    assert [RECORDED, RecordEnding.COUPON_REFUSES, RecordEnding.COUPON_REFUSES] == await given.endings(ledger, *rows)


@pytest.mark.parametrize("seat", [0, -1, 21, 2**32, 2**70, None])
async def test_seats_outside_the_limit(ledger: Ledger, seat: int | None) -> None:
    """Only seats 1 to the limit are there: seat 0 would be a 21st of 20."""
    # Given
    coupon = await given.coupon(ledger, max_redemptions=20)
    bad = given.row(ledger, coupon, seat=seat)
    good = [given.row(ledger, coupon, seat=1), given.row(ledger, coupon, seat=20)]
    # When, Then
    assert [RecordEnding.COUPON_REFUSES, RECORDED, RECORDED] == await given.endings(ledger, bad, *good)


@pytest.mark.parametrize("customer_seat", [0, -1, 4, 2**16, None])
async def test_customer_seats_outside_the_limit(ledger: Ledger, customer_seat: int | None) -> None:
    """Only a customer's seats 1 to the limit are there."""
    # Given
    coupon = await given.coupon(ledger, max_per_customer=3)
    bad = given.row(ledger, coupon, seat=1, customer_seat=customer_seat)
    good = given.row(ledger, coupon, seat=2, customer_seat=3)
    # When, Then
    assert [RecordEnding.COUPON_REFUSES, RECORDED] == await given.endings(ledger, bad, good)


@pytest.mark.parametrize(
    "change",
    [
        "status = 'paused'",
        "status = 'archived'",
        "starts_at = UTC_TIMESTAMP(6) + INTERVAL 1 MINUTE",
        "ends_at = UTC_TIMESTAMP(6)",
        "max_redemptions = 4",
    ],
)
async def test_a_coupon_that_refuses(ledger: Ledger, admin: Admin, change: str) -> None:
    """Status, window and limit are those of the ledger at the moment of the statement, by its clock."""
    # Given
    coupon = await given.coupon(ledger)
    fine = await given.coupon(ledger, "FINE")
    admin.run(f"UPDATE coupon SET {change} WHERE code = 'GOLD20'")
    # When
    found = await given.endings(ledger, given.row(ledger, coupon, seat=5), given.row(ledger, fine, seat=5))
    # Then
    assert [RecordEnding.COUPON_REFUSES, RECORDED] == found


async def test_a_coupon_within_its_window(ledger: Ledger) -> None:
    """A window that has begun and not ended admits."""
    # Given
    moment = timedelta(seconds=30)
    coupon = await given.coupon(ledger, starts_at=ledger.now() - moment, ends_at=ledger.now() + moment)
    # When, Then
    assert [RECORDED] == await given.endings(ledger, given.row(ledger, coupon, seat=1))


async def test_a_coupon_that_is_not_there(ledger: Ledger) -> None:
    """A row of no coupon is refused by it."""
    # Given
    coupon = await given.coupon(ledger)
    # When, Then
    row = given.row(ledger, coupon, coupon_id=coupon.id + 1, seat=1)
    assert [RecordEnding.COUPON_REFUSES] == await given.endings(ledger, row)


async def test_a_seat_that_is_taken(ledger: Ledger, admin: Admin) -> None:
    """Two redemptions never sit on one seat, in one batch or in two; the seat of a cancelled one is free."""
    # Given
    coupon = await given.coupon(ledger)
    first, second, third, fourth = (given.row(ledger, coupon, seat=5) for _ in range(4))
    # When, Then
    assert [RECORDED, RecordEnding.SEAT_TAKEN] == await given.endings(ledger, first, second)
    assert [RecordEnding.SEAT_TAKEN] == await given.endings(ledger, third)
    given.cancel(admin, first.id)
    assert [RECORDED] == await given.endings(ledger, fourth)


async def test_a_customer_seat_that_is_taken(ledger: Ledger) -> None:
    """One customer's seat is taken once for each coupon; another customer has seats of their own."""
    # Given
    coupon = await given.coupon(ledger, max_per_customer=2)
    other = await given.coupon(ledger, "OTHER", max_per_customer=2)
    same = {"customer_id": "c", "customer_seat": 1}
    rows = [
        given.row(ledger, coupon, seat=1, **same),
        given.row(ledger, coupon, seat=2, **same),
        given.row(ledger, coupon, seat=3, **{**same, "customer_id": "d"}),
        given.row(ledger, other, seat=4, **same),
        # Both are taken: the customer's seat is told, since it comes first.
        given.row(ledger, coupon, seat=1, **same),
    ]
    # When
    found = await given.endings(ledger, *rows)
    # Then
    taken = RecordEnding.CUSTOMER_SEAT_TAKEN
    assert [RECORDED, taken, RECORDED, RECORDED, taken] == found


async def test_an_order_that_is_live(ledger: Ledger, admin: Admin) -> None:
    """An order has one live redemption of a coupon: another send gets that one, also when nothing else would be admitted."""
    # Given
    coupon = await given.coupon(ledger, max_per_customer=1)
    first = given.row(ledger, coupon, seat=3, customer_seat=1, order_id="o", customer_id="c")
    assert [RECORDED] == await given.endings(ledger, first)
    admin.run("UPDATE coupon SET status = 'paused'")
    # When
    (record,) = await given.records(ledger, [given.row(ledger, coupon, seat=3, customer_seat=1, order_id="o", customer_id="c")])
    # Then
    assert RecordEnding.ORDER_LIVE is record.ending
    live = record.redemption
    assert live is not None
    assert (first.id, "GOLD20", "c", "o", 3) == (live.id, live.code, live.customer_id, live.order_id, live.seat)
    assert (RedemptionStatus.CONFIRMED, first.created_at, first.created_at) == (
        live.status,
        live.created_at,
        live.confirmed_at,
    )
    assert (None, None, None) == (live.expires_at, live.ended_at, live.end_reason)


async def test_an_order_may_redeem_again_after_its_end(ledger: Ledger, admin: Admin) -> None:
    """The order of a cancelled redemption is free for a new one; another coupon's was never taken."""
    # Given
    coupon = await given.coupon(ledger)
    other = await given.coupon(ledger, "OTHER")
    first = given.row(ledger, coupon, seat=1, order_id="o")
    await given.endings(ledger, first)
    # When, Then
    assert [RECORDED] == await given.endings(ledger, given.row(ledger, other, seat=1, order_id="o"))
    given.cancel(admin, first.id)
    assert [RECORDED] == await given.endings(ledger, given.row(ledger, coupon, seat=2, order_id="o"))


async def test_one_id_twice(ledger: Ledger, admin: Admin) -> None:
    """The same row sent again is recorded, once; also when it has been cancelled since, with whatever reason."""
    # Given
    coupon = await given.coupon(ledger)
    new = given.row(ledger, coupon, seat=1)
    # When, Then
    assert [RECORDED] == await given.endings(ledger, new)
    assert [RECORDED] == await given.endings(ledger, new)
    given.cancel(admin, new.id, "abandoned")
    assert [RECORDED] == await given.endings(ledger, new)
    assert [new.id] == given.ids(admin)


async def test_rows_end_in_the_order_given(ledger: Ledger) -> None:
    """The statement sorts its rows; the endings are in the caller's order."""
    # Given
    a, b = await given.coupon(ledger, "A"), await given.coupon(ledger, "B")
    rows = [given.row(ledger, b, seat=9), given.row(ledger, a, seat=0), given.row(ledger, a, seat=9)]
    # When, Then
    assert [RECORDED, RecordEnding.COUPON_REFUSES, RECORDED] == await given.endings(ledger, *rows)


async def test_no_rows(ledger: Ledger) -> None:
    """Nothing comes of nothing."""
    assert [] == await ledger.redemptions.record([])


NAMES = [
    "a",
    "A",
    "a ",
    " a",
    "å",
    "e",
    "é",
    "e\u0301",
    "ß",
    "ss",
    "😀",
    "😁",
    "😀" * 128,
    "x'; DROP",
    "\\",
    "'",
    '"',
    "%s",
    "{0}",
]


async def test_names_are_neither_folded_nor_trimmed(ledger: Ledger, admin: Admin) -> None:
    """Names that differ in a byte are different customers and orders, and are kept as they came."""
    # Given
    coupon = await given.coupon(ledger, max_redemptions=100, max_per_customer=1)
    rows = [
        given.row(ledger, coupon, seat=seat, customer_seat=1, customer_id=name, order_id=name)
        for seat, name in enumerate(NAMES, 1)
    ]
    # When
    found = await given.endings(ledger, *rows)
    # Then
    assert [RECORDED] * len(NAMES) == found
    kept = admin.run("SELECT customer_id, order_id, live_order_id FROM redemption ORDER BY seat")
    assert [(name, name, name) for name in NAMES] == [tuple(row.values()) for row in kept]
    again = [given.row(ledger, coupon, seat=50, customer_seat=1, order_id=name) for name in NAMES]
    assert [(RecordEnding.ORDER_LIVE, name) for name in NAMES] == [
        (record.ending, record.redemption.order_id if record.redemption else "")
        for record in await given.records(ledger, again)
    ]


BAD: dict[str, list[object]] = {
    "customer_id": ["x" * 129, "\ud800", "\udcff", None, 5],
    "order_id": ["😀" * 129, "\udfff"],
    "seat": ["1", 1.5, "1); DROP TABLE redemption; --"],
    "customer_seat": ["NULL"],
    "coupon_id": ["1", None],
    "api_key_id": [-1, 2**32],
    "id": [b"short", b"x" * 17],
}


@pytest.mark.parametrize(("field", "value"), [(field, value) for field, values in BAD.items() for value in values])
async def test_a_row_that_the_ledger_cannot_hold(ledger: Ledger, field: str, value: object) -> None:
    """A bad row is not recorded, all others of its batch are; the log says so without its values."""
    # Given
    coupon = await given.coupon(ledger, max_redemptions=None)
    rows = [given.row(ledger, coupon, order_id=f"order-of-somebody-{n}") for n in range(9)]
    bad = {"order_id": "order-of-a-customer", field: value}
    rows[4] = given.row(ledger, coupon, **bad)
    # When
    with structlog.testing.capture_logs() as logs:
        found = await given.endings(ledger, *rows)
    # Then
    assert [RECORDED] * 4 + [RecordEnding.NOT_RECORDED] + [RECORDED] * 4 == found
    assert ["error"] == [event["log_level"] for event in logs]
    assert "order-of-a-customer" not in str(logs)
    assert "xxx" not in str(logs)


async def test_a_locked_coupon_stops_nobody_else(ledger: Ledger, admin: Admin, other: Admin) -> None:
    """While a coupon is being changed, the rows of others land at once; its own land when it is done."""
    # Given
    busy, fine = await given.coupon(ledger, "BUSY"), await given.coupon(ledger, "FINE")
    other.run("BEGIN")
    other.run("SELECT * FROM coupon WHERE code = 'BUSY' FOR UPDATE")
    rows = [given.row(ledger, coupon, seat=seat) for seat in range(1, 11) for coupon in (busy, fine)]
    begin = asyncio.get_running_loop().time()
    async with stalls() as stood_still:
        # When
        answers = await ledger.redemptions.record(rows)
        # Then
        of_fine, of_busy = answers[1::2], answers[0::2]
        assert [Record(RECORDED)] * 10 == of_fine
        await asyncio.sleep(0.2)
        assert 10 == admin.value("SELECT COUNT(*) FROM redemption")
        other.run("COMMIT")
        assert [Record(RECORDED)] * 10 == [await answer for answer in of_busy if isinstance(answer, asyncio.Future)]
    assert asyncio.get_running_loop().time() - begin < 1 + stood_still.total_s
    assert 20 == admin.value("SELECT COUNT(*) FROM redemption")


async def test_what_the_change_decided_counts(ledger: Ledger, other: Admin) -> None:
    """Rows that waited for a coupon's change are judged by its new values."""
    # Given
    coupon = await given.coupon(ledger)
    other.run("BEGIN")
    other.run("UPDATE coupon SET status = 'paused'")
    (answer,) = await ledger.redemptions.record([given.row(ledger, coupon, seat=1)])
    assert isinstance(answer, asyncio.Future)
    # When
    other.run("COMMIT")
    # Then
    assert Record(RecordEnding.COUPON_REFUSES) == await answer


async def test_a_coupon_that_stays_locked(ledger: Ledger, other: Admin) -> None:
    """A row that waited until its deadline ends then, as certainly not recorded."""
    # Given
    coupon = await given.coupon(ledger)
    other.run("BEGIN")
    other.run("SELECT * FROM coupon FOR UPDATE")
    row = given.row(ledger, coupon, seat=1, deadline_s=1.0)
    # When
    (answer,) = await ledger.redemptions.record([row])
    # Then
    assert isinstance(answer, asyncio.Future)
    async with stalls() as stood_still:
        ending = await answer
    late_s = asyncio.get_running_loop().time() - row.deadline
    assert Record(RecordEnding.NOT_RECORDED) == ending
    assert late_s < 0.1 + stood_still.total_s
    other.run("COMMIT")
    await ledger.redemptions.finish()
    assert 0 == other.value("SELECT COUNT(*) FROM redemption")


async def test_many_rows_behind_one_lock(ledger: Ledger, admin: Admin, other: Admin) -> None:
    """All that waits for a coupon is tried again together, in few statements."""
    # Given
    coupon = await given.coupon(ledger, max_redemptions=2_000)
    other.run("BEGIN")
    other.run("SELECT * FROM coupon FOR UPDATE")
    batches: list[list[NewRedemption]] = [
        [given.row(ledger, coupon, seat=100 * n + seat) for seat in range(1, 101)] for n in range(10)
    ]
    waiting = [answer for batch in batches for answer in await ledger.redemptions.record(batch)]
    statements = admin.status("Com_insert_select")
    # When
    await asyncio.sleep(0.5)
    statements = admin.status("Com_insert_select") - statements
    other.run("COMMIT")
    # Then
    assert [Record(RECORDED)] * 1_000 == [await answer for answer in waiting if isinstance(answer, asyncio.Future)]
    assert statements < 20


async def test_a_future_may_be_dropped(ledger: Ledger, admin: Admin, other: Admin) -> None:
    """The redemption of a caller who has gone is completed."""
    # Given
    coupon = await given.coupon(ledger)
    other.run("BEGIN")
    other.run("SELECT * FROM coupon FOR UPDATE")
    (answer,) = await ledger.redemptions.record([given.row(ledger, coupon, seat=1)])
    assert isinstance(answer, asyncio.Future)
    # When
    answer.cancel()
    other.run("COMMIT")
    await ledger.redemptions.finish()
    # Then
    assert 1 == admin.value("SELECT COUNT(*) FROM redemption")


async def test_a_row_without_time_is_not_sent(far: Ledger, proxy: Proxy) -> None:
    """A row whose deadline has passed is certainly not recorded."""
    # Given
    coupon = await given.coupon(far)
    await given.endings(far, given.row(far, coupon, seat=2))
    sent = proxy.count(RECORD)
    # When
    found = await given.endings(far, given.row(far, coupon, seat=1, deadline_s=-0.001))
    # Then
    assert [RecordEnding.NOT_RECORDED] == found
    assert 0 == sent.hits
