"""What is done again and again: side by side with each other, never beside itself, and by the leader alone."""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Collection
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

import structlog
from apscheduler.schedulers.asyncio import AsyncIOScheduler

from reconciler.stores import Stores
from service.errors import CounterUnavailable, LedgerUnavailable

CLOCK_INTERVAL_S: Final = 1.0
"""So soon after the clock was put back the jobs run again; less than that it may be put back unnoticed."""
JOB_DEFAULTS: Final = {"misfire_grace_time": None, "coalesce": True, "max_instances": 1}
"""A run that is late still counts, several that are late are one, and the next one waits for the one before it."""

log = structlog.get_logger(__name__)


async def always() -> bool:
    """Whether a job may run that everybody runs."""
    return True


@dataclass(frozen=True, slots=True)
class Job:
    """Something to do every `interval_s` seconds: one bounded run of it, which may raise what the gateways raise.

    `soon`: also as soon as somebody leads who did not lead before; the others wait for their time. `may_run` is asked before
    each run.
    """

    name: str
    interval_s: float
    work: Callable[[], Awaitable[None]]
    soon: bool = True
    may_run: Callable[[], Awaitable[bool]] = always


class Runner:
    """Runs a job, and whatever goes wrong in a run ends this run and not the program."""

    def __init__(self, job: Job, stores: Stores) -> None:
        self.job = job
        self._stores = stores
        self._turn = asyncio.Lock()

    async def run(self) -> None:
        """One run, unless it may not be."""
        async with self._turn:
            ledger, redis = self._stores.ledger.ask(), self._stores.redis.ask()
            try:
                if await self.job.may_run():
                    await self.job.work()
                    self._stores.ledger.worked(ledger)
            except LedgerUnavailable as error:
                self._stores.ledger.failed(ledger, str(error))
            except CounterUnavailable as error:
                self._stores.redis.failed(redis, str(error))
            except Exception as error:  # The next run is tried all the same.
                log.error("run failed", job=self.job.name, exc_info=error)  # noqa: TRY400 - with the error that is named

    async def drain(self) -> None:
        """Waits for the run under way."""
        async with self._turn:
            pass


class Timetable:
    """When the jobs run."""

    def __init__(self, runners: Collection[Runner]) -> None:
        # It has no word of its own: what is worth an event is logged here.
        logging.getLogger("apscheduler").setLevel(logging.ERROR)
        self._runners = runners
        self._scheduler = AsyncIOScheduler(timezone=UTC, job_defaults=JOB_DEFAULTS)

    @asynccontextmanager
    async def kept(self) -> AsyncIterator[None]:
        """Runs the jobs, those that are to run soon at once. At the end they are cancelled: drain them first."""
        now = datetime.now(UTC)
        for runner in self._runners:
            job = runner.job
            first = now if job.soon else now + timedelta(seconds=job.interval_s)
            self._scheduler.add_job(runner.run, "interval", seconds=job.interval_s, next_run_time=first, id=job.name)
        self._scheduler.start()
        watch = asyncio.create_task(self._watch_clock())
        try:
            yield
        finally:
            watch.cancel()
            logging.getLogger("apscheduler").setLevel(logging.CRITICAL)  # That jobs are cut off here is no news.
            self._scheduler.shutdown()
            # It ends with the loop's next turn.
            await asyncio.sleep(0)

    async def _watch_clock(self) -> None:
        """Has those jobs run now whose time has gone far away: the scheduler goes by the clock, which can be put back."""
        while True:
            await asyncio.sleep(CLOCK_INTERVAL_S)
            far = [runner.job.name for runner in self._runners if self._is_far(runner.job)]
            if far:
                log.warning("the clock was put back")
            for name in far:
                self.hasten(name)

    def _is_far(self, job: Job) -> bool:
        """Whether a job's time is later than it can be."""
        latest = datetime.now(UTC) + timedelta(seconds=job.interval_s + CLOCK_INTERVAL_S)
        return bool(self._scheduler.get_job(job.name).next_run_time > latest)

    def hasten(self, name: str) -> None:
        """Has a job run now instead of at its time."""
        self._scheduler.modify_job(name, next_run_time=datetime.now(UTC))

    def hasten_all(self) -> None:
        """Has those jobs run now that are to run soon; the others keep their time."""
        for runner in self._runners:
            if runner.job.soon:
                self.hasten(runner.job.name)

    async def drain(self) -> None:
        """Waits for the runs under way."""
        for runner in self._runners:
            await runner.drain()
