"""The table in docs/configuration.md, made from the settings: `python -m tests.structure.settings_table` writes it there."""

from collections.abc import Iterator
from typing import get_args

from annotated_types import Ge, Le
from pydantic import SecretStr
from pydantic.fields import FieldInfo

from service.config import PREFIX, Settings
from tests.structure.source import ROOT

DOCUMENT = ROOT / "docs" / "configuration.md"
HEADING = ("| Variable | Unless given | Unit | Allowed | Meaning |", "|---|---|---|---|---|")

UNITS = {
    "ms": "milliseconds",
    "s": "seconds",
    "requests": "requests",
    "rows": "rows",
    "connections": "connections",
    "workers": "processes",
    "port": "",
}
"""The unit of a number, by the last word of its name."""


def rows() -> Iterator[str]:
    """The table's lines, in the order of the settings."""
    yield from HEADING
    for name, field in Settings.model_fields.items():
        cells = (f"`{PREFIX}{name.upper()}`", default(field), unit(name, field), allowed(name, field), field.description or "")
        yield "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def default(field: FieldInfo) -> str:
    value = field.default.get_secret_value() if isinstance(field.default, SecretStr) else field.default
    return f"`{value}`" if value != "" else ""


def unit(name: str, field: FieldInfo) -> str:
    """KeyError for a number whose name does not end in its unit."""
    return UNITS[name.rpartition("_")[2]] if field.annotation is int else ""


def allowed(name: str, field: FieldInfo) -> str:
    """A range, or the words to choose from."""
    if field.annotation is int:
        (least,) = (bound.ge for bound in field.metadata if isinstance(bound, Ge))
        (most,) = (bound.le for bound in field.metadata if isinstance(bound, Le))
        return f"{least:,} to {most:,}"
    if words := get_args(field.annotation):
        return ", ".join(f"`{word}`" for word in words)
    if name.endswith("database_url"):
        return "a `mysql://` URL"
    return "a `redis://` or `rediss://` URL" if name.endswith("redis_url") else "text"


def shown() -> list[str]:
    """The table that the document shows: its only one."""
    return [line for line in DOCUMENT.read_text(encoding="utf-8").splitlines() if line.startswith("|")]


def write() -> None:
    """Puts the table in the place of the one that is there."""
    table = "\n".join(rows())
    text = DOCUMENT.read_text(encoding="utf-8")
    DOCUMENT.write_text(text.replace("\n".join(shown()), table), encoding="utf-8")


if __name__ == "__main__":
    write()
