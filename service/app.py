"""The composition root: who gets what, and who closes what. Resources are made in this order and closed in the reverse."""

import asyncio
import socket
from collections.abc import AsyncIterator, Sequence

import structlog
from aiohttp import web

from service.api.application import application
from service.api.authentication import LOOK_UP_TIMEOUT_MAX_S, Authenticator
from service.api.parts import AUTHENTICATOR, LEDGER, READINESS, REDEEMER, SETTINGS
from service.api.readiness import Readiness
from service.api.server import serve, stop_on_signals
from service.claims import Claims
from service.config import Settings
from service.counters import Counters
from service.errors import CounterUnavailable, LedgerUnavailable
from service.guesses import Guesses
from service.ledger import Ledger
from service.loads import Loads
from service.redeem import Redeemer

DRAIN_SHARE = 0.3
"""Of the time to stop, for what was claimed by requests that nobody waits for any more."""

LOOK_UP_SHARE = 0.4
"""Of a request's deadline, at most, for finding out whose key it is."""

log = structlog.get_logger(__name__)


def compose(settings: Settings) -> web.Application:
    """The service as an application; its stores are reached for when it starts."""
    app = application(settings)
    app.cleanup_ctx.extend([_stores_and_flow, _authentication])
    return app


async def _stores_and_flow(app: web.Application) -> AsyncIterator[None]:
    """The gateways to both stores, and the flow between them, which ends first."""
    settings = app[SETTINGS]
    ledger = app[LEDGER] = await Ledger.connect(settings)
    counters = await Counters.connect(settings)
    app[READINESS] = Readiness(ledger, counters)
    loads = Loads(counters, ledger)
    guesses = Guesses(loads, ledger, settings)
    claims = Claims(counters, ledger, loads, settings)
    redeemer = app[REDEEMER] = Redeemer(claims, loads, ledger, settings, guesses=guesses)
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


async def run(settings: Settings, sockets: Sequence[socket.socket], orphaned: int | None = None) -> None:
    """Serves on bound sockets until told to stop. `orphaned`: see `stop_on_signals`."""
    stop = asyncio.Event()
    stop_on_signals(stop, orphaned)
    await serve(compose(settings), sockets, stop)
