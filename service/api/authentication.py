"""API keys: who calls, and may they. A request with a known key waits for nothing.

Keys that were used are kept, and all of them are read anew together every REFRESH_INTERVAL_S: a revoked key is refused
within two seconds in every process. Unknown keys that arrive together are looked up by one statement and remembered for a
moment. While the ledger is away, keys that it confirmed within CONFIRMED_MAX_S stay good.

A key is only ever looked for by its SHA-256 digest, here and in the ledger, so no secret is compared and no time tells how
much of a key was right: see `service.ledger.keys`. Unknown, revoked and expired keys get the same answer.
"""

import asyncio
import hashlib
import re
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final, Protocol

import structlog

from service.api.problems import Code, Problem
from service.errors import LedgerUnavailable, Overloaded, UsherError
from service.model import ApiKey, Scope

REFRESH_INTERVAL_S: Final = 0.75
"""With the look-up itself below the two seconds in which a revoked key is to be refused."""
LOOK_UP_TIMEOUT_MAX_S: Final = 1.0
"""A ledger that takes longer for an index look-up is as good as away."""
CONFIRMED_MAX_S: Final = 30.0
"""A ledger fails over within seconds; an operator who revokes a key meanwhile expects it gone soon after."""
IDLE_MAX_S: Final = 300.0
"""A key that was not used for so long is not read anew any more, but at its next use."""
KNOWN_MAX: Final = 4_096
"""Keys kept; one statement reads them all."""
UNKNOWN_S: Final = 1.0
UNKNOWN_MAX: Final = 20_000
"""Digests remembered as unknown: a guesser's look-ups stay bounded, and a new key works within a second."""
WAITING_MAX: Final = 20_000
"""Look-ups under way; one more is refused at once."""
LOOK_UP_MAX: Final = 500
"""Digests in one statement."""
TOUCH_INTERVAL_S: Final = 60.0
"""`last_used_at` is for people, who decide by it whether a key can be revoked; a process that stops notes it as well."""

REDEEM: Final = frozenset({Scope.REDEEM, Scope.ADMIN})
READ: Final = frozenset({Scope.READ, Scope.ADMIN})
READ_REDEMPTIONS: Final = frozenset({Scope.REDEEM, Scope.READ, Scope.ADMIN})
ADMIN: Final = frozenset({Scope.ADMIN})

USUAL_SCHEME: Final = "Bearer "
HEADER: Final = re.compile(r"[Bb][Ee][Aa][Rr][Ee][Rr] +([A-Za-z0-9._~+/-]{16,256}=*)\Z")
"""RFC 6750; the bounds leave room for other kinds of keys."""

log = structlog.get_logger(__name__)


class KeyStore(Protocol):
    """What is needed of the ledger: `service.ledger.keys.Keys`."""

    async def find(self, digests: Sequence[bytes], deadline: float) -> dict[bytes, ApiKey]:
        """The keys with these digests; unknown digests are absent."""
        ...

    async def touch(self, used_at: dict[int, datetime], deadline: float) -> None:
        """Notes when keys were last used."""
        ...


@dataclass(slots=True)
class Known:
    """A key in force. `confirmed_at` and `used_at` in seconds of the loop's clock."""

    key: ApiKey
    confirmed_at: float
    used_at: float
    used: bool = True


