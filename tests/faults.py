"""A TCP proxy in front of a store that loses, holds back and cuts what passes, on demand.

    with Proxy(redis.port) as proxy:
        lost = proxy.lose_reply(holding(b"order-1"))
        ...                       # the client talks to proxy.port
        assert 1 == lost.hits

Predicates see raw bytes as they arrive from the client, up to 64 KiB at a time, so the proxy serves Redis and MariaDB
alike. It runs in a thread with an event loop of its own: its methods can be called from any test, synchronous or not,
and it outlives the loop of a single test.
"""

import asyncio
import socket
import threading
from collections.abc import Callable, Coroutine
from types import TracebackType
from typing import Any, Self, TypeVar
from urllib.parse import urlsplit, urlunsplit

from deploy.local import free_port

Predicate = Callable[[bytes], bool]
Result = TypeVar("Result")
SomeRule = TypeVar("SomeRule", bound="Rule")

CHUNK_BYTES = 65_536
BACKLOG = 1_024
CALL_TIMEOUT_S = 10.0
"""For a call into the proxy's thread, which does nothing there that takes time."""
TURNS = 10
"""Of the event loop; the library needs some three to end a connection."""
LATE_REPLY_TIMEOUT_S = 10.0
"""How long the store keeps its connection after the client has gone, so that a request that was held back can land."""


def anything(_request: bytes) -> bool:
    """Matches every request."""
    return True


def holding(*parts: bytes) -> Predicate:
    """Matches a request that contains all of these, whatever their case."""
    lowered = [part.lower() for part in parts]
    return lambda request: all(part in request.lower() for part in lowered)


class Rule:
    """Requests that match are counted; subclasses harm them as well.

    Attributes:
        hits: so many requests matched and were neither skipped nor too many.
    """

    def __init__(self, match: Predicate, *, skip: int = 0, times: int | None = None) -> None:
        self.hits = 0
        self._match = match
        self._skip = skip
        self._times = times
        self._active = True

    def applies(self, request: bytes) -> bool:
        """Whether this request is one of them; counts it if so."""
        if not self._active or (self._times is not None and self.hits >= self._times) or not self._match(request):
            return False
        if self._skip > 0:
            self._skip -= 1
            return False
        self.hits += 1
        return True

    def end(self) -> None:
        """From now on nothing matches."""
        self._active = False


class Loss(Rule):
    """The store carries the request out, and its reply is thrown away.

    Then both connections are cut; or, with `silent`, they stay open without a word, as if a switch had died.
    """

    def __init__(self, match: Predicate, *, skip: int, times: int | None, silent: bool) -> None:
        super().__init__(match, skip=skip, times=times)
        self.silent = silent


class Hold(Rule):
    """Requests that match wait in the proxy, with all that follows them on their connection, until `release`.

    Attributes:
        landed: so many of them have been answered by the store since.
    """

    def __init__(self, proxy: "Proxy", match: Predicate, *, skip: int, times: int | None) -> None:
        super().__init__(match, skip=skip, times=times)
        self.landed = 0
        self._proxy = proxy
        self._released = asyncio.Event()

    def release(self) -> None:
        """Lets go of all that waits, at once, and holds nothing more."""
        self.end()
        self._proxy.call(self._release())

    async def wait(self) -> None:
        """For the proxy: until `release`."""
        await self._released.wait()

    async def _release(self) -> None:
        self._released.set()


