"""A clock that wakes an event loop more often than its own timers, which know milliseconds: timerfd_create(2)."""

import asyncio
import ctypes
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager

CLOCK_MONOTONIC = 1
TFD_NONBLOCK = os.O_NONBLOCK
NS_PER_S = 1_000_000_000


class _Time(ctypes.Structure):
    _fields_ = (("seconds", ctypes.c_long), ("nanoseconds", ctypes.c_long))


class _Timer(ctypes.Structure):
    _fields_ = (("interval", _Time), ("value", _Time))


@contextmanager
def every(seconds: float, tick: Callable[[], None]) -> Iterator[None]:
    """Has `tick` called in the running loop every so many seconds; missed times are not made up for."""
    system = ctypes.CDLL(None, use_errno=True)
    timer = system.timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK)
    if timer < 0:
        raise OSError(ctypes.get_errno(), "timerfd_create")
    loop = asyncio.get_running_loop()
    whole, part = divmod(int(seconds * NS_PER_S), NS_PER_S)
    times = _Timer(_Time(whole, part), _Time(whole, part))
    try:
        if system.timerfd_settime(timer, 0, ctypes.byref(times), None) != 0:
            raise OSError(ctypes.get_errno(), "timerfd_settime")

        def woken() -> None:
            os.read(timer, 8)
            tick()

        loop.add_reader(timer, woken)
        yield
    finally:
        loop.remove_reader(timer)
        os.close(timer)
