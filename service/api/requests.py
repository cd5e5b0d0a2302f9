"""Reading requests: bodies, and how long the ledger may take."""

import asyncio
from typing import Any, Final

from aiohttp import StreamReader, hdrs, web

from service.api.decoding import loads_object
from service.api.problems import Code, Problem

BODY_MAX_BYTES: Final = 16 * 1024
BODY_TIMEOUT_S: Final = 2.0
"""For the rest of a body of 16 KiB, within the time in which every POST is answered. The parser does not tell a body that
breaks off in the middle of a chunk from one that is still to come."""
BODY_DEADLINE_SHARE: Final = 0.4
"""Of the request's deadline, if that is less."""
DEADLINE_S: Final = web.RequestKey("deadline_s", float)
"""How long the request may take. Not the application's, since a redemption does not go through the router that knows it."""


class SlowBody(Problem):
    """The body did not arrive in time; ends the connection."""

    def __init__(self) -> None:
        super().__init__(Code.INVALID_REQUEST, "The body did not arrive in time.", close=True)


async def read_object(request: web.Request) -> dict[str, Any]:
    """The JSON object in the body; raises the Problems `unsupported_media_type`, `too_large` and `invalid_request`."""
    if request.headers.get(hdrs.CONTENT_TYPE) != "application/json":
        _check_media_type(request)
    if hdrs.CONTENT_ENCODING in request.headers:
        raise Problem(Code.UNSUPPORTED_MEDIA_TYPE, "Content-Encoding is not supported.")
    return loads_object(await _read_bounded(request))


async def _read_bounded(request: web.Request) -> bytes:
    """The body, at most BODY_MAX_BYTES; what is beyond is not read."""
    content = request.content
    # With a small body all of it is there already.
    if content.is_eof():
        body = content.read_nowait()
    else:
        if (request.content_length or 0) > BODY_MAX_BYTES:
            raise Problem(Code.TOO_LARGE, close=True)
        body = await _read_rest(content, min(BODY_TIMEOUT_S, BODY_DEADLINE_SHARE * request[DEADLINE_S]))
    if len(body) > BODY_MAX_BYTES:
        raise Problem(Code.TOO_LARGE, close=True)
    return body


async def _read_rest(content: StreamReader, timeout_s: float) -> bytes:
    """What comes in time, at most a little more than BODY_MAX_BYTES."""
    body = b""
    try:
        async with asyncio.timeout(timeout_s):
            while len(body) <= BODY_MAX_BYTES and (chunk := await content.readany()):
                body += chunk
    except TimeoutError:
        raise SlowBody from None
    return body


def _check_media_type(request: web.Request) -> None:
    """`application/json` with any parameters, a charset being UTF-8."""
    if request.content_type != "application/json":
        raise Problem(Code.UNSUPPORTED_MEDIA_TYPE)
    if (request.charset or "utf-8").lower() not in {"utf-8", "utf8"}:
        raise Problem(Code.UNSUPPORTED_MEDIA_TYPE)


def deadline_of(request: web.Request) -> float:
    """Until when the ledger may take for a request that begins now, in seconds of the loop's clock."""
    return asyncio.get_running_loop().time() + request[DEADLINE_S]
