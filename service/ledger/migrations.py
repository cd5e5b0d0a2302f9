"""Brings the ledger's schema up to date: numbered plain SQL, one runner at a time, applied files never changed.

Each statement of a migration can be repeated: the server commits a change of the schema by itself, and a runner may be killed
between two. The schema of a newer version serves an older one, too, so that versions can be replaced one process at a time.

Migrations run beside traffic. A statement that changes a table says how, so that the server refuses it rather than copies the
table: docs/upgrade.md has the rules, and a test keeps to them.
"""

import asyncio
import hashlib

import structlog
from pydantic import SecretStr

from service.errors import LedgerContended, LedgerUnavailable, MigrationChanged, SchemaNotCurrent
from service.ledger.clock import Clock
from service.ledger.connections import Address, Connection, Connections
from service.ledger.sql import Migration, Query, migrations

BEGIN = Query("migration_begin")
EXISTS = Query("migration_table_exists")
APPLIED = Query("migration_applied")
NOTE = Query("migration_note")
LOCK = Query("migration_lock")
UNLOCK = Query("migration_unlock")
PATIENCE = Query("migration_patience")

RUN_DEADLINE_S = 3600.0
"""A change of a large table takes its time."""
LOCK_WAIT_S = 600
"""For another runner to finish; then somebody should look."""
TABLE_WAIT_S = 1
"""For a table that somebody's long transaction uses. Redemptions wait meanwhile, and have time left afterwards."""
TABLE_PAUSE_S = 2.0
"""Before the next attempt: those who waited get through, and others with them."""

log = structlog.get_logger(__name__)


async def run(url: SecretStr) -> list[str]:
    """Applies the migrations that are missing, in order; returns their names. Several at once wait for each other.

    Raises MigrationChanged when an applied file was changed since, LedgerUnavailable, LedgerContended, LedgerRefusedData.
    """
    where = Address.of(url)
    deadline = asyncio.get_running_loop().time() + RUN_DEADLINE_S
    connections = Connections(where, Clock(), size=1)
    try:
        async with connections.use(deadline) as connection:
            lock = _lock_name(where.database)
            ((granted,),) = await connection.fetch(LOCK(name=lock, wait_s=LOCK_WAIT_S), deadline)
            if granted != 1:
                raise LedgerUnavailable("another migration has been running for too long")
            names = await _run(connection, deadline)
            await connection.fetch(UNLOCK(name=lock), deadline)  # After a failure, the lock goes with the session.
            return names
    finally:
        await connections.close()


async def _run(connection: Connection, deadline: float) -> list[str]:
    """With the lock held."""
    await connection.run(PATIENCE(wait_s=TABLE_WAIT_S), deadline)
    await connection.run(BEGIN(), deadline)
    applied = await _applied(connection, deadline)
    names = []
    for migration in migrations():
        if migration.number in applied:
            _check_unchanged(migration, applied[migration.number])
            continue
        for statement in migration.statements:
            await _apply(connection, statement, deadline)
        note = NOTE(version=migration.number, name=migration.name, checksum=migration.checksum)
        await connection.run(note, deadline)
        names.append(f"{migration.number:04d}_{migration.name}")
    return names


async def _apply(connection: Connection, statement: str, deadline: float) -> None:
    """Runs a statement, again and again while others' transactions hold its table; LedgerUnavailable at the deadline."""
    while True:
        try:
            await connection.run(statement, deadline)
        except LedgerContended:
            log.warning("migration waits: a long transaction uses the table", again_in_s=TABLE_PAUSE_S)
            await asyncio.sleep(TABLE_PAUSE_S)
        else:
            return


async def check(connections: Connections, deadline: float) -> None:
    """Raises SchemaNotCurrent when a migration of this version is missing or was another one; LedgerUnavailable."""
    async with connections.use(deadline) as connection:
        if not await connection.fetch(EXISTS(), deadline):
            raise SchemaNotCurrent
        applied = await _applied(connection, deadline)
    for migration in migrations():
        if migration.number not in applied:
            raise SchemaNotCurrent
        try:
            _check_unchanged(migration, applied[migration.number])
        except MigrationChanged as error:
            raise SchemaNotCurrent(str(error)) from error


async def _applied(connection: Connection, deadline: float) -> dict[int, str]:
    """The checksums of what was applied, by number."""
    applied: dict[int, str] = dict(await connection.fetch(APPLIED(), deadline))
    return applied


def _check_unchanged(migration: Migration, applied_checksum: str) -> None:
    if migration.checksum != applied_checksum:
        name = f"{migration.number:04d}_{migration.name}"
        raise MigrationChanged(f"The migration {name} was applied, and is another one now.")


def _lock_name(database: str) -> str:
    """Locks are the whole server's, and their names have 64 characters at most."""
    return "usher_migrate_" + hashlib.sha256(database.encode()).hexdigest()[:32]
