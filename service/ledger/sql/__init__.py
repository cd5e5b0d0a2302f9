"""The ledger's SQL: queries by name, the schema, and the numbered migrations that lead to it.

A query is a file `<name>.sql` in this folder. `{name}` in it stands for a value, put in as a literal; `{% name %}` for another
file of this folder, put in as it is. Comments are for readers and are not sent.
"""

import hashlib
import re
from dataclasses import dataclass
from importlib import resources
from importlib.resources.abc import Traversable

from service.ledger.literals import literal

FOLDER = resources.files(__name__)
COMMENT = re.compile(r"^\s*--.*$", re.MULTILINE)
FRAGMENT = re.compile(r"\{% (\w+) %\}")
MIGRATION = re.compile(r"(?P<number>\d{4})_(?P<name>[a-z0-9_]+)\.sql")


class Query:
    """A statement with named values: `Query("coupon_get")(code="GOLD20")`."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.template = _read(name)

    def __call__(self, **values: object) -> str:
        """The statement with these values as literals."""
        return self.template.format_map({key: literal(value) for key, value in values.items()})


@dataclass(frozen=True, slots=True)
class Migration:
    """One step of the schema. `checksum`: SHA-256 of the file, in hexadecimal."""

    number: int
    name: str
    checksum: str
    statements: tuple[str, ...]


def statements(script: str) -> tuple[str, ...]:
    """The statements of a script; each ends in a semicolon at the end of a line."""
    parts = re.split(r";\s*$", COMMENT.sub("", script), flags=re.MULTILINE)
    return tuple(part.strip() for part in parts if part.strip())


def schema() -> str:
    """The script that the migrations amount to, for readers; a test holds the two together."""
    return FOLDER.joinpath("schema.sql").read_text()


def migrations() -> list[Migration]:
    """All migrations by ascending number, from 1, without a gap."""
    found = sorted(
        (_migration(file) for file in FOLDER.joinpath("migrations").iterdir() if file.name.endswith(".sql")),
        key=lambda migration: migration.number,
    )
    assert [migration.number for migration in found] == list(range(1, len(found) + 1)), "migrations are numbered from 1"
    return found


def _migration(file: Traversable) -> Migration:
    match = MIGRATION.fullmatch(file.name)
    assert match, f"{file.name}: a migration is called NNNN_name.sql"
    content = file.read_bytes()
    checksum = hashlib.sha256(content).hexdigest()
    return Migration(int(match["number"]), match["name"], checksum, statements(content.decode()))


def _read(name: str) -> str:
    """A file's SQL on one line, with the fragments that it names."""
    content = COMMENT.sub("", FOLDER.joinpath(f"{name}.sql").read_text())
    content = FRAGMENT.sub(lambda match: _read(match[1]), content)
    return " ".join(content.split()).removesuffix(";")