class Proxy:
    """Listens on a port of its own on 127.0.0.1 and passes everything on to the store, but for what its rules say.

    Attributes:
        port: where clients connect.
        accepted: connections accepted so far.
    """

    def __init__(self, store_port: int) -> None:
        self.port = free_port()
        self.accepted = 0
        self.rules: list[Rule] = []
        self._store_port = store_port
        self._links: dict[asyncio.Task[None], _Link] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._cuts = 0
        self._loop = asyncio.new_event_loop()
        self._listener: socket.socket | None = None
        self._thread = threading.Thread(target=self._loop.run_forever, name=f"proxy-{self.port}", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        self.accept()
        return self

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None) -> None:
        self.call(self._close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(CALL_TIMEOUT_S)
        self._loop.close()

    def url(self, store_url: str) -> str:
        """The store's URL with the proxy's port in it."""
        parts = urlsplit(store_url)
        login, at, _ = parts.netloc.rpartition("@")
        return urlunsplit(parts._replace(netloc=f"{login}{at}127.0.0.1:{self.port}"))

    # --- Faults ------------------------------------------------------------------------------------------------

    def count(self, match: Predicate = anything) -> Rule:
        """Harms nothing, and counts the requests that match."""
        return self._add(Rule(match))

    def lose_reply(self, match: Predicate = anything, *, skip: int = 0, times: int | None = 1, silent: bool = False) -> Loss:
        """The store carries the request out; its reply never arrives. After `skip` of them, and so many times."""
        return self._add(Loss(match, skip=skip, times=times, silent=silent))

    def hold(self, match: Predicate = anything, *, skip: int = 0, times: int | None = None) -> Hold:
        """Holds matching requests back, even when their client has given up, until `release`."""
        return self._add(Hold(self, match, skip=skip, times=times))

    def cut(self) -> None:
        """Resets all connections, at both ends."""
        self.call(self._cut())

    def refuse(self) -> None:
        """Resets all connections and refuses new ones, until `accept`."""
        self.call(self.stop())

    def accept(self) -> None:
        """Accepts connections; does nothing if it does already."""
        self.call(self._listen())

    def heal(self) -> None:
        """Ends all rules, releases what is held, and accepts connections again."""
        for rule in self.rules:
            rule.end()
            if isinstance(rule, Hold):
                rule.release()
        self.rules.clear()
        self.accept()

    def call(self, work: Coroutine[Any, Any, Result]) -> Result:
        """Runs a coroutine in the proxy's thread and returns its result."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(CALL_TIMEOUT_S)

    # --- In the proxy's thread ---------------------------------------------------------------------------------

    def _add(self, rule: SomeRule) -> SomeRule:
        self.rules.append(rule)
        return rule

    async def _listen(self) -> None:
        if self._listener is None:
            self._listener = socket.create_server(("127.0.0.1", self.port), backlog=BACKLOG)
            self._listener.settimeout(0)
            self._loop.add_reader(self._listener, self._accept, self._listener)

    def _accept(self, listener: socket.socket) -> None:
        """Takes a client that waits. At once: the library's server loses one that it has accepted as it is being closed."""
        try:
            client, _ = listener.accept()
        except (BlockingIOError, ConnectionAbortedError):  # It has gone again.
            return
        self.accepted += 1
        task = self._loop.create_task(self._serve(client, self._cuts))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _cut(self) -> None:
        self._cuts += 1
        for link in self._links.values():
            link.cut()

    async def stop(self) -> None:
        """As `refuse`, for whoever is in the proxy's thread."""
        if self._listener is not None:
            self._loop.remove_reader(self._listener)
            self._listener.close()
            self._listener = None
        await self._cut()

    async def _close(self) -> None:
        await self.stop()
        for task in list(self._links):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)  # Those too that were still on their way to the store.
        for _ in range(TURNS):  # Until the transports that were aborted have said goodbye.
            await asyncio.sleep(0)

    async def _serve(self, client: socket.socket, cuts: int) -> None:
        """Passes on what a client says. `cuts`: how many there had been when it came; the next one is for it, too."""
        client_reader, client_writer = await asyncio.open_connection(sock=client, limit=CHUNK_BYTES)
        try:
            store = await asyncio.open_connection("127.0.0.1", self._store_port, limit=CHUNK_BYTES)
        except OSError:
            client_writer.transport.abort()
            return
        link = _Link(self, (client_reader, client_writer), store)
        if cuts != self._cuts:
            link.cut()
            return
        task = asyncio.current_task()
        assert task is not None
        self._links[task] = link
        try:
            await link.pass_on()
        finally:
            del self._links[task]
            link.cut()


class _Link:
    """A client's connection, and the one to the store that belongs to it."""

    def __init__(
        self,
        proxy: Proxy,
        client: tuple[asyncio.StreamReader, asyncio.StreamWriter],
        store: tuple[asyncio.StreamReader, asyncio.StreamWriter],
    ) -> None:
        self._proxy = proxy
        self._client_reader, self._client_writer = client
        self._store_reader, self._store_writer = store
        self._loss: Loss | None = None
        self._held: Hold | None = None
        self._replied = asyncio.Event()

    def cut(self) -> None:
        """Resets both connections."""
        for writer in (self._client_writer, self._store_writer):
            writer.transport.abort()

    async def pass_on(self) -> None:
        """Passes bytes on in both directions until one end is closed."""
        replies = asyncio.create_task(self._pass_replies())
        requests = asyncio.create_task(self._pass_requests())
        try:
            await asyncio.wait((replies, requests), return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (replies, requests):
                task.cancel()
            await asyncio.gather(replies, requests, return_exceptions=True)

    async def _pass_requests(self) -> None:
        while request := await self._client_reader.read(CHUNK_BYTES):
            await self._pass_request(request)
        if self._held is not None:
            # The client gave up on a request that has only just been passed on: the store is to finish it.
            await asyncio.wait_for(self._replied.wait(), LATE_REPLY_TIMEOUT_S)

    async def _pass_request(self, request: bytes) -> None:
        for rule in [rule for rule in self._proxy.rules if rule.applies(request)]:
            if isinstance(rule, Loss):
                self._loss = rule
            elif isinstance(rule, Hold):
                self._held = rule
                await rule.wait()
        self._replied.clear()
        self._store_writer.write(request)
        await self._store_writer.drain()

    async def _pass_replies(self) -> None:
        while reply := await self._store_reader.read(CHUNK_BYTES):
            if self._held is not None and not self._replied.is_set():
                self._held.landed += 1
            self._replied.set()
            if self._loss is not None:
                if self._loss.silent:
                    continue
                return
            if not self._client_writer.transport.is_closing():
                self._client_writer.write(reply)
                await self._client_writer.drain()
