"""HTTP below the routes: what the parser refuses is answered as a problem too, and slow or too many clients are not kept."""

import asyncio
from collections.abc import Callable
from typing import Final, cast

from aiohttp import HttpVersion11, StreamReader, hdrs, web
from aiohttp.http_parser import RawRequestMessage
from multidict import CIMultiDictProxy

from service.api.clients import Clients, Stage
from service.api.framing import HEAD_LINE_MAX_BYTES, HEADERS_MAX, Framing
from service.api.front import Front
from service.api.redemptions import PATH
from service.api.requests import BODY_MAX_BYTES

LINGER_S: Final = 1.0
"""After an answer, what is left of a body is read and dropped for so long, so that the client gets to read the answer."""
BEGIN: Final = Stage.HEAD, 0
PLAIN_TYPES: Final = frozenset({"application/json", "application/json; charset=utf-8", "application/json;charset=utf-8"})
"""What nearly all clients say; other ways to say it are the library's to read."""


class Protocol(web.RequestHandler):
    """One connection."""

    __slots__ = ("_answering", "_clients", "_ends", "_framing", "_front", "_kept", "_wire", "seen", "since")

    def __init__(self, server: web.Server, front: Front, clients: Clients) -> None:
        super().__init__(
            server,
            loop=asyncio.get_running_loop(),
            keepalive_timeout=0,  # See `_process_keepalive`.
            access_log=None,  # type: ignore[arg-type]  # None turns it off; a proxy in front keeps one.
            max_line_size=HEAD_LINE_MAX_BYTES,
            max_field_size=HEAD_LINE_MAX_BYTES,
            max_headers=HEADERS_MAX,
            lingering_time=LINGER_S,
            auto_decompress=False,
        )
        self._front = front
        self._clients = clients
        self._framing = Framing(self._parser, self._messages, self._take)
        self._parser = self._framing  # type: ignore[assignment]  # All that is used of a parser.
        # The library forgets a transport that it has closed, though it may never be rid of what it has to send.
        self._wire: asyncio.Transport | None = None
        # The redemption that is answered past the library, and what has come behind it.
        self._answering: asyncio.Task[None] | None = None
        self._kept = b""
        self._ends = False
        self.seen = BEGIN
        self.since = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """As the library's."""
        super().connection_made(transport)
        self._wire = self.transport

    def connection_lost(self, exc: BaseException | None) -> None:
        """As the library's."""
        self._clients.discard(self)
        self._wire = None
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """As the library's. What comes while a redemption is answered past it waits, and the client with it."""
        if self._answering is None:
            super().data_received(data)
        elif self._wire is not None:
            self._kept += data
            self._wire.pause_reading()

    def _take(self, message: RawRequestMessage, payload: StreamReader) -> bool:
        """Whether the request is a plain redemption on a connection that waits for one: it is answered past the library.

        The library makes a request, a writer, a task and a response for each, which is a quarter of what a redemption costs.
        """
        waiter = self._waiter
        idle = waiter is not None and not waiter.done() and not self._messages
        if not idle or self._paused or not is_plain_redemption(message, payload) or not self._front.begins():
            return False
        self._framing.message_consumed()
        self._request_count += 1
        self._answering = self._loop.create_task(self._answer(message.headers, payload.read_nowait()))
        return True

    async def _answer(self, headers: CIMultiDictProxy[str], body: bytes) -> None:
        """Answers, and goes on with what came meanwhile. Whoever has hung up has redeemed all the same."""
        try:
            answer, close = await self._front.redeem(headers, body)
        except BaseException:  # A defect of the front itself, or a hard stop: nobody waits here for ever.
            self.abort()
            raise
        finally:
            self._answering = None
        wire = self._wire
        if wire is None or wire.is_closing():
            return
        wire.write(answer)
        if close or self._ends:
            self.force_close()
        elif self._kept:
            kept, self._kept = self._kept, b""
            wire.resume_reading()
            self.data_received(kept)

    async def shutdown(self, timeout: float | None = 15.0) -> None:  # noqa: ASYNC109 - as the library's
        """As the library's. The redemption that is answered past it is waited for first, as it does with its own."""
        if self._answering is not None:
            self._ends = True
            await asyncio.wait((self._answering,), timeout=timeout)
        await super().shutdown(timeout)

    def _process_keepalive(self) -> None:
        """Not the library's: it does not know of requests that are answered past it. `Clients` ends idle connections."""

    def eof_received(self) -> bool:  # type: ignore[override]  # The library's says nothing, which is False.
        """The client says no more. True keeps the connection: what it has asked is answered, and then it ends."""
        if not self._is_busy() or (self._framing.in_body and not self._messages):
            # Nothing is asked, or the body that is being read will never be whole.
            return False
        if self._answering is not None:
            self._ends = True
        elif self._messages:
            last, body = self._messages[-1]
            if isinstance(last, RawRequestMessage):
                self._messages[-1] = last._replace(should_close=True), body
        else:
            # The library's way to end it after the answer that is under way.
            self.close()
        return True

    def _is_busy(self) -> bool:
        """Whether a request has been read and not been answered; one may not have been taken up yet."""
        return self._answering is not None or bool(self._messages) or (self._waiter is None and self._request_count > 0)

    def stage(self) -> tuple[Stage, int]:
        """What it is doing, and how many of its requests have been taken up."""
        taken_up = self._request_count - len(self._messages)
        if self._wire is not None and self._wire.get_write_buffer_size():
            return Stage.SENDING, taken_up
        if self._is_busy():
            return Stage.BUSY, taken_up
        if not self._request_count or self._framing.head_bytes:
            return Stage.HEAD, taken_up
        return Stage.IDLE, taken_up

    def cut(self, *, silently: bool) -> None:
        """Ends it. A head that has begun is answered, so that whoever sends it learns why."""
        if self._wire is None:
            # It never came to be a connection.
            self._clients.discard(self)
            return
        if not silently and self._framing.head_bytes and not self._wire.is_closing():
            self._wire.write(self._front.late_head())
        self.force_close()

    def abort(self) -> None:
        """Ends it at once, whatever has not been sent."""
        if self._wire is not None:
            self._wire.abort()

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """The answer to what never reached a handler; ends the connection."""
        if request.writer.output_size > 0:
            raise ConnectionError("an answer has been begun already")
        # The library takes what it cannot read for 1.0, whose answers do not say that the connection ends.
        request._version = HttpVersion11  # noqa: SLF001
        if status == web.HTTPBadRequest.status_code:
            return self._front.malformed((message or "").strip().partition("\n")[0].rstrip(":"))
        return self._front.failed(exc)


