"""Where one request ends and the next begins, however the bytes are cut: nobody is told what he has not asked."""

import asyncio
import re
from collections import deque
from collections.abc import AsyncIterator
from typing import Any
from unittest.mock import Mock

import pytest
from aiohttp.http_exceptions import BadHttpMessage
from aiohttp.http_parser import HttpRequestParser, HttpRequestParserPy
from aiohttp.web_protocol import MAX_MSG_QUEUE_SIZE

from service.api.framing import Framing
from service.config import Settings
from tests.api.fakes import KEY, Served, serving

HASTE = 500
"""Milliseconds for a head."""
PAUSE_S = 0.03
"""Between two segments."""
GET = b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n"
PART = b"GET /livez HT"
SIX = b"\r\n\r\n{}"
TE = b"Transfer-Encoding: chunked\r\n\r\n"
START = b"POST /v1/redemptions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
BODY = b'{"code":"A",\r\n\r\n"customer_id":"a","order_id":"o"}'
HEAD = START + f"Authorization: Bearer {KEY}\r\nContent-Length: {len(BODY)}\r\n\r\n".encode()


def get(headers: bytes) -> bytes:
    return GET[:-2] + headers


@pytest.fixture(params=[HttpRequestParser, HttpRequestParserPy], ids=["c", "python"])
async def framing(request: pytest.FixtureRequest) -> Framing:
    """A connection's, around either parser; its requests are taken up at once."""
    parser = request.param(Mock(), asyncio.get_running_loop(), 2**16, max_msg_queue_size=MAX_MSG_QUEUE_SIZE)
    return Framing(parser, deque(), lambda *_: False)


@pytest.fixture
async def served() -> AsyncIterator[Served]:
    async with serving(Settings(head_deadline_ms=HASTE)) as one:
        yield one


def feed(framing: Framing, *segments: bytes) -> int:
    """How many requests they were."""
    taken = 0
    for segment in segments:
        for _ in framing.feed_data(segment)[0]:
            framing.message_consumed()
            taken += 1
    return taken


ENDS = {
    "a head": (GET,),
    "a blank line in two pieces": (GET[:-1], GET[-1:]),
    "a body": (get(b"Content-Length: 6\r\n\r\n") + SIX,),
    "a body of its own": (get(b"Content-Length: 6\r\n\r\n"), SIX),
    "a body in two pieces": (get(b"Content-Length: 6\r\n\r\n") + SIX[:3], SIX[3:]),
    "the end of a head, and a body": (get(b"Content-Length: 6\r\n"), b"\r\n" + SIX),
    "half of a blank line, and a body": (get(b"Content-Length: 6\r\n\r"), b"\n" + SIX),
    "empty lines, and a body": (b"\r\n\r\n" + get(b"Content-Length: 6\r\n\r\n") + SIX,),
    "two bodies": ((get(b"Content-Length: 6\r\n\r\n") + SIX) * 2,),
    "the rest of a body, and another": (
        get(b"Content-Length: 6\r\n\r\n") + SIX[:3],
        SIX[3:] + get(b"Content-Length: 6\r\n\r\n") + SIX,
    ),
    "chunks": (get(TE) + b"6\r\n" + SIX + b"\r\n0\r\n\r\n",),
    "chunks in two pieces": (get(TE) + b"6\r\n" + SIX, b"\r\n0\r\n\r\n"),
    "a trailer": (get(TE) + b"6\r\n" + SIX + b"\r\n0\r\nA: b\r\n\r\n",),
}
"""Segments that end with a request."""


@pytest.mark.parametrize("name", ENDS)
def test_between_requests_no_head_has_begun(framing: Framing, name: str) -> None:
    taken = feed(framing, *ENDS[name])
    assert (taken, 0) == (taken, framing.head_bytes)
    feed(framing, b"\r\n")
    assert 0 == framing.head_bytes
    assert 1 == feed(framing, GET)


