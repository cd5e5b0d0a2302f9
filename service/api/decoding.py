"""Strict JSON (RFC 8259 in UTF-8) and RFC 3339 times: what is ambiguous or lossy is refused, not guessed.

Refused: other encodings, a byte order mark, NaN and infinities, numbers beyond a double or 64 bits, duplicate names, lone
surrogates, nesting deeper than DEPTH_MAX, and anything but an object on top.
"""

import json
import math
import re
from datetime import UTC, datetime
from typing import Any, Final, NoReturn

import orjson

from service.api.problems import Problem, invalid

DEPTH_MAX: Final = 32
"""Levels of objects and arrays; orjson writes no more than 254, and nobody needs as many."""
INTEGER_BITS: Final = 63
"""Larger integers are lost on the way by most who read JSON."""
ONLY_TEXTS: Final = {str}
QUOTES_PER_TEXT_MEMBER: Final = 4
YEAR_MIN: Final = 1970
"""Earlier moments are no time of a coupon, and negative since the epoch."""

TIME: Final = re.compile(
    r"(\d{4}-\d\d-\d\d)[Tt ]([01]\d|2[0-3])(:[0-5]\d:[0-5]\d)(?:\.(\d{1,9}))?(?:[Zz]|([+-](?:[01]\d|2[0-3]):[0-5]\d))",
    re.ASCII,
)


TIME_AS_SENT: Final = (
    r"^(19[7-9]\d|[2-9]\d{3})-(0[1-9]|1[0-2])-(0[1-9]|[12]\d|3[01])[Tt ]([01]\d|2[0-3])(:[0-5]\d){2}(\.\d{1,9})?"
    r"([Zz]|[+-]([01]\d|2[0-3]):[0-5]\d)$"
)
"""The same for those who read the OpenAPI document, with the years; it lets through some days that no month has."""


def loads_object(data: bytes) -> dict[str, Any]:
    """The JSON object in `data`; raises the Problem `invalid_request`."""
    try:
        value = orjson.loads(data)
    except orjson.JSONDecodeError:
        value = None
    if type(value) is dict and _is_plain(data, value):
        return value
    return _loads_slowly(data)


def _is_plain(data: bytes, value: dict[str, Any]) -> bool:
    """Whether a decoded object is surely flat, all texts, and without duplicate names.

    A member whose value is a text has four quotation marks, and more only if it contains some; a member that a later one of
    the same name has replaced has at least two. So four for each that is left means that none was replaced.
    """
    return data.count(b'"') == QUOTES_PER_TEXT_MEMBER * len(value) and set(map(type, value.values())) <= ONLY_TEXTS


def _loads_slowly(data: bytes) -> dict[str, Any]:
    """As `loads_object`, with every rule checked and every refusal explained."""
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError:
        raise invalid("", "is not UTF-8") from None
    try:
        value = json.loads(
            text,
            object_pairs_hook=_members,
            parse_constant=_refuse_constant,
            parse_float=_finite,
            parse_int=_bounded,
        )
    except json.JSONDecodeError as error:
        raise invalid("", f"is not JSON: {error.msg} at line {error.lineno}, column {error.colno}") from None
    except RecursionError:
        raise _too_deep() from None
    if type(value) is not dict:
        raise invalid("", "must be a JSON object")
    _check(value)
    return value


def _members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise invalid("", "a name occurs twice in one object")
    return members


def _refuse_constant(_: str) -> NoReturn:
    raise invalid("", "NaN and Infinity are not JSON")


def _finite(digits: str) -> float:
    value = float(digits)
    if not math.isfinite(value):
        raise invalid("", "a number is out of range")
    return value


def _bounded(digits: str) -> int:
    # The length goes first: Python refuses to convert thousands of digits, and is slow before that.
    if len(digits) > INTEGER_BITS or (value := int(digits)).bit_length() > INTEGER_BITS:
        raise invalid("", "a number is out of range")
    return value


def _too_deep() -> Problem:
    return invalid("", f"is nested deeper than {DEPTH_MAX} levels")


def _check(value: object, depth: int = 0) -> None:
    """Refuses deep nesting and texts that are no Unicode, in names too."""
    if isinstance(value, str):
        _check_text(value)
    elif isinstance(value, dict | list):
        if depth == DEPTH_MAX:
            raise _too_deep()
        if isinstance(value, dict):
            for name in value:
                _check_text(name)
        for member in value.values() if isinstance(value, dict) else value:
            _check(member, depth + 1)


def _check_text(text: str) -> None:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        raise invalid("", "a text has a lone surrogate") from None


def parse_time(value: object) -> datetime:
    """The moment that an RFC 3339 text names, in UTC, to the microsecond; raises ValueError.

    Digits beyond the microsecond are cut off. Leap seconds are refused: the ledger has none.
    """
    found = TIME.fullmatch(value) if isinstance(value, str) else None
    if not found:
        raise ValueError("must be an RFC 3339 time with an offset, such as 2026-11-22T10:15:30.123456Z")
    date, hour, rest, fraction, offset = found.groups()
    try:
        moment = datetime.fromisoformat(f"{date}T{hour}{rest}.{(fraction or '0')[:6]:0<6}{offset or '+00:00'}")
        moment = moment.astimezone(UTC)
    except (ValueError, OverflowError):
        raise ValueError("is not a date within the calendar") from None
    if moment.year < YEAR_MIN:
        raise ValueError(f"must not be before the year {YEAR_MIN}")
    return moment


def format_time(moment: datetime) -> str:
    """RFC 3339 in UTC with microseconds. `moment` is aware and in UTC."""
    return moment.replace(tzinfo=None).isoformat(timespec="microseconds") + "Z"