def is_plain_redemption(message: RawRequestMessage, payload: StreamReader) -> bool:
    """Whether it is `POST /v1/redemptions` as asynchronous clients and proxies send it: whole, with nothing special to it."""
    headers = message.headers
    return (
        message.path == PATH
        and message.method == hdrs.METH_POST
        and message.version is HttpVersion11
        and payload.is_eof()
        and not message.should_close
        and not message.upgrade
        and not message.chunked
        and headers.get(hdrs.CONTENT_TYPE) in PLAIN_TYPES
        and hdrs.CONTENT_ENCODING not in headers
        and hdrs.EXPECT not in headers
        and payload.total_bytes <= BODY_MAX_BYTES
    )


class Refused(asyncio.Protocol):
    """A connection too many: told so before it asks, since reading its request would be keeping it."""

    def __init__(self, answer: bytes) -> None:
        self._answer = answer

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Answers and closes."""
        # uvloop's transports are like asyncio's, and not of their kind.
        wire = cast("asyncio.Transport", transport)
        wire.write(self._answer)
        wire.close()


def connections(app: web.Application, server: web.Server, clients: Clients) -> Callable[[], asyncio.Protocol]:
    """Makes the protocol of each new connection of the running loop. `server`: the started application's."""
    front = Front(app, server.request_handler, clients)
    server.request_handler = front.handle  # type: ignore[assignment]  # The application makes Requests of them all.

    def connection() -> asyncio.Protocol:
        if not clients.has_room():
            return Refused(front.refused())
        made = Protocol(server, front, clients)
        clients.add(made)
        return made

    return connection
