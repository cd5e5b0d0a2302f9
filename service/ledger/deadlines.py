"""Whether a deadline is over."""

import asyncio

CLOCK_STEP_S = 0.001
"""uvloop's clock goes in such steps, and its timers are rounded to them: one goes off before the clock has come to its time."""


def is_over(deadline: float) -> bool:
    """Whether the time is over, in seconds of the loop's clock; so it is when it has just cut a call short."""
    return asyncio.get_running_loop().time() > deadline - CLOCK_STEP_S
