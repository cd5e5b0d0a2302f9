"""What goes into a way of counting, and what comes out of it."""

from datetime import UTC, datetime
from enum import StrEnum
from types import TracebackType
from typing import NamedTuple, Protocol, Self

import uuid_utils


class Order(NamedTuple):
    """What a request asks for."""

    code: str
    customer_id: str
    order_id: str


class Row(NamedTuple):
    """A redemption as it is written into the ledger. `created_at`: in UTC, without the zone, down to the microsecond."""

    id: str
    coupon_id: int
    code: str
    customer_id: str
    order_id: str
    created_at: str


def new_row(order: Order, coupon_id: int) -> Row:
    """The row that is to be written for an order; its id is a UUIDv7, as Usher's are."""
    now = datetime.now(UTC).isoformat(timespec="microseconds")[:26]
    return Row(str(uuid_utils.uuid7()), coupon_id, order.code, order.customer_id, order.order_id, now)


class Sold(NamedTuple):
    """The order has its redemption; `is_new` unless it was there before."""

    row: Row
    is_new: bool = True


class Refusal(StrEnum):
    """Why not, by the coupon."""

    COUPON_EXHAUSTED = "coupon_exhausted"
    COUPON_NOT_FOUND = "coupon_not_found"


Answer = Sold | Refusal


class Failure(StrEnum):
    """Why not, by the way of counting itself."""

    DEADLOCK = "deadlock"
    LOCK_WAIT = "lock_wait"
    POOL = "pool"
    TIME_OUT = "time_out"
    OTHER = "other"


class Failed(Exception):
    """The request gets no answer but this. `is_certain`: nothing was written; else nobody knows."""

    def __init__(self, failure: Failure, *, is_certain: bool = True) -> None:
        super().__init__(failure.value)
        self.failure = failure
        self.is_certain = is_certain


class Strategy(Protocol):
    """A way of counting. As a context it owns its connections."""

    async def __aenter__(self) -> Self: ...

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None: ...

    async def redeem(self, order: Order) -> Answer:
        """One use of the coupon for the order; raises Failed. Whoever calls it cancels it at its deadline."""
        ...


class Stores(NamedTuple):
    """Where the stores are, and with how many connections a worker comes to each of them."""

    database_url: str
    redis_url: str
    pool: int
