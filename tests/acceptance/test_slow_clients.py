"""Slow and idle clients are cut or kept as they should be, and the others do not notice them."""

import asyncio
import contextlib
import itertools
import os
import re
import resource
import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from tests.acceptance.conftest import MakeCoupon, StartUsher
from tests.driver import Client, allow_many_connections
from tests.usher_process import Usher
from tests.waiting import stalls

CUT_WITHIN_S = 10.0
PACE_S = 0.25
"""Between two bytes of a slow client."""
IDLE = 1_000
SLOW = 200
LIVEZ = b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n"
REDEEM = b"POST /v1/redemptions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nAuthorization: Bearer KEY\r\n"
CHUNKED = REDEEM + b"Transfer-Encoding: chunked\r\n\r\n"
LENGTH = b"Content-Length: 999\r\n\r\n"

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


@pytest.fixture(scope="module")
def usher(start_usher: StartUsher) -> Usher:
    return start_usher()


@asynccontextmanager
async def connected(usher: Usher) -> AsyncIterator[Streams]:
    reader, writer = await asyncio.open_connection("127.0.0.1", usher.port)
    try:
        yield reader, writer
    finally:
        writer.transport.abort()


SLOW_CLIENTS = {
    # At once, then byte by byte until the connection ends; and the status of the answer, None for no answer at all.
    "nothing": (b"", b"", None),
    "a head": (b"", b"GET /livez HTTP/1.1\r\nHost: x\r\n" + b"A: b\r\n" * 99, 400),
    "empty lines": (b"", b"\r\n" * 99, None),
    "headers": (b"GET /livez HTTP/1.1\r\nHost: x\r\n", b"A: b\r\n" * 99, 400),
    "half a head": (b"GET /livez HTTP/1.1\r\nHost:", b"", 400),
    "a later head": (LIVEZ, b"GET /livez HTTP/1.1\r\n" + b"A: b\r\n" * 99, 400),
    "half a later head": (LIVEZ + b"GET /livez HTTP/1.1\r\nHost:", b"", 400),
    "half a head behind a body": (LIVEZ[:-2] + b"Content-Length: 6\r\n\r\n\r\n\r\n{}GET /livez HTTP", b"", 400),
    "half a head behind chunks": (LIVEZ[:-2] + b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET /livez HTTP", b"", 400),
    "a body": (REDEEM + LENGTH, b" " * 999, 400),
    "no body": (REDEEM + LENGTH, b"", 400),
    "small chunks": (CHUNKED, b"1\r\n{\r\n" * 99, 400),
    "an extension": (CHUNKED + b"1;", b"a" * 999, 400),
    "a chunk": (CHUNKED + b"1000\r\n", b" " * 999, 400),
    "trailers": (CHUNKED + b"2\r\n{}\r\n0\r\n", b"A: b\r\n" * 99, 400),
    "what is expected": (REDEEM + b"Expect: 100-continue\r\n" + LENGTH, b"", 400),
    "a body without a key": (REDEEM.replace(b"KEY", b"no") + LENGTH, b" " * 999, 401),
    "a body for nobody": (b"POST /none HTTP/1.1\r\nHost: x\r\n" + LENGTH, b" " * 999, 404),
    "a body that is expected by nobody": (b"POST /none HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\n" + LENGTH, b"", 404),
    "a body of a GET": (LIVEZ[:-2] + LENGTH, b" " * 999, 200),
    "a body of a wrong type": (REDEEM.replace(b"json", b"text") + LENGTH, b" " * 999, 415),
    "a large body": (REDEEM + b"Content-Length: 16385\r\n\r\n", b" " * 999, 413),
    "chunks of a large body": (CHUNKED + b"8000\r\n" + b" " * 16_385, b" " * 999, 413),
}


async def read_to_the_end(reader: asyncio.StreamReader) -> bytes:
    """All that comes. A byte that is sent while the server closes ends the connection with a reset."""
    received = b""
    with contextlib.suppress(ConnectionResetError):
        while some := await reader.read(65_536):
            received += some
    return received


async def suffer(usher: Usher, api_key: str, name: str) -> tuple[float, list[int]]:
    """After how many seconds the server has ended the connection, and the statuses of its answers."""
    at_once, slowly, _ = SLOW_CLIENTS[name]
    loop = asyncio.get_running_loop()
    async with connected(usher) as (reader, writer):
        began_at = loop.time()
        writer.write(at_once.replace(b"KEY", api_key.encode()))
        reading = asyncio.create_task(read_to_the_end(reader))
        for byte in slowly:
            done, _ = await asyncio.wait([reading], timeout=PACE_S)
            if done:
                break
            writer.write(bytes([byte]))
        async with asyncio.timeout(2 * CUT_WITHIN_S):
            answer = await reading
    statuses = [int(status) for status in re.findall(rb"HTTP/1\.1 (\d+) ", answer)]
    return loop.time() - began_at, [status for status in statuses if status != 100]


async def is_kept(streams: Streams) -> bool:
    """Whether the connection still answers."""
    reader, writer = streams
    writer.write(LIVEZ)
    return b" 200 " in await reader.readuntil(b"\r\n")


async def test_all_slow_ones_are_cut(usher: Usher, api_key: str) -> None:
    """Within 10 s of the connection, whatever they are slow with, and each is told why; an idle connection is kept."""
    async with connected(usher) as kept:
        assert await is_kept(kept)
        await kept[0].readuntil(b"}")
        async with stalls() as stood_still:
            ends = await asyncio.gather(*(suffer(usher, api_key, name) for name in SLOW_CLIENTS))
        assert await is_kept(kept)
    statuses = {name: found[-1] if found else None for name, (_, found) in zip(SLOW_CLIENTS, ends, strict=True)}
    assert {name: status for name, (_, _, status) in SLOW_CLIENTS.items()} == statuses
    within_s = CUT_WITHIN_S + stood_still.total_s
    late = {name: took_s for name, (took_s, _) in zip(SLOW_CLIENTS, ends, strict=True) if took_s > within_s}
    assert {} == late
    # In two events at most: one within the first ten seconds, and one for those after it.
    assert 1 <= usher.output.count('"event":"slow clients cut"') <= 2


async def test_a_thousand_idle_and_200_slow_ones_are_not_in_the_way(usher: Usher, coupon: MakeCoupon, client: Client) -> None:
    """Everybody else is served, and the idle ones stay. What it costs: `bench.slow_clients`."""
    allow_many_connections()
    code = await coupon(max_redemptions=None)
    idle: list[Streams] = []
    for _ in range(IDLE):
        idle.append(await asyncio.open_connection("127.0.0.1", usher.port))
        assert await is_kept(idle[-1])
    slow = [await asyncio.open_connection("127.0.0.1", usher.port) for _ in range(SLOW)]
    try:
        for (_, writer), start in zip(slow, itertools.cycle([LIVEZ[:9], b"POST /none HTTP/1.1\r\nHost: x\r\n" + LENGTH])):
            writer.write(start)
        answers = await asyncio.gather(*(client.redeem(code, f"customer-{n}", f"order-{n}") for n in range(300)))
        assert {201} == {answer.status for answer in answers}
        kept = [await is_kept(streams) for streams in idle[::100] if await streams[0].readuntil(b"}")]
        assert [True] * len(idle[::100]) == kept
    finally:
        for _, writer in (*idle, *slow):
            writer.transport.abort()


async def test_large_bodies_are_refused_in_a_way_that_can_be_read(usher: Usher, api_key: str) -> None:
    """413, by the length or by what has come; 16 KiB are not too large."""
    fits = b'{"code":"NONE","customer_id":"ann","order_id":"o"}'.ljust(16 * 1024)
    bodies: dict[bytes, int] = {
        b"Content-Length: 16384\r\n\r\n" + fits: 404,
        b"Transfer-Encoding: chunked\r\n\r\n4000\r\n" + fits + b"\r\n0\r\n\r\n": 404,
        b"Content-Length: 16385\r\n\r\n" + fits + b" ": 413,
        b"Content-Length: 2000000\r\n\r\n" + b" " * 2_000_000: 413,
        b"Transfer-Encoding: chunked\r\n\r\n4001\r\n" + fits + b" \r\n0\r\n\r\n": 413,
        b"Transfer-Encoding: chunked\r\n\r\n" + b"1000\r\n%s\r\n" % (b" " * 4096) * 500: 413,
    }
    for body, expected in bodies.items():
        async with connected(usher) as (reader, writer):
            writer.write(REDEEM.replace(b"KEY", api_key.encode()) + body)
            head = await reader.readuntil(b"\r\n\r\n")
            assert expected == int(head.split()[1])
            assert (expected == 413) == (b"Connection: close" in head)
            if expected == 413:
                async with asyncio.timeout(CUT_WITHIN_S):
                    assert b'"code":"too_large"' in await reader.read()


@pytest.fixture
def few_files() -> Iterator[int]:
    """This process, and those that it starts, may open no more than so many files unless they ask for more."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (1_024, hard))
    yield 1_024
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_a_server_asks_for_the_open_files_that_it_needs(few_files: int, start_usher: StartUsher) -> None:
    """For all connections that its settings allow, and its own."""
    started = start_usher(settings={"USHER_CLIENTS_MAX_CONNECTIONS": "2000"})
    limits = Path(f"/proc/{started.pid}/limits").read_text()
    found = re.search(r"^Max open files +(\d+)", limits, re.MULTILINE)
    assert found
    assert few_files < 2_000 < int(found[1])
    assert "too few open files" not in started.output


async def test_a_connection_too_many_is_told_so(start_usher: StartUsher) -> None:
    """And the server goes on, with whichever event loop it has."""
    started = start_usher(settings={"USHER_CLIENTS_MAX_CONNECTIONS": "16", "USHER_HEAD_DEADLINE_MS": "1500"})
    os.kill(started.pid, signal.SIGSTOP)  # All come at once: none has been silent for long when the last one comes.
    try:
        crowd = [await asyncio.open_connection("127.0.0.1", started.port) for _ in range(40)]
    finally:
        os.kill(started.pid, signal.SIGCONT)
    try:
        async with asyncio.timeout(CUT_WITHIN_S):
            ends = await asyncio.gather(*(reader.read() for reader, _ in crowd))
        assert 40 - 16 == len([end for end in ends if b" 503 " in end and b"overloaded" in end])
        async with connected(started) as new:
            assert await is_kept(new)
        assert '"event":"too many clients"' in started.output
        assert '"level":"error"' not in started.output
    finally:
        for _, writer in crowd:
            writer.transport.abort()
