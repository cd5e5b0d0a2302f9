"""A client's end of one connection: the next request when the answer is there, and as little work as that can be."""

import asyncio
import re
from collections import Counter
from collections.abc import Callable
from typing import cast

LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)\r\n", re.IGNORECASE)
CODE = re.compile(rb'"code": ?"([a-z_]+)"')
HEAD_END = b"\r\n\r\n"
GOOD_BELOW = 400
BROKEN = "broken"

Answered = Callable[["Wire", str], None]


class Wire(asyncio.Protocol):
    """One kept-alive connection, for one request after the other.

    Args:
        answered: told of each answer, as "503 deadlock", and of `BROKEN` when the connection is lost with a request on it.
    """

    def __init__(self, answered: Answered) -> None:
        self.sent_for_s = 0.0
        self.is_open = False
        self._answered = answered
        self._transport: asyncio.Transport | None = None
        self._buffer = b""
        self._busy = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The socket is open."""
        self._transport = cast("asyncio.Transport", transport)
        self.is_open = True

    def send(self, request: bytes, at_s: float) -> None:
        """Sends a request that was to be sent at this time, which is kept in `sent_for_s`."""
        assert self._transport is not None
        self.sent_for_s = at_s
        self._busy = True
        self._transport.write(request)

    def close(self) -> None:
        """Closes it at once."""
        self._busy = False
        if self._transport is not None:
            self._transport.abort()

    def data_received(self, data: bytes) -> None:
        """Some of the answer."""
        buffer = self._buffer + data if self._buffer else data
        what = answer_in(buffer)
        if what is None:
            self._buffer = buffer
            return
        self._buffer = b""
        self._busy = False
        self._answered(self, what)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - the protocol's
        """Nothing more comes."""
        self.is_open = False
        if self._busy:
            self._busy = False
            self._answered(self, BROKEN)


def answer_in(buffer: bytes) -> str | None:
    """Status and problem's code of an answer that is complete, else None. Answers come one at a time and say their length."""
    end = buffer.find(HEAD_END)
    if end < 0:
        return None
    length = LENGTH.search(buffer, 0, end + 2)
    body = end + len(HEAD_END)
    if len(buffer) - body < (int(length[1]) if length else 0):
        return None
    status = buffer[9:12].decode()
    found = CODE.search(buffer, body) if int(status) >= GOOD_BELOW else None
    return f"{status} {found[1].decode() if found else ''}"


def redemption(key: str, code: str, name: str) -> bytes:
    """The request of a customer and an order of this name."""
    body = f'{{"code":"{code}","customer_id":"c-{name}","order_id":"o-{name}"}}'
    return (
        "POST /v1/redemptions HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
        f"Authorization: Bearer {key}\r\nContent-Length: {len(body)}\r\n\r\n{body}"
    ).encode()


async def connect(port: int, count: int, answered: Answered) -> list[Wire]:
    """So many connections."""
    loop = asyncio.get_running_loop()
    made = [await loop.create_connection(lambda: Wire(answered), "127.0.0.1", port) for _ in range(count)]
    return [wire for _, wire in made]


def split(counts: Counter[str]) -> tuple[dict[str, int], int]:
    """Answers by status and code, and how many connections were lost with a request on them."""
    return {what: times for what, times in counts.items() if what != BROKEN}, counts[BROKEN]
