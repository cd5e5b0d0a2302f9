"""Reading requests: ids in paths, bodies, and how long the ledger may take."""

import asyncio
import re
from typing import Any, Final

from aiohttp import StreamReader, hdrs, web

from service.api.decoding import loads_object
from service.api.problems import Code, Problem, invalid
from service.flights import ANSWER_SHARE

BODY_MAX_BYTES: Final = 16 * 1024
BODY_TIMEOUT_S: Final = 2.0
"""For the rest of a body of 16 KiB, within the time in which every POST is answered. The parser does not tell a body that
breaks off in the middle of a chunk from one that is still to come."""
BODY_DEADLINE_SHARE: Final = 0.4
"""Of the request's deadline, if that is less."""
ID: Final = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}", re.IGNORECASE | re.ASCII)
DEADLINE_S: Final = web.RequestKey("deadline_s", float)
"""How long the request may take. Not the application's, since a redemption does not go through the router that knows it."""


class SlowBody(Problem):
    """The body did not arrive in time; ends the connection."""

    def __init__(self) -> None:
        super().__init__(Code.INVALID_REQUEST, "The body did not arrive in time.", close=True)


async def read_object(request: web.Request) -> dict[str, Any]:
    """The JSON object in the body; raises the Problems `unsupported_media_type`, `too_large` and `invalid_request`."""
    return object_in(await read_json(request))


def object_in(body: bytes) -> dict[str, Any]:
    """The JSON object that a body is; raises the Problem `invalid_request`."""
    if not body:
        raise invalid("", "is empty: a JSON object is needed")
    return loads_object(body)


async def read_optional_object(request: web.Request) -> dict[str, Any]:
    """As `read_object`; no body, or one of no bytes, is an empty object."""
    body = await read_json(request)
    return loads_object(body) if body else {}


async def read_json(request: web.Request) -> bytes:
    """The body, which is JSON by its headers if it is there; raises the Problems `unsupported_media_type` and `too_large`.

    Clients name a type, or none, for what they do not send. A body whose length says that it is there is not waited for when it
    is of a wrong type. Chunks are: there may be none.
    """
    announced = bool(request.content_length)
    if announced:
        _check_headers(request)
    body = await _read_bounded(request)
    if body and not announced:
        _check_headers(request)
    return body


def _check_headers(request: web.Request) -> None:
    if request.headers.get(hdrs.CONTENT_TYPE) != "application/json":
        _check_media_type(request)
    if hdrs.CONTENT_ENCODING in request.headers:
        raise Problem(Code.UNSUPPORTED_MEDIA_TYPE, "Content-Encoding is not supported.")


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


def id_in_path(request: web.Request, unknown: Code) -> bytes:
    """The id in the path; what is no id at all is the id of nothing, the Problem `unknown`."""
    text = request.match_info["id"]
    if not ID.fullmatch(text):
        raise Problem(unknown)
    return bytes.fromhex(text.replace("-", ""))


def answer_until(request: web.Request) -> float:
    """When a request that comes now has its answer, whatever is known by then, in seconds of the loop's clock.

    To be asked for before anything is waited for: the key's look-up and the body are within this time.
    """
    return asyncio.get_running_loop().time() + request[DEADLINE_S] * ANSWER_SHARE
