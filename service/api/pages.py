"""Pages of lists: their query parameters, and tokens that say where the next page begins.

A token is base64url of a check and a position. The check covers the list's name and its filters, so a token opens no
other list and no random text passes for one. It is no secret: whoever forged one would get a page that they may read anyway.
"""

import binascii
import hashlib
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Mapping, Sequence
from typing import Any, Final
from urllib.parse import unquote_to_bytes

import orjson
from aiohttp import web

from service.api.problems import Code, Fault, Problem, invalid

PAGE_SIZE_DEFAULT: Final = 50
PAGE_SIZE_MAX: Final = 200
CHECK_BYTES: Final = 12
"""Enough that no accident produces a valid one."""
TOKEN_MAX_CHARS: Final = 200
"""The longest position is a coupon's code."""
VERSION_MAX_DIGITS: Final = 10
"""Of a coupon's version, which is below 2**32."""
PAGING: Final = frozenset({"page_size", "page_token"})


def query_of(request: web.Request, known: frozenset[str] = frozenset()) -> dict[str, str]:
    """The query's parameters by name; refuses unknown and repeated ones, and texts that no client means to send."""
    # Most requests have none, and building the mapping is not free.
    if "?" not in request.raw_path:
        return {}
    faults = []
    found: dict[str, str] = {}
    for name, value in request.query.items():
        if name not in known:
            faults.append(Fault(f"?{_printable(name)}", "unknown parameter"))
        elif name in found:
            faults.append(Fault(f"?{name}", "is given twice"))
        elif not _is_text(value) or ("\ufffd" in value and not _is_utf8(request.raw_path)):
            faults.append(Fault(f"?{name}", "is not UTF-8"))
        found[name] = value
    if faults:
        raise Problem(Code.INVALID_REQUEST, faults=faults)
    return found


def _is_text(value: str) -> bool:
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def _is_utf8(raw_path: str) -> bool:
    """Whether a path and query are UTF-8 once decoded: what is not looks in the values as if U+FFFD had been sent."""
    try:
        unquote_to_bytes(raw_path.encode("utf-8", "surrogateescape")).decode()
    except UnicodeDecodeError:
        return False
    return True


def _printable(name: str) -> str:
    return name.encode("utf-8", "replace").decode("utf-8")


def page_size(query: Mapping[str, str]) -> int:
    """`page_size`: 1 to 200, 50 unless given."""
    text = query.get("page_size")
    if text is None:
        return PAGE_SIZE_DEFAULT
    if not (text.isascii() and text.isdecimal() and len(text) <= len(str(PAGE_SIZE_MAX))):
        raise invalid("?page_size", f"must be an integer from 1 to {PAGE_SIZE_MAX}")
    size = int(text)
    if not 1 <= size <= PAGE_SIZE_MAX:
        raise invalid("?page_size", f"must be an integer from 1 to {PAGE_SIZE_MAX}")
    return size


class Tokens:
    """The page tokens of one list with the filters of one request."""

    def __init__(self, of: str, filters: Mapping[str, str | None]) -> None:
        self._scope = orjson.dumps([of, sorted((name, value) for name, value in filters.items() if value is not None)])

    def make(self, position: bytes) -> str:
        """A token for the page that begins after `position`."""
        return urlsafe_b64encode(self._check(position) + position).decode().rstrip("=")

    def read(self, query: Mapping[str, str]) -> bytes | None:
        """The position in `page_token`; None for the first page. Raises the Problem `invalid_request`."""
        text = query.get("page_token")
        if text is None:
            return None
        if len(text) > TOKEN_MAX_CHARS:
            raise _not_a_token()
        try:
            data = urlsafe_b64decode(text + "=" * (-len(text) % 4))
        except (ValueError, binascii.Error):
            raise _not_a_token() from None
        check, position = data[:CHECK_BYTES], data[CHECK_BYTES:]
        # Only the text that was handed out: base64 has several spellings of one value.
        if check != self._check(position) or self.make(position) != text:
            raise _not_a_token()
        return position

    def _check(self, position: bytes) -> bytes:
        return hashlib.sha256(self._scope + b"\0" + position).digest()[:CHECK_BYTES]


def history_tokens(code: str) -> Tokens:
    """The page tokens of a coupon's history."""
    return Tokens("history", {"code": code})


def history_position(tokens: Tokens, query: Mapping[str, str]) -> int | None:
    """The version below which the page begins; None for the first page. Raises the Problem `invalid_request`."""
    position = tokens.read(query)
    if position is None:
        return None
    if not position.isdigit() or len(position) > VERSION_MAX_DIGITS:
        raise _not_a_token()
    return int(position)


def _not_a_token() -> Problem:
    return invalid("?page_token", "is no token of this list with these filters")


def page(items: Sequence[dict[str, Any]], next_page_token: str | None) -> dict[str, Any]:
    """The body of a page."""
    return {"items": items, "next_page_token": next_page_token}