class Authenticator:
    """Knows the callers. `now`: the ledger's clock, by which keys expire."""

    def __init__(self, keys: KeyStore, now: Callable[[], datetime], look_up_timeout_s: float = LOOK_UP_TIMEOUT_MAX_S) -> None:
        self._keys = keys
        self._now = now
        self._look_up_timeout_s = look_up_timeout_s
        self._known: dict[bytes, Known] = {}
        self._unknown: OrderedDict[bytes, float] = OrderedDict()
        self._waiting: dict[bytes, asyncio.Future[ApiKey | None]] = {}
        self._to_look_up: list[bytes] = []
        self._tasks: list[asyncio.Task[None]] = []
        self._wanted = asyncio.Event()
        self._uses: dict[int, float] = {}
        self._touched_at = float("-inf")
        self._outage = False

    def start(self) -> None:
        """Begins to look up, to refresh and to note uses, in the running loop."""
        always = (self._look_up_always(), self._refresh_always(), self._note_uses_always())
        self._tasks = [asyncio.create_task(one) for one in always]

    async def stop(self) -> None:
        """Ends them, and notes the last uses; whoever still waits for a look-up is told that the ledger is unavailable."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        at = asyncio.get_running_loop().time()
        self._gather_uses(at)
        if self._uses:
            await self._touch(at)
        for future in self._waiting.values():
            if not future.done():
                future.set_exception(LedgerUnavailable())
                future.exception()  # Nobody may be waiting any more; that is no fault.
        self._waiting.clear()

    async def authorize(self, header: str | None, allowed: frozenset[Scope]) -> ApiKey:
        """The caller's key, from the `Authorization` header, if it has one of the scopes.

        Raises the Problems `unauthorized` and `forbidden`; LedgerUnavailable or Overloaded when nobody knows.
        """
        known = None
        if header is not None and header.startswith(USUAL_SCHEME):  # A key that is known is well formed.
            known = self._known.get(_digest(header[len(USUAL_SCHEME) :]))
        key = known.key if known is not None else await self._find_key(_digest(_key_text(header)))
        if key is None or (key.expires_at is not None and key.expires_at <= self._now()):
            raise _unauthorized()
        if known is not None:
            known.used = True
        if key.scopes.isdisjoint(allowed):
            raise Problem(Code.FORBIDDEN)
        return key

    async def _find_key(self, digest: bytes) -> ApiKey | None:
        """One that is known, though it was sent in an unusual way, or that the ledger knows."""
        known = self._known.get(digest)
        if known is None:
            return await self._look_up(digest)
        known.used = True
        return known.key

    # --- Look-ups ----------------------------------------------------------------------------------------------

    async def _look_up(self, digest: bytes) -> ApiKey | None:
        loop = asyncio.get_running_loop()
        if self._unknown.get(digest, 0.0) > loop.time():
            return None
        future = self._waiting.get(digest)
        if future is None:
            if len(self._waiting) >= WAITING_MAX:
                raise Overloaded
            future = self._waiting[digest] = loop.create_future()
            self._to_look_up.append(digest)
            self._wanted.set()
        return await asyncio.shield(future)

    async def _look_up_always(self) -> None:
        """No timer: while one statement is under way, the next one's digests gather."""
        while True:
            await self._wanted.wait()
            self._wanted.clear()
            while self._to_look_up:
                batch, self._to_look_up = self._to_look_up[:LOOK_UP_MAX], self._to_look_up[LOOK_UP_MAX:]
                await self._answer(batch)

    async def _answer(self, batch: list[bytes]) -> None:
        """Looks a batch up and tells those who wait; whatever happens, they are told."""
        try:
            keys = await self._find(batch)
        except UsherError as error:
            for digest in batch:
                _fail(self._waiting.pop(digest), error)
            return
        except Exception as error:
            log.exception("look-up of keys failed")
            for digest in batch:
                _fail(self._waiting.pop(digest), error)
            return
        for digest in batch:
            key = keys.get(digest)
            self._remember(digest, key)
            future = self._waiting.pop(digest)
            if not future.done():
                future.set_result(key if digest in self._known else None)

    async def _find(self, digests: Sequence[bytes]) -> dict[bytes, ApiKey]:
        deadline = asyncio.get_running_loop().time() + self._look_up_timeout_s
        try:
            async with asyncio.timeout_at(deadline):
                return await self._keys.find(digests, deadline)
        except TimeoutError:
            raise LedgerUnavailable from None

    def _remember(self, digest: bytes, key: ApiKey | None) -> None:
        """As known, with what the ledger has just said, or as unknown for a moment."""
        at = asyncio.get_running_loop().time()
        if key is None or not self._in_force(key):
            self._forget(digest, at)
            if len(self._unknown) >= UNKNOWN_MAX:
                self._unknown.popitem(last=False)
            self._unknown[digest] = at + UNKNOWN_S
            return
        self._unknown.pop(digest, None)
        known = self._known.get(digest)
        if known:
            known.key, known.confirmed_at = key, at
            return
        if len(self._known) >= KNOWN_MAX:
            self._forget(min(self._known, key=lambda one: self._known[one].used_at), at)
        self._known[digest] = Known(key, confirmed_at=at, used_at=at)

    def _forget(self, digest: bytes, at: float) -> None:
        """The key, but not that it was used."""
        known = self._known.pop(digest, None)
        if known is not None and known.used:
            self._uses[known.key.id] = at

    def _in_force(self, key: ApiKey) -> bool:
        return key.revoked_at is None and (key.expires_at is None or key.expires_at > self._now())

    # --- Refresh -----------------------------------------------------------------------------------------------

    async def _refresh_always(self) -> None:
        while True:
            await asyncio.sleep(REFRESH_INTERVAL_S)
            try:
                await self.refresh()
            except Exception:
                log.exception("refresh of keys failed")

    async def refresh(self) -> None:
        """Reads all known keys anew in one statement; forgets those not in force, idle, or unconfirmed for too long."""
        at = asyncio.get_running_loop().time()
        self._forget_aged(at)
        digests = list(self._known)
        try:
            keys = await self._find(digests) if digests else {}
        except UsherError as error:
            if not self._outage:
                log.warning("keys not refreshed until the ledger is back", error=str(error))
            self._outage = True
            self._known = {digest: known for digest, known in self._known.items() if at - known.confirmed_at < CONFIRMED_MAX_S}
            return
        self._outage = False
        for digest in digests:
            self._remember(digest, keys.get(digest))

    def _forget_aged(self, at: float) -> None:
        self._unknown = OrderedDict((digest, until) for digest, until in self._unknown.items() if until > at)
        self._gather_uses(at)
        self._known = {digest: known for digest, known in self._known.items() if at - known.used_at < IDLE_MAX_S}

    def _gather_uses(self, at: float) -> None:
        """Notes here which keys were used since the last time; for the ledger, they wait until `_touch`."""
        for known in self._known.values():
            if known.used:
                known.used_at, known.used = at, False
                self._uses[known.key.id] = at

    # --- Last use ----------------------------------------------------------------------------------------------

    async def _note_uses_always(self) -> None:
        """Beside the refresh: a note may wait for a lock, and a revoked key is to be found in time."""
        while True:
            await asyncio.sleep(REFRESH_INTERVAL_S)
            try:
                await self.note_uses()
            except Exception:
                log.exception("use of keys was not noted")

    async def note_uses(self) -> None:
        """Notes the uses that a refresh has gathered, at most once in TOUCH_INTERVAL_S."""
        at = asyncio.get_running_loop().time()
        if self._uses and at - self._touched_at >= TOUCH_INTERVAL_S:
            self._touched_at = at
            await self._touch(at)

    async def _touch(self, at: float) -> None:
        """Notes the uses in the ledger, each with its own time; if that fails, the next time."""
        now = self._now()
        uses = dict(self._uses)
        try:
            async with asyncio.timeout(LOOK_UP_TIMEOUT_MAX_S):
                await self._keys.touch(
                    {key_id: now - timedelta(seconds=at - used_at) for key_id, used_at in uses.items()},
                    at + LOOK_UP_TIMEOUT_MAX_S,
                )
        except (UsherError, TimeoutError) as error:
            log.warning("use of keys was not noted", error=str(error) or "no answer in time")
            return
        self._uses = {key_id: used_at for key_id, used_at in self._uses.items() if used_at != uses.get(key_id)}


def _digest(text: str) -> bytes:
    """Of whatever a header holds: what is no text was escaped by the library."""
    return hashlib.sha256(text.encode(errors="surrogateescape")).digest()


def _key_text(header: str | None) -> str:
    """The key in an `Authorization` header; raises the Problem `unauthorized`."""
    found = HEADER.match(header) if header else None
    if not found:
        raise _unauthorized()
    return found[1]


def _unauthorized() -> Problem:
    return Problem(Code.UNAUTHORIZED)


def _fail(future: asyncio.Future[ApiKey | None], error: Exception) -> None:
    if not future.done():
        future.set_exception(error)
        future.exception()  # Those who waited may have gone; that is no fault.