@pytest.mark.parametrize("name", ENDS)
@pytest.mark.parametrize("empty", [b"", b"\r\n", b"\r\n\r\n"])
def test_a_head_that_begins_behind_a_request_is_seen(framing: Framing, name: str, empty: bytes) -> None:
    """In the same segment."""
    *before, last = ENDS[name]
    feed(framing, *before, last + empty + PART)
    assert len(empty + PART) >= framing.head_bytes >= len(PART)
    assert 1 == feed(framing, GET[len(PART) :])
    assert 0 == framing.head_bytes


@pytest.mark.parametrize("name", ENDS)
@pytest.mark.parametrize("together", [False, True])
def test_the_next_request_line_is_looked_at(framing: Framing, name: str, together: bool) -> None:
    """Also when it begins in the segment in which the request before it ends."""
    *before, last = ENDS[name]
    feed(framing, *before, *([last + b"GET  /li"] if together else [last, b"GET  /li"]))
    with pytest.raises(BadHttpMessage, match="Bad request line"):
        feed(framing, b"vez HTTP/1.1\r\n")


def test_empty_lines_are_taken_however_they_are_cut(framing: Framing) -> None:
    """And though they are more than a line may have."""
    assert 2 == feed(framing, GET, *[b"\r\n\r", b"\n\r\n"] * 2_000, b"\r", b"\n", GET)


def test_line_ends_alone_are_not_refused_before_a_request_comes(framing: Framing) -> None:
    """And then they are, if they are no empty lines."""
    assert 1 == feed(framing, GET, b"\n")
    with pytest.raises(BadHttpMessage, match="Bad request line"):
        feed(framing, GET)


# --- With a server ---------------------------------------------------------------------------------------------------


async def exchange(served: Served, *segments: bytes, answers: int, rest_s: float = 0.0) -> tuple[list[int], bytes]:
    """The statuses of so many answers, and what comes within `rest_s` after them."""
    reader, writer = await asyncio.open_connection("127.0.0.1", served.port)
    try:
        for segment in segments:
            writer.write(segment)
            await asyncio.sleep(PAUSE_S)
        statuses = []
        async with asyncio.timeout(10):
            for _ in range(answers):
                head = await reader.readuntil(b"\r\n\r\n")
                statuses.append(int(head.split()[1]))
                length: Any = re.search(rb"Content-Length: (\d+)", head)
                await reader.readexactly(int(length[1]))
        await asyncio.sleep(rest_s)
        writer.write(GET)
        async with asyncio.timeout(10):
            return statuses, (await reader.readline()).rstrip()
    finally:
        writer.transport.abort()


@pytest.mark.parametrize(
    "segments",
    [
        (HEAD + BODY,),
        (HEAD, BODY),
        (HEAD + BODY + b"\r\n",),
        (HEAD + BODY, b"\r\n"),
        (HEAD + BODY, b"\r\n\r"),
        (HEAD + BODY + b"\n",),
    ],
)
async def test_an_idle_connection_is_told_nothing(served: Served, segments: tuple[bytes, ...]) -> None:
    """For longer than a head may take: what comes next is the answer to the next request."""
    statuses, following = await exchange(served, *segments, answers=1, rest_s=2.2 * HASTE / 1000)
    odd = segments[-1][-1:] == b"\r" or segments[-1][-2:] == b"}\n"
    # A client that sends half of a line end is told so with the next request.
    assert ([201], b"HTTP/1.1 400 Bad Request" if odd else b"HTTP/1.1 200 OK") == (statuses, following)


@pytest.mark.parametrize("number", [MAX_MSG_QUEUE_SIZE - 1, MAX_MSG_QUEUE_SIZE, MAX_MSG_QUEUE_SIZE + 1, 100])
@pytest.mark.parametrize("body", [BODY, BODY.replace(b"\r\n\r\n", b"    "), BODY.replace(b"\r\n\r\n", b"\r\n  ")])
async def test_what_the_parser_keeps_back_is_taken_for_no_beginning(served: Served, number: int, body: bytes) -> None:
    """Many requests at once, a head at the end of the segment, then its body, then another request."""
    statuses, following = await exchange(served, GET * number + HEAD, body, answers=number + 1)
    assert ([*[200] * number, 201], b"HTTP/1.1 200 OK") == (statuses, following)
