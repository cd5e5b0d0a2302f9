"""Redemptions and transitions that ended in a 503 for want of a store: so many are logged that one can be followed, never all.

An operator who is asked about a request, a customer or an order finds it here: by `request_id`, or by the short hash of the
name (`usher log-hash`). In an outage at full load every request fails, and a line for each would be an outage of its own.
"""

import time
from collections.abc import Callable
from typing import Final

import structlog

from service.api.problems import Code, FailedTransition
from service.model import Order

LOGGED_PER_S_MAX: Final = 20
"""Of one worker: some 0.5 ms a second are spent on it."""
SECOND: Final = 1.0
NOTED: Final = frozenset({Code.UNAVAILABLE, Code.OUTCOME_UNKNOWN})
"""Others say that something is right as it is: the coupon is being changed, the queue is full."""

log = structlog.get_logger(__name__)


class Failures:
    """Logs what failed. `clock`: seconds that never go back."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._began_at = float("-inf")
        self._logged = 0
        self._left_out = 0

    def note(self, problem: Code, request_id: str, failed: Order | FailedTransition) -> None:
        """One event for a problem of NOTED, unless there have been enough within this second.

        `left_out` says how many were not logged before it, of both kinds together.
        """
        if problem not in NOTED:
            return
        now = self._clock()
        if now - self._began_at >= SECOND:
            self._began_at, self._logged = now, 0
        if self._logged >= LOGGED_PER_S_MAX:
            self._left_out += 1
            return
        self._logged += 1
        left_out, self._left_out = self._left_out, 0
        if isinstance(failed, Order):
            log.info(
                "redemption failed",
                problem=str(problem),
                request_id=request_id,
                code=failed.code,
                customer_id=failed.customer_id,
                order_id=failed.order_id,
                left_out=left_out,
            )
        else:
            log.info(
                "transition failed",
                problem=str(problem),
                request_id=request_id,
                verb=str(failed.verb),
                redemption_id=failed.redemption_id,
                code=failed.code,
                order_id=failed.order_id,
                left_out=left_out,
            )
