"""A counter in Redis and nothing else: no row is written, so a flush or a crash of Redis forgets what was sold."""

from types import TracebackType
from typing import Self

from bench.strategies.model import Answer, Order, Refusal, Sold, Stores, new_row
from bench.strategies.redis_counter import RedisCounter

NO_COUPON_ID = 0
"""No row is written, so nobody asks for it."""


class RedisOnly:
    """One round trip to Redis. An order that comes again is counted again."""

    def __init__(self, stores: Stores) -> None:
        self._counter = RedisCounter(stores.redis_url, stores.pool)

    async def __aenter__(self) -> Self:
        await self._counter.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._counter.__aexit__(kind, exc, traceback)

    async def redeem(self, order: Order) -> Answer:
        """Sold as soon as it is counted; raises Failed."""
        taken = await self._counter.take(order.code)
        if taken is None:
            return Refusal.COUPON_NOT_FOUND
        return Sold(new_row(order, NO_COUPON_ID)) if taken else Refusal.COUPON_EXHAUSTED
