"""API keys in the ledger: their digests, never the keys.

A key is found by its digest, through an index, and how long that takes depends on the digest. It tells a guesser nothing:
who wants to be slow in the right place must find texts whose SHA-256 begins like a stored one, and would know a digest then,
from which no key of 256 random bits follows. What the ledger returned is compared once more, in constant time, with what
was asked for: whether a key is the right one is not left to how an index or a column compares.
"""

import hashlib
import hmac
import re
import secrets
from collections.abc import Collection, Sequence
from datetime import datetime, timedelta

from service.errors import KeyExists, KeyNotInForce, LedgerRefusedData
from service.ledger.clock import Clock
from service.ledger.connections import Connection, Connections, Row
from service.ledger.literals import Sql, binaries, literal
from service.ledger.sql import Query
from service.model import ApiKey, Scope

CREATE = Query("key_create")
LIST = Query("key_list")
BY_NAME = Query("key_by_name")
EXPIRE = Query("key_expire")
EXPIRE_BY = Query("key_expire_by")
IN_FORCE = Query("key_in_force")
REVOKE = Query("key_revoke")
FIND = Query("key_find")
TOUCH = Query("key_touch")

KEY_PREFIX = "usher_"
"""Lets scanners of source code recognise a key that got where it should not be."""
KEY_BYTES = 32
"""Of randomness: 43 characters."""
NAME_MAX_CHARS = 64
"""What the column holds."""
NUMBERED = re.compile(r"(.*)-([1-9][0-9]{0,5})")
"""`checkout-2` came after `checkout`, in whose place it is."""

TAKEN = (
    "A key with this name exists. Names stay taken, so that a list tells which key was which: `usher key rotate` numbers them."
)


def digest(plain: str) -> bytes:
    """The SHA-256 digest (32 bytes) under which a key is stored. Keys are long and random, so no slow hash is needed."""
    return hashlib.sha256(plain.encode()).digest()


