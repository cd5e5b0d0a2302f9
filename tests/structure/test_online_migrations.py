"""Migrations run while the older version serves: redemptions go on meanwhile, and the older version goes on afterwards."""

import re
from collections.abc import Iterator

import pytest

from service.ledger import sql
from service.ledger.sql import Migration

FIRST = 1
"""The first migration makes the tables; nobody is served yet."""
NEW_TABLE = re.compile(r"CREATE TABLE IF NOT EXISTS ")
OLD_TABLE = re.compile(r"DROP TABLE IF EXISTS \w+$")
CHANGED_TABLE = re.compile(r"ALTER TABLE \w+ (?P<changes>.+), ALGORITHM = (INSTANT|NOCOPY|INPLACE), LOCK = NONE$")
THING = r"(?:COLUMN|(?:UNIQUE )?(?:INDEX|KEY)|CONSTRAINT)"
CHANGE = re.compile(rf"ADD {THING} IF NOT EXISTS |DROP {THING} IF EXISTS |(MODIFY|ALTER) COLUMN IF EXISTS ")


def faults(statement: str) -> Iterator[str]:
    """Why a statement is nothing for a ledger in use; nothing where it may be run."""
    line = " ".join(statement.split())
    if NEW_TABLE.match(line) or OLD_TABLE.match(line):
        return
    changed = CHANGED_TABLE.match(line)
    if changed is None:
        yield "not one of CREATE TABLE IF NOT EXISTS, DROP TABLE IF EXISTS, and ALTER TABLE … ALGORITHM = …, LOCK = NONE"
        return
    # Commas within brackets part columns of an index or members of a type, not changes.
    for change in re.split(r", (?![^()]*\))", changed["changes"]):
        if not CHANGE.match(change):
            yield f"cannot be repeated: {change}"
        if change.startswith("ADD COLUMN") and "NOT NULL" in change and "DEFAULT" not in change:
            yield f"the older version inserts rows without it: {change}"


@pytest.mark.parametrize("migration", sql.migrations()[FIRST:], ids=lambda migration: migration.name)
def test_a_migration_runs_beside_redemptions(migration: Migration) -> None:
    assert [] == [fault for statement in migration.statements for fault in faults(statement)]


ONLINE = "ALGORITHM = INPLACE, LOCK = NONE"


@pytest.mark.parametrize(
    "statement",
    [
        "CREATE TABLE IF NOT EXISTS t (id INT)",
        "DROP TABLE IF EXISTS t",
        f"ALTER TABLE t ADD COLUMN IF NOT EXISTS a INT NULL,\n ADD INDEX IF NOT EXISTS i (a, b), {ONLINE}",
        f"ALTER TABLE t ADD COLUMN IF NOT EXISTS a INT NOT NULL DEFAULT 0, {ONLINE}",
        f"ALTER TABLE t MODIFY COLUMN IF EXISTS a ENUM('x', 'y') NOT NULL, DROP COLUMN IF EXISTS b, {ONLINE}",
    ],
)
def test_what_may_be_run_beside_redemptions(statement: str) -> None:
    assert [] == list(faults(statement))


@pytest.mark.parametrize(
    "statement",
    [
        "CREATE TABLE t (id INT)",
        "DROP TABLE t",
        "UPDATE t SET a = 1",
        "RENAME TABLE t TO u",
        "CREATE INDEX i ON t (a)",
        "ALTER TABLE t ADD COLUMN IF NOT EXISTS a INT NULL",
        "ALTER TABLE t ADD COLUMN IF NOT EXISTS a INT NULL, ALGORITHM = COPY, LOCK = NONE",
        "ALTER TABLE t ADD COLUMN IF NOT EXISTS a INT NULL, ALGORITHM = INSTANT, LOCK = SHARED",
        f"ALTER TABLE t ADD COLUMN a INT NULL, {ONLINE}",
        f"ALTER TABLE t ADD COLUMN IF NOT EXISTS a INT NOT NULL, {ONLINE}",
        f"ALTER TABLE t ADD INDEX IF NOT EXISTS i (a), RENAME COLUMN a TO b, {ONLINE}",
    ],
)
def test_what_may_not_is_found(statement: str) -> None:
    assert 1 == len(list(faults(statement)))
