"""Whether this process should be given traffic: asked of both stores, within half a second, by one probe at a time."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, Protocol

import structlog

from service.errors import SchemaNotCurrent, UsherError

PROBE_TIMEOUT_S: Final = 0.5
"""A store that hangs counts as away; the answer is to be there within a second."""
PROBE_AGE_MAX_S: Final = 0.2
"""Anybody may ask, so the stores are not asked each time."""


LEDGER_TURNS: Final = ("the ledger is away", "the ledger is back")
REDIS_TURNS: Final = ("Redis is away", "Redis is back")
"""What is logged when a probe finds a store other than the one before did."""

log = structlog.get_logger(__name__)


class Store(StrEnum):
    """How a store looks from here."""

    UP = "up"
    DOWN = "down"
    NOT_CURRENT = "schema_not_current"


class Stage(StrEnum):
    """What `/readyz` says. READY and DEGRADED are 200, the others 503."""

    READY = "ready"
    DEGRADED = "degraded"
    UNAVAILABLE = "unavailable"
    DRAINING = "draining"


@dataclass(frozen=True, slots=True)
class Report:
    """One answer of `/readyz`."""

    stage: Stage
    ledger: Store
    redis: Store

    @property
    def accepts_traffic(self) -> bool:
        """Whether requests may be sent here."""
        return self.stage in {Stage.READY, Stage.DEGRADED}


class Counted(Protocol):
    """What is needed of the counters: `service.counters.Counters`."""

    async def ping(self) -> None:
        """Raises CounterUnavailable."""
        ...


class Truth(Protocol):
    """What is needed of the ledger: `service.ledger.Ledger`."""

    async def check_schema(self) -> None:
        """Raises SchemaNotCurrent or LedgerUnavailable."""
        ...


class Readiness:
    """Knows the stores' state and the requests under way. `draining` is set when the process was told to stop."""

    def __init__(self, ledger: Truth, counters: Counted) -> None:
        self._ledger = ledger
        self._counters = counters
        self._probe: asyncio.Task[tuple[Store, Store]] | None = None
        self._probed_at = 0.0
        self._found: tuple[Store, Store] | None = None
        self.draining = False
        self.under_way = 0

    async def report(self) -> Report:
        """The state of now, or of a moment ago."""
        ledger, redis = await self._stores()
        if self.draining:
            stage = Stage.DRAINING
        elif ledger is not Store.UP:
            stage = Stage.UNAVAILABLE
        else:
            stage = Stage.READY if redis is Store.UP else Stage.DEGRADED
        return Report(stage, ledger, redis)

    async def _stores(self) -> tuple[Store, Store]:
        now = asyncio.get_running_loop().time()
        if self._probe is None or (self._probe.done() and now - self._probed_at >= PROBE_AGE_MAX_S):
            self._probe = asyncio.create_task(self._ask_both())
        return await asyncio.shield(self._probe)

    async def _ask_both(self) -> tuple[Store, Store]:
        before = self._found
        ledger, redis = await asyncio.gather(_ask(self._ledger.check_schema), _ask(self._counters.ping))
        self._found = ledger, redis
        if before is not None:
            _tell(LEDGER_TURNS, before[0], ledger)
            _tell(REDIS_TURNS, before[1], redis)
        self._probed_at = asyncio.get_running_loop().time()
        return ledger, redis


def _tell(turns: tuple[str, str], before: Store, now: Store) -> None:
    """One event when a store goes or comes; how it looked to the first probe was told at the start."""
    away, back = turns
    if before is Store.UP and now is not Store.UP:
        log.warning(away, store=now.value)
    elif before is not Store.UP and now is Store.UP:
        log.info(back)


async def _ask(question: Callable[[], Awaitable[None]]) -> Store:
    try:
        async with asyncio.timeout(PROBE_TIMEOUT_S):
            await question()
    except SchemaNotCurrent:
        return Store.NOT_CURRENT
    except (UsherError, TimeoutError):
        return Store.DOWN
    return Store.UP