class Keys:
    """The gateway to the table `api_key`."""

    def __init__(self, connections: Connections, clock: Clock) -> None:
        self._connections = connections
        self._clock = clock

    async def create(
        self, name: str, scopes: Collection[Scope], *, expires_at: datetime | None = None, deadline: float
    ) -> tuple[ApiKey, str]:
        """Makes a key; returns its row and its text (`usher_` and 43 characters), which is stored nowhere.

        Raises KeyExists for a name that is taken, LedgerRefusedData, LedgerUnavailable (LedgerReplyLost: perhaps made).
        """
        assert scopes, "a key without a scope may do nothing"
        async with self._connections.use(deadline) as connection:
            try:
                return await self._insert(connection, name, scopes, expires_at=expires_at, deadline=deadline)
            except LedgerRefusedData as error:
                if await connection.fetch(BY_NAME(name=name), deadline):
                    raise KeyExists(TAKEN) from error
                raise

    async def _insert(
        self, connection: Connection, name: str, scopes: Collection[Scope], *, expires_at: datetime | None, deadline: float
    ) -> tuple[ApiKey, str]:
        plain = KEY_PREFIX + secrets.token_urlsafe(KEY_BYTES)
        now = self._clock.now()
        names = ",".join(sorted(scope.value for scope in scopes))
        statement = CREATE(name=name, digest=digest(plain), scopes=names, now=now, expires_at=expires_at)
        key_id = await connection.insert(statement, deadline)
        return ApiKey(key_id, name, frozenset(scopes), now, expires_at, revoked_at=None, last_used_at=None), plain

    async def rotate(
        self, old: ApiKey, *, overlap: timedelta, expires_at: datetime | None = None, deadline: float
    ) -> tuple[ApiKey, str]:
        """Makes a key that may do what `old` may, and lets `old` expire after the overlap, both or neither.

        Returns the new key's row, named as the old one with the next free number, and its text. An `old` that expires
        earlier still does. Raises KeyNotInForce when `old` was revoked or has expired meanwhile, KeyExists when somebody else
        took the new name, LedgerUnavailable (LedgerReplyLost: perhaps done).
        """
        taken = {key.name for key in await self.list(deadline)}
        name = next_name(old.name, taken)
        async with self._connections.use(deadline) as connection:
            now = self._clock.now()
            try:
                async with connection.transaction(deadline):
                    # First of all: it locks the row, so what somebody else does to the key comes before or after.
                    in_force = await connection.fetch(IN_FORCE(name=old.name, now=now), deadline)
                    if not in_force:
                        raise KeyNotInForce
                    await connection.run(EXPIRE_BY(name=old.name, expires_at=now + overlap), deadline)
                    made = await self._insert(connection, name, old.scopes, expires_at=expires_at, deadline=deadline)
            except LedgerRefusedData as error:
                raise KeyExists(TAKEN) from error
        return made

    async def expire(self, name: str, expires_at: datetime | None, deadline: float) -> ApiKey | None:
        """Gives the key of this name another time to expire, or none; a revoked one stays as it is. None: no such key.

        Raises LedgerUnavailable.
        """
        async with self._connections.use(deadline) as connection:
            await connection.run(EXPIRE(name=name, expires_at=expires_at), deadline)
            found = await connection.fetch(BY_NAME(name=name), deadline)
        return _key(found[0]) if found else None

    async def list(self, deadline: float) -> list[ApiKey]:
        """All keys by id, the revoked ones too. Raises LedgerUnavailable."""
        return [_key(row) for row in await self._connections.fetch(LIST(), deadline)]

    async def revoke(self, name: str, deadline: float) -> ApiKey | None:
        """Revokes the key of this name now, if it is not yet; None where there is none. Raises LedgerUnavailable."""
        async with self._connections.use(deadline) as connection:
            # It can be repeated: the first revocation counts.
            await connection.run(REVOKE(name=name, now=self._clock.now()), deadline)
            found = await connection.fetch(BY_NAME(name=name), deadline)
        return _key(found[0]) if found else None

    async def find(self, digests: Sequence[bytes], deadline: float) -> dict[bytes, ApiKey]:
        """The keys with these digests, in one statement, also those revoked or expired; unknown digests are absent.

        Raises LedgerUnavailable.
        """
        if not digests:
            return {}
        found = {row[0]: row for row in await self._connections.fetch(FIND(digests=binaries(digests)), deadline)}
        pairs = ((one, found.get(one)) for one in digests)
        return {asked: _key(row[1:]) for asked, row in pairs if row is not None and hmac.compare_digest(row[0], asked)}

    async def touch(self, used_at: dict[int, datetime], deadline: float) -> None:
        """Notes when keys (by id) were last used; never moves a time back. Raises LedgerUnavailable, LedgerContended."""
        if not used_at:
            return
        cases = " ".join(f"WHEN {key_id:d} THEN {literal(at)}" for key_id, at in used_at.items())
        ids = ",".join(f"{key_id:d}" for key_id in used_at)
        async with self._connections.use(deadline) as connection:
            await connection.run(TOUCH(cases=Sql(cases), ids=Sql(ids)), deadline)


def next_name(name: str, taken: Collection[str]) -> str:
    """The name of the key that takes this one's place: `checkout`, `checkout-2`, `checkout-3`; the first that is free."""
    numbered = NUMBERED.fullmatch(name)
    stem, number = (numbered[1], int(numbered[2]) + 1) if numbered else (name, 2)
    while (next_one := f"{stem[: NAME_MAX_CHARS - 1 - len(str(number))]}-{number}") in taken:
        number += 1
    return next_one


def _key(row: Row) -> ApiKey:
    """From `key_columns.sql`."""
    key_id, name, scopes, *times = row
    return ApiKey(key_id, name, frozenset(map(Scope, scopes.split(","))), *times)
