"""A queue with one worker and one session: what the ways of counting with a queue have in common.

Each process has a queue and a worker of its own, as a service with several processes has unless it runs a broker beside
them. So between the workers the counter's row decides, by a conditional UPDATE, and only they ever wait for its lock.
"""

import asyncio
from abc import abstractmethod
from collections.abc import Sequence
from typing import ClassVar

from bench.strategies.model import Answer, Failed, Failure, Order, Refusal, Row, Stores, new_row
from bench.strategies.on_ledger import OnLedger
from bench.strategies.sessions import Session
from service.batcher import Asker

QUEUE_MAX = 10_000
"""As Usher's."""


class Waiting:
    """An order in the queue. `taken`: the worker has it."""

    __slots__ = ("order", "taken")

    def __init__(self, order: Order) -> None:
        self.order = order
        self.taken = False


class Queued(OnLedger):
    """The worker takes up to `batch_max` orders that have gathered; nothing waits for a batch to become full."""

    isolation = "REPEATABLE READ"
    batch_max: ClassVar[int]

    def __init__(self, stores: Stores) -> None:
        super().__init__(stores._replace(pool=1))
        # Whose deadline has passed in the queue is left out.
        self._queue = Asker[Waiting, Answer | Failed](
            self._work, at_once=1, batch_max=self.batch_max, queue_max=QUEUE_MAX, heard_only=True
        )

    async def redeem(self, order: Order) -> Answer:
        """Waits for its turn; raises Failed, with POOL where that did not come."""
        waiting = Waiting(order)
        try:
            answer = await self._queue.ask(waiting)
        except asyncio.CancelledError as error:
            if waiting.taken:
                raise
            raise Failed(Failure.POOL) from error
        if isinstance(answer, Failed):
            raise answer
        return answer

    @abstractmethod
    async def sell_all(self, session: Session, rows: Sequence[Row]) -> Sequence[Answer]:
        """What becomes of these rows; raises Failed for all of them."""

    async def _work(self, batch: Sequence[Waiting]) -> Sequence[Answer | Failed]:
        for waiting in batch:
            waiting.taken = True
        try:
            async with self._pool.use() as session:
                return await self._answers(session, [waiting.order for waiting in batch])
        except Failed as failed:
            return [failed] * len(batch)

    async def _answers(self, session: Session, orders: Sequence[Order]) -> Sequence[Answer]:
        ids = [await self.coupon_id(session, order.code) for order in orders]
        rows = [new_row(order, id_) for order, id_ in zip(orders, ids, strict=True) if id_ is not None]
        answers = iter(await self.sell_all(session, rows) if rows else ())
        return [Refusal.COUPON_NOT_FOUND if id_ is None else next(answers) for id_ in ids]
