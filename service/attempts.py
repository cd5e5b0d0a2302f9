"""One request on its way: what it asks for, what it holds, how often it tried."""

import asyncio
import random
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import NamedTuple

import uuid_utils

from service.errors import CounterUnavailable
from service.model import (
    MAX_PER_CUSTOMER_MAX,
    Claim,
    NewRedemption,
    Order,
    Record,
    RecordEnding,
    Redemption,
    RedemptionStatus,
    Refusal,
    Search,
    Standing,
    Wish,
)


class Refused(NamedTuple):
    """A refused claim, and what the ledger says of its order since."""

    claim: Claim
    standing: Standing

    def stands(self) -> Refusal | None:
        """The refusal, if it stands by what is known already; None: the order may be live, or there is more to find out.

        The ledger's own reasons, in the contract's order; then the counter's word, where the ledger has searched with it.
        """
        claim, standing = self
        coupon = standing.coupon
        if coupon is None or standing.known or standing.live or standing.overdue:
            return None
        if standing.refusal is not None or standing.is_busy:
            return standing.refusal
        if len(standing.customer_seats) >= (coupon.max_per_customer or MAX_PER_CUSTOMER_MAX + 1):
            return Refusal.CUSTOMER_LIMIT_REACHED
        return claim.refusal if claim.version == coupon.version and claim.search is Search.RECENT else None


TryEnding = Claim | Refused | Record | CounterUnavailable
"""How a try can end. A claim by itself: its counter was not loaded."""


@dataclass(slots=True, eq=False)
class Attempt:
    """One request on its way. `row` is what it holds: a claimed seat, to be recorded; None while it holds nothing.

    `without_counter`: Redis has failed it once, and it goes on by the ledger alone.
    """

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
    without_counter: bool = False
    future: asyncio.Future[TryEnding] = field(init=False)

    def hold(self, seat: int | None, customer_seat: int | None, now: datetime) -> None:
        """Hold a claimed seat: the row that is to be recorded, under an id of its own.

        A row keeps its id whatever the ledger does to find out how it ended; another row is another id, because the ledger
        uses up those of rows that were once in doubt.
        """
        order = self.order
        self.row = NewRedemption(  # By place, which takes half the time: this is done for every request.
            uuid_utils.uuid7().bytes,
            self.coupon_id,
            order.code,
            order.customer_id,
            order.order_id,
            seat,
            customer_seat,
            order.api_key_id,
            now,
            self.record_until,
            now + timedelta(seconds=order.hold_s) if order.hold_s else None,
            order.idempotency_key,
        )

    def end(self, ending: TryEnding) -> None:
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


def recorded(row: NewRedemption) -> Redemption:
    """The redemption that a recorded row has become."""
    return Redemption(  # By place, as above.
        row.id,
        row.coupon_id,
        row.code,
        row.customer_id,
        row.order_id,
        RedemptionStatus.RESERVED if row.expires_at else RedemptionStatus.CONFIRMED,
        row.seat,
        row.expires_at,
        row.created_at,
        confirmed_at=None if row.expires_at else row.created_at,
        ended_at=None,
        end_reason=None,
    )


def fail(attempts: list[Attempt], error: Exception) -> None:
    """A batch ended by a defect: every request of it is told so, none waits for ever."""
    for attempt in attempts:
        if not attempt.future.done():
            attempt.future.set_exception(error)


def any_free(customer_seats: tuple[int, ...], limit: int) -> int:
    """A seat that the customer does not sit on, for one whose choice was taken: others, with other orders, choose as well."""
    taken = set(customer_seats)
    return random.choice([seat for seat in range(1, limit + 1) if seat not in taken])


def lowest_free(customer_seats: tuple[int, ...]) -> int:
    """The lowest seat that the customer does not sit on: count + 1 would collide for ever after a cancel."""
    taken = set(customer_seats)
    return next(seat for seat in range(1, len(taken) + 2) if seat not in taken)
