"""Work that several want at the same moment is done once."""

import asyncio
from collections.abc import Callable, Coroutine, Hashable
from typing import Any, TypeVar

Result = TypeVar("Result")


class Once:
    """Work by key. `failed` is told each error, since perhaps nobody waits for it any more."""

    def __init__(self, failed: Callable[[BaseException], None]) -> None:
        self._failed = failed
        self._under_way: dict[Hashable, asyncio.Task[Any]] = {}

    @property
    def busy(self) -> bool:
        """Whether any work is under way."""
        return bool(self._under_way)

    def is_under_way(self, key: Hashable) -> bool:
        """Whether the work of this key is."""
        return key in self._under_way

    async def do(self, key: Hashable, work: Callable[[], Coroutine[None, None, Result]]) -> Result:
        """Join the work under way for this key, or begin it; it goes on when the caller does not wait for its end."""
        task: asyncio.Task[Result] | None = self._under_way.get(key)
        if task is None or task.done():
            task = self._under_way[key] = asyncio.create_task(work())
            task.add_done_callback(lambda done: self._ended(key, done))
        return await asyncio.shield(task)

    def _ended(self, key: Hashable, task: asyncio.Task[Any]) -> None:
        """Make room for the next one."""
        if self._under_way.get(key) is task:
            del self._under_way[key]
        error = None if task.cancelled() else task.exception()
        if error is not None:
            self._failed(error)
