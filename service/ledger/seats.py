"""Which seats of a coupon are in no row."""

import asyncio
import random
from collections.abc import AsyncIterator
from dataclasses import dataclass

from service.errors import LedgerUnavailable
from service.ledger.connections import Connections
from service.ledger.sql import Query

COUNT = Query("seats_count")
LIST = Query("seats_list")
MAX = Query("seat_max")

COUNTED_ROWS_MAX = 100_000
"""Rows counted by one statement: some 20 ms of the server's time."""
LISTED_ROWS_MAX = 5_000
"""Rows whose seats one statement lists, where some are free: 50 kB at most, a millisecond here."""
PIECE_GROWTH = 4
"""After a piece without a gap, the next is so many times as large; one with a gap is cut down as much and looked at again."""

Range = tuple[int, int]
"""Two seats, both included."""


@dataclass(frozen=True, slots=True)
class FreeSeats:
    """Seats that were in no row when they were looked at. `complete`: all there are; neither limit nor deadline cut any off."""

    seats: list[int]
    complete: bool


class Seats:
    """The gateway to the seats of limited coupons."""

    def __init__(self, connections: Connections) -> None:
        self._connections = connections

    async def seat_max(self, coupon_id: int, deadline: float) -> int:
        """The highest seat in any row of the coupon, 0 where there is none: one index look-up. Raises LedgerUnavailable."""
        found = await self._connections.fetch(MAX(coupon_id=coupon_id), deadline)
        return int(found[0][0]) if found else 0

    async def free_seats(
        self, coupon_id: int, upper: int, *, limit: int, deadline: float, start: int | None = None
    ) -> FreeSeats:
        """At most `limit` of the seats 1 to `upper` that no row sits on.

        Works upwards from `start`, a random seat unless given, and round: those who search at the same time find different
        seats. Each statement is bounded; when the deadline (seconds of the loop's clock) passes between two of them, what was
        found until then is the answer. A seat that is free all the time is found; one that is taken or left meanwhile may be
        found or not. Raises LedgerUnavailable.
        """
        first = start or random.randint(1, max(1, upper))
        seats: list[int] = []
        try:
            for begin, end in ((first, upper), (1, min(first - 1, upper))):
                async for low, high in self._gaps(coupon_id, begin, end, deadline):
                    wanted = limit - len(seats)
                    seats.extend(range(low, min(high, low + wanted - 1) + 1))
                    if high - low + 1 > wanted:
                        return FreeSeats(seats, complete=False)
        except LedgerUnavailable:
            if asyncio.get_running_loop().time() < deadline:
                raise
            return FreeSeats(seats, complete=False)
        return FreeSeats(seats, complete=True)

    async def _gaps(self, coupon_id: int, begin: int, end: int, deadline: float) -> AsyncIterator[Range]:
        """The ranges of free seats from `begin` to `end`, ascending.

        Walks over the rows, not over the seats: two thousand million seats with ten rows are two statements.
        """
        rows_max = COUNTED_ROWS_MAX
        while begin <= end:
            if rows_max > LISTED_ROWS_MAX and end - begin >= LISTED_ROWS_MAX:
                count, last = await self._count(coupon_id, begin, end, rows_max=rows_max, deadline=deadline)
                if count == last - begin + 1:
                    begin = last + 1
                    rows_max = min(PIECE_GROWTH * rows_max, COUNTED_ROWS_MAX)
                else:
                    rows_max = min(count, rows_max) // PIECE_GROWTH
            else:
                last, gaps = await self._list(coupon_id, begin, end, deadline)
                for gap in gaps:
                    yield gap
                begin = last + 1
                # Gaps come in crowds: where there were some, the next piece is listed at once.
                rows_max = LISTED_ROWS_MAX if gaps else PIECE_GROWTH * LISTED_ROWS_MAX

    async def _count(self, coupon_id: int, begin: int, end: int, *, rows_max: int, deadline: float) -> Range:
        """How many rows a bounded piece from `begin` has, and its last seat.

        Counting costs a third of listing, and most of a busy coupon is full.
        """
        piece = COUNT(coupon_id=coupon_id, begin=begin, end=end, rows_max=rows_max)
        ((count, last),) = await self._connections.fetch(piece, deadline)
        # Without a row there is a gap: the piece is not full.
        return (count, last) if count else (0, begin)

    async def _list(self, coupon_id: int, begin: int, end: int, deadline: float) -> tuple[int, list[Range]]:
        """The gaps of a bounded piece from `begin`, and the piece's last seat."""
        piece = LIST(coupon_id=coupon_id, begin=begin, end=end, rows_max=LISTED_ROWS_MAX)
        ((listed,),) = await self._connections.fetch(piece, deadline)
        taken = [] if listed is None else sorted(map(int, listed.split(",")))
        last = taken[-1] if len(taken) == LISTED_ROWS_MAX else end
        gaps = []
        for seat in [*taken, last + 1]:
            if seat > begin:
                gaps.append((begin, seat - 1))
            begin = seat + 1
        return last, gaps
