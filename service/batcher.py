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

    `patience_s`: beside batches that are under way another one is begun only when each of them has been for so long, or when
    it is a whole one. While they end sooner, they follow one another, and are larger.

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
        patience_s: float = 0.0,
    ) -> None:
        self._work = work
        self._failed = failed
        self._at_once = at_once
        self._batch_max = batch_max
        self._queue_max = queue_max
        self._patience_s = patience_s
        self._queue: deque[Item] = deque()
        # Each lane, and when its batch began, in seconds of the loop's clock.
        self._lanes: dict[asyncio.Task[None], float] = {}
        self._impatient: asyncio.TimerHandle | None = None

    def __len__(self) -> int:
        """Items that no batch has taken yet."""
        return len(self._queue)

    @property
    def busy(self) -> bool:
        """Whether anything waits or is being worked on."""
        return bool(self._lanes)

    def put(self, item: Item) -> None:
        """Queue an item; raises Overloaded when `queue_max` wait already."""
        if len(self._queue) >= self._queue_max:
            raise Overloaded
        self._queue.append(item)
        if not self._lanes:
            self._start()
        elif len(self._lanes) < self._at_once and (self._impatient is None or len(self._queue) == self._batch_max):
            self._start_beside()

    def _start(self) -> None:
        loop = asyncio.get_running_loop()
        self._lanes[loop.create_task(self._run())] = loop.time()

    def _start_beside(self) -> None:
        """Begins another batch beside those under way, as soon as their time is over; or now, if it is a whole one."""
        if self._impatient is not None:
            self._impatient.cancel()
            self._impatient = None
        if not self._queue or len(self._lanes) >= self._at_once:
            return
        loop = asyncio.get_running_loop()
        at = max(self._lanes.values(), default=0.0) + self._patience_s
        if at <= loop.time() or len(self._queue) >= self._batch_max:
            self._start()
        else:
            self._impatient = loop.call_at(at, self._start_beside)

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

        The lane ends in the same turn in which it finds the queue empty: the task's own end is a turn later, and an item put
        between the two would wait for ever.
        """
        lane = asyncio.current_task()
        assert lane is not None, "it runs as a task"
        loop = asyncio.get_running_loop()
        batch: list[Item] = []
        try:
            while batch := self.take():
                self._lanes[lane] = loop.time()
                if self._queue and self._impatient is None:
                    self._start_beside()
                try:
                    await self._work(batch)
                except Exception as error:  # noqa: BLE001 - told to those who wait
                    self._failed(batch, error)
                batch = []  # Whoever waited for these has been told, whatever happens to this lane now.
                if len(self._lanes) > 1 and self._is_needless(lane):
                    break
        finally:
            del self._lanes[lane]
            if (
                batch
            ):  # Cancelled in the middle, by whatever cause: nobody of this batch waits for ever, and the next one goes on.
                self._failed(batch, RuntimeError("the worker was cancelled"))
            if self._queue and self._impatient is None:
                self._start_beside()

    def _is_needless(self, lane: asyncio.Task[None]) -> bool:
        """Whether another lane has begun a batch a short while ago, and so takes soon what waits."""
        lately = asyncio.get_running_loop().time() - self._patience_s
        is_one = any(begun_at > lately for other, begun_at in self._lanes.items() if other is not lane)
        return is_one and len(self._queue) < self._batch_max


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
