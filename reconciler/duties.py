"""What the leader does: each duty is a job of its own, so that a long one delays no other; and what it tells the log."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from datetime import timedelta
from functools import partial
from typing import Final, NamedTuple, TypeVar

import structlog
import uuid_utils

from reconciler import jobs
from reconciler.cache import Cache
from reconciler.carrying import Carrier, Following, tell
from reconciler.metrics import Metrics
from reconciler.periodic import Job
from reconciler.stores import Stores
from service.config import Settings
from service.counters import Counters
from service.errors import LedgerRefusedAccess, LedgerUnavailable
from service.ledger import Ledger
from service.ledger.deadlines import is_over
from service.ledger.leadership import Leadership
from service.reconciling import Cause, Kind, Mode, Run, RunStatus

RESEED: Final = "reseed"
WATCH_INTERVAL_S: Final = 1.0
"""Within two seconds of a loss the first counters are to be loaded."""
WISH_INTERVAL_S: Final = 1.0
"""Who has wished for a check watches for its end."""
PRUNE_INTERVAL_S: Final = 3_600.0
"""A run is kept for days."""
PRUNE_ROWS: Final = 5_000
"""Deleted by one statement: so few that nobody waits for it."""
COUNT_INTERVAL_S: Final = 10.0
"""As often as metrics are asked for, or oftener."""
LOOK_INTERVAL_S: Final = 60.0
"""A million coupons take a second of the ledger's time."""
QUESTION_DEADLINE_S: Final = 20.0

Figure = TypeVar("Figure")

log = structlog.get_logger(__name__)


class Parts(NamedTuple):
    """What the duties are done with."""

    ledger: Ledger
    counters: Counters
    leadership: Leadership


