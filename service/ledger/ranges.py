"""What the ledger says, to be compared with counters: coupons in pages, seats in sums and lists, customers, and limits.

Each statement reads so much of an index at most, none of them locks anything, and all raise LedgerUnavailable. Deadlines are in
seconds of the loop's clock.
"""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final, NamedTuple

from service.ledger import rows as of
from service.ledger.connections import Connections
from service.ledger.literals import Sql, ascii_text, integer, tuples
from service.ledger.sql import Query
from service.model import Coupon

COUPONS = Query("compared_coupons")
COUNT = Query("coupons_count")
SUMS = Query("ranges_sums")
LIST = Query("ranges_list")
SITTING = Query("seats_sitting")
CUSTOMERS = Query("customers_live")
CUSTOMERS_SITTING = Query("customers_sitting")
ABOVE = Query("seats_above")
LIMITS = Query("limits_in_force")

SUMMED_ROWS_MAX: Final = 100_000
"""Rows summed up by one statement: some 80 ms of the server's time."""
ABOVE_ROWS_MAX: Final = 5_000
"""Rows above a limit read by one statement, each with a look-up in the table."""
LIMITS_MAX: Final = 1_000
VERSION_END: Final = 2**32
"""Above every version that fits the column."""
FIRST_VERSION: Final = 1
FROM_THE_BEGINNING: Final = datetime.min.replace(tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class ComparedCoupon:
    """A coupon and what its counter is compared with, at one moment.

    `is_redeemed`: there is a redemption, whatever became of it. `is_busy`: a large move is under way. `seat_max`: the highest
    seat in a row; `seat_high`: the highest one that is not above the limit. Both are 0 where there is none.
    """

    coupon: Coupon
    is_redeemed: bool
    is_busy: bool
    seat_max: int
    seat_high: int


class SeatRange(NamedTuple):
    """Seats of a coupon, both ends included."""

    coupon_id: int
    low: int
    high: int


class Summed(NamedTuple):
    """Rows of a coupon within the seats `number * size + 1` to `(number + 1) * size`: see `Sums` in reconciler/diff.py.

    `last`: the highest of these rows' seats.
    """

    coupon_id: int
    number: int
    last: int
    rows: int
    offsets: int
    checksum: int


class Sitting(NamedTuple):
    """A redemption on a seat."""

    coupon_id: int
    seat: int
    redemption_id: bytes


class Limit(NamedTuple):
    """A coupon's `max_redemptions`, and since when."""

    since: datetime
    limit: int


class Ranges:
    """The gateway for comparing."""

    def __init__(self, connections: Connections) -> None:
        self._connections = connections

    async def coupon_count(self, deadline: float) -> int:
        """How many coupons there are."""
        ((count,),) = await self._connections.fetch(COUNT(), deadline)
        return int(count)

    async def coupons(self, after_id: int, limit: int, deadline: float) -> list[ComparedCoupon]:
        """Coupons with ids above `after_id`, ascending, at most `limit`."""
        return await self._coupons(f"c.id > {integer(after_id)}", limit, deadline)

    async def coupon(self, code: str, deadline: float) -> ComparedCoupon | None:
        """The coupon with this code."""
        found = await self._coupons(f"c.code = {ascii_text(code)}", 1, deadline) if code.isascii() else []
        return found[0] if found else None

    async def coupons_of(self, ids: Collection[int], deadline: float) -> dict[int, ComparedCoupon]:
        """The coupons with these ids, by id."""
        if not ids:
            return {}
        found = await self._coupons(f"c.id IN ({','.join(map(integer, ids))})", len(ids), deadline)
        return {one.coupon.id: one for one in found}

    async def _coupons(self, condition: str, limit: int, deadline: float) -> list[ComparedCoupon]:
        rows = await self._connections.fetch(COUPONS(condition=Sql(condition), limit=limit), deadline)
        return [ComparedCoupon(of.coupon(row[4:]), bool(row[0]), bool(row[1]), int(row[2]), int(row[3])) for row in rows]

    async def sums(self, ranges: Sequence[SeatRange], size: int, deadline: float) -> tuple[list[Summed], list[SeatRange]]:
        """Sums of the first rows in these ranges, for every `size` seats; and what of the ranges is still to be read.

        The ranges ascend by coupon and seat, and do not overlap.
        """
        statement = SUMS(ranges=_within(ranges), size=size, rows_max=SUMMED_ROWS_MAX)
        found = sorted(Summed(*map(int, row)) for row in await self._connections.fetch(statement, deadline))
        if sum(one.rows for one in found) < SUMMED_ROWS_MAX:
            return found, []
        end = (found[-1].coupon_id, found[-1].last)
        rest = [one for one in ranges if (one.coupon_id, one.high) > end]
        if rest and (rest[0].coupon_id, rest[0].low) <= end:
            rest[0] = rest[0]._replace(low=end[1] + 1)
        return found, rest

    async def seats(self, ranges: Sequence[SeatRange], deadline: float) -> dict[int, set[int]]:
        """The seats in rows of these ranges, by coupon's id; a coupon without any is absent. The caller bounds the ranges."""
        found = await self._connections.fetch(LIST(ranges=_within(ranges)), deadline)
        return {int(coupon_id): set(map(int, listed.split(","))) for coupon_id, listed in found}

    async def sitting(self, seats: Collection[tuple[int, int]], deadline: float) -> dict[tuple[int, int], bytes]:
        """By (coupon's id, seat), who sits on these seats: an index look-up for each. An empty seat is absent."""
        if not seats:
            return {}
        found = await self._connections.fetch(SITTING(seats=tuples(seats)), deadline)
        return {(coupon_id, seat): redemption_id for coupon_id, seat, redemption_id in found}

    async def customers(self, customers: Sequence[tuple[int, str]], deadline: float) -> Mapping[tuple[int, str], int]:
        """Live redemptions by (coupon's id, customer), each of a coupon that limits its customers; 0 is absent.

        The caller bounds the answer: it has some six bytes for each of these redemptions, and a megabyte is read.
        """
        if not customers:
            return {}
        rows = ((n, *one) for n, one in enumerate(customers))
        ((listed,),) = await self._connections.fetch(CUSTOMERS(customers=tuples(rows)), deadline)
        counts = Counter(listed.split(",") if listed else ())
        return {customers[int(n)]: count for n, count in counts.items()}

    async def redemptions_of(
        self, customers: Sequence[tuple[int, str]], deadline: float
    ) -> Mapping[tuple[int, str], frozenset[bytes]]:
        """The ids of the live redemptions that `customers` counts. The caller bounds the answer: a row for each of them."""
        found: dict[tuple[int, str], set[bytes]] = {}
        if customers:
            rows = ((n, *one) for n, one in enumerate(customers))
            for n, redemption_id in await self._connections.fetch(CUSTOMERS_SITTING(customers=tuples(rows)), deadline):
                found.setdefault(customers[n], set()).add(redemption_id)
        return {customer: frozenset(ids) for customer, ids in found.items()}

    async def seats_above(self, coupon_id: int, seat: int, deadline: float) -> list[tuple[int, datetime]]:
        """Redemptions on seats above this one: seat, and when it was made; at most ABOVE_ROWS_MAX."""
        found = await self._connections.fetch(ABOVE(coupon_id=coupon_id, seat=seat, limit=ABOVE_ROWS_MAX), deadline)
        return [(int(above), created_at) for above, created_at in found]

    async def limits(self, coupon_id: int, below_version: int | None, deadline: float) -> tuple[list[Limit], int]:
        """The coupon's limits since when they were in force, the latest first, and the version where to go on; 0: nowhere.

        The first version's was in force from the beginning of time, whatever the clock of a redemption has said.
        """
        statement = LIMITS(coupon_id=coupon_id, below_version=below_version or VERSION_END, limit=LIMITS_MAX)
        found = await self._connections.fetch(statement, deadline)
        more = found[-1][0] if len(found) == LIMITS_MAX else 0
        return [
            Limit(FROM_THE_BEGINNING if version == FIRST_VERSION else since, int(limit))
            for version, since, limit in found
            if limit is not None
        ], more


def _within(ranges: Sequence[SeatRange]) -> Sql:
    """The condition of rows in these ranges. Constants, so that the server reads just these pieces of the index."""
    return Sql(
        " OR ".join(
            f"(s.coupon_id = {integer(one.coupon_id)} AND s.seat BETWEEN {integer(one.low)} AND {integer(one.high)})"
            for one in ranges
        )
    )
