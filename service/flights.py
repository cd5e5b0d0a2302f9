"""Requests under way in this process: bounded in number, and shared by those that come with the same order."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from service.counts import OVERLOADED, Counts
from service.errors import Overloaded
from service.model import Ending, Order, Redeemed, Redemption

RECORD_SHARE = 0.8
"""Of the request's deadline: from then on nothing is claimed or recorded any more; the rest is for finding out what landed."""
ANSWER_SHARE = 0.95
"""Of the request's deadline: the answer is given now, known or not; the rest is for the way back."""

Redeem = Callable[[Order, float], Awaitable[Redeemed]]
"""The flow: an order and when it arrived."""
Join = Callable[[Order, float, Redemption], Awaitable[Redeemed]]
"""The answer to an order, when it arrived, whose overlapping send has this live redemption."""

UNAVAILABLE = Redeemed(Ending.UNAVAILABLE)
ORDER_MISMATCH = Redeemed(Ending.ORDER_MISMATCH)
KEY_REUSED = Redeemed(Ending.KEY_REUSED)
_SAY_NOTHING = frozenset({Ending.UNAVAILABLE, Ending.OUTCOME_UNKNOWN, Ending.BUSY})
"""Of the order; the other endings without a redemption say no."""


@dataclass(slots=True, eq=False)
class Flight:
    """A request under way, for those that come with the same coupon and order meanwhile."""

    order: Order
    landed: asyncio.Future[Redeemed] | None = None

    def join(self) -> asyncio.Future[Redeemed]:
        """Its answer, when there is one. The future is made for the first who joins: nearly nobody does."""
        if self.landed is None:
            self.landed = asyncio.get_running_loop().create_future()
        return asyncio.shield(self.landed)


class Flights:
    """At most `requests_max` requests at a time; sends of one order that overlap share one."""

    def __init__(self, requests_max: int, counts: Counts) -> None:
        self._requests_max = requests_max
        self._counts = counts
        self._requests = 0
        self._flights: dict[tuple[str, str], Flight] = {}
        counts.gauges["redemptions_under_way"] = self.__len__

    def __len__(self) -> int:
        """Requests under way, those that share another's flight included."""
        return self._requests

    async def board(self, order: Order, arrived_at: float, redeem: Redeem, join: Join) -> Redeemed:
        """The answer of `redeem`, asked once for all that come with this order meanwhile; Overloaded at once when full.

        `join` answers those who have another idempotency key than the one who asked.

        `arrived_at`, in seconds of the loop's clock: a request that waited for another's answer has less time left.
        """
        if self._requests >= self._requests_max:
            self._counts.redemptions[OVERLOADED] += 1
            raise Overloaded
        self._requests += 1
        try:
            redeemed = await self._share(order, arrived_at, redeem, join)
        except Overloaded:
            self._counts.redemptions[OVERLOADED] += 1
            raise
        finally:
            self._requests -= 1
        self._counts.redeemed(redeemed)
        return redeemed

    async def landed(self, code: str, order_id: str) -> None:
        """Waits for the request with this order that is under way, if there is one."""
        flight = self._flights.get((code, order_id))
        if flight is not None:
            await flight.join()

    async def _share(self, order: Order, arrived_at: float, redeem: Redeem, join: Join) -> Redeemed:
        """The first creates, the others get the same; one that must not share what came of it goes its own way then.

        A "no" is shared with those only who came before it was asked for: a flight may have asked long ago, and another process
        have redeemed the order since.
        """
        key = (order.code, order.order_id)
        came_first = False
        while (flight := self._flights.get(key)) is not None:
            redeemed = await flight.join()
            if redeemed.redemption is not None:
                if _same_key(order, flight.order):
                    answer = existing if order.idempotency_key is None else of_key
                    return answer(order, redeemed.redemption)
                if redeemed.redemption.ended_at is None:  # Else another's key has found it, and the order has none.
                    return await join(order, arrived_at, redeemed.redemption)
            # API keys are limited apart from each other, so a refusal by one is none by another.
            elif order == flight.order and (came_first or redeemed.ending in _SAY_NOTHING):
                return redeemed
            came_first = True
        flight = self._flights[key] = Flight(order)
        redeemed = UNAVAILABLE  # What those who joined are told should this request end by a defect, or a hard stop.
        try:
            redeemed = await redeem(order, arrived_at)
            return redeemed
        finally:
            del self._flights[key]
            if flight.landed is not None:
                flight.landed.set_result(redeemed)


def _same_key(order: Order, other: Order) -> bool:
    """Whether both have the same idempotency key, or none. A key is a key of its API key's."""
    if order.idempotency_key is None or other.idempotency_key is None:
        return order.idempotency_key is other.idempotency_key
    return (order.api_key_id, order.idempotency_key) == (other.api_key_id, other.idempotency_key)


def of_key(order: Order, redemption: Redemption) -> Redeemed:
    """The answer to an order whose idempotency key stands for this redemption, whatever became of it."""
    if (redemption.customer_id, redemption.order_id) != (order.customer_id, order.order_id):
        return KEY_REUSED
    return Redeemed(Ending.REPLAYED, redemption)


def existing(order: Order, redemption: Redemption) -> Redeemed:
    """The answer to an order that has this redemption already."""
    if redemption.customer_id != order.customer_id:
        return ORDER_MISMATCH
    return Redeemed(Ending.REPLAYED, redemption)
