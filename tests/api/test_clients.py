"""Connections of clients: how many there may be, who makes room, and who is cut."""

import asyncio
import json
import re
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any
from unittest.mock import AsyncMock, Mock

import pytest
import uvloop
from pydantic import ValidationError
from structlog.testing import capture_logs

from service.api import clients
from service.api.clients import Clients, Stage
from service.api.protocol import Protocol
from service.api.requests import BODY_TIMEOUT_S
from service.config import Settings
from service.model import Redemption
from tests.api.fakes import KEY, REDEMPTION, Served, serving
from tests.waiting import stalls, until

LIVEZ = b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n"
PAGE = f"GET /v1/redemptions?code=A&page_size=200 HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {KEY}\r\n\r\n".encode()
BODY = b'{"code":"A","customer_id":"a","order_id":"o"}'
REDEEM = (
    f"POST /v1/redemptions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nAuthorization: Bearer {KEY}\r\n"
    f"Content-Length: {len(BODY)}\r\n\r\n"
).encode() + BODY
MOST = 16
HASTE = 500
"""Milliseconds for a head; with them connections are looked at every LOOK_S."""
LOOK_S = 0.125

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


@asynccontextmanager
async def limited(**settings: Any) -> AsyncIterator[tuple[Served, "Crowd"]]:  # noqa: ANN401 - whatever Settings takes
    """A server that keeps 16 connections, and those who connect to it."""
    async with serving(Settings(clients_max_connections=MOST, **settings)) as served, AsyncExitStack() as leaving:
        yield served, Crowd(served.port, leaving)


