"""How a counter and the ledger differ: pure, from what was read of both.

A large coupon is compared without listing its seats. Seats are summed up in ranges: how many are in rows, the sum of their
offsets within the range, and the sum of the offsets' CRC-32. The counter's side of that is known without reading a row:
all seats up to `next` are handed out, less those that are free. Only ranges whose sums differ are listed. The CRC-32 is there
since a leak and a ghost would hide each other in a count, and two of each in a sum of offsets.
"""

import re
import zlib
from array import array
from bisect import bisect_right
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final, NamedTuple

from service.comparing import TYPES, Inspected, SeatState
from service.counters import fields
from service.ledger.ranges import ComparedCoupon, Limit
from service.model import NAME_CHARS_MAX

RANGE_SEATS_MIN: Final = 256
"""The smallest range: should it differ, so few seats are listed for it."""
RANGES_MAX: Final = 65_536
"""A coupon has no more ranges: their sums take 2 MB. With more than 16 million seats the ranges are larger."""
UNSEARCHED_SEATS_MIN: Final = 100_000
"""More seats that are in no row and not free, and that their counter has not looked for since it was made or shrunk, are no
fault: they are looked for when they are needed. Fewer are all listed."""
BEFORE_S: Final = 1.0
"""By so much may the clock that `created_at` comes from be ahead of the clock of the coupon's history."""

HALF: Final = re.compile("[\ud800-\udfff]")
"""Half of a surrogate pair: what Redis holds there is no UTF-8."""
TIMES: Final = frozenset({"starts_at", "ends_at"})
LIMITS: Final = frozenset({"max_redemptions", "max_per_customer"})
DIGITS_MAX: Final = 16
"""Of a whole number that Lua can hold."""
BOOKKEEPING: Final = ("loaded", "next", "searched")
"""Fields of a counter that the ledger knows nothing of."""


# --- Fields --------------------------------------------------------------------------------------------------------


class Outdated(NamedTuple):
    """What differs of a counter's fields: as it is written there, and as the ledger has it."""

    before: Mapping[str, Any]
    after: Mapping[str, Any]


def outdated(found: Inspected, ledger: ComparedCoupon) -> Outdated | None:
    """The fields in which a counter differs from the ledger's coupon, and keys of it that have a wrong type; or None."""
    before: dict[str, Any] = {}
    after: dict[str, Any] = {}
    for field, value in fields(ledger.coupon).items():
        if found.values.get(field) != str(value):
            before[field], after[field] = _shown(field, found.values.get(field)), _shown(field, str(value))
    if not found.is_right:
        for part, kind in found.types.items():
            if kind not in (TYPES[part], "none"):
                before[part], after[part] = kind, TYPES[part]
        if not before:
            before |= {field: found.values.get(field) for field in BOOKKEEPING} | {"pending": found.pending_count}
            after |= {"loaded": None, "next": ledger.seat_high, "searched": 0, "pending": 0}
    return Outdated(before, after) if before else None


def told(found: Inspected) -> Mapping[str, str]:
    """What a counter says of the coupon, as it is written: its own bookkeeping, which every claim changes, left out."""
    return {field: value for field, value in found.values.items() if field not in BOOKKEEPING}


def _shown(field: str, value: str | None) -> Any:  # noqa: ANN401 - a JSON value
    """A field as people read it. What is no number stays text."""
    number = None if value is None else whole(value)
    if value is None or number is None:
        return None if value is None else readable(value)
    if field in LIMITS:
        return number or None
    if field in TIMES:
        try:
            moment = datetime.fromtimestamp(0, UTC) + timedelta(milliseconds=number)
            return moment.replace(tzinfo=None).isoformat(timespec="milliseconds") + "Z" if number else None
        except OverflowError:
            return value
    return number


def whole(text: str) -> int | None:
    """The whole number that this is in canonical decimal, the only form in which scripts write one; else None."""
    if text.isascii() and text.isdecimal() and len(text) <= DIGITS_MAX:
        number = int(text)
        return number if str(number) == text else None
    return None


def readable(text: str) -> str:
    """A text from Redis as it can be stored and shown: not longer than a name may be, and without half characters."""
    return text.encode(errors="surrogateescape").decode(errors="replace")[:NAME_CHARS_MAX]


# --- Seats ---------------------------------------------------------------------------------------------------------


class Sums(NamedTuple):
    """Seats of a range: how many, the sum of their offsets (0 for the range's first), the sum of the offsets' CRC-32."""

    seats: int
    offsets: int
    checksum: int


class _Checksums:
    """CRC-32 of the decimal text of 0, 1, 2, …, as the ledger computes it; and their sums from 0 on."""

    def __init__(self) -> None:
        self.of: list[int] = []
        self.sums = [0]

    def extend(self, size: int) -> None:
        for offset in range(len(self.of), size):
            self.of.append(zlib.crc32(b"%d" % offset))
            self.sums.append(self.sums[-1] + self.of[-1])


_CHECKSUMS = _Checksums()


def range_size(next_seat: int) -> int:
    """Seats in each range of a counter that has handed out so many."""
    size = RANGE_SEATS_MIN
    while size * RANGES_MAX < next_seat:
        size *= 2
    return size


