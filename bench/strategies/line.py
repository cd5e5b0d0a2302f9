"""Connections that are free, and a line of those who wait for one."""

import asyncio
from collections import deque
from collections.abc import Iterable
from typing import Generic, TypeVar

from bench.strategies.model import Failed, Failure

Connection = TypeVar("Connection")


class Line(Generic[Connection]):
    """Who takes a connection has it alone. The one that was used last is taken first; who waits longest is next."""

    def __init__(self, free: Iterable[Connection]) -> None:
        self._free = list(free)
        self._waiting: deque[asyncio.Future[Connection]] = deque()

    async def take(self) -> Connection:
        """A connection. Raises Failed(POOL) when whoever waits is cancelled: its deadline has passed."""
        if self._free:
            return self._free.pop()
        waiter: asyncio.Future[Connection] = asyncio.get_running_loop().create_future()
        self._waiting.append(waiter)
        try:
            return await waiter
        except asyncio.CancelledError as error:
            if waiter.done() and not waiter.cancelled():
                self.give_back(waiter.result())
            raise Failed(Failure.POOL) from error

    def give_back(self, connection: Connection) -> None:
        """To whoever waits longest."""
        while self._waiting:
            waiter = self._waiting.popleft()
            if not waiter.done():
                waiter.set_result(connection)
                return
        self._free.append(connection)