class Crowd:
    """Makes connections; all are aborted at the end."""

    def __init__(self, port: int, leaving: AsyncExitStack) -> None:
        self._port = port
        self._leaving = leaving

    async def one(self, first: bytes = b"") -> Streams:
        """A connection; with `first`, one on which that was sent, and answered if it is a whole request."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
        self._leaving.push_async_callback(leave, writer)
        writer.write(first)
        if first.endswith(b"\r\n\r\n"):
            await reader.readuntil(b"}")
        return reader, writer


async def leave(writer: asyncio.StreamWriter) -> None:
    writer.transport.abort()
    await asyncio.sleep(0)


async def answer(streams: Streams) -> bytes:
    """What comes until the server closes."""
    async with asyncio.timeout(10):
        return await streams[0].read()


async def is_kept(streams: Streams) -> bool:
    streams[1].write(LIVEZ)
    async with asyncio.timeout(10):
        return b" 200 " in await streams[0].readline()


async def test_the_one_idle_for_longest_makes_room() -> None:
    """And nobody else; the new one is served."""
    async with limited(head_deadline_ms=HASTE) as (_, crowd):
        first = await crowd.one(LIVEZ)
        await asyncio.sleep(2 * LOOK_S)
        others = [await crowd.one(LIVEZ) for _ in range(MOST - 1)]
        with capture_logs() as events:
            new = await crowd.one(LIVEZ)
            await until(lambda: "too many clients" in str(events), what="it is told")
        assert b"" == await answer(first)
        assert [True] * MOST == [await is_kept(one) for one in (*others, new)]
    expected = {"event": "too many clients", "log_level": "warning", "closed": 1, "refused": 0, "limit": MOST}
    assert [expected] == [event for event in events if event["event"] == "too many clients"]


async def test_a_slow_head_makes_room_before_idle_ones() -> None:
    """Idle connections are those of clients who have asked something already."""
    async with limited() as (_, crowd):
        idle = [await crowd.one(LIVEZ) for _ in range(MOST - 1)]
        slow = await crowd.one(b"GET /livez")
        await asyncio.sleep(clients.PATIENCE_S + 0.1)
        new = await crowd.one(LIVEZ)
        assert b"" == await answer(slow)
        assert [True] * MOST == [await is_kept(one) for one in (*idle, new)]


async def test_nobody_who_is_served_makes_room() -> None:
    """Then the new one is told so, and served as soon as there is room."""
    async with limited(head_deadline_ms=HASTE) as (served, crowd):
        served.redeemer.go.clear()
        busy = [await crowd.one(REDEEM) for _ in range(MOST)]
        await asyncio.sleep(2 * LOOK_S)
        head, _, text = (await answer(await crowd.one(LIVEZ[:9]))).partition(b"\r\n\r\n")
        assert b"503" == head.split()[1]
        assert "overloaded" == json.loads(text)["code"]
        for line in (b"Retry-After: 1", b"Connection: close", b"Content-Type: application/problem+json"):
            assert line in head
        assert json.loads(text)["request_id"].encode() in head
        served.redeemer.go.set()
        assert [True] * MOST == [b" 201 " in await reader.readuntil(b"}") for reader, _ in busy]
        await asyncio.sleep(2 * LOOK_S)
        assert await is_kept(await crowd.one())


async def test_a_connection_that_has_ended_leaves_room() -> None:
    async with limited() as (_, crowd):
        for _ in range(2 * MOST):
            reader, writer = await crowd.one(LIVEZ)
            writer.close()
            assert b"" == await answer((reader, writer))
        kept = [await crowd.one(LIVEZ) for _ in range(MOST)]
        assert [True] * MOST == [await is_kept(one) for one in kept]


async def test_a_head_is_waited_for_as_long_as_is_set() -> None:
    """Nobody answers somebody who has said nothing."""
    async with limited(head_deadline_ms=HASTE) as (_, crowd):
        with capture_logs() as events:
            silent, slow = await crowd.one(), await crowd.one(b"GET /livez HTTP/1.1\r\nHost:")
            began_at = asyncio.get_running_loop().time()
            assert b"" == await answer(silent)
            late = await answer(slow)
            assert 0.4 < asyncio.get_running_loop().time() - began_at < 5.0
            await until(lambda: "slow clients cut" in str(events), what="it is told")
        assert b"400" == late.split()[1]
        assert "The request's head did not arrive in time." == json.loads(late.partition(b"\r\n\r\n")[2])["detail"]
    heads = [event["heads"] for event in events if event["event"] == "slow clients cut"]
    # What comes within ten seconds of an event waits for the next one, or for the end.
    assert 1 <= sum(heads) <= 2


async def test_idle_connections_are_closed_when_it_is_time() -> None:
    async with limited(keep_alive_s=1) as (_, crowd):
        began_at = asyncio.get_running_loop().time()
        assert b"" == await answer(await crowd.one(LIVEZ))
        assert 0.9 < asyncio.get_running_loop().time() - began_at < 5.0


async def pages(**_: Any) -> list[Redemption]:  # noqa: ANN401 - whatever the gateway takes
    """The largest there are: some 70 KiB."""
    return [REDEMPTION] * 200


def with_small_buffers(address: tuple[str, int]) -> socket.socket:
    """As `socket.create_server`: the system would keep some megabytes of answers for each client."""
    listening = socket.socket()
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 8_192)
    listening.bind(address)
    listening.listen()
    return listening


async def ask_and_take_nothing(connection: socket.socket) -> None:
    async with asyncio.timeout(20):
        while True:
            await asyncio.get_running_loop().sock_sendall(connection, PAGE * 10)


async def test_a_client_that_takes_no_answers_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its requests are not worked on without end, and its connection does not stay."""
    monkeypatch.setattr(clients, "SEND_DEADLINE_S", 1.0)
    async with serving() as served:
        find = AsyncMock(side_effect=pages)
        monkeypatch.setattr(served.redemptions, "find", find)
        connection = socket.socket()
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
        connection.connect(("127.0.0.1", served.port))
        connection.settimeout(0)
        with connection:
            began_at = asyncio.get_running_loop().time()
            with pytest.raises(ConnectionError):
                await ask_and_take_nothing(connection)
            assert 0.9 < asyncio.get_running_loop().time() - began_at < 10.0
        assert find.await_count < 1_000