def all_of(count: int) -> Sums:
    """The sums of a range's first seats."""
    _CHECKSUMS.extend(count)
    return Sums(count, count * (count - 1) // 2, _CHECKSUMS.sums[count])


def sums_of(seats: Iterable[int], number: int, size: int) -> Sums:
    """The sums of these seats, all in the range of this number."""
    _CHECKSUMS.extend(size)
    offsets = [seat - 1 - number * size for seat in seats]
    return Sums(len(offsets), sum(offsets), sum(_CHECKSUMS.of[offset] for offset in offsets))


class Differing(NamedTuple):
    """A range whose sums differ: its seats, up to `next`. `has_free`: the counter has free seats in it, or so it seemed."""

    number: int
    low: int
    high: int
    has_free: bool


class SeatSums:
    """One coupon's seats in sums: what is handed out, less what is free, less what is in rows. All 0 where both agree."""

    def __init__(self, next_seat: int) -> None:
        self.next = next_seat
        self.size = range_size(next_seat)
        ranges = (next_seat + self.size - 1) // self.size
        zeros = bytes(8 * ranges)
        self._counts, self._offsets, self._checksums = array("q", zeros), array("q", zeros), array("q", zeros)
        self._free = array("q", zeros)
        _CHECKSUMS.extend(min(self.size, next_seat))

    def free(self, seat: int) -> None:
        """A seat up to `next` is free. To say so twice makes the range differ, and it is listed for nothing."""
        number, offset = divmod(seat - 1, self.size)
        self._free[number] += 1
        self._add(number, 1, offset, _CHECKSUMS.of[offset])

    def rows(self, number: int, sums: Sums) -> None:
        """So many rows are in a range, or in a part of it."""
        self._add(number, *sums)

    def _add(self, number: int, count: int, offsets: int, checksum: int) -> None:
        self._counts[number] += count
        self._offsets[number] += offsets
        self._checksums[number] += checksum

    def differing(self) -> Iterator[Differing]:
        """The ranges whose sums differ, ascending."""
        full = all_of(min(self.size, self.next))
        for number, sums in enumerate(zip(self._counts, self._offsets, self._checksums, strict=True)):
            low = number * self.size + 1
            high = min(low + self.size - 1, self.next)
            if sums != (full if high - low + 1 == full.seats else all_of(high - low + 1)):
                yield Differing(number, low, high, self._free[number] > 0)

    def missing(self, *, above: int = 0) -> int:
        """Seats that are handed out, not free, and in no row: so many at least, some of them in flight.

        `above`: only beyond this seat, which is a range's last.
        """
        first = above // self.size
        found = 0
        for number, count in enumerate(self._counts[first:], first):
            found += max(0, min(self.size, self.next - number * self.size) - count)
        return found


class SeatsFound(NamedTuple):
    """What may be wrong with seats: in no row and neither free nor pending; in a row and free; in no row and pending."""

    leaked: list[int]
    ghosts: list[int]
    pending: list[int]


def seats_found(states: Mapping[int, SeatState], taken: Collection[int]) -> SeatsFound:
    """What may be wrong with these seats, of which those in `taken` are in rows."""
    found = SeatsFound([], [], [])
    for seat, state in states.items():
        if seat in taken:
            if state is SeatState.FREE:
                found.ghosts.append(seat)
        elif state is SeatState.HANDED_OUT:
            found.leaked.append(seat)
        elif state is SeatState.PENDING:
            found.pending.append(seat)
    return found


def as_seat(member: str, next_seat: int) -> int | None:
    """A member of `free` as a seat from 1 to `next`; None for anything else, which can't be free."""
    seat = whole(member)
    return seat if seat is not None and 1 <= seat <= next_seat else None


# --- Customers -----------------------------------------------------------------------------------------------------


def counted(live: int, limit: int | None) -> int:
    """What a counter should say of a customer with so many live redemptions: scripts believe no count above the limit."""
    return live if limit is None else min(live, limit)


def is_count(text: str) -> bool:
    """Whether a script could have written this as a customer's count."""
    return whole(text) is not None


def is_name(text: str) -> bool:
    """Whether a customer or an order can be called so; Redis may hold anything."""
    return len(text) <= NAME_CHARS_MAX and (text.isascii() or not HALF.search(text))


# --- Limits in force -----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Timeline:
    """A coupon's limits, ascending by the time since when each was in force."""

    limits: Sequence[Limit]

    def highest(self, begin: datetime, end: datetime) -> int | None:
        """The highest limit in force at any time from `begin` to `end`; None where the history does not say."""
        since = [one.since for one in self.limits]
        first = max(0, bisect_right(since, begin) - 1)
        within = [one.limit for one in self.limits[first : bisect_right(since, end)]]
        return max(within, default=None)


def limit_exceeded(seat: int, created_at: datetime, timeline: Timeline, recorded_within_s: float) -> int | None:
    """The limit in force when this seat's redemption was admitted, if the seat is above it; else None.

    A redemption is recorded within so many seconds after `created_at`; the limit that counts is the one at that moment.
    """
    begin = created_at - timedelta(seconds=BEFORE_S)
    limit = timeline.highest(begin, created_at + timedelta(seconds=recorded_within_s))
    return limit if limit is not None and seat > limit else None
