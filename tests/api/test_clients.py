"""Connections of clients: how many there may be, who makes room, and who is cut."""

import asyncio
import json
import re
import socket
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any
from unittest.mock import AsyncMock

import pytest
from structlog.testing import capture_logs

from service.api import clients
from service.config import Settings
from service.model import Redemption
from tests.api.fakes import KEY, REDEMPTION, Served, serving

LIVEZ = b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n"
PAGE = f"GET /v1/redemptions?code=A&page_size=200 HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {KEY}\r\n\r\n".encode()
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
            await asyncio.sleep(2 * LOOK_S)
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
    body = b'{"code":"A","customer_id":"a","order_id":"o"}'
    redeem = f"POST /v1/redemptions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nAuthorization: Bearer {KEY}\r\n"
    async with limited(head_deadline_ms=HASTE) as (served, crowd):
        served.redeemer.go.clear()
        busy = [await crowd.one(f"{redeem}Content-Length: {len(body)}\r\n\r\n".encode() + body) for _ in range(MOST)]
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
            await asyncio.sleep(LOOK_S)
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
    monkeypatch.setattr(clients, "SEND_DEADLINE_S", 0.4)
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
