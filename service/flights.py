"""Requests under way in this process: bounded in number, and shared by those that come with the same order."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from service.errors import Overloaded
from service.model import Ending, Order, Redeemed, Redemption

RECORD_SHARE = 0.8
"""Of the request's deadline: from then on nothing is claimed or recorded any more; the rest is for finding out what landed."""
ANSWER_SHARE = 0.95
"""Of the request's deadline: the answer is given now, known or not; the rest is for the way back."""

Redeem = Callable[[Order, float], Awaitable[Redeemed]]
"""The flow: an order and when it arrived."""

UNAVAILABLE = Redeemed(Ending.UNAVAILABLE)
ORDER_MISMATCH = Redeemed(Ending.ORDER_MISMATCH)


@dataclass(slots=True, eq=False)
class Flight:
    """A request under way, for those that come with the same coupon and order meanwhile."""

    customer_id: str
    api_key_id: int
    landed: asyncio.Future[Redeemed] | None = None

    def join(self) -> asyncio.Future[Redeemed]:
        """Its answer, when there is one. The future is made for the first who joins: nearly nobody does."""
        if self.landed is None:
            self.landed = asyncio.get_running_loop().create_future()
        return asyncio.shield(self.landed)


class Flights:
    """At most `requests_max` requests at a time; sends of one order that overlap share one."""

    def __init__(self, requests_max: int) -> None:
        self._requests_max = requests_max
        self._requests = 0
        self._flights: dict[tuple[str, str], Flight] = {}

    def __len__(self) -> int:
        """Requests under way, those that share another's flight included."""
        return self._requests

    async def board(self, order: Order, arrived_at: float, redeem: Redeem) -> Redeemed:
        """The answer of `redeem`, asked once for all that come with this order meanwhile; Overloaded at once when full.

        `arrived_at`, in seconds of the loop's clock: a request that waited for another's answer has less time left.
        """
        if self._requests >= self._requests_max:
            raise Overloaded
        self._requests += 1
        try:
            return await self._share(order, arrived_at, redeem)
        finally:
            self._requests -= 1

    async def _share(self, order: Order, arrived_at: float, redeem: Redeem) -> Redeemed:
        """The first creates, the others get the same; one with another customer or key goes its own way after a refusal."""
        key = (order.code, order.order_id)
        while (flight := self._flights.get(key)) is not None:
            redeemed = await flight.join()
            if redeemed.redemption is not None:
                return existing(order, redeemed.redemption)
            # Keys are limited apart from each other, so a refusal by one is none by another.
            if (flight.customer_id, flight.api_key_id) == (order.customer_id, order.api_key_id):
                return redeemed
        flight = self._flights[key] = Flight(order.customer_id, order.api_key_id)
        redeemed = UNAVAILABLE  # What those who joined are told should this request end by a defect, or a hard stop.
        try:
            redeemed = await redeem(order, arrived_at)
            return redeemed
        finally:
            del self._flights[key]
            if flight.landed is not None:
                flight.landed.set_result(redeemed)


def existing(order: Order, redemption: Redemption) -> Redeemed:
    """The answer to an order that has this redemption already."""
    if redemption.customer_id != order.customer_id:
        return ORDER_MISMATCH
    return Redeemed(Ending.REPLAYED, redemption)
