"""Natural batching: what gathers while a batch is under way is the next batch.

No timer fills a batch. A lone item is worked on at once; under load the batches grow by themselves, up to a bound.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

from service.errors import Overloaded

Item = TypeVar("Item")
Question = TypeVar("Question")
Answer = TypeVar("Answer")


class Batcher(Generic[Item]):
    """A bounded queue whose items are handed to `work` in batches of up to `batch_max`, at most `at_once` side by side.

    `work` answers its items itself. Should it raise, that is a defect, and `failed` gets the batch and the error, so that
    no item waits for ever.
    """

    def __init__(
        self,
        work: Callable[[list[Item]], Awaitable[None]],
        failed: Callable[[list[Item], Exception], None],
        *,
        at_once: int,
        batch_max: int,
        queue_max: int,
    ) -> None:
        self._work = work
        self._failed = failed
        self._at_once = at_once
        self._batch_max = batch_max
        self._queue_max = queue_max
        self._queue: deque[Item] = deque()
        self._running = 0
        self._workers: set[asyncio.Task[None]] = set()

    def __len__(self) -> int:
        """Items that no batch has taken yet."""
        return len(self._queue)

    @property
    def busy(self) -> bool:
        """Whether anything waits or is being worked on."""
        return self._running > 0

    def put(self, item: Item) -> None:
        """Queue an item; raises Overloaded when `queue_max` wait already."""
        if len(self._queue) >= self._queue_max:
            raise Overloaded
        self._queue.append(item)
        if self._running < self._at_once:
            self._start()

    def _start(self) -> None:
        self._running += 1
        worker = asyncio.get_running_loop().create_task(self._run())
        self._workers.add(worker)
        worker.add_done_callback(self._workers.discard)

    def take(self) -> list[Item]:
        """Take the next batch out of the queue, also for a `work` that wants more at once."""
        queue = self._queue
        if len(queue) <= self._batch_max:
            batch = list(queue)
            queue.clear()
            return batch
        return [queue.popleft() for _ in range(self._batch_max)]

    async def _run(self) -> None:
        """Work until the queue is empty. The task starts after this turn of the loop, so items of one turn go together.

        The worker counts itself out in the same turn in which it finds the queue empty: the task's own end is a turn later,
        and an item put between the two would wait for ever.
        """
        batch: list[Item] = []
        try:
            while batch := self.take():
                try:
                    await self._work(batch)
                except Exception as error:  # noqa: BLE001 - told to those who wait
                    self._failed(batch, error)
        finally:
            self._running -= 1
            if (
                batch
            ):  # Cancelled in the middle, by whatever cause: nobody of this batch waits for ever, and the next one goes on.
                self._failed(batch, RuntimeError("the worker was cancelled"))
            if self._queue:
                self._start()


class Asker(Generic[Question, Answer]):
    """Batched questions: `answer` maps a batch to as many answers, or raises one error for all of them.

    `heard_only`: a question is dropped when nobody waits for its answer any more; else it is asked all the same.
    """

    def __init__(
        self,
        answer: Callable[[Sequence[Question]], Awaitable[Sequence[Answer]]],
        *,
        at_once: int,
        batch_max: int,
        queue_max: int,
        heard_only: bool = False,
    ) -> None:
        self._answer = answer
        self._heard_only = heard_only
        self._batcher = Batcher[tuple[Question, asyncio.Future[Answer]]](
            self._work, self._fail, at_once=at_once, batch_max=batch_max, queue_max=queue_max
        )

    @property
    def busy(self) -> bool:
        """Whether a question waits or is being answered."""
        return self._batcher.busy

    async def ask(self, question: Question) -> Answer:
        """The answer to one question; raises what `answer` raised for its batch, or Overloaded."""
        future: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self._batcher.put((question, future))
        return await future

    async def _work(self, batch: list[tuple[Question, asyncio.Future[Answer]]]) -> None:
        if self._heard_only:
            batch = [(question, future) for question, future in batch if not future.done()]
            if not batch:
                return
        answers = await self._answer([question for question, _ in batch])
        for (_, future), answer in zip(batch, answers, strict=True):
            if not future.done():
                future.set_result(answer)

    @staticmethod
    def _fail(batch: list[tuple[Question, asyncio.Future[Answer]]], error: Exception) -> None:
        for _, future in batch:
            if not future.done():
                future.set_exception(error)
