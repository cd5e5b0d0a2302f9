"""The reconciler's own port: whether it lives, whether it leads, and its metrics. For whoever watches over the process."""

import asyncio
import errno
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from enum import StrEnum
from typing import Final

import orjson
import structlog
from aiohttp import web

from reconciler.metrics import CONTENT_TYPE, Metrics
from service.config import Settings
from service.counters import Counters
from service.errors import AddressUnavailable, SchemaNotCurrent, UsherError
from service.ledger import Ledger
from service.ledger.leadership import Leadership

PROBE_TIMEOUT_S: Final = 0.5
"""A store that hangs counts as away; the answer is to be there within a second."""
PROBE_AGE_MAX_S: Final = 0.2
"""Anybody may ask, so the stores are not asked each time."""
STOP_S: Final = 1.0
"""For answers under way when the program ends: the stop deadline is for the jobs."""
NOT_STORED: Final = {"Cache-Control": "no-store"}

log = structlog.get_logger(__name__)


class Status(StrEnum):
    """What `/readyz` says. LEADING and STANDBY are 200, the others 503."""

    LEADING = "leading"
    STANDBY = "standby"
    UNAVAILABLE = "unavailable"
    """The ledger cannot be reached, or its schema is not the one that this version works with."""
    STOPPING = "stopping"


class Store(StrEnum):
    """How a store looks from here."""

    UP = "up"
    DOWN = "down"
    NOT_CURRENT = "schema_not_current"


class Readiness:
    """Knows how the stores are, and whether this reconciler leads. `stop`: it was told to stop."""

    def __init__(self, ledger: Ledger, counters: Counters, leadership: Leadership, stop: asyncio.Event) -> None:
        self._questions = (ledger.check_schema, counters.ping)
        self._leadership = leadership
        self._stop = stop
        self._turn = asyncio.Lock()
        self._found = (Store.DOWN, Store.DOWN)
        self._found_at = float("-inf")

    async def report(self) -> tuple[Status, Store, Store]:
        """The state of now, or of a moment ago: this reconciler's, the ledger's, Redis'."""
        async with self._turn:
            loop = asyncio.get_running_loop()
            if loop.time() - self._found_at >= PROBE_AGE_MAX_S:
                ledger, redis = await asyncio.gather(*map(_ask, self._questions))
                self._found, self._found_at = (ledger, redis), loop.time()
        ledger, redis = self._found
        if self._stop.is_set():
            return Status.STOPPING, ledger, redis
        if ledger is not Store.UP:
            return Status.UNAVAILABLE, ledger, redis
        return Status.LEADING if self._leadership.leads else Status.STANDBY, ledger, redis


async def _ask(question: Callable[[], Awaitable[None]]) -> Store:
    try:
        async with asyncio.timeout(PROBE_TIMEOUT_S):
            await question()
    except SchemaNotCurrent:
        return Store.NOT_CURRENT
    except (UsherError, TimeoutError):
        return Store.DOWN
    return Store.UP


class Port:
    """`GET /livez`, `GET /readyz` and `GET /metrics`."""

    def __init__(self, readiness: Readiness, metrics: Metrics) -> None:
        self._readiness = readiness
        self._metrics = metrics

    @asynccontextmanager
    async def open(self, settings: Settings) -> AsyncIterator[None]:
        """Answers meanwhile. Raises AddressUnavailable where the port was chosen and cannot be had.

        One that nobody has chosen is done without, loudly: the jobs are worth more than being watched.
        """
        app = web.Application()
        app.add_routes(
            [web.get("/livez", self._livez), web.get("/readyz", self._readyz), web.get("/metrics", self._show_metrics)]
        )
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=STOP_S)
        await runner.setup()
        host, port = settings.reconciler_listen_host, settings.reconciler_listen_port
        try:
            await web.TCPSite(runner, host, port).start()
        except OSError as error:
            reason = "is in use" if error.errno == errno.EADDRINUSE else f"cannot be had ({error.strerror})"
            if {"reconciler_listen_host", "reconciler_listen_port"} & settings.model_fields_set:
                await runner.cleanup()
                where = f"port {port} on {host} {reason}"
                raise AddressUnavailable(f"{where}; choose another with USHER_RECONCILER_LISTEN_PORT") from error
            log.warning("no port to be watched by; USHER_RECONCILER_LISTEN_PORT chooses another", status=reason)
        for name in runner.addresses:
            log.info("listening", address=f"http://{f'[{name[0]}]' if ':' in name[0] else name[0]}:{name[1]}", pid=os.getpid())
        try:
            yield
        finally:
            await runner.cleanup()

    async def _livez(self, _: web.Request) -> web.Response:
        """The process runs."""
        return _json({"status": "alive"})

    async def _readyz(self, _: web.Request) -> web.Response:
        """Whether it leads or could."""
        status, ledger, redis = await self._readiness.report()
        is_ready = status in {Status.LEADING, Status.STANDBY}
        return _json({"status": status, "stores": {"ledger": ledger, "redis": redis}}, status=200 if is_ready else 503)

    async def _show_metrics(self, _: web.Request) -> web.Response:
        """In the text format of Prometheus."""
        return web.Response(body=self._metrics.exposed(), headers={"Content-Type": CONTENT_TYPE, **NOT_STORED})


def _json(body: object, *, status: int = 200) -> web.Response:
    return web.Response(body=orjson.dumps(body), status=status, headers=NOT_STORED, content_type="application/json")
