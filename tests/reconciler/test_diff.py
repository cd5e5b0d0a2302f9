"""How counters and the ledger differ, against a model that simply lists everything."""

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from reconciler import diff
from reconciler.diff import SeatSums, Sums, Timeline
from service.comparing import TYPES, Inspected, SeatState
from service.counters import fields
from service.ledger.ranges import ComparedCoupon, Limit
from service.model import Coupon, CouponStatus

NOW = datetime(2026, 11, 22, tzinfo=UTC)
SEATS_MAX = 3 * diff.RANGE_SEATS_MIN
COUPON = Coupon(77, "GOLD20", 5, None, None, NOW, CouponStatus.ACTIVE, {}, 3, NOW, NOW)
LEDGER = ComparedCoupon(COUPON, is_redeemed=True, is_busy=False, seat_max=4, seat_high=4)

seats = st.sets(st.integers(1, SEATS_MAX), max_size=12)


def compared(next_seat: int, rows: set[int], free: set[int], pending: set[int]) -> tuple[list[int], list[int], list[int]]:
    """What the comparison by sums finds: leaked seats, ghosts, pending ones, each ascending."""
    sums = SeatSums(next_seat)
    for seat in free:
        sums.free(seat)
    for number in range((next_seat + sums.size - 1) // sums.size):
        within = range(number * sums.size + 1, (number + 1) * sums.size + 1)
        sums.rows(number, diff.sums_of(rows.intersection(within), number, sums.size))
    leaked, ghosts, waiting = [], [], []
    for one in sums.differing():
        states = {seat: state(seat, free, pending) for seat in range(one.low, one.high + 1)}
        found = diff.seats_found(states, rows)
        assert one.has_free or not found.ghosts
        leaked += found.leaked
        ghosts += found.ghosts
        waiting += found.pending
    return leaked, ghosts, waiting


def state(seat: int, free: set[int], pending: set[int]) -> SeatState:
    if seat in free:
        return SeatState.FREE
    return SeatState.PENDING if seat in pending else SeatState.HANDED_OUT


@given(next_seat=st.integers(1, SEATS_MAX), absent=seats, free=seats, pending=seats, ghosts=seats)
@example(next_seat=10, absent={1, 4}, free={2, 3}, pending=set(), ghosts={2, 3})
@example(next_seat=10, absent={1, 5, 6}, free={2, 3, 7}, pending=set(), ghosts={2, 3, 7})
@example(next_seat=diff.RANGE_SEATS_MIN + 1, absent={257}, free=set(), pending=set(), ghosts=set())
@settings(max_examples=300)
def test_sums_hide_nothing(next_seat: int, absent: set[int], free: set[int], pending: set[int], ghosts: set[int]) -> None:
    """Whatever is leaked, a ghost or pending is in a range that differs: leaks and ghosts of equal sums, too."""
    rows = set(range(1, next_seat + 1)) - absent - (free - ghosts)
    free = {seat for seat in free | ghosts if seat <= next_seat}
    every = range(1, next_seat + 1)
    brute = (
        [seat for seat in every if seat not in rows and seat not in free and seat not in pending],
        [seat for seat in every if seat in rows and seat in free],
        [seat for seat in every if seat not in rows and seat not in free and seat in pending],
    )
    assert brute == compared(next_seat, rows, free, pending)


def test_equal_counters_have_no_range_that_differs() -> None:
    sums = SeatSums(1_000)
    sums.free(7)
    for number, begin in enumerate(range(1, 1_001, sums.size)):
        of_range = [seat for seat in range(begin, min(begin + sums.size, 1_001)) if seat != 7]
        sums.rows(number, diff.sums_of(of_range, number, sums.size))
    assert [] == list(sums.differing())
    assert 0 == sums.missing()


def test_missing_seats_are_counted_above_a_seat() -> None:
    """A range's last."""
    sums = SeatSums(1_000)
    size = sums.size
    for number, rows in enumerate((size - 3, size - 2, size)):
        sums.rows(number, diff.Sums(rows, 0, 0))
    rest = 1_000 - 3 * size
    assert 5 + rest == sums.missing()
    assert [5 + rest, 2 + rest, rest, rest] == [sums.missing(above=ranges * size) for ranges in range(4)]


def test_a_free_seat_that_comes_twice_is_looked_at_and_found_right() -> None:
    """A walk through a set may show a member twice."""
    sums = SeatSums(4)
    sums.rows(0, diff.sums_of([1, 2, 4], 0, sums.size))
    sums.free(3)
    sums.free(3)
    (one,) = sums.differing()
    assert ([], [], []) == diff.seats_found({seat: state(seat, {3}, set()) for seat in (1, 2, 3, 4)}, {1, 2, 4})
    assert (1, 4, True) == (one.low, one.high, one.has_free)


@pytest.mark.parametrize(("next_seat", "size"), [(1, 256), (16_777_216, 256), (16_777_217, 512), (2_000_000_000, 32_768)])
def test_a_coupon_has_so_many_ranges_at_most(next_seat: int, size: int) -> None:
    assert size == diff.range_size(next_seat)
    assert next_seat <= size * diff.RANGES_MAX


def test_sums_of_all_seats_are_known_without_reading_one() -> None:
    assert diff.all_of(300) == diff.sums_of(range(1, 301), 0, 512)
    assert Sums(2, 1, 0xF4DBDF21 + 0x83DCEFB7) == diff.all_of(2), "CRC-32 of the texts 0 and 1"


# --- Fields --------------------------------------------------------------------------------------------------------


def inspected(*, is_right: bool = True, types: Iterable[str] = TYPES.values(), **values: object) -> Inspected:
    """A counter of COUPON that has handed out four seats, with other values."""
    written = {**fields(COUPON), "loaded": 1, "next": 4, "searched": 0, **values}
    texts = {name: str(value) for name, value in written.items() if value is not None}
    return Inspected(is_right, dict(zip(TYPES, types, strict=True)), texts, 0, 0, 0, unsearched=0)


def test_a_counter_that_says_the_same_is_not_outdated() -> None:
    assert diff.outdated(inspected(next=2, searched=5, types=("hash", "none", "none", "none")), LEDGER) is None


@pytest.mark.parametrize(
    ("counter", "before", "after"),
    [
        (inspected(version=2, status="paused"), {"version": 2, "status": "paused"}, {"version": 3, "status": "active"}),
        (inspected(max_redemptions=0), {"max_redemptions": None}, {"max_redemptions": 5}),
        (inspected(max_per_customer=2), {"max_per_customer": 2}, {"max_per_customer": None}),
        (
            inspected(starts_at=1_500, ends_at=0),
            {"starts_at": "1970-01-01T00:00:01.500Z", "ends_at": None},
            {"starts_at": None, "ends_at": "2026-11-22T00:00:00.000Z"},
        ),
        (inspected(is_right=False, version="07"), {"version": "07"}, {"version": 3}),
        (inspected(is_right=False, version="9" * 5_000), {"version": "9" * 128}, {"version": 3}),
        (inspected(is_right=False, ends_at="9" * 16), {"ends_at": "9" * 16}, {"ends_at": "2026-11-22T00:00:00.000Z"}),
        (inspected(is_right=False, status=None), {"status": None}, {"status": "active"}),
        (inspected(is_right=False, status="\udcff"), {"status": "\ufffd"}, {"status": "active"}),
        (
            inspected(is_right=False, types=("hash", "string", "none", "list")),
            {"free": "string", "customers": "list"},
            {"free": "set", "customers": "hash"},
        ),
        (
            inspected(is_right=False, next=6),
            {"loaded": "1", "next": "6", "searched": "0", "pending": 0},
            {"loaded": None, "next": 4, "searched": 0, "pending": 0},
        ),
    ],
)
def test_what_an_outdated_counter_says(counter: Inspected, before: object, after: object) -> None:
    """The fields that differ, as people read them; what cannot be right as it is written."""
    assert (before, after) == diff.outdated(counter, LEDGER)


@pytest.mark.parametrize(
    ("member", "seat"),
    [("1", 1), ("5", 5), ("6", None), ("0", None), ("05", None), ("-1", None), ("1.0", None), ("x", None), ("", None),
     ("٣", None), ("9" * 5_000, None)],
)  # fmt: skip
def test_what_can_be_a_free_seat(member: str, seat: int | None) -> None:
    assert seat == diff.as_seat(member, 5)


@pytest.mark.parametrize(("name", "is_name"), [("ann", True), ("ü" * 128, True), ("a" * 129, False), ("\udcff", False)])
def test_what_can_be_a_name(name: str, is_name: bool) -> None:
    assert is_name == diff.is_name(name)


# --- Limits in force -----------------------------------------------------------------------------------------------


def at(seconds: float) -> datetime:
    return NOW + timedelta(seconds=seconds)


TIMELINE = Timeline([Limit(at(0), 10), Limit(at(100), 4), Limit(at(200), 20)])


@pytest.mark.parametrize(
    ("seat", "made_at", "limit"),
    [
        (10, 50, None),
        (11, 50, 10),
        (10, 100.5, None),  # The clocks of two processes differ.
        (10, 102, 4),
        (4, 150, None),
        (20, 196, None),  # Recorded some seconds after it was made.
        (5, 190, 4),
        (21, 300, 20),
        (11, -0.5, 10),  # Before there was a coupon, by another clock.
    ],
)
def test_the_limit_in_force_when_a_seat_was_taken(seat: int, made_at: float, limit: int | None) -> None:
    """Lowered later, the limit makes nobody oversold."""
    assert limit == diff.limit_exceeded(seat, at(made_at), TIMELINE, 7.0)


def test_without_a_history_nothing_is_said() -> None:
    assert diff.limit_exceeded(11, at(0), Timeline([]), 7.0) is None
