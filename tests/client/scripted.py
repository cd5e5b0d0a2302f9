"""A server that answers as the test says, one step for each request, and keeps what it was asked."""

import asyncio
import contextlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from ssl import SSLContext
from types import TracebackType
from typing import Any, Self

Json = Any
"""Whatever a JSON document says."""

REDEMPTION: Mapping[str, Json] = {
    "id": "01a20424-76cc-7456-8403-746295d9f353",
    "code": "GOLD20",
    "customer_id": "ann",
    "order_id": "order-1",
    "status": "confirmed",
    "seat": 1,
    "expires_at": None,
    "created_at": "2026-11-22T16:43:48.300380Z",
    "confirmed_at": "2026-11-22T16:43:48.300380Z",
    "ended_at": None,
    "end_reason": None,
}
COUPON: Mapping[str, Json] = {
    "code": "GOLD20",
    "max_redemptions": 20,
    "max_per_customer": None,
    "starts_at": None,
    "ends_at": None,
    "status": "active",
    "metadata": {},
    "version": 1,
    "created_at": "2026-11-22T16:43:48.300380Z",
    "updated_at": "2026-11-22T16:43:48.300380Z",
}


@dataclass(frozen=True)
class Asked:
    """A request as it came. The names of headers are in lower case."""

    method: str
    target: str
    headers: Mapping[str, str]
    body: bytes


@dataclass(frozen=True)
class Step:
    """What the server does with a request: sends this, and breaks the connection if it is to."""

    text: bytes = b""
    breaks: bool = False


def says(body: Json, *, status: int = 200, headers: Mapping[str, str] | None = None) -> Step:
    """An answer; `body` as JSON, or as it is where it is bytes."""
    text = body if isinstance(body, bytes) else json.dumps(body).encode()
    lines = [f"HTTP/1.1 {status} Said", f"Content-Length: {len(text)}"]
    lines += [f"{name}: {value}" for name, value in (headers or {}).items()]
    return Step("\r\n".join([*lines, "", ""]).encode() + text)


def problem(status: int, code: str, **headers: str) -> Step:
    """A problem; `Retry_After="1"` becomes a header."""
    body = {"status": status, "code": code, "title": "Title", "detail": "Detail.", "request_id": "r-1"}
    return says(body, status=status, headers={name.replace("_", "-"): value for name, value in headers.items()})


LOST = Step(breaks=True)
"""The connection breaks before a word."""
HALF = Step(says(dict(REDEMPTION)).text[:-40], breaks=True)
"""The connection breaks in the middle of the answer."""
SILENT = Step()
"""No answer, for as long as the client waits."""


class Scripted:
    """Listens on 127.0.0.1, by TLS if there is a context for it.

    A request beyond the last step is a mistake of the client's, and answered 500 `too_many_tries`.

    Attributes:
        asked: all requests so far.
    """

    def __init__(self, tls: SSLContext | None = None) -> None:
        self._tls = tls
        self.asked: list[Asked] = []
        self._steps: list[Step] = []
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0, ssl=self._tls)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        assert self._server is not None
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        # Lets the transports that were closed say goodbye.
        await asyncio.sleep(0)

    @property
    def url(self) -> str:
        assert self._server is not None
        return f"{'https' if self._tls else 'http'}://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    def then(self, *steps: Step) -> None:
        """The next requests are answered so, in this order."""
        self._steps += steps

    def was_asked(self, times: int) -> bool:
        """Whether so many requests have come."""
        return len(self.asked) >= times

    def forget(self) -> None:
        """Nothing is said any more, and nothing was asked."""
        self._steps.clear()
        self.asked.clear()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
                while await self._answer(reader, writer):
                    pass
        except asyncio.CancelledError:
            pass  # The server closes; a task of `start_server` that ends as cancelled would be reported.
        finally:
            self._tasks.discard(task)
            writer.transport.abort()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """One request and its step; false when the connection is to break."""
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        method, target, _ = head[0].split(" ")
        headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in head[1:] if line)}
        body = await reader.readexactly(int(headers.get("content-length", "0")))
        self.asked.append(Asked(method, target, headers, body))
        step = self._steps.pop(0) if self._steps else problem(500, "too_many_tries")
        writer.write(step.text)
        await writer.drain()
        return not step.breaks
