"""Questions that may come in storms: one batch at a time, begun so far apart that a storm costs few statements."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

from service.batcher import Batcher
from service.errors import UsherError

Question = TypeVar("Question")
Answer = TypeVar("Answer")


class Paced(Generic[Question, Answer]):
    """`answer` maps a batch of up to `batch_max` to as many answers, or raises one UsherError for all of them.

    The first batch begins at once, every further one `interval_s` after the one before it at the earliest, whatever became
    of that. A question is asked even when nobody waits for its answer any more.
    """

    def __init__(
        self,
        answer: Callable[[Sequence[Question]], Awaitable[Sequence[Answer]]],
        *,
        interval_s: float,
        batch_max: int,
        queue_max: int,
    ) -> None:
        self._answer = answer
        self._interval_s = interval_s
        self._batcher = Batcher[tuple[Question, asyncio.Future[Answer]]](
            self._work, _fail, at_once=1, batch_max=batch_max, queue_max=queue_max
        )

    async def ask(self, question: Question) -> Answer:
        """The answer to one question; raises what `answer` raised for its batch, or Overloaded."""
        future: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self._batcher.put((question, future))
        return await future

    async def _work(self, batch: list[tuple[Question, asyncio.Future[Answer]]]) -> None:
        loop = asyncio.get_running_loop()
        next_at = loop.time() + self._interval_s
        try:
            answers = await self._answer([question for question, _ in batch])
        except UsherError as error:
            _fail(batch, error)
        else:
            for (_, future), answer in zip(batch, answers, strict=True):
                if not future.done():
                    future.set_result(answer)
        await asyncio.sleep(max(0.0, next_at - loop.time()))


def _fail(batch: list[tuple[Question, asyncio.Future[Answer]]], error: Exception) -> None:
    for _, future in batch:
        if not future.done():
            future.set_exception(error)
