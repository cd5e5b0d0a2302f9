"""Which seats of a coupon are in no row; and blocks of those above all others."""

import random
from collections.abc import AsyncIterator, Collection
from dataclasses import dataclass
from math import inf

from service.errors import LedgerReplyLost, LedgerUnavailable
from service.ledger.connections import Connections
from service.ledger.deadlines import is_over
from service.ledger.literals import tuples
from service.ledger.sql import Query

BLOCK = Query("seat_block")
COUNT = Query("seats_count")
LIST = Query("seats_list")
MAX = Query("seat_max")
TAKEN = Query("seats_taken")

COUNTED_SEATS_MAX = 100_000
"""Seats whose rows one statement counts: some 10 ms of the server's time."""
LISTED_ROWS_MAX = 5_000
"""Rows whose seats one statement lists, where some are free: 50 kB at most, a millisecond here."""
PIECE_GROWTH = 4
"""After a piece without a gap, the next is so many times as large; one with a gap is cut down as much and looked at again."""

Range = tuple[int, int]
"""Two seats, both included."""


@dataclass(frozen=True, slots=True)
class FreeSeats:
    """Seats that were in no row when they were looked at. `complete`: all there are; neither limit nor deadline cut any off.

    `reached`: from where another search goes on that is to look at the others.
    """

    seats: list[int]
    complete: bool
    reached: int = 1


class Seats:
    """The gateway to the seats of limited coupons."""

    def __init__(self, connections: Connections) -> None:
        self._connections = connections

    async def seat_max(self, coupon_id: int, deadline: float) -> int:
        """The highest seat in any row of the coupon, 0 where there is none: one index look-up. Raises LedgerUnavailable."""
        found = await self._connections.fetch(MAX(coupon_id=coupon_id), deadline)
        return int(found[0][0]) if found else 0

    async def taken(self, seats: Collection[tuple[int, int]], deadline: float) -> set[tuple[int, int]]:
        """Those of these (coupon's id, seat) that a row sits on: an index look-up for each. Raises LedgerUnavailable."""
        return set(await self._connections.fetch(TAKEN(seats=tuples(seats)), deadline)) if seats else set()

    async def block(self, coupon_id: int, size: int, *, limit: int, deadline: float) -> range:
        """`size` seats that are above all those in a row and in no other block; fewer, or none, where the limit is reached.

        Where it ends comes with the reply to the very statement that has moved the cursor, so it is nobody else's. A block
        whose reply is lost is nobody's: its seats are free, and a search finds them. Raises LedgerUnavailable, LedgerContended.
        """
        seat_max = await self.seat_max(coupon_id, deadline)
        if seat_max >= limit:
            return range(0)
        statement = BLOCK(coupon_id=coupon_id, seat_max=seat_max, size=size, limit=limit)
        try:
            end = await self._insert(statement, deadline)
        except LedgerReplyLost:
            end = await self._insert(statement, deadline)
        return range(end - size + 1, min(end, limit) + 1)

    async def _insert(self, statement: str, deadline: float) -> int:
        async with self._connections.use(deadline) as connection:
            return await connection.insert(statement, deadline)

    async def free_seats(
        self,
        coupon_id: int,
        upper: int,
        *,
        limit: int,
        deadline: float,
        start: int | None = None,
        enough_at: float = inf,
    ) -> FreeSeats:
        """At most `limit` of the seats 1 to `upper` that no row sits on.

        Works upwards from `start`, a random seat unless given, and round: those who search at the same time find different
        seats. Each statement is bounded; when the deadline (seconds of the loop's clock) passes between two of them, what was
        found until then is the answer, and from `enough_at` on as soon as anything is found. A seat that is free all the time
        is found; one that is taken or left meanwhile may be found or not. Raises LedgerUnavailable.
        """
        first = reached = start or random.randint(1, max(1, upper))
        seats: list[int] = []
        try:
            for begin, end in ((first, upper), (1, min(first - 1, upper))):
                async for low, high in self._gaps(coupon_id, begin, end, deadline):
                    wanted = limit - len(seats)
                    seats.extend(range(low, min(high, low + wanted - 1) + 1))
                    reached = high + 1
                    if high - low + 1 > wanted or (seats and is_over(enough_at)):
                        return FreeSeats(seats, complete=False, reached=reached)
        except LedgerUnavailable:
            if not is_over(deadline):
                raise
            return FreeSeats(seats, complete=False, reached=reached)
        return FreeSeats(seats, complete=True)

    async def _gaps(self, coupon_id: int, begin: int, end: int, deadline: float) -> AsyncIterator[Range]:
        """The ranges of free seats from `begin` to `end`, ascending; an empty one says how far there are none.

        Where there are few rows it walks over these, not over the seats: two thousand million seats with ten rows are some
        statements.
        """
        size = COUNTED_SEATS_MAX
        while begin <= end:
            if size > LISTED_ROWS_MAX and end - begin >= LISTED_ROWS_MAX:
                last = min(begin + size - 1, end)
                count = await self._count(coupon_id, begin, last, deadline)
                if count == last - begin + 1:
                    begin = last + 1
                    yield begin, last
                    size = min(PIECE_GROWTH * size, COUNTED_SEATS_MAX)
                else:
                    size = count // PIECE_GROWTH
            else:
                last, gaps = await self._list(coupon_id, begin, end, deadline)
                for gap in gaps:
                    yield gap
                begin = last + 1
                # Gaps come in crowds: where there were some, the next piece is listed at once.
                size = LISTED_ROWS_MAX if gaps else PIECE_GROWTH * LISTED_ROWS_MAX

    async def _count(self, coupon_id: int, begin: int, end: int, deadline: float) -> int:
        """How many rows a bounded piece has. Counting costs a fifth of listing, and most of a busy coupon is full."""
        ((count,),) = await self._connections.fetch(COUNT(coupon_id=coupon_id, begin=begin, end=end), deadline)
        return int(count)

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