class Duties:
    """Done while this reconciler leads, and until `stop` is set: then the batch at hand is finished and none is begun.

    `hasten`: has a job run now, by its name.
    """

    def __init__(self, parts: Parts, *, stores: Stores, metrics: Metrics, stop: asyncio.Event) -> None:
        self._ledger, self._counters, self._leadership = parts
        self._stores = stores
        self._metrics = metrics
        self._stop = stop
        self.hasten: Callable[[str], None] = lambda _: None
        self._carrier = Carrier(self._ledger, self._counters)
        self._cache = Cache(self._ledger, self._counters, self._leadership.name)
        self._closing = asyncio.Lock()
        self._closed_in_term = 0

    def jobs(self, settings: Settings) -> Iterator[Job]:
        """All of them, and how often."""
        yield Job("expire", settings.expire_interval_ms / 1_000, self.expire, may_run=self._may_run)
        yield Job("watch", WATCH_INTERVAL_S, self.watch, may_run=self._may_run)
        yield Job(RESEED, WATCH_INTERVAL_S, self.reseed, may_run=self._may_run)
        yield Job("fulfil wishes", WISH_INTERVAL_S, self.fulfil, may_run=self._may_run)
        if settings.repair_interval_s:
            yield Job("repair", settings.repair_interval_s, self.repair, soon=False, may_run=self._may_run)
        yield Job("prune", PRUNE_INTERVAL_S, partial(self.prune, settings.run_keep_days), may_run=self._may_run)
        yield Job("count", COUNT_INTERVAL_S, self.count, may_run=self._may_run)
        yield Job("look over", LOOK_INTERVAL_S, self.look_over, may_run=self._may_run)

    async def _may_run(self) -> bool:
        return not self._stop.is_set() and await self._leadership.is_leading()

    def _is_stopping(self) -> bool:
        """Asked between two batches: the program stops, or somebody else leads by now."""
        return self._stop.is_set() or not self._leadership.leads

    # --- The cache ---------------------------------------------------------------------------------------------

    async def watch(self) -> None:
        """Looks whether Redis has lost its keys; then they are loaded. Raises LedgerUnavailable, CounterUnavailable."""
        if not await self._close_orphans():
            return
        asked = self._stores.redis.ask()
        is_lost = await self._cache.watch_once()
        self._stores.redis.worked(asked)
        if is_lost:
            self._metrics.cache_losses.inc()
            self.hasten(RESEED)

    async def reseed(self) -> None:
        """Loads the counters if Redis has lost them. Raises LedgerUnavailable, CounterUnavailable."""
        report = await self._cache.reseed_once(self._is_stopping)
        if report is not None:
            is_done = report.complete or report.is_full
            self._metrics.run_ended(Mode.RESEED, RunStatus.DONE if is_done else RunStatus.FAILED)

    # --- Runs --------------------------------------------------------------------------------------------------

    async def fulfil(self) -> None:
        """Fulfils the wishes that wait, the oldest first. Raises LedgerUnavailable."""
        if not await self._close_orphans():
            return
        runs, name = self._ledger.runs, self._leadership.name
        while not self._is_stopping() and (wish := await runs.take(name, _within(QUESTION_DEADLINE_S))):
            await self._carry_out(wish)

    async def repair(self) -> None:
        """Repairs all coupons, because it is time. Raises LedgerUnavailable."""
        if not await self._close_orphans():
            return
        run = self._new_run(Mode.REPAIR, Cause.SCHEDULE)
        await self._ledger.runs.begin(run, _within(QUESTION_DEADLINE_S))
        await self._carry_out(run)

    def _new_run(self, mode: Mode, cause: Cause) -> Run:
        """Of all coupons, by this reconciler, from now on."""
        now, name = self._ledger.now(), self._leadership.name
        return Run(uuid_utils.uuid7().bytes, mode, None, RunStatus.RUNNING, cause, name, now, run_by=name, begun_at=now)

    async def _carry_out(self, run: Run) -> None:
        """As long as nobody else leads: it was closed as an orphan then."""
        term = self._leadership.term

        def is_stopping() -> bool:
            return self._is_stopping() or self._leadership.term != term

        is_asked = run.cause is not Cause.SCHEDULE
        following = Following(
            is_stopping=is_stopping,
            may_mend=self._leadership.is_leading,
            keeps_notes=is_asked,
            tells_unsearched=is_asked,
            is_patient=True,
        )
        result = await self._carrier.carry_out(run, following)
        tell(run, result)
        self._metrics.run_ended(run.mode, result.status)
        for kind, count in {**result.counts, Kind.MISSING: result.missing}.items():
            self._metrics.found(kind, count)
        if run.code is None and run.mode is not Mode.RESEED and result.status is RunStatus.DONE and not result.finding_count:
            self._metrics.seen.clean_at = self._ledger.now()

    async def _close_orphans(self) -> bool:
        """Once after taking over: what others have left running is not running any more. False: somebody else leads by now.

        Raises LedgerUnavailable.
        """
        async with self._closing:
            term = self._leadership.term
            if self._closed_in_term == term:
                return True
            leader = await self._ledger.runs.leader(_within(QUESTION_DEADLINE_S))
            if leader is None or leader.name != self._leadership.name:
                return False
            orphans = await self._ledger.runs.close_orphans(leader, _within(QUESTION_DEADLINE_S))
            self._closed_in_term = term
        if orphans:
            log.warning("runs of a reconciler that has ended were closed", found=orphans)
        return True

    async def prune(self, keep_days: int) -> None:
        """Deletes runs that are too old, in pieces. Raises LedgerUnavailable."""
        older_than = self._ledger.now() - timedelta(days=keep_days)
        rows, deleted = 0, PRUNE_ROWS
        try:
            while deleted == PRUNE_ROWS and not self._is_stopping():
                deleted = await self._ledger.runs.prune(older_than, limit=PRUNE_ROWS, deadline=_within(QUESTION_DEADLINE_S))
                rows += deleted
        except LedgerRefusedAccess as error:
            log.warning("old runs cannot be deleted", error=str(error))
        if rows:
            log.debug("old runs deleted", rows=rows)

    # --- Holds and figures -------------------------------------------------------------------------------------

    async def expire(self) -> None:
        """Ends holds whose time is over. Raises LedgerUnavailable."""
        asked = self._stores.redis.ask()
        report = await jobs.expire_once(self._ledger, self._counters, self._is_stopping)
        if report.redis_error is not None:
            self._stores.redis.failed(asked, report.redis_error)
        elif report.ended:  # A run that has ended nothing has not asked Redis.
            self._stores.redis.worked(asked)
        self._metrics.holds_expired.inc(report.ended)
        if report.ended or report.left_out:
            log.debug("holds expired", ended=report.ended, left_out=report.left_out, releases_lost=report.releases_lost)

    async def count(self) -> None:
        """Counts what is overdue, for the metrics. Raises LedgerUnavailable."""
        self._metrics.seen.holds_overdue = await _or_none(self._ledger.watching.holds_overdue)

    async def look_over(self) -> None:
        """Looks for what changes seldom, for the metrics. Raises LedgerUnavailable."""
        self._metrics.seen.clean_at = await _or_none(self._ledger.watching.clean_check)
        self._metrics.seen.coupons_over = await _or_none(self._ledger.watching.coupons_over)


async def _or_none(question: Callable[[float], Awaitable[Figure]]) -> Figure | None:
    """A figure; None where it takes the ledger too long, which does not mean that it is away. Raises LedgerUnavailable."""
    deadline = _within(QUESTION_DEADLINE_S)
    try:
        return await question(deadline)
    except LedgerUnavailable as error:
        if not is_over(deadline):
            raise
        log.debug("a figure was not had", error=str(error))
        return None


def _within(seconds: float) -> float:
    """A deadline."""
    return asyncio.get_running_loop().time() + seconds
