"""Redemptions that are answered past the library's requests and responses: nobody can tell, but by the time it takes."""

import asyncio
import contextlib
import gc
import json
from collections.abc import AsyncIterator, Mapping

import pytest
from multidict import CIMultiDictProxy

from service.api.front import Front
from service.api.protocol import Protocol
from service.config import Settings
from service.errors import LedgerUnavailable, Overloaded
from service.model import Ending, Redeemed, Refusal
from tests.api.fakes import CASHIER, KEY, READER, REDEMPTION, Served, serving

CONTINUE = 100
ORDER = {"code": "GOLD20", "customer_id": "ann", "order_id": "o-1"}


@pytest.fixture
def straight(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """The bodies of those that were answered past the library."""
    bodies: list[bytes] = []
    original = Front.redeem

    async def redeem(self: Front, headers: CIMultiDictProxy[str], body: bytes) -> tuple[bytes, bool]:
        bodies.append(body)
        return await original(self, headers, body)

    monkeypatch.setattr(Front, "redeem", redeem)
    return bodies


class Wire:
    """A connection on which bytes are sent as they are, and answers read one by one."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self.writer = writer

    async def answer(self) -> tuple[int, dict[str, str], bytes]:
        """Status, headers in small letters, and body."""
        lines = (await self._reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines[1:] if line)}
        body = await self._reader.readexactly(int(headers.get("content-length", "0")))
        return int(lines[0].split()[1]), headers, body

    async def ask(self, data: bytes) -> tuple[int, dict[str, str], bytes]:
        self.writer.write(data)
        return await self.answer()

    async def answer_or_interim(self) -> None:
        """The next answer, behind a `100 Continue` if there is one."""
        if (await self.answer())[0] == CONTINUE:
            await self.answer()

    async def ends(self) -> bool:
        """Whether the server says no more."""
        return await self._reader.read() == b""


@pytest.fixture
async def wire(served: Served) -> AsyncIterator[Wire]:
    reader, writer = await asyncio.open_connection("127.0.0.1", served.port)
    yield Wire(reader, writer)
    writer.close()


def redemption(order: Mapping[str, object] | bytes = ORDER, *more: str, key: str = KEY) -> bytes:
    """A request as nearly all clients send it, which is the straight way's."""
    body = order if isinstance(order, bytes) else json.dumps(order).encode()
    lines = ("POST /v1/redemptions HTTP/1.1", "Host: usher", f"Authorization: Bearer {key}", *more)
    head = "\r\n".join((*lines, "Content-Type: application/json", f"Content-Length: {len(body)}"))
    return head.encode() + b"\r\n\r\n" + body


def in_chunks(order: Mapping[str, object] | bytes = ORDER, *more: str, key: str = KEY) -> bytes:
    """The same, which the library has to read."""
    body = order if isinstance(order, bytes) else json.dumps(order).encode()
    lines = ("POST /v1/redemptions HTTP/1.1", "Host: usher", f"Authorization: Bearer {key}", *more)
    head = "\r\n".join((*lines, "Content-Type: application/json", "Transfer-Encoding: chunked"))
    chunk = b"%x\r\n%b\r\n" % (len(body), body) if body else b""
    return head.encode() + b"\r\n\r\n" + chunk + b"0\r\n\r\n"


@pytest.mark.parametrize(
    "ending",
    [
        Redeemed(Ending.CREATED, REDEMPTION),
        Redeemed(Ending.REPLAYED, REDEMPTION),
        Redeemed(Ending.REFUSED, refusal=Refusal.COUPON_EXHAUSTED),
        Redeemed(Ending.LIMITED, retry_after_s=7),
        Redeemed(Ending.ORDER_MISMATCH),
        Redeemed(Ending.KEY_REUSED),
        Redeemed(Ending.BUSY),
        Redeemed(Ending.UNAVAILABLE),
        Redeemed(Ending.OUTCOME_UNKNOWN),
        Overloaded(),
        RuntimeError("a defect"),
    ],
)
async def test_both_ways_answer_the_same(
    served: Served, wire: Wire, straight: list[bytes], ending: Redeemed | Exception
) -> None:
    """Whatever becomes of an order: status, headers and body are the same, but for the time and the request's name."""
    served.redeemer.answer = ending
    named = "X-Request-Id: r-1"

    one = await wire.ask(redemption(ORDER, named))
    other = await wire.ask(in_chunks(ORDER, named))

    assert one[::2] == other[::2]
    assert one[1].keys() == other[1].keys()
    assert one[1] | {"date": ""} == other[1] | {"date": ""}
    assert 2 == len(served.redeemer.orders)
    assert 1 == len(straight)


@pytest.mark.parametrize(
    ("order", "more", "key"),
    [
        (b"", (), KEY),
        (b"{", (), KEY),
        (b'{"code":"A","code":"B","customer_id":"c","order_id":"o"}', (), KEY),
        (ORDER | {"limit": 1}, (), KEY),
        (ORDER | {"customer_id": ""}, (), KEY),
        (ORDER, ("Idempotency-Key: a", "Idempotency-Key: b"), KEY),
        (ORDER, ("Idempotency-Key: a b",), KEY),
        (ORDER, (), "usher_" + "x" * 43),
        (ORDER, (), "short"),
        (ORDER, (), READER),
    ],
)
async def test_both_ways_refuse_the_same(
    served: Served, wire: Wire, straight: list[bytes], order: Mapping[str, object] | bytes, more: tuple[str, ...], key: str
) -> None:
    """What is wrong with a request is found, and said in the same words."""
    one = await wire.ask(redemption(order, "X-Request-Id: r-1", *more, key=key))
    other = await wire.ask(in_chunks(order, "X-Request-Id: r-1", *more, key=key))

    assert one[::2] == other[::2]
    assert one[1].keys() == other[1].keys()
    assert [] == served.redeemer.orders
    assert 1 == len(straight)


@pytest.mark.parametrize(
    "unusual",
    [
        ("Expect: 100-continue",),
        ("Connection: close",),
        ("Content-Encoding: identity",),
    ],
)
async def test_what_is_not_plain_is_the_librarys(wire: Wire, straight: list[bytes], unusual: tuple[str, ...]) -> None:
    """Whatever has something special about it, and a body that is too large."""
    wire.writer.write(redemption(ORDER, *unusual))
    await wire.answer_or_interim()
    large = redemption(b" " * 20_000)
    if unusual[0].startswith("Expect"):
        assert 413 == (await wire.ask(large))[0]
    assert [] == straight


async def test_a_ledger_that_is_away_for_a_new_key(served: Served, wire: Wire) -> None:
    """Nobody knows whose key it is: 503, both ways."""
    served.keys.failure = LedgerUnavailable()
    one = await wire.ask(redemption(ORDER, "X-Request-Id: r-1", key="usher_" + "n" * 43))
    other = await wire.ask(in_chunks(ORDER, "X-Request-Id: r-1", key="usher_" + "m" * 43))
    assert (503, one[2]) == (other[0], other[2])
    assert one[1].keys() == other[1].keys()


async def test_what_is_asked_reaches_the_flow(served: Served, wire: Wire) -> None:
    """With the key's number, the hold and the idempotency key."""
    await wire.ask(redemption(ORDER | {"hold_s": 60}, "Idempotency-Key: k-1", key=CASHIER))

    assert [("GOLD20", "ann", "o-1", 3, 60, "k-1")] == served.redeemer.orders


@pytest.mark.parametrize("behind", [redemption(ORDER | {"order_id": "o-2"}), b"GET /livez HTTP/1.1\r\nHost: usher\r\n\r\n"])
async def test_what_comes_behind_waits(served: Served, wire: Wire, straight: list[bytes], behind: bytes) -> None:
    """A client may ask on before it is answered: the answers come one by one, in this order."""
    served.redeemer.go.clear()
    wire.writer.write(redemption())
    await served.redeemer.started.wait()
    wire.writer.write(behind[:20])
    await asyncio.sleep(0.01)
    wire.writer.write(behind[20:] + redemption(ORDER | {"order_id": "o-3"}))
    await asyncio.sleep(0.01)
    assert ["o-1"] == [order.order_id for order in served.redeemer.orders]

    served.redeemer.go.set()
    answers = [await wire.answer() for _ in range(3)]

    assert [201, 201 if behind.startswith(b"POST") else 200, 201] == [status for status, _, _ in answers]
    assert "o-3" == served.redeemer.orders[-1].order_id
    assert straight, "the first one goes straight"


async def test_who_says_no_more_is_answered(served: Served, wire: Wire) -> None:
    """A client that closes its side after its request gets the answer, and then the connection ends."""
    served.redeemer.go.clear()
    wire.writer.write(redemption())
    wire.writer.write_eof()
    await served.redeemer.started.wait()
    await asyncio.sleep(0.01)

    served.redeemer.go.set()

    assert 201 == (await wire.answer())[0]
    assert await wire.ends()


async def test_who_hangs_up_has_redeemed(served: Served, wire: Wire) -> None:
    """The redemption is completed, and the next connection is served."""
    served.redeemer.go.clear()
    wire.writer.write(redemption())
    await served.redeemer.started.wait()
    wire.writer.transport.abort()
    await asyncio.sleep(0.01)
    served.redeemer.go.set()

    reader, writer = await asyncio.open_connection("127.0.0.1", served.port)
    assert 201 == (await Wire(reader, writer).ask(redemption()))[0]
    writer.close()
    assert 2 == len(served.redeemer.orders)


async def test_the_last_answer_of_a_process_ends_the_connection(served: Served, wire: Wire) -> None:
    """A process that stops answers what it has taken up, and says that it is the last."""
    served.redeemer.go.clear()
    wire.writer.write(redemption())
    await served.redeemer.started.wait()
    served.stop.set()
    await asyncio.sleep(0.05)
    served.redeemer.go.set()

    status, headers, _ = await wire.answer()

    assert (201, "close") == (status, headers["connection"])
    assert await wire.ends()


async def test_a_stop_waits_for_what_is_answered_straight() -> None:
    """As it does for all others, also when they take longer than the handlers' share of the time to stop."""
    async with serving(Settings(request_deadline_ms=900, stop_deadline_ms=1_000)) as served:
        served.redeemer.go.clear()
        reader, writer = await asyncio.open_connection("127.0.0.1", served.port)
        writer.write(redemption())
        await served.redeemer.started.wait()
        served.stop.set()
        await asyncio.sleep(0.7)
        served.redeemer.go.set()
        assert 201 == (await Wire(reader, writer).answer())[0]
        writer.close()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
async def test_a_defect_of_the_front_ends_the_connection(served: Served, wire: Wire, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody waits for ever for an answer that will not come."""

    async def redeem(_self: Front, _headers: CIMultiDictProxy[str], _body: bytes) -> tuple[bytes, bool]:
        raise RuntimeError("a defect")

    reported: list[dict[str, object]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: reported.append(context))
    monkeypatch.setattr(Front, "redeem", redeem)
    wire.writer.write(redemption())
    with contextlib.suppress(ConnectionError):
        assert await wire.ends()
    gc.collect()
    assert reported, "a defect is not swallowed"
    assert (await ask_livez(served)).startswith(b"HTTP/1.1 200")


async def ask_livez(served: Served) -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", served.port)
    writer.write(b"GET /livez HTTP/1.1\r\nHost: usher\r\nConnection: close\r\n\r\n")
    answer = await reader.read()
    writer.close()
    return answer


async def test_nothing_is_taken_up_while_answers_wait(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    """A client that asks on and takes no answers is not answered into the server's memory: the library waits for it."""
    made: list[Protocol] = []
    original = Protocol.connection_made

    def connection_made(self: Protocol, transport: asyncio.BaseTransport) -> None:
        made.append(self)
        original(self, transport)

    monkeypatch.setattr(Protocol, "connection_made", connection_made)
    reader, writer = await asyncio.open_connection("127.0.0.1", served.port)
    wire = Wire(reader, writer)
    await wire.ask(redemption())
    made[0].pause_writing()  # As its transport does when too much waits.

    for number in range(2, 6):
        writer.write(redemption(ORDER | {"order_id": f"o-{number}"}))
        await asyncio.sleep(0.01)
    assert ["o-1", "o-2"] == [order.order_id for order in served.redeemer.orders]

    made[0].resume_writing()
    assert [201] * 4 == [(await wire.answer())[0] for _ in range(4)]
    writer.close()
