"""Waiting for something to become true, in steps and not for ever."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

TIMEOUT_S = 30.0
"""For what happens within a second or so on an idle machine."""
POLL_S = 0.02


async def until(true: Callable[[], bool], *, what: str, timeout_s: float = TIMEOUT_S) -> None:
    """Polls until it is true; fails with `what` after the time-out."""
    end = time.monotonic() + timeout_s
    while not true():
        assert time.monotonic() < end, f"still not so after {timeout_s} s: {what}"
        await asyncio.sleep(POLL_S)


def wait_until(true: Callable[[], bool], *, what: str | Callable[[], str], timeout_s: float = TIMEOUT_S) -> None:
    """As `until`, for tests without an event loop."""
    end = time.monotonic() + timeout_s
    while not true():
        assert time.monotonic() < end, f"still not so after {timeout_s} s: {what if isinstance(what, str) else what()}"
        time.sleep(POLL_S)


async def until_async(true: Callable[[], Awaitable[bool]], *, what: str, timeout_s: float = TIMEOUT_S) -> None:
    """As `until`, for what has to be asked for."""
    end = time.monotonic() + timeout_s
    while not await true():
        assert time.monotonic() < end, f"still not so after {timeout_s} s: {what}"
        await asyncio.sleep(POLL_S)


TICK_S = 0.01
LATE_S = 0.005
"""A tick that comes later than this is late: timers are not exact on an idle machine either."""


class Stalls:
    """How long the event loop stood still, in seconds: the machine had other things to do, or was stopped."""

    def __init__(self) -> None:
        self.total_s = 0.0


@asynccontextmanager
async def stalls() -> AsyncIterator[Stalls]:
    """Measures beside the body of the `with` by how much short pauses are longer than they should be, all together.

    What is promised within a time is checked by that time and these seconds: exactly on a machine that has nothing else to do,
    and on a busy one without blaming the service for what it was not given.
    """
    found = Stalls()

    async def tick() -> None:
        while True:
            began_at = time.monotonic()
            await asyncio.sleep(TICK_S)
            late_s = time.monotonic() - began_at - TICK_S
            found.total_s += late_s if late_s > LATE_S else 0.0

    ticking = asyncio.create_task(tick())
    try:
        yield found
    finally:
        await asyncio.sleep(0)  # A tick that is due is counted.
        ticking.cancel()
