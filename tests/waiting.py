"""Waiting for something to become true, in steps and not for ever."""

import asyncio
import time
from collections.abc import Awaitable, Callable

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
