"""The usual design: a counter in Redis decides, then one INSERT per request; where that writes no row, the count is taken back.

A reply that never comes is not compensated: perhaps the row is there, and the use would be sold again. So it loses a use for
ever, like a crash between the two; and a Redis that has lost its keys has lost the count.
"""

from types import TracebackType
from typing import Self

from bench.strategies.model import Answer, Failed, Order, Refusal, Row, Sold, Stores
from bench.strategies.on_ledger import OnLedger
from bench.strategies.redis_counter import RedisCounter
from bench.strategies.sessions import Session
from bench.strategies.statements import insert


class RedisInsert(OnLedger):
    """A round trip to Redis, then one to MariaDB; nobody holds a session while Redis is asked."""

    def __init__(self, stores: Stores) -> None:
        super().__init__(stores)
        self._counter = RedisCounter(stores.redis_url, stores.pool)

    async def __aenter__(self) -> Self:
        await self._counter.__aenter__()
        return await super().__aenter__()

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await super().__aexit__(kind, exc, traceback)
        await self._counter.__aexit__(kind, exc, traceback)

    async def redeem(self, order: Order) -> Answer:
        """Counted, then written; what was counted and not written is given back, once. Raises Failed."""
        taken = await self._counter.take(order.code)
        if not taken:
            return Refusal.COUPON_NOT_FOUND if taken is None else Refusal.COUPON_EXHAUSTED
        try:
            answer = await super().redeem(order)
        except Failed as failed:
            if failed.is_certain:
                await self._counter.give_back(order.code)
            raise
        if not (isinstance(answer, Sold) and answer.is_new):
            await self._counter.give_back(order.code)
        return answer

    async def sell(self, session: Session, row: Row) -> bool:
        """One INSERT, one commit."""
        await session.run(insert([row]))
        return True
