"""The jobs: each is a bounded `run_once` that says what it has done. Safe beside traffic, twice at once, and late."""

import asyncio
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final

import structlog

from service.counters import Counters
from service.errors import CounterUnavailable, LedgerContended
from service.ledger import Ledger
from service.model import Return
from service.transition import Freed, Overdue, Transitioned

BATCH_HOLDS: Final = 256
"""In one transaction: so large that its commit costs each hold little, so small that its locks are gone in some 20 ms."""
RUN_HOLDS_MAX: Final = 5_000
"""Ended in one run. What an outage has left over is ended over several runs, and another job has its turn between them."""
RUN_S: Final = 5.0
"""No batch is begun later in a run, also when every batch finds nothing that it may end."""
STATEMENT_DEADLINE_S: Final = 2.5
"""For a batch, a little above the time that it may wait for a lock."""
log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Report:
    """What a run of `expire_once` has done.

    `ended`: holds. `left_out`: holds for the next run, since their coupons were being changed or somebody else held them.
    `releases_lost`: uses that were not given back to their counters, since Redis failed; a refill finds them. `redis_error`:
    why, if so. `complete`: no further hold was overdue.
    """

    ended: int
    left_out: int
    releases_lost: int
    redis_error: str | None
    complete: bool


def never() -> bool:
    """Nobody asks to stop."""
    return False


async def expire_once(ledger: Ledger, counters: Counters, is_stopping: Callable[[], bool] = never) -> Report:
    """Ends holds whose time is over, the oldest first, and gives their uses back; at most RUN_HOLDS_MAX, and for RUN_S.

    `is_stopping` is asked before each batch. Raises LedgerUnavailable; what had been ended by then is ended, and perhaps
    also the batch at hand.
    """
    loop = asyncio.get_running_loop()
    until = loop.time() + RUN_S
    releases = Releases(counters)
    after: Overdue | None = None
    ended = left_out = 0
    while ended < RUN_HOLDS_MAX and loop.time() < until and not is_stopping():
        deadline = loop.time() + STATEMENT_DEADLINE_S
        overdue = await ledger.redemptions.overdue(after=after, limit=BATCH_HOLDS, deadline=deadline)
        if overdue:
            answers = await _expire(ledger, overdue)
            freed = [answer.freed for answer in answers if answer is not None and answer.freed is not None]
            await releases.give_back(freed)
            ended += len(freed)
            left_out += answers.count(None)
        if len(overdue) < BATCH_HOLDS:
            return Report(ended, left_out, releases.lost, releases.error, complete=True)
        # The next batch begins after this one: holds that were left out do not stop those behind them.
        after = overdue[-1]
    return Report(ended, left_out, releases.lost, releases.error, complete=False)


async def _expire(ledger: Ledger, overdue: Sequence[Overdue]) -> Sequence[Transitioned | None]:
    """Ends holds in one transaction. None: left for the next run. Raises LedgerUnavailable."""
    try:
        return await ledger.transitions.expire([one.id for one in overdue], STATEMENT_DEADLINE_S)
    except LedgerContended as error:
        log.debug("holds not ended", error=str(error))
        return [None] * len(overdue)


class Releases:
    """Gives uses back to their counters, for one run. After a failure Redis is left alone: waiting for it ends no hold.

    `lost`: how many were not given back. `error`: why.
    """

    def __init__(self, counters: Counters) -> None:
        self._counters = counters
        self.lost = 0
        self.error: str | None = None

    async def give_back(self, freed: Iterable[Freed]) -> None:
        """To each coupon's counter, in one round trip."""
        by_code: dict[str, list[Return]] = {}
        for one in freed:
            by_code.setdefault(one.code, []).append(Return(one.order_id, one.customer_id, one.seat))
        if by_code and self.error is None:
            try:
                await self._counters.release(by_code)
            except CounterUnavailable as error:
                self.error = str(error)
        if self.error is not None:
            self.lost += sum(map(len, by_code.values()))
