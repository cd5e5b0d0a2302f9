"""Python values as SQL literals, for the session that `connections` opens: utf8mb4, backslashes escape, times in UTC.

Statements are written with literals, not with placeholders: the driver would put them in by itself, in more time, and its
form for bytes depends on its version.
"""

from collections.abc import Iterable
from datetime import datetime, timedelta

from pymysql.converters import escape_string

ID_BYTES = 16


class Sql(str):
    """Text that is SQL already and goes into a statement as it is. Never made of anybody's input."""

    __slots__ = ()


def text(value: str) -> str:
    """A string literal. Between single quotes, only the quote and the backslash mean something to the server."""
    if "'" in value or "\\" in value:
        value = escape_string(value)
    return f"'{value}'"


def ascii_text(value: str) -> str:
    """A string literal in the character set of ASCII columns: not every version can use their keys otherwise."""
    return f"_ascii{text(value)}"


def binary(value: bytes) -> str:
    """A hexadecimal literal."""
    return f"x'{value.hex()}'"


def instant(value: datetime) -> str:
    """A DATETIME(6) literal of an aware time in UTC; ValueError for any other."""
    if value.utcoffset() != timedelta(0):
        raise ValueError("times in the ledger are in UTC")
    return f"'{value.isoformat(' ', 'microseconds')[:26]}'"


def integer(value: int | None) -> str:
    """An integer literal, or NULL; ValueError for anything else, whatever its type was said to be."""
    return "NULL" if value is None else f"{value:d}"


def literal(value: object) -> str:
    """The literal of a value by its type; TypeError for types that the ledger has no column for."""
    match value:
        case Sql():
            return value
        case None:
            return "NULL"
        case str():
            return text(value)
        case bytes():
            return binary(value)
        case int() if not isinstance(value, bool):
            return integer(value)
        case datetime():
            return instant(value)
        case _:
            raise TypeError(f"no literal for {type(value).__name__}")


def tuples(rows: Iterable[Iterable[object]]) -> Sql:
    """`(…),(…)` for VALUES, each cell by `literal`."""
    return Sql(",".join(f"({','.join(map(literal, row))})" for row in rows))


def binaries(values: Iterable[bytes]) -> Sql:
    """`x'…',x'…'` for IN (…)."""
    return Sql(",".join(map(binary, values)))


def ascii_texts(values: Iterable[str]) -> Sql:
    """`_ascii'…',_ascii'…'` for IN (…)."""
    return Sql(",".join(map(ascii_text, values)))
