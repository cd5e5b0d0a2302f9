"""The seats of coupons, compared with their counters: in sums, and listed where these differ."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from itertools import islice
from typing import Final, NamedTuple

from reconciler import diff
from reconciler.collecting import Collecting
from reconciler.suspects import Looks
from service.comparing import BEGIN, Inspected, SeatStates
from service.ledger.ranges import ComparedCoupon, SeatRange

SUMMED_RANGES: Final = 500
"""Coupons whose rows one statement sums up."""
WALKED_AT_ONCE: Final = 20
"""Coupons of whose sets or hashes one round trip brings a page: some milliseconds of Redis' time."""
LISTED_SEATS: Final = 8_192
"""Seats of ranges that differ, listed by one statement."""
LEAKED_LISTED_MAX: Final = 100_000
"""Leaked seats of a coupon that are listed; the others are counted. Their counter is made to search anew."""

Pair = tuple[ComparedCoupon, Inspected]
"""A limited coupon, and its counter, which is right and not outdated."""


class Piece(NamedTuple):
    """Seats of a coupon that are to be listed.

    `has_free`: the counter has free seats among them, or so it seemed. `is_last`: with them all are listed that differ.
    """

    ledger: ComparedCoupon
    counter: Inspected
    low: int
    high: int
    has_free: bool
    is_last: bool