async def test_a_client_that_takes_its_answers_is_not_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many it has asked for at once, and though there is always one that waits for it."""
    monkeypatch.setattr(clients, "SEND_DEADLINE_S", 0.8)
    monkeypatch.setattr(socket, "create_server", with_small_buffers)
    async with serving(Settings(head_deadline_ms=HASTE)) as served:
        monkeypatch.setattr(served.redemptions, "find", pages)
        connection = socket.socket()
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
        connection.connect(("127.0.0.1", served.port))
        reader, writer = await asyncio.open_connection(sock=connection)
        writer.write(PAGE * 50)
        for _ in range(50):
            head = await reader.readuntil(b"\r\n\r\n")
            assert b"200" == head.split()[1]
            length = re.search(rb"Content-Length: (\d+)", head)
            assert length
            await reader.readexactly(int(length[1]))
            await asyncio.sleep(0.02)
        await leave(writer)


async def test_a_long_head_is_not_kept() -> None:
    """Each of its lines is short enough, and they are not too many."""
    lines = b"".join(b"A%d: %s\r\n" % (number, b"x" * 8_000) for number in range(20))
    async with limited() as (_, crowd):
        streams = await crowd.one()
        streams[1].write(b"GET /livez HTTP/1.1\r\nHost: x\r\n" + lines)
        refused = await answer(streams)
        assert b"400" == refused.split()[1]
        assert "This is no valid HTTP request." == json.loads(refused.partition(b"\r\n\r\n")[2])["detail"]


async def test_a_request_that_nobody_has_taken_up_makes_no_room(monkeypatch: pytest.MonkeyPatch) -> None:
    """From its last byte on its connection is busy."""
    stages = []
    original = Protocol.data_received

    def receive(connection: Protocol, data: bytes) -> None:
        original(connection, data)
        stages.append(connection.stage())

    monkeypatch.setattr(Protocol, "data_received", receive)
    async with limited() as (_, crowd):
        assert await is_kept(await crowd.one(LIVEZ))
    assert [(Stage.BUSY, 0), (Stage.BUSY, 1)] == stages


async def test_connections_that_have_ended_are_not_looked_at() -> None:
    """They end while those before them are looked at."""
    looking = Clients(Settings(head_deadline_ms=HASTE), asyncio.get_running_loop())
    connections = [Mock() for _ in range(2 * clients.TURNS_PER_LOOK)]

    def end_all() -> tuple[Stage, int]:
        for connection in connections:
            looking.discard(connection)
        return Stage.HEAD, 0

    for connection in connections:
        connection.stage.side_effect = end_all
        looking.add(connection)
    looking.start()
    await asyncio.sleep(3 * LOOK_S)
    looking.stop()
    assert [1] + [0] * (len(connections) - 1) == [connection.stage.call_count for connection in connections]


# --- Clients that say no more ----------------------------------------------------------------------------------------


async def say_all(data: bytes) -> tuple[list[int], int]:
    """The statuses of what comes back for `data` and the end of what is said; and how many orders were redeemed."""
    async with serving() as served:
        served.redeemer.go.clear()
        streams = await asyncio.open_connection("127.0.0.1", served.port)
        streams[1].write(data)
        # The end comes by itself, while the first request is worked on.
        await asyncio.sleep(0.1)
        streams[1].write_eof()
        await asyncio.sleep(0.1)
        served.redeemer.go.set()
        answers = await answer(streams)
        await leave(streams[1])
        return [int(status) for status in re.findall(rb"HTTP/1\.1 (\d+) ", answers)], len(served.redeemer.orders)


@pytest.mark.parametrize("new_loop", [asyncio.new_event_loop, uvloop.new_event_loop])
@pytest.mark.parametrize(
    ("data", "statuses", "orders"),
    [
        (REDEEM, [201], 1),
        (REDEEM * 3, [201] * 3, 3),
        (REDEEM * 40, [201] * 40, 40),
        (REDEEM + b"GET /livez HTTP/1.1", [201], 1),
        (LIVEZ, [200], 0),
        (b"GET /livez HTTP/1.1", [], 0),
        (b"", [], 0),
        (REDEEM[:-1], [], 0),
    ],
    ids=["one", "three", "many", "and half a head", "answered", "half a head", "nothing", "half a body"],
)
def test_who_says_no_more_is_answered(
    new_loop: Callable[[], asyncio.AbstractEventLoop], data: bytes, statuses: list[int], orders: int
) -> None:
    """Whatever he has asked, and then the connection ends, without waiting for the time of idle ones."""
    with asyncio.Runner(loop_factory=new_loop) as runner:
        assert (statuses, orders) == runner.run(say_all(data))


async def test_a_body_is_waited_for_less_long_than_its_request_may_take() -> None:
    async with limited(request_deadline_ms=500) as (_, crowd):
        began_at = asyncio.get_running_loop().time()
        slow = await crowd.one()
        slow[1].write(REDEEM[:-1])
        async with stalls() as stood_still:
            assert b"400" == (await slow[0].readline()).split()[1]
        assert 0.1 < asyncio.get_running_loop().time() - began_at < 1.0 + stood_still.total_s


def test_a_head_and_its_body_take_no_longer_than_ten_seconds() -> None:
    """Whatever is set."""
    with pytest.raises(ValidationError, match="head_deadline_ms"):
        Settings(head_deadline_ms=8_001)
    assert 10.0 >= Settings(head_deadline_ms=8_000).head_deadline_ms / 1000 + BODY_TIMEOUT_S
