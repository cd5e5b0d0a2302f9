"""One call over HTTP: its tries, its time-outs, and the answer as JSON or an exception."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from ssl import SSLContext
from typing import Any, Final, TypeVar
from urllib.parse import quote, urlsplit

import aiohttp

from usher_client.errors import AnswerNotUnderstood, NotSecure, Problem, TryAgain, Unreachable, UsherError
from usher_client.patience import Patience
from usher_client.problems import Unavailable, of_answer

IDLE_MAX_S: Final = 60.0
"""Idle connections are closed after this time; before Usher closes them, which it does after 75 s."""
DATE_PRECISION: Final = timedelta(seconds=1)
"""An answer's `Date` is cut to whole seconds."""
SUCCESSES: Final = range(200, 300)

Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class Call:
    """A request. Raises ValueError for a text in the query that UTF-8 cannot write, and that would be left out silently.

    `repeatable`: to carry it out twice is the same as once, so it is sent again also when a try's answer was lost; others
    are sent again only when no try can have been carried out.
    """

    method: str
    path: str
    body: Mapping[str, Any] | None = None
    query: Mapping[str, str | int | None] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    repeatable: bool = True

    def __post_init__(self) -> None:
        for value in self.query.values():
            if isinstance(value, str):
                checked(value)


@dataclass(frozen=True, slots=True)
class Answer:
    """A success. `clock_ahead`: see `Redemption`."""

    said: Mapping[str, Any]
    clock_ahead: timedelta

    def items(self, reader: Callable[[Mapping[str, Any]], Result]) -> list[Result]:
        """The records of a page; raises as `read`."""
        return self.read(lambda said: [reader(item) for item in said["items"]])

    def read(self, reader: Callable[[Mapping[str, Any]], Result]) -> Result:
        """The record that a reader makes of it; raises AnswerNotUnderstood."""
        try:
            return reader(self.said)
        except (KeyError, TypeError, ValueError) as exc:
            raise AnswerNotUnderstood(f"{type(exc).__name__}: {exc}") from exc


class Transport:
    """Sends calls to one Usher over a pool of connections.

    Args:
        url: where Usher serves.
        key: the API key.
        patience: for each call.
        request_ids: makes the `X-Request-Id` of a call; its tries are `<id>-1`, `<id>-2` and so on.
    """

    def __init__(self, url: str, key: str, *, patience: Patience, request_ids: Callable[[], str]) -> None:
        self._url = checked_url(url).rstrip("/")
        self._headers = {"Authorization": f"Bearer {key}", "Accept": "application/json"}
        self._patience = patience
        self._request_ids = request_ids
        self._session: aiohttp.ClientSession | None = None

    def open(self, *, connections: int, ssl: SSLContext | bool) -> None:
        """Makes the pool, within the event loop that will use it. Raises RuntimeError when there is one."""
        if self._session is not None:
            raise RuntimeError("the client is open already: enter it once and hand it on")
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=connections, keepalive_timeout=IDLE_MAX_S, ssl=ssl),
            headers=self._headers,
            # A try as a whole has a time-out around it, since aiohttp would round one of more than 5 s up to a whole second.
            timeout=aiohttp.ClientTimeout(sock_connect=self._patience.connect_timeout_s),
        )

    async def close(self) -> None:
        """Closes all connections; what is under way fails."""
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def send(self, call: Call) -> Answer:
        """Sends it until there is an answer, or patience ends.

        Raises:
            TryAgain: there was none; of the kind of the last try.
            NotSecure: there can be none by TLS; it was tried once.
            Problem: Usher's answer is one.
        """
        clock = asyncio.get_running_loop().time
        deadline = clock() + self._patience.deadline_s
        request_id = self._request_ids()
        answer_lost = False
        tries = 0
        while True:
            tries += 1
            try:
                return await self._try(call, f"{request_id}-{tries}", deadline - clock())
            except UsherError as error:
                answer_lost = answer_lost or is_lost(error, call)
                error.tries, error.answer_lost = tries, answer_lost
                if not isinstance(error, TryAgain) or tries >= self._patience.tries_max:
                    raise
                if answer_lost and not call.repeatable:
                    raise
                pause_s = self._patience.pause_after(tries, getattr(error, "retry_after_s", None))
                if clock() + pause_s + self._patience.shortest_try_s > deadline:
                    raise
            await asyncio.sleep(pause_s)

    async def pages(self, path: str, query: Mapping[str, str | int | None]) -> AsyncIterator[Answer]:
        """The pages of a list; each is fetched when it is wanted. Raises as `send`."""
        token: str | None = ""
        while token is not None:
            page = await self.send(Call("GET", path, query={**query, "page_token": token or None}))
            yield page
            token = page.read(lambda said: said["next_page_token"])

    async def _try(self, call: Call, request_id: str, left_s: float) -> Answer:
        """One try; raises as `send`."""
        try:
            async with asyncio.timeout(min(left_s, self._patience.try_timeout_s)):
                return await self._exchange(call, request_id)
        except TimeoutError as exc:
            raise Unreachable(str(exc) or "the answer took too long") from exc
        except aiohttp.ClientSSLError as exc:
            raise NotSecure(f"{type(exc).__name__}: {exc}") from exc
        except aiohttp.ClientError as exc:
            raise Unreachable(f"{type(exc).__name__}: {exc}") from exc

    async def _exchange(self, call: Call, request_id: str) -> Answer:
        if self._session is None:
            raise RuntimeError("the client is not open: `async with Usher(...) as usher`")
        content = {"Content-Type": "application/json"} if call.body is not None else {}
        async with self._session.request(
            call.method,
            self._url + call.path,
            data=None if call.body is None else json.dumps(call.body).encode(),
            params={name: value for name, value in call.query.items() if value is not None},
            headers={**call.headers, **content, "X-Request-Id": request_id},
            allow_redirects=False,
        ) as response:
            text = await response.read()
        said = _object(text)
        if response.status not in SUCCESSES:
            raise of_answer(
                response.status,
                said or {},
                request_id=response.headers.get("X-Request-Id", request_id),
                retry_after_s=_seconds(response.headers.get("Retry-After", "")),
            )
        if said is None:
            raise AnswerNotUnderstood(f"{response.status} with a body that is no JSON object")
        return Answer(said, clock_ahead(response.headers.get("Date", ""), datetime.now(UTC)))


