"""What the reference in docs/ and the error messages say of a setting beside its description."""

from typing import Any, Final, get_args

from annotated_types import Ge, Le
from pydantic import JsonValue
from pydantic.fields import FieldInfo

STORES: Final = "Stores"
LISTENING: Final = "Listening"
LIMITS: Final = "Limits"
DEADLINES: Final = "Deadlines"
CONNECTIONS: Final = "Connections and batches"
RECONCILER: Final = "The reconciler"
LOGS: Final = "Logs and answers"

UNITS: Final = {
    "ms": "milliseconds",
    "s": "seconds",
    "days": "days",
    "requests": "requests",
    "rows": "rows",
    "connections": "connections",
    "workers": "processes",
    "port": "",
}
"""The unit of a number, by the last word of its name."""


def about(section: str, when: str, *, form: str = "text") -> dict[str, JsonValue]:
    """For `json_schema_extra`. `when`: when to change it; `form`: what is allowed, where neither range nor words say it."""
    return {"section": section, "when": when, "form": form}


def fact(field: FieldInfo, what: str) -> str:
    """What `about` was told as `section`, `when` or `form`; KeyError where nothing was."""
    facts = field.json_schema_extra
    if not isinstance(facts, dict):
        raise KeyError(what)
    return str(facts[what])


def unit(name: str, field: FieldInfo) -> str:
    """The unit of a number, empty where it has none; KeyError for one whose name does not end in it."""
    return UNITS[name.rpartition("_")[2]] if field.annotation is int else ""


def allowed(field: FieldInfo) -> str:
    """What a setting may be: a range, the words to choose from, or the form of a text."""
    if field.annotation is int:
        return f"{_bound(field, Ge).ge:,} to {_bound(field, Le).le:,}"
    words = get_args(field.annotation)
    return f"{', '.join(words[:-1])} or {words[-1]}" if words else fact(field, "form")


def _bound(field: FieldInfo, kind: type) -> Any:  # noqa: ANN401  (Ge or Le, whose bounds may be anything)
    return next(one for one in field.metadata if isinstance(one, kind))
