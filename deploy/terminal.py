"""A program that a person runs by `make` and ends by Ctrl-C, without an error message of make's."""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def own_foreground() -> Iterator[None]:
    """Has the terminal's Ctrl-C sent to this program and not to make, which would end with an error message.

    Only where this program is at a terminal and in front; Ctrl-Z does nothing meanwhile, since make would not notice.
    """
    try:
        before = os.tcgetpgrp(0)
    except OSError:
        yield
        return
    if before != os.getpgrp() or os.getpid() in (before, os.getsid(0)):
        yield
        return
    signal.signal(signal.SIGTTOU, signal.SIG_IGN)
    signal.signal(signal.SIGTSTP, signal.SIG_IGN)
    os.setpgid(0, 0)
    os.tcsetpgrp(0, os.getpgrp())
    try:
        yield
    finally:
        os.tcsetpgrp(0, before)


@contextmanager
def stop_signals_interrupt() -> Iterator[None]:
    """The first SIGINT, SIGTERM or SIGHUP raises `KeyboardInterrupt`; later ones do not disturb the ending."""
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

    def interrupt(_number: int, _frame: FrameType | None) -> None:
        for number in numbers:
            signal.signal(number, signal.SIG_IGN)
        raise KeyboardInterrupt

    for number in numbers:
        signal.signal(number, interrupt)
    yield
