"""Listening and stopping: an application on sockets, until it is told to stop, and then until its work is done.

Stopping: no new connections; `/readyz` says draining; requests under way are answered, each answer closing its connection;
what was claimed is finished; then the stores' connections close. All of it within `stop_deadline_ms`.
"""

import asyncio
import contextlib
import os
import signal
import socket
import sys
from collections.abc import Sequence
from typing import Final, NoReturn

import structlog
from aiohttp import web

from service.api.clients import Clients
from service.api.parts import READINESS, SETTINGS
from service.api.protocol import connections

BACKLOG: Final = 4096
"""With the usual 128, a thousand clients that connect at once wait for seconds."""
ACCEPTED_AT_ONCE: Final = 64
"""What asyncio calls a backlog is also how many it accepts before it does anything else. Those that are refused hold a
descriptor until then, and there are `FILES_BESIDE_CLIENTS` for them; without any left it would log each attempt."""
POLL_S: Final = 0.02
HANDLERS_SHARE: Final = 0.6
"""Of the time to stop, what requests under way may take; the rest is for what they have claimed and left."""
KILLED_STATUS: Final = 1

log = structlog.get_logger(__name__)


async def serve(app: web.Application, sockets: Sequence[socket.socket], stop: asyncio.Event) -> None:
    """Serves `app` on bound sockets until `stop` is set, then drains. The app's cleanup contexts own its resources."""
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    server = runner.server
    assert server is not None
    loop = asyncio.get_running_loop()
    clients = Clients(app[SETTINGS], loop)
    connection = connections(app, server, clients)
    listeners = [await loop.create_server(connection, sock=bound, backlog=ACCEPTED_AT_ONCE) for bound in sockets]
    for bound in sockets:
        bound.listen(BACKLOG)
        log.info("listening", address=address_of(bound), pid=os.getpid())
    clients.start()
    try:
        await stop.wait()
        await _drain(app, listeners)
    finally:
        await _clean_up(app, runner)
        clients.stop()


async def _drain(app: web.Application, listeners: Sequence[asyncio.Server]) -> None:
    """Takes no new connections and waits for the requests under way."""
    readiness = app[READINESS]
    readiness.draining = True
    log.info("draining", pid=os.getpid(), under_way=readiness.under_way)
    for listener in listeners:
        listener.close()
    # Connections that were accepted a moment ago get their turn.
    await asyncio.sleep(POLL_S)
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(app[SETTINGS].stop_deadline_ms / 1000 * HANDLERS_SHARE):
            while readiness.under_way:  # noqa: ASYNC110  (an event would cost every request)
                await asyncio.sleep(POLL_S)


async def _clean_up(app: web.Application, runner: web.AppRunner) -> None:
    """Closes connections and resources; gives up after the rest of the time."""
    seconds = app[SETTINGS].stop_deadline_ms / 1000 * (1 - HANDLERS_SHARE)
    try:
        async with asyncio.timeout(seconds):
            await runner.cleanup()
    except TimeoutError:
        log.error(  # noqa: TRY400  (the stack says nothing)
            "stopped with work undone", after_s=seconds
        )
    log.info("stopped", pid=os.getpid())


def stop_on_signals(stop: asyncio.Event, orphaned: int | None = None) -> None:
    """Sets `stop` on the first SIGTERM or SIGINT; the second ends the process at once.

    `orphaned`: for a worker, a descriptor that becomes readable when its parent is gone. A worker leaves SIGINT to its
    parent: Ctrl-C reaches both.
    """
    loop = asyncio.get_running_loop()

    def on_signal() -> None:
        if stop.is_set():
            _end_at_once()
        stop.set()

    def on_orphaned() -> None:
        assert orphaned is not None
        loop.remove_reader(orphaned)
        log.warning("the parent is gone", pid=os.getpid())
        stop.set()

    loop.add_signal_handler(signal.SIGTERM, on_signal)
    if orphaned is None:
        loop.add_signal_handler(signal.SIGINT, on_signal)
    else:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        loop.add_reader(orphaned, on_orphaned)


def _end_at_once() -> NoReturn:
    sys.stderr.flush()
    os._exit(KILLED_STATUS)


def address_of(bound: socket.socket) -> str:
    """The address of a socket as a URL."""
    host, port = bound.getsockname()[:2]
    return f"http://[{host}]:{port}" if bound.family == socket.AF_INET6 else f"http://{host}:{port}"
