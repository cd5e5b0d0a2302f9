"""`usher serve` and `usher migrate`: from settings to processes."""

import asyncio
import gc
import socket
from collections.abc import Callable, Coroutine, Sequence
from typing import Final

from service import app, config, errors, workers
from service.cli.output import COULD_NOT, complain, unreachable
from service.config import Settings
from service.ledger import migrations

try:
    from uvloop import new_event_loop
except ImportError:
    new_event_loop = None  # type: ignore[assignment]  # It is an extra.

GC_YOUNG_OBJECTS: Final = 50_000
"""Requests leave no cycles behind, so looking for them after every 700 objects is wasted work."""


def serve(settings: Settings) -> int:
    """Serves until told to stop; returns the exit status. Raises AddressUnavailable and SchemaNotCurrent."""
    addresses = workers.resolve(settings.listen_host, settings.listen_port)
    if settings.workers == 1:
        sockets = workers.bind(addresses, shared=False)
        return run_loop(lambda: _look_and_run(settings, sockets))
    # Workers are forked: what is there by then is theirs too, and the collector need not touch it in each of them.
    gc.freeze()
    reserved = workers.reserve(addresses)
    status = workers.in_child(lambda: _report(lambda: run_loop(lambda: app.look_before(settings))))
    if status != 0:
        return status
    here = workers.bound_addresses(reserved)

    def work(orphaned: int) -> int:
        workers.close(reserved)
        sockets = workers.bind(here, shared=True)
        return _report(lambda: run_loop(lambda: app.run(settings, sockets, orphaned)))

    return workers.Supervisor(settings.workers, work, settings.stop_deadline_ms / 1000).run()


async def _look_and_run(settings: Settings, sockets: Sequence[socket.socket]) -> None:
    await app.look_before(settings)
    await app.run(settings, sockets)


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
    url = settings.migration_url
    variable = "USHER_DATABASE_URL" if url == settings.database_url else "USHER_MIGRATION_DATABASE_URL"
    try:
        return asyncio.run(migrations.run(url))
    except errors.LedgerUnavailable as error:
        raise errors.LedgerUnavailable(unreachable(url, variable, error)) from error
    except errors.LedgerRefusedData as error:
        raise errors.LedgerRefusedData(
            f"the ledger (MariaDB) at {config.address(url)} refused a migration: {error}. "
            f"The user in {variable} must be allowed to change the schema."
        ) from error
