"""HTTP below the routes: what the parser refuses is answered as a problem too."""

import asyncio
from collections.abc import Callable
from typing import Final

from aiohttp import web

from service.api.front import Front

HEAD_LINE_MAX_BYTES: Final = 8 * 1024
"""Request line and each header line. The longest address in use is a list with three names in it, percent-encoded."""
HEADERS_MAX: Final = 64
LINGER_S: Final = 1.0
"""After an answer, what is left of a body is read and dropped for so long, so that the client gets to read the answer."""


class Protocol(web.RequestHandler):
    """One connection."""

    __slots__ = ("_front",)

    def __init__(self, server: web.Server, front: Front, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(
            server,
            loop=loop,
            access_log=None,  # type: ignore[arg-type]  # None turns it off; a proxy in front keeps one.
            max_line_size=HEAD_LINE_MAX_BYTES,
            max_field_size=HEAD_LINE_MAX_BYTES,
            max_headers=HEADERS_MAX,
            lingering_time=LINGER_S,
            auto_decompress=False,
        )
        self._front = front

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
        if status == web.HTTPBadRequest.status_code:
            return self._front.malformed((message or "").strip().partition("\n")[0].rstrip(":"))
        return self._front.failed(exc)


def connections(app: web.Application, server: web.Server) -> Callable[[], Protocol]:
    """Makes the protocol of each new connection of the running loop. `server`: the started application's."""
    loop = asyncio.get_running_loop()
    front = Front(app, server.request_handler)
    server.request_handler = front.handle  # type: ignore[assignment]  # The application makes Requests of them all.
    return lambda: Protocol(server, front, loop)
