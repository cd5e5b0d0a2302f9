"""One request on its way: what it asks for, what it holds, how often it tried."""

import asyncio
from dataclasses import dataclass, field
from datetime import datetime

import uuid_utils

from service.errors import CounterUnavailable
from service.model import Claim, NewRedemption, Order, Record, RecordEnding, Redemption, RedemptionStatus, Wish


@dataclass(slots=True, eq=False)
class Attempt:
    """One request on its way. `row` is what it holds: a claimed seat, to be recorded; None while it holds nothing."""

    order: Order
    record_until: float
    answer_until: float
    wish: Wish
    coupon_id: int = 0
    row: NewRedemption | None = None
    tries: int = 0
    collisions: int = 0
    collided_seat: int | None = None
    customer_refusals: int = 0
    future: asyncio.Future[Claim | Record | CounterUnavailable] = field(init=False)

    def hold(self, seat: int | None, customer_seat: int | None, now: datetime) -> None:
        """Hold a claimed seat: the row that is to be recorded, under an id of its own.

        A row keeps its id whatever the ledger does to find out how it ended; another row is another id, because the ledger
        uses up those of rows that were once in doubt.
        """
        order = self.order
        self.row = NewRedemption(
            id=uuid_utils.uuid7().bytes,
            coupon_id=self.coupon_id,
            code=order.code,
            customer_id=order.customer_id,
            order_id=order.order_id,
            seat=seat,
            customer_seat=customer_seat,
            api_key_id=order.api_key_id,
            created_at=now,
            deadline=self.record_until,
        )

    def end(self, ending: Claim | Record | CounterUnavailable) -> None:
        """Tell the flow how this try ended. Nobody listens only when the process is being stopped the hard way."""
        if not self.future.done():
            self.future.set_result(ending)

    def end_later(self, ended: asyncio.Future[Record]) -> None:
        """As `end`, for an ending that came by a future; a cancelled one was of a gateway that is closed."""
        self.end(Record(RecordEnding.UNKNOWN) if ended.cancelled() else ended.result())


def held(attempt: Attempt) -> NewRedemption:
    """The row of an attempt that was to be recorded."""
    assert attempt.row is not None, "only a held row is recorded"
    return attempt.row


def confirmed(row: NewRedemption) -> Redemption:
    """The redemption that a recorded row has become."""
    return Redemption(
        id=row.id,
        coupon_id=row.coupon_id,
        code=row.code,
        customer_id=row.customer_id,
        order_id=row.order_id,
        status=RedemptionStatus.CONFIRMED,
        seat=row.seat,
        expires_at=None,
        created_at=row.created_at,
        confirmed_at=row.created_at,
        ended_at=None,
        end_reason=None,
    )


def fail(attempts: list[Attempt], error: Exception) -> None:
    """A batch ended by a defect: every request of it is told so, none waits for ever."""
    for attempt in attempts:
        if not attempt.future.done():
            attempt.future.set_exception(error)


def lowest_free(customer_seats: tuple[int, ...]) -> int:
    """The lowest seat that the customer does not sit on: count + 1 would collide for ever after a cancel."""
    taken = set(customer_seats)
    return next(seat for seat in range(1, len(taken) + 2) if seat not in taken)
