"""Holds an answer that a document shows against the real one.

An `http` block shows the status line, those headers that matter, and the body; a `json` block a body; a `text` block all that
was printed. Everything shown must be so, and a body must be shown whole; white space in JSON does not count.

What is new in each run stands for its kind: a UUID, a time, a request id, a number of nanoseconds, a reconciler or a token
with an id in it (as a whole text), how long something took. Within a document the same one stands for the same, and another
one for another, but for how long something took: a shown `Location` that is not that of the shown `id` is a mistake.
A shown `Retry-After` stands for any from 1 up to itself.
"""

import json
import re
from collections.abc import Iterator
from typing import Any

Json = Any
"""Whatever a JSON document says."""

VARIABLE = re.compile(
    r"(?P<uuid>[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})"
    r"|(?P<time>\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z)"
    r"|(?P<request>\b[0-9a-f]{16}-[0-9a-f]+\b)"
    r"|(?P<nanoseconds>\b\d{19}\b)"
    r"|(?P<token>^[\w-]{38}$)"
    r"|(?P<process>^[\w.-]+:\d+$)"
    r"|(?P<duration>(?<=\bin )\d+\.\d+(?= s\b))"
)

ANY = frozenset({"duration"})
"""Kinds of which one stands for any other, the same or not."""
WAIT = "retry-after"


class Pairs:
    """Which real value each shown one has stood for, in one document."""

    def __init__(self) -> None:
        self._real: dict[str, str] = {}
        self._shown: dict[str, str] = {}

    def differences(self, language: str, shown: str, real: str) -> list[str]:
        """What a shown answer says that is not so, or leaves out; empty if it is right."""
        if language == "http":
            return list(self._answer(shown, real))
        if language == "json":
            return list(self._json("", json.loads(shown), json.loads(real)))
        return list(self._text("output", shown.strip(), real.strip()))

    def _answer(self, shown: str, real: str) -> Iterator[str]:
        status, headers, body = parts(shown)
        real_status, real_headers, real_body = parts(real)
        yield from self._text("status line", status, real_status)
        for name, value in headers.items():
            real_value = real_headers.get(name, "")
            # So many seconds are left at most: the request before took some time.
            if not (name == WAIT and real_value.isdecimal() and 1 <= int(real_value) <= int(value)):
                yield from self._text(name, value, real_value)
        if body or real_body:
            yield from self._json("", json.loads(body or "null"), json.loads(real_body or "null"))

    def _json(self, where: str, shown: Json, real: Json) -> Iterator[str]:
        if isinstance(shown, dict) and isinstance(real, dict) and shown.keys() == real.keys():
            for name in shown:
                yield from self._json(f"{where}/{name}", shown[name], real[name])
        elif isinstance(shown, list) and isinstance(real, list) and len(shown) == len(real):
            for at, (one, other) in enumerate(zip(shown, real, strict=True)):
                yield from self._json(f"{where}/{at}", one, other)
        elif isinstance(shown, str) and isinstance(real, str):
            yield from self._text(where, shown, real)
        elif json.dumps(shown, sort_keys=True) != json.dumps(real, sort_keys=True):
            yield f"{where or 'body'}: shown {json.dumps(shown)}, is {json.dumps(real)}"

    def _text(self, where: str, shown: str, real: str) -> Iterator[str]:
        if VARIABLE.sub(_kind, shown) != VARIABLE.sub(_kind, real):
            yield f"{where}: shown {shown!r}, is {real!r}"
            return
        for one, other in zip(VARIABLE.finditer(shown), VARIABLE.finditer(real), strict=True):
            if one.lastgroup in ANY:
                continue
            meant, meaning = self._real.get(one[0], other[0]), self._shown.get(other[0], one[0])
            if (meant, meaning) == (other[0], one[0]):
                self._real[one[0]], self._shown[other[0]] = other[0], one[0]
            else:
                yield f"{where}: {one[0]} is to be {meant}, and {other[0]} is to be shown as {meaning}"


def _kind(found: re.Match[str]) -> str:
    """What takes a variable's place where only the rest of a text counts; no text has such a character."""
    return f"\0{found.lastgroup}\0"


def parts(answer: str) -> tuple[str, dict[str, str], str]:
    """Status line, headers by their names in lower case, and body."""
    head, _, body = answer.replace("\r\n", "\n").partition("\n\n")
    status, *lines = head.strip().splitlines() or [""]
    headers = {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    return status, headers, body.strip()
