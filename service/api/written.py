"""Answers as they go over the wire, for requests that are served past the library's requests and responses."""

import time
from collections.abc import Mapping
from email.utils import formatdate
from http import HTTPStatus
from typing import Final, NamedTuple

from aiohttp import web

JSON: Final = "application/json"
SERVER: Final = "usher"
"""Instead of the libraries' names and versions."""
NO_HEADERS: Final[Mapping[str, str]] = {}
STATUS_LINES: Final = {int(status): f"HTTP/1.1 {int(status)} {status.phrase}\r\nServer: {SERVER}\r\n" for status in HTTPStatus}


class Answered(NamedTuple):
    """What is answered. `headers`: without those that every answer has; there are no line breaks in them."""

    status: int
    body: bytes
    headers: Mapping[str, str] = NO_HEADERS
    content_type: str = JSON
    close: bool = False


class Dates:
    """The `Date` header's value, made once a second."""

    def __init__(self) -> None:
        self._second = 0
        self._text = ""

    def now(self) -> str:
        """As RFC 9110 5.6.7 wants it."""
        second = int(time.time())
        if second != self._second:
            self._second, self._text = second, formatdate(second, usegmt=True)
        return self._text


def written(answered: Answered, request_id: str, date: str, *, close: bool = False) -> bytes:
    """The whole answer. `close`: it says that the connection ends; without, the connection is kept."""
    status, body, headers, content_type, _ = answered
    head = (
        f"{STATUS_LINES[status]}Content-Type: {content_type}\r\nContent-Length: {len(body)}\r\nDate: {date}\r\n"
        f"X-Request-Id: {request_id}\r\n"
    )
    for name, value in headers.items():
        head += f"{name}: {value}\r\n"
    return (head + ("Connection: close\r\n\r\n" if close else "\r\n")).encode() + body


def response(answered: Answered) -> web.Response:
    """The same as the library's response."""
    made = web.Response(
        body=answered.body, status=answered.status, headers=answered.headers, content_type=answered.content_type
    )
    if answered.close:
        made.force_close()
    return made