def checked_url(url: str) -> str:
    """The URL, if it can be Usher's. Raises ValueError."""
    try:
        parts = urlsplit(checked(url))
        port = parts.port
    except ValueError as exc:
        raise ValueError(f"this is no URL: {exc}") from exc
    if parts.scheme not in {"http", "https"}:
        raise ValueError("the URL of Usher begins with http:// or https://")
    if not parts.hostname or port == 0:
        raise ValueError("the URL of Usher needs a host, and its port is 1 to 65535")
    if parts.username is not None or parts.query or parts.fragment:
        raise ValueError("the URL of Usher has a path at most: neither a user nor a query")
    return url


def path_part(text: str) -> str:
    """A name as one part of a path. Raises ValueError where UTF-8 cannot write it."""
    return quote(checked(text), safe="")


def checked(text: str) -> str:
    """The text, if UTF-8 can write it. Raises ValueError."""
    try:
        text.encode()
    except UnicodeEncodeError as exc:
        raise ValueError("a text with a lone surrogate is nobody's name") from exc
    return text


def is_lost(error: UsherError, call: Call) -> bool:
    """Whether the try that ended so may have been carried out."""
    if isinstance(error, Unreachable):
        # What never had a connection never had a request.
        return not isinstance(error.__cause__, aiohttp.ClientConnectorError | aiohttp.ConnectionTimeoutError)
    if isinstance(error, Unavailable):
        # For a redemption it says that nothing was changed. The writing of a coupon may have been cut short.
        return not call.repeatable
    return error.answer_lost or (isinstance(error, Problem) and not error.nothing_done)


def clock_ahead(date: str, now: datetime) -> timedelta:
    """How far `now` is ahead of an answer's `Date`, as little as its precision allows; zero without a `Date`."""
    try:
        said_at = parsedate_to_datetime(date)
    except ValueError:
        return timedelta()
    if said_at.tzinfo is None:
        return timedelta()
    if now < said_at:
        return now - said_at
    return max(timedelta(), now - said_at - DATE_PRECISION)


def _object(text: bytes) -> Mapping[str, Any] | None:
    try:
        said = json.loads(text)
    except ValueError:
        return None
    return said if isinstance(said, dict) else None


def _seconds(text: str) -> float | None:
    """A `Retry-After` in seconds, which is how Usher writes it; None for anything else, such as a proxy's date."""
    return float(text) if text.isascii() and text.isdecimal() else None