class SeatComparison:
    """Compares the seats of some coupons. `summed` is told which share of their rows has been read."""

    def __init__(self, looks: Looks, collecting: Collecting, summed: Callable[[float], None]) -> None:
        self._looks = looks
        self._collecting = collecting
        self._summed = summed
        self._leaked_left: dict[int, int] = {}
        self._left_out: dict[int, int] = {}

    async def compare(self, pairs: Sequence[Pair]) -> None:
        """Sums up what is free and what is in rows, and lists the ranges that differ. Coupons with equal ranges go together."""
        by_size: dict[int, list[Pair]] = {}
        for ledger, counter in pairs:
            if counter.number("next") or counter.free_count:
                by_size.setdefault(diff.range_size(counter.number("next")), []).append((ledger, counter))
        for size, alike in by_size.items():
            sums = {ledger.coupon.id: diff.SeatSums(counter.number("next")) for ledger, counter in alike}
            await self._sum_free(alike, sums)
            await self._sum_rows(sums, size)
            for pieces in _together(self._to_list(alike, sums)):
                self._collecting.check_stop()
                await self._list(pieces)

    async def _sum_free(self, pairs: Sequence[Pair], sums: Mapping[int, diff.SeatSums]) -> None:
        """The free seats of these counters; what can't be one is suspected at once."""
        by_code = {ledger.coupon.code: (ledger, counter) for ledger, counter in pairs if counter.free_count}
        cursors = dict.fromkeys(by_code, BEGIN)
        while cursors:
            self._collecting.check_stop()
            pages = await self._looks.comparing.free_page(dict(islice(cursors.items(), WALKED_AT_ONCE)))
            for code, (_, members) in pages.items():
                ledger, counter = by_code[code]
                of_coupon = sums[ledger.coupon.id]
                for member in members:
                    seat = diff.as_seat(member, of_coupon.next)
                    if seat is not None:
                        of_coupon.free(seat)
                    else:  # Or `next` has risen since.
                        self._collecting.suspect(ledger, counter).strange.add(member)
            await self._collecting.certain_if_many()
            cursors = following(cursors, {code: cursor for code, (cursor, _) in pages.items()})

    async def _sum_rows(self, sums: Mapping[int, diff.SeatSums], size: int) -> None:
        """The rows of these coupons, in bounded statements."""
        rest = [SeatRange(coupon_id, 1, of.next) for coupon_id, of in sorted(sums.items()) if of.next]
        seats, summed = sum(one.high for one in rest), 0
        while rest:
            self._collecting.check_stop()
            asked = rest[:SUMMED_RANGES]
            found, left = await self._looks.paced(partial(self._looks.ledger.ranges.sums, asked, size))
            for one in found:
                sums[one.coupon_id].rows(one.number, diff.Sums(one.rows, one.offsets, one.checksum))
                summed += one.rows
            rest = left + rest[SUMMED_RANGES:]
            self._summed(min(1.0, summed / seats))

    def _to_list(self, pairs: Sequence[Pair], sums: Mapping[int, diff.SeatSums]) -> Iterator[Piece]:
        """What is to be listed of these coupons, ascending by coupon and seat."""
        for ledger, counter in sorted(pairs, key=lambda pair: pair[0].coupon.id):
            of, coupon_id = sums[ledger.coupon.id], ledger.coupon.id
            missing = of.missing()
            left_out = counter.unsearched - counter.unsearched % of.size
            if missing - of.missing(above=left_out) > diff.UNSEARCHED_SEATS_MIN:
                missing = of.missing(above=left_out)
            else:
                left_out = 0
            self._left_out[coupon_id], self._leaked_left[coupon_id] = left_out, LEAKED_LISTED_MAX
            for one, is_last in _marking_last(of.differing()):
                for low in range(one.low, one.high + 1, LISTED_SEATS):
                    high = min(low + LISTED_SEATS - 1, one.high)
                    if one.has_free or (high > left_out and self._leaked_left[coupon_id] > 0):
                        is_end = is_last and high == one.high and not left_out
                        yield Piece(ledger, counter, low, high, one.has_free, is_end)
            if missing > LEAKED_LISTED_MAX:
                self._collecting.suspect(ledger, counter).unlisted = missing - LEAKED_LISTED_MAX

    async def _list(self, pieces: Sequence[Piece]) -> None:
        """Lists the seats in rows, then asks the counters about those that are not, and where some are free about all."""
        ranges = [SeatRange(one.ledger.coupon.id, one.low, one.high) for one in pieces]
        taken = await self._looks.paced(partial(self._looks.ledger.ranges.seats, ranges))
        wanted: dict[str, list[int | str]] = {}
        pairs: dict[str, Pair] = {}
        for one in pieces:
            coupon = one.ledger.coupon
            pairs[coupon.code] = (one.ledger, one.counter)
            sitting = taken.get(coupon.id, set())
            is_wanted, left_out = self._leaked_left[coupon.id] > 0, self._left_out[coupon.id]
            wanted.setdefault(coupon.code, []).extend(
                seat
                for seat in range(one.low, one.high + 1)
                if (one.has_free if seat in sitting else is_wanted and seat > left_out)
            )
        states = await self._looks.states({code: seats for code, seats in wanted.items() if seats})
        for code, found in states.items():
            if found is not None:
                self._add(pairs[code], wanted[code], found, taken=taken.get(pairs[code][0].coupon.id, set()))
        for one in pieces:
            if one.is_last:
                self._collecting.all_listed(one.ledger)
        await self._collecting.certain_if_many()

    def _add(self, pair: Pair, seats: Sequence[int | str], states: SeatStates, *, taken: set[int]) -> None:
        """Suspects what is wrong with these seats, if the counter is still the one that was inspected."""
        ledger, counter = pair
        if (states.coupon_id, states.version) != (ledger.coupon.id, ledger.coupon.version):
            return
        found = diff.seats_found({int(seat): state for seat, state in zip(seats, states.states, strict=True)}, taken)
        leaked = found.leaked[: self._leaked_left[ledger.coupon.id]]
        self._leaked_left[ledger.coupon.id] -= len(leaked)
        if leaked or found.ghosts or found.pending:
            suspect = self._collecting.suspect(ledger, counter)
            suspect.leaked.update(leaked)
            suspect.ghosts.update(dict.fromkeys(found.ghosts))
            suspect.pending.update(dict.fromkeys(found.pending, 0))


def following(cursors: Mapping[str, str], walked: Mapping[str, str]) -> dict[str, str]:
    """Where walks go on after some of them have come further; those that are over are left out."""
    return {code: cursor for code, cursor in {**cursors, **walked}.items() if code not in walked or cursor != BEGIN}


def _marking_last(ranges: Iterator[diff.Differing]) -> Iterator[tuple[diff.Differing, bool]]:
    """Each range, and whether none comes after it."""
    before: diff.Differing | None = None
    for one in ranges:
        if before is not None:
            yield before, False
        before = one
    if before is not None:
        yield before, True


def _together(pieces: Iterator[Piece]) -> Iterator[list[Piece]]:
    """Pieces of LISTED_SEATS seats in all, or of one more piece."""
    some: list[Piece] = []
    seats = 0
    for piece in pieces:
        some.append(piece)
        seats += piece.high - piece.low + 1
        if seats >= LISTED_SEATS:
            yield some
            some, seats = [], 0
    if some:
        yield some
