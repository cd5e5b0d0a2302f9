"""The open loop against a server of a few lines, which can be made to stand still."""

import asyncio
import itertools
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest

from bench.open_loop import OpenLoop, Request
from bench.wire import Wire, answer_in

ANSWER = b"HTTP/1.1 201 Created\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}"
PROBLEM = b'HTTP/1.1 503 Service Unavailable\r\ncontent-length: 15\r\n\r\n{"code":"pool"}'
STALL_S = 0.3


class Peer(asyncio.Protocol):
    """The server's end of a connection; a request comes whole, since it is small."""

    def __init__(self, answer: Callable[[], bytes | None]) -> None:
        self._answer = answer

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        assert data.endswith(b"}")
        found = self._answer()
        if found is None:
            self._transport.close()
        else:
            self._transport.write(found)


@asynccontextmanager
async def serving(answer: Callable[[int], bytes | None]) -> AsyncIterator[int]:
    """A server whose n-th answer is this; None: it hangs up. Yields its port."""
    numbers = itertools.count(1)
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Peer(lambda: answer(next(numbers))), "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        await server.wait_closed()


async def test_everybody_who_would_have_come_during_a_stall_has_waited() -> None:
    """A closed loop would have had one late answer for each of its connections; here half of all requests are 90 ms late."""

    def stalls(number: int) -> bytes:
        if number == 100:
            time.sleep(STALL_S)  # The server stands still.
        return ANSWER

    async with serving(stalls) as port:
        found = await OpenLoop(1_000, 400, Request("key", "HOT", "run")).run(port, 4)
    assert {"201 ": 400} == found["answers"]
    assert found["latency_ms"]["max"] >= STALL_S * 1_000
    # The 300 of the stall's time have waited until its end, 200 of them at least 100 ms; the 100 before them have not.
    assert found["latency_ms"]["p50"] >= STALL_S * 1_000 * 0.3
    assert found["open"]["most_in_flight"] == 4
    assert found["open"]["waited"] > 200


class Recording(Wire):
    """Sends nothing, and keeps what it was to send."""

    def __init__(self) -> None:
        super().__init__(lambda *_: None)
        self.requests = list[bytes]()

    def send(self, request: bytes, at_s: float) -> None:
        self.sent_for_s = at_s
        self.requests.append(request)


def test_nothing_is_sent_before_its_time_when_many_answers_come_at_once_after_a_stall() -> None:
    loop = OpenLoop(10, 100, Request("key", "HOT", "run"))
    wires = [Recording() for _ in range(5)]
    loop._begin = time.perf_counter() - 0.25
    loop._tick()
    assert loop._is_short
    for wire in wires:
        loop._in_flight += 1
        loop._answered(wire, "201 ")
    # Those of 0, 100 and 200 ms are due, and no other.
    assert [1, 1, 1, 0, 0] == [len(wire.requests) for wire in wires]


async def test_answers_are_counted_by_code_and_a_connection_that_is_lost_is_not_used_again() -> None:
    async with serving(lambda number: None if number == 3 else PROBLEM if number % 2 else ANSWER) as port:
        found = await OpenLoop(500, 50, Request("key", "HOT", "run")).run(port, 5)
    assert {"201 ": 25, "503 pool": 24} == found["answers"]
    assert (1, 0) == (found["broken"], found["unanswered"])
    assert 1 == found["open"]["lost_connections"]
    assert 50 == found["open"]["sent"]


def test_each_request_is_of_an_order_of_its_own_and_as_long_as_the_others() -> None:
    request = Request("key", "HOT", "run")
    first, millionth = request(1), request(1_000_000)
    assert b'"customer_id":"c-run-000000001","order_id":"o-run-000000001"}' in first
    assert len(first) == len(millionth)
    head, _, body = millionth.partition(b"\r\n\r\n")
    assert f"Content-Length: {len(body)}".encode() in head


@pytest.mark.parametrize("cut", range(0, len(PROBLEM), 7))
def test_an_answer_is_read_when_it_is_complete(cut: int) -> None:
    assert answer_in(PROBLEM[:cut]) is None
    assert "503 pool" == answer_in(PROBLEM)
    assert "201 " == answer_in(ANSWER)
