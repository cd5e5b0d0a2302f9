"""Customers above their limits, found by walking through keys in bounded steps: of all coupons, or of one.

The ledger refuses to make such a row, so none is ever found; the walk is there to be certain. By the customers' key, a million
entries take 0.4 s, whatever coupons they belong to. One coupon's rows have no key of their own in that order: they are read
by coupon and status, each with a look-up in the table, in the order in which they lie there; a million take some 2.2 s. So
that is the shorter way only for a coupon with less than a fifth of all redemptions.
"""

from typing import Final, NamedTuple

from service.ledger.connections import Connections
from service.ledger.literals import Sql, integer, text
from service.ledger.sql import Query
from service.model import Coupon, RedemptionStatus

ESTIMATE = Query("redemptions_estimate")
BORDER = Query("customers_border")
EXCEEDING = Query("customers_exceeding")
OF_COUPON_BORDER = Query("coupon_customers_border")
OF_COUPON_EXCEEDING = Query("coupon_customers_exceeding")

STEP_ENTRIES: Final = 50_000
"""Entries of the customers' key in one step: some 25 ms of the server's time."""
STEP_ROWS: Final = 20_000
"""Rows of one coupon in one step: some 30 ms."""
KEY_SHARE: Final = 0.2
"""By the customers' key, an entry takes this share of the time that a row of one coupon takes."""
LAST_ID: Final = b"\xff" * 16


class CustomerCursor(NamedTuple):
    """Where the walk goes on: with this customer's entries of this coupon."""

    customer_id: str = ""
    coupon_id: int = 0


class Exceeding(NamedTuple):
    """A customer's highest seat in a live redemption, and the limit below it."""

    code: str
    customer_id: str
    seat: int
    limit: int


class Walk:
    """The gateway for looking at all customers. Deadlines in seconds of the loop's clock; raises LedgerUnavailable."""

    LIVE: Final = (RedemptionStatus.RESERVED, RedemptionStatus.CONFIRMED)

    def __init__(self, connections: Connections) -> None:
        self._connections = connections

    async def rows_worth_reading(self, deadline: float) -> int:
        """With more redemptions of one coupon than so many, the walk through the customers' key is the shorter one."""
        ((estimate,),) = await self._connections.fetch(ESTIMATE(), deadline)
        return int(KEY_SHARE * (estimate or 0))

    async def customers(self, begin: CustomerCursor, deadline: float) -> tuple[list[Exceeding], CustomerCursor | None]:
        """Customers above their limits within the next STEP_ENTRIES entries, and where to go on; None: nowhere.

        Each customer and coupon is in one step as a whole. One that has more entries, most of them ended, is a step of its own,
        in which only the live ones are read.
        """
        border = BORDER(customer_id=begin.customer_id, coupon_id=begin.coupon_id, entries=STEP_ENTRIES)
        found = await self._connections.fetch(border, deadline)
        end = CustomerCursor(*found[0]) if found else None
        if end == begin:
            end = begin._replace(coupon_id=begin.coupon_id + 1)
        rows = await self._connections.fetch(EXCEEDING(part=_between(begin, end)), deadline)
        exceeding = (Exceeding(code, customer, int(seat), int(limit)) for code, customer, seat, limit in rows)
        return sorted(exceeding, key=lambda one: (one.customer_id, one.code)), end

    async def customers_of(
        self, coupon: Coupon, status: RedemptionStatus, after_id: bytes, deadline: float
    ) -> tuple[list[Exceeding], bytes | None]:
        """The same for one coupon's redemptions of this status, and after which id to go on. A customer can come twice."""
        border = OF_COUPON_BORDER(coupon_id=coupon.id, status=status.value, after_id=after_id, entries=STEP_ROWS)
        found = await self._connections.fetch(border, deadline)
        last_id: bytes | None = found[0][0] if found else None
        statement = OF_COUPON_EXCEEDING(
            coupon_id=coupon.id,
            status=status.value,
            after_id=after_id,
            last_id=last_id or LAST_ID,
            max_per_customer=coupon.max_per_customer,
        )
        rows = await self._connections.fetch(statement, deadline)
        limit = coupon.max_per_customer or 0
        return [Exceeding(coupon.code, customer, int(seat), limit) for customer, seat in rows], last_id


def _between(begin: CustomerCursor, end: CustomerCursor | None) -> Sql:
    """The entries from `begin` on and below `end`, as ranges of the key."""
    first, of = text(begin.customer_id), integer(begin.coupon_id)
    if end is None:
        return Sql(f"s.customer_id > {first} OR (s.customer_id = {first} AND s.coupon_id >= {of})")
    last, below = text(end.customer_id), integer(end.coupon_id)
    if end.customer_id == begin.customer_id:
        return Sql(f"s.customer_id = {first} AND s.coupon_id >= {of} AND s.coupon_id < {below}")
    return Sql(
        f"(s.customer_id = {first} AND s.coupon_id >= {of}) OR (s.customer_id > {first} AND s.customer_id < {last})"
        f" OR (s.customer_id = {last} AND s.coupon_id < {below})"
    )
