"""The composition root: who gets what, and who closes what. Resources are made in this order and closed in the reverse."""

import asyncio
import socket
from collections.abc import AsyncIterator, Sequence
from functools import partial

import structlog
from aiohttp import web

from service.api.application import application
from service.api.authentication import LOOK_UP_TIMEOUT_MAX_S, Authenticator
from service.api.parts import (
    AUTHENTICATOR,
    COUNTS,
    LEDGER,
    LIFE,
    METRICS,
    READINESS,
    REDEEMER,
    SETTINGS,
    VALIDATIONS,
)
from service.api.readiness import Readiness
from service.api.server import serve, stop_on_signals
from service.claims import Claims
from service.config import Settings
from service.counters import Counters
from service.counts import Counts
from service.errors import CounterUnavailable, LedgerUnavailable
from service.guesses import Guesses
from service.ledger import Ledger
from service.life import Life
from service.loads import Loads
from service.metrics import Metrics, Shared
from service.redeem import Redeemer
from service.validations import Parts, Validations

DRAIN_SHARE = 0.3
"""Of the time to stop, for what was claimed by requests that nobody waits for any more."""

LOOK_UP_SHARE = 0.4
"""Of a request's deadline, at most, for finding out whose key it is."""

log = structlog.get_logger(__name__)


def compose(settings: Settings, shared: Shared | None = None) -> web.Application:
    """The service as an application; its stores are reached for when it starts. `shared`: see `Metrics`."""
    app = application(settings)
    app[METRICS] = Metrics(app[COUNTS], shared)
    app.cleanup_ctx.extend([_metrics, _stores_and_flow, _authentication])
    return app


async def _metrics(app: web.Application) -> AsyncIterator[None]:
    """What is counted is taken over until the end, when all is done that is counted."""
    keeping = asyncio.create_task(app[METRICS].keep())
    yield
    keeping.cancel()
    app[METRICS].take()


def _watch(counts: Counts, ledger: Ledger, counters: Counters) -> None:
    """What the gateways know by themselves."""
    counts.gauges["workers"] = lambda: 1
    counts.gauges["breaker_open"] = lambda: counters.is_away
    counts.totals["breaker_openings", ""] = lambda: counters.breaker.openings
    for cause in ledger.redemptions.record_retries:
        counts.totals["record_retries", cause] = partial(ledger.redemptions.record_retries.__getitem__, cause)


async def _stores_and_flow(app: web.Application) -> AsyncIterator[None]:
    """The gateways to both stores, and the flow between them, which ends first."""
    settings = app[SETTINGS]
    ledger = app[LEDGER] = await Ledger.connect(settings)
    counters = await Counters.connect(settings)
    app[READINESS] = Readiness(ledger, counters)
    counts = app[COUNTS]
    _watch(counts, ledger, counters)
    loads = Loads(counters, ledger, counts)
    guesses = Guesses(loads, ledger, settings)
    claims = Claims(counters, ledger, loads, settings, counts=counts)
    life = app[LIFE] = Life(claims, ledger, settings, counts)
    redeemer = app[REDEEMER] = Redeemer(claims, loads, ledger, settings, guesses=guesses, life=life, counts=counts)
    app[VALIDATIONS] = Validations(counters, ledger, Parts(claims, loads, guesses, life), settings)
    await guesses.start()
    yield
    await redeemer.drain(settings.stop_deadline_ms / 1000 * DRAIN_SHARE)
    await guesses.stop()
    await counters.close()
    await ledger.close()


async def _authentication(app: web.Application) -> AsyncIterator[None]:
    timeout_s = min(LOOK_UP_TIMEOUT_MAX_S, app[SETTINGS].request_deadline_ms / 1000 * LOOK_UP_SHARE)
    authenticator = app[AUTHENTICATOR] = Authenticator(app[LEDGER].keys, app[LEDGER].now, timeout_s)
    authenticator.start()
    yield
    await authenticator.stop()


async def look_before(settings: Settings) -> None:
    """Before serving: warns loudly of a ledger that may forget; a store that is away is no reason not to start.

    Raises SchemaNotCurrent.
    """
    ledger = await Ledger.connect(settings)
    try:
        await ledger.check_schema()
        for warning in await ledger.durability_warnings():
            log.warning("acknowledged redemptions may be lost", reason=warning)
    except LedgerUnavailable as error:
        log.warning("the ledger is away; not ready until it is there", error=str(error))
    finally:
        await ledger.close()
    counters = await Counters.connect(settings)
    try:
        await counters.ping()
    except CounterUnavailable as error:
        log.warning("Redis is away; degraded until it is there", error=str(error))
    finally:
        await counters.close()


async def run(
    settings: Settings, sockets: Sequence[socket.socket], orphaned: int | None = None, shared: Shared | None = None
) -> None:
    """Serves on bound sockets until told to stop. `orphaned`: see `stop_on_signals`; `shared`: see `Metrics`."""
    stop = asyncio.Event()
    stop_on_signals(stop, orphaned)
    await serve(compose(settings, shared), sockets, stop)
