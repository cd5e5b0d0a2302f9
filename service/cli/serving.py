"""`usher serve` and `usher migrate`: from settings to processes."""

import asyncio
import gc
import os
import socket
from collections.abc import Callable, Coroutine, Sequence
from typing import Final

import structlog

from service import app, errors, workers
from service.addresses import address
from service.cli.output import COULD_NOT, complain
from service.config import Settings
from service.explaining import explain_ledger
from service.ledger import migrations
from service.metrics import Shared, make_folder, remove_folder

try:
    from uvloop import new_event_loop
except ImportError:
    new_event_loop = None  # type: ignore[assignment]  # It is an extra.

GC_YOUNG_OBJECTS: Final = 50_000
"""Requests leave no cycles behind, so looking for them after every 700 objects is wasted work."""

FILES_BESIDE_CLIENTS: Final = 128
"""Descriptors of a worker that are neither a client's nor a store's: listeners, the log, and connections being exchanged."""

log = structlog.get_logger(__name__)


def serve(settings: Settings) -> int:
    """Serves until told to stop; returns the exit status. Raises AddressUnavailable and SchemaNotCurrent."""
    for reason in settings.doubts():
        log.warning("doubtful setting", reason=reason)
    settings = within_open_files(settings)
    addresses = workers.resolve(settings.listen_host, settings.listen_port)
    if settings.workers == 1:
        sockets = workers.bind(addresses, shared=False)
        return run_loop(lambda: _look_and_run(settings, sockets))
    # Workers are forked: what is there by then is theirs too, and the collector need not touch it in each of them.
    gc.freeze()
    reserved = workers.reserve(addresses)
    status = workers.in_child(lambda: _report(lambda: run_loop(lambda: _look(settings))))
    if status != 0:
        return status
    here = workers.bound_addresses(reserved)

    folder, parent = make_folder(), os.getpid()

    def work(place: int, orphaned: int) -> int:
        workers.close(reserved)
        sockets = workers.bind(here, shared=True)
        shared = None if folder is None else Shared(folder, place)
        status = _report(lambda: run_loop(lambda: app.run(settings, sockets, orphaned, shared)))
        if os.getppid() != parent:
            remove_folder(folder)  # Nobody else will.
        return status

    try:
        return workers.Supervisor(settings.workers, work, settings.stop_deadline_ms / 1000).run()
    finally:
        remove_folder(folder)


def within_open_files(settings: Settings) -> Settings:
    """The settings, with fewer connections of clients where the limit of open files would not carry them.

    A worker without a descriptor left could not reach its stores either, which is worse than turning a client away.
    """
    beside = settings.read_connections + settings.record_connections + settings.redis_connections + FILES_BESIDE_CLIENTS
    wanted = settings.clients_max_connections + beside
    allowed = workers.allow_files(wanted)
    if allowed >= wanted:
        return settings
    clients = max(allowed - beside, 1)
    log.warning("too few open files allowed", wanted=wanted, allowed=allowed, clients=clients)
    return settings.model_copy(update={"clients_max_connections": clients})


async def _look_and_run(settings: Settings, sockets: Sequence[socket.socket]) -> None:
    await _look(settings)
    await app.run(settings, sockets)


async def _look(settings: Settings) -> None:
    try:
        await app.look_before(settings)
    except errors.SchemaNotCurrent as error:
        where = f"The ledger (MariaDB) is at {address(settings.database_url)} (USHER_DATABASE_URL)."
        raise errors.SchemaNotCurrent(f"{error} {where}") from error


def run_loop(work: Callable[[], Coroutine[None, None, None]]) -> int:
    """Runs `work` in a new event loop, uvloop's where it is installed; returns 0."""
    gc.set_threshold(GC_YOUNG_OBJECTS)
    with asyncio.Runner(loop_factory=new_event_loop) as runner:
        runner.run(work())
    return 0


def _report(work: Callable[[], int]) -> int:
    """The status of `work` in a process of its own, where nobody else reports what fails."""
    try:
        return work()
    except errors.UsherError as error:
        complain(str(error))
        return COULD_NOT


def migrate(settings: Settings) -> list[str]:
    """Applies the migrations that are missing; returns their names. Raises UsherError with what to try."""
    try:
        return asyncio.run(migrations.run(settings.migration_url))
    except (errors.LedgerUnavailable, errors.LedgerRefusedData, errors.LedgerContended, errors.MigrationChanged) as error:
        raise type(error)(explain_ledger(settings, error, administers=True)) from error
