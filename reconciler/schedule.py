"""The program: it leads or stands by, does the leader's duties while it leads, and ends in order when it is told to."""

import asyncio
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Final, NoReturn

import structlog

from reconciler.duties import Duties, Parts
from reconciler.metrics import Metrics
from reconciler.periodic import Job, Runner, Timetable
from reconciler.port import Port, Readiness
from reconciler.stores import Stores
from service.config import Settings
from service.counters import Counters
from service.errors import CounterUnavailable, LedgerUnavailable
from service.ledger import Ledger
from service.ledger.leadership import Leadership

KILLED_STATUS: Final = 1
SEEK_INTERVAL_S: Final = 1.0
"""Who stands by leads so soon after a leader has ended; and the leader shows so often that it is there."""
NAME_MAX_CHARS: Final = 128
"""What the table of leaders holds."""

log = structlog.get_logger(__name__)


async def run(settings: Settings) -> None:
    """Leads or stands by until SIGTERM or SIGINT; then the batch at hand is finished.

    Raises SchemaNotCurrent, and AddressUnavailable where the port cannot be had.
    """
    stop = asyncio.Event()
    _stop_on_signals(stop)
    async with _gateways(settings) as (ledger, counters):
        await _look_before(ledger, counters)
        leadership = ledger.leadership(own_name())
        stores = Stores()
        metrics = Metrics(lambda: leadership.leads, ledger.now)
        duties = Duties(Parts(ledger, counters, leadership), stores=stores, metrics=metrics, stop=stop)
        candidate = Candidate(leadership)
        # The one that seeks comes last: it is drained last, since a leader that is silent for long leads no longer.
        jobs = [*duties.jobs(settings), Job("seek", SEEK_INTERVAL_S, candidate.seek)]
        timetable = Timetable([Runner(job, stores) for job in jobs])
        candidate.on_taking_over, duties.hasten = timetable.hasten_all, timetable.hasten
        port = Port(Readiness(ledger, counters, leadership, stop), metrics)
        try:
            async with port.open(settings), timetable.kept():
                log.info("the reconciler runs", pid=os.getpid())
                await stop.wait()
                await _drain(timetable, settings.stop_deadline_ms / 1_000)
        finally:
            await leadership.give_back()
    log.info("stopped", pid=os.getpid())


async def _drain(timetable: Timetable, seconds: float) -> None:
    """Waits for the batches at hand, so long at most."""
    try:
        async with asyncio.timeout(seconds):
            await timetable.drain()
    except TimeoutError:
        log.warning("stopped with work undone")


def own_name() -> str:
    """Who leads, for people: this host, and the process on it."""
    return f"{socket.gethostname()}:{os.getpid()}"[-NAME_MAX_CHARS:]


class Candidate:
    """Seeks to lead, and tells the log when that begins and ends. `on_taking_over` is called when it begins."""

    def __init__(self, leadership: Leadership, on_taking_over: Callable[[], None] = lambda: None) -> None:
        self._leadership = leadership
        self.on_taking_over = on_taking_over
        self._has_led = False

    async def seek(self) -> None:
        """Asks once. Raises LedgerUnavailable."""
        leads = False
        try:
            leads = await self._leadership.seek()
        finally:
            has_led, self._has_led = self._has_led, leads
            if has_led and not leads:
                log.warning("this reconciler leads no longer", pid=os.getpid())
        if leads and not has_led:
            log.info("this reconciler leads", pid=os.getpid())
            self.on_taking_over()


@asynccontextmanager
async def _gateways(settings: Settings) -> AsyncIterator[tuple[Ledger, Counters]]:
    """The gateways to both stores."""
    ledger = await Ledger.connect(settings)
    counters = await Counters.connect(settings)
    try:
        yield ledger, counters
    finally:
        await counters.close()
        await ledger.close()


async def _look_before(ledger: Ledger, counters: Counters) -> None:
    """Whether the stores are there; one that is away is no reason not to start. Raises SchemaNotCurrent."""
    try:
        await ledger.check_schema()
    except LedgerUnavailable as error:
        log.warning("the ledger is away; no job does anything until it is there", error=str(error))
    try:
        await counters.ping()
    except CounterUnavailable as error:
        log.warning("Redis is away; holds expire without it", error=str(error))


def _stop_on_signals(stop: asyncio.Event) -> None:
    """Sets `stop` on the first SIGTERM or SIGINT; the second ends the process at once."""

    def on_signal() -> None:
        if stop.is_set():
            _end_at_once()
        stop.set()

    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, on_signal)


def _end_at_once() -> NoReturn:
    sys.stderr.flush()
    os._exit(KILLED_STATUS)
