"""What the ledger says to be compared with counters: pages of coupons, sums and lists of seats, customers, limits."""

from datetime import UTC, datetime

import pytest

from reconciler import diff
from service.ledger import Ledger, ranges
from service.ledger.ranges import SeatRange, Summed
from service.model import Coupon, CouponStatus
from tests.ledger import given
from tests.stores import Admin

SIZE = 4


async def sit(ledger: Ledger, coupon: Coupon, *seats: int) -> None:
    """Live rows on these seats."""
    await given.endings(ledger, *(given.row(ledger, coupon, seat=seat) for seat in seats))


async def summed(ledger: Ledger, *wanted: SeatRange) -> dict[tuple[int, int], diff.Sums]:
    """All sums of these ranges, by coupon's id and number, put together from as many statements as it takes."""
    found: dict[tuple[int, int], diff.Sums] = {}
    rest = list(wanted)
    while rest:
        sums, rest = await ledger.ranges.sums(rest, SIZE, given.soon())
        for one in sums:
            before = found.get((one.coupon_id, one.number), diff.Sums(0, 0, 0))
            parts = (one.rows, one.offsets, one.checksum)
            found[one.coupon_id, one.number] = diff.Sums(*(a + b for a, b in zip(before, parts, strict=True)))
    return found


@pytest.mark.parametrize("rows_max", [1, 2, 3, 7, 100_000])
async def test_sums(ledger: Ledger, monkeypatch: pytest.MonkeyPatch, rows_max: int) -> None:
    """They are what the comparison expects of the same seats, however many statements they take."""
    monkeypatch.setattr(ranges, "SUMMED_ROWS_MAX", rows_max)
    first, second, third = [await given.coupon(ledger, code) for code in ("A", "B", "C")]
    seats = {first.id: {1, 2, 4, 5, 9, 13}, second.id: {3}, third.id: {4, 8, 12}}
    for coupon in (first, second, third):
        await sit(ledger, coupon, *seats[coupon.id])

    found = await summed(ledger, SeatRange(first.id, 1, 9), SeatRange(second.id, 1, 20), SeatRange(third.id, 8, 20))

    seats[first.id].remove(13)
    seats[third.id].remove(4)
    wanted = {
        (coupon_id, number): diff.sums_of([seat for seat in taken if (seat - 1) // SIZE == number], number, SIZE)
        for coupon_id, taken in seats.items()
        for number in {(seat - 1) // SIZE for seat in taken}
    }
    assert wanted == found


async def test_a_sum_says_how_far_it_got(ledger: Ledger) -> None:
    coupon = await given.coupon(ledger)
    await sit(ledger, coupon, 2, 3)
    sums, rest = await ledger.ranges.sums([SeatRange(coupon.id, 1, 20)], SIZE, given.soon())
    checksum = diff.sums_of([2, 3], 0, SIZE).checksum
    assert ([Summed(coupon.id, 0, 3, 2, 3, checksum)], []) == (sums, rest)


async def test_lists(ledger: Ledger) -> None:
    """The seats in rows, and who sits there."""
    first, second = [await given.coupon(ledger, code) for code in ("A", "B")]
    await sit(ledger, first, 1, 5, 9)
    await sit(ledger, second, 5)
    wanted = [SeatRange(first.id, 1, 4), SeatRange(first.id, 9, 20), SeatRange(second.id, 6, 20)]
    assert {first.id: {1, 9}} == await ledger.ranges.seats(wanted, given.soon())
    sitting = await ledger.ranges.sitting([(first.id, 5), (first.id, 6), (second.id, 5)], given.soon())
    assert {(first.id, 5), (second.id, 5)} == sitting.keys()
    assert 2 == len(set(sitting.values()))
    assert {} == await ledger.ranges.sitting([], given.soon())


async def test_customers(ledger: Ledger, admin: Admin) -> None:
    """Live redemptions only, of this coupon only; who has none is absent."""
    first, second = [await given.coupon(ledger, code, max_per_customer=3) for code in ("A", "B")]
    rows = [
        given.row(ledger, coupon, customer_id=customer, seat=seat, customer_seat=customer_seat)
        for coupon, customer, seat, customer_seat in (
            (first, "ann", 1, 1), (first, "ann", 2, 2), (first, "bob", 3, 1), (second, "ann", 1, 1), (first, "Ann", 4, 1),
        )
    ]  # fmt: skip
    await given.endings(ledger, *rows)
    given.cancel(admin, rows[2].id)
    asked = [(first.id, "bob"), (first.id, "ann"), (second.id, "ann"), (first.id, "nobody"), (first.id, "Ann")]
    wanted = {(first.id, "ann"): 2, (second.id, "ann"): 1, (first.id, "Ann"): 1}
    assert wanted == await ledger.ranges.customers(asked, given.soon())
    found = await ledger.ranges.redemptions_of(asked, given.soon())
    assert wanted == {customer: len(ids) for customer, ids in found.items()}
    assert {rows[0].id, rows[1].id} == found[first.id, "ann"]
    assert {} == await ledger.ranges.customers([], given.soon())
    assert {} == await ledger.ranges.customers([(first.id, "nobody")], given.soon())


async def test_coupons(ledger: Ledger, admin: Admin) -> None:
    """In pages by id, each with its highest seats and whether it was ever redeemed."""
    first = await given.coupon(ledger, "B", max_redemptions=5)
    second = await given.coupon(ledger, "A", max_redemptions=None, status=CouponStatus.PAUSED)
    third = await given.coupon(ledger, "C")
    await sit(ledger, first, 2, 4)
    given.insert(admin, given.row(ledger, first, seat=9))
    ended = given.row(ledger, third, seat=1)
    await given.endings(ledger, ended)
    given.cancel(admin, ended.id)

    page = await ledger.ranges.coupons(0, 2, given.soon())
    assert not page[0].is_busy
    assert [(first, True, 9, 4), (second, False, 0, 0)] == [
        (one.coupon, one.is_redeemed, one.seat_max, one.seat_high) for one in page
    ]
    (last,) = await ledger.ranges.coupons(second.id, 2, given.soon())
    assert (third.id, True, 0) == (last.coupon.id, last.is_redeemed, last.seat_max)
    assert 3 == await ledger.ranges.coupon_count(given.soon())
    assert {first.id: page[0]} == await ledger.ranges.coupons_of([first.id, 99], given.soon())
    assert {} == await ledger.ranges.coupons_of([], given.soon())
    assert page[1] == await ledger.ranges.coupon("A", given.soon())
    assert await ledger.ranges.coupon("NOTHING", given.soon()) is None


async def test_limits(ledger: Ledger, admin: Admin, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each limit since when, the latest first, in pages; rows above a limit with when they were made."""
    monkeypatch.setattr(ranges, "LIMITS_MAX", 2)
    monkeypatch.setattr(ranges, "ABOVE_ROWS_MAX", 2)
    coupon = await given.coupon(ledger, max_redemptions=30)
    await sit(ledger, coupon, 3, 25, 26, 27)
    await given.changed(ledger, coupon.code, metadata={"max_redemptions": 7})
    changed = await given.changed(ledger, coupon.code, max_redemptions=2_000_000_000)

    found, more = await ledger.ranges.limits(coupon.id, None, given.soon())
    assert ([2_000_000_000, 30], 2) == ([one.limit for one in found], more)
    assert changed.updated_at == found[0].since
    found, more = await ledger.ranges.limits(coupon.id, more, given.soon())
    always = datetime.min.replace(tzinfo=UTC)
    assert ([30], [always], 0) == ([one.limit for one in found], [one.since for one in found], more)

    above = await ledger.ranges.seats_above(coupon.id, 20, given.soon())
    assert [25, 26] == [seat for seat, _ in above]
    assert admin.value("SELECT created_at FROM redemption WHERE seat = 25") == above[0][1].replace(tzinfo=None)
    assert [27] == [seat for seat, _ in await ledger.ranges.seats_above(coupon.id, 26, given.soon())]
