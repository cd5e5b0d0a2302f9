"""A client of Usher for tests: many requests at once over a bounded number of connections, and every answer kept."""

import asyncio
import contextlib
import itertools
import json
import resource
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

import aiohttp
from yarl import URL

Json = Any
"""Whatever a JSON document says."""
Data = Any
"""A body as it goes over the wire: bytes, or an asynchronous iterator of chunks."""

CONNECTIONS = 100
ANSWER_TIMEOUT_S = 60.0
"""Far beyond any deadline that a test sets: a request that is never answered fails its test."""
FILES_MAX = 8_192
"""A thousand connections need more descriptors than some systems give at first."""


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer of Usher. `body` is None where there is none or it is not JSON."""

    status: int
    headers: Mapping[str, str]
    body: Json
    text: bytes

    @property
    def code(self) -> str:
        """The problem's code; empty for an answer that is no problem."""
        return str(self.body.get("code", "")) if self.status >= 400 and isinstance(self.body, dict) else ""

    @property
    def id(self) -> str:
        """The redemption's id."""
        return str(self.body["id"])


def allow_many_connections() -> None:
    """Raises this process' limit of open files as far as a test may need, where it may."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = FILES_MAX if hard == resource.RLIM_INFINITY else min(FILES_MAX, hard)
    if soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


class Client:
    """Sends requests to one Usher, or to several in turn.

    Args:
        urls: where they serve.
        key: the API key; None sends no `Authorization`.
        connections: at most so many at once; further requests wait.
    """

    def __init__(self, *urls: str, key: str | None, connections: int = CONNECTIONS) -> None:
        self.urls = urls
        self._turn = itertools.cycle(urls)
        self._headers = {"Authorization": f"Bearer {key}"} if key else {}
        self._connections = connections
        self._session: aiohttp.ClientSession | None = None
        self._turns = asyncio.Semaphore(connections)

    async def __aenter__(self) -> Self:
        allow_many_connections()
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=self._connections),
            headers=self._headers,
            timeout=aiohttp.ClientTimeout(sock_read=ANSWER_TIMEOUT_S),
            skip_auto_headers=("User-Agent",),
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        assert self._session is not None
        await self._session.close()

    async def send(
        self,
        method: str,
        path: str,
        *,
        body: Json = None,
        data: Data = None,
        headers: Mapping[str, str] | None = None,
        params: Mapping[str, str | int] | None = None,
    ) -> Answer:
        """Sends `body` as JSON, or `data` as it is. Raises `aiohttp.ClientError` when the connection breaks."""
        more = {"Content-Type": "application/json"} if body is not None or data is not None else {}
        return await self._send(
            method,
            URL(next(self._turn) + path).update_query(params or {}),
            data=json.dumps(body).encode() if body is not None else data,
            headers={**more, **(headers or {})},
        )

    async def send_raw(self, method: str, target: str) -> Answer:
        """Sends the path and query exactly as they are written."""
        return await self._send(method, URL(next(self._turn) + target, encoded=True), data=None, headers={})

    async def send_once(self, method: str, path: str, *, data: Data, headers: Mapping[str, str] | None = None) -> Answer:
        """On a connection of its own, and to be used for bodies that the server may refuse to read to their end."""
        return await self._send(
            method,
            URL(next(self._turn) + path),
            data=data,
            headers={"Content-Type": "application/json", "Connection": "close", **(headers or {})},
        )

    async def get(self, path: str, **params: str | int) -> Answer:
        """GET with a query."""
        return await self.send("GET", path, params=params)

    async def redeem(self, code: str, customer: str, order: str) -> Answer:
        """One redemption."""
        return await self.send("POST", "/v1/redemptions", body={"code": code, "customer_id": customer, "order_id": order})

    async def redeem_all(self, code: str, orders: Iterable[tuple[str, str]]) -> list[Answer]:
        """One redemption for each (customer, order), all at once; the answers in that order."""
        return list(await asyncio.gather(*(self.redeem(code, customer, order) for customer, order in orders)))

    async def try_all(self, code: str, orders: Iterable[tuple[str, str]]) -> list[Answer | None]:
        """As `redeem_all`; None where the connection broke before the answer."""
        return list(await asyncio.gather(*(self._try(code, customer, order) for customer, order in orders)))

    async def create_coupon(self, code: str, **fields: Json) -> Answer:
        """A new coupon."""
        return await self.send("POST", "/v1/coupons", body={"code": code, **fields})

    async def change_coupon(self, code: str, **fields: Json) -> Answer:
        """PATCH of a coupon, checked to have been carried out."""
        answer = await self.send("PATCH", f"/v1/coupons/{code}", body=fields)
        assert 200 == answer.status, answer
        return answer

    async def _send(self, method: str, url: URL, *, data: Data, headers: Mapping[str, str]) -> Answer:
        assert self._session is not None
        # Thousands that come at once would else be begun one by one, for seconds, while connections are open and say nothing.
        async with self._turns, self._session.request(method, url, data=data, headers=headers) as response:
            text = await response.read()
            is_json = response.content_type.endswith("json")
            return Answer(response.status, response.headers, json.loads(text) if is_json and text else None, text)

    async def _try(self, code: str, customer: str, order: str) -> Answer | None:
        try:
            return await self.redeem(code, customer, order)
        except (aiohttp.ClientError, ConnectionError):
            return None


def orders(count: int, name: str = "o") -> list[tuple[str, str]]:
    """So many orders, each of a customer of its own."""
    return [(f"customer-{name}-{number}", f"order-{name}-{number}") for number in range(count)]


def tally(answers: Iterable[Answer]) -> Counter[str]:
    """How many there are of each kind, such as `201` and `409 coupon_exhausted`."""
    return Counter(f"{answer.status} {answer.code}".strip() for answer in answers)


def assert_none_failed(answers: Sequence[Answer]) -> None:
    """No answer is a 5xx."""
    failed = [answer for answer in answers if answer.status >= 500]
    assert not failed, tally(failed)


class Repeated:
    """How often something that is done again and again has been done."""

    def __init__(self) -> None:
        self.times = 0


@asynccontextmanager
async def repeating(work: Callable[[], Awaitable[object]], *, every_s: float) -> AsyncIterator[Repeated]:
    """Does the work over and over beside the body of the `with`; an error of it ends the test."""
    done = Repeated()
    stop = asyncio.Event()

    async def repeat() -> None:
        # Told to stop, not cancelled: a cancellation that a library swallows would leave it running for ever.
        while not stop.is_set():
            await work()
            done.times += 1
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(every_s):
                    await stop.wait()

    task = asyncio.create_task(repeat())
    try:
        yield done
        assert not task.done(), "the repeated work ended"
    finally:
        stop.set()
        await task
