"""API keys in the ledger: their digests, never the keys."""

import hashlib
import secrets
from collections.abc import Collection, Sequence
from datetime import datetime

from service.errors import KeyExists, LedgerRefusedData
from service.ledger.clock import Clock
from service.ledger.connections import Connections, Row
from service.ledger.literals import Sql, binaries, literal
from service.ledger.sql import Query
from service.model import ApiKey, Scope

CREATE = Query("key_create")
LIST = Query("key_list")
BY_NAME = Query("key_by_name")
REVOKE = Query("key_revoke")
FIND = Query("key_find")
TOUCH = Query("key_touch")

KEY_PREFIX = "usher_"
"""Lets scanners of source code recognise a key that got where it should not be."""
KEY_BYTES = 32
"""Of randomness: 43 characters."""


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
        plain = KEY_PREFIX + secrets.token_urlsafe(KEY_BYTES)
        async with self._connections.use(deadline) as connection:
            now = self._clock.now()
            names = ",".join(sorted(scope.value for scope in scopes))
            statement = CREATE(name=name, digest=digest(plain), scopes=names, now=now, expires_at=expires_at)
            try:
                key_id = await connection.insert(statement, deadline)
            except LedgerRefusedData as error:
                if await connection.fetch(BY_NAME(name=name), deadline):
                    raise KeyExists from error
                raise
        key = ApiKey(key_id, name, frozenset(scopes), now, expires_at, revoked_at=None, last_used_at=None)
        return key, plain

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
        found = await self._connections.fetch(FIND(digests=binaries(digests)), deadline)
        return {row[0]: _key(row[1:]) for row in found}

    async def touch(self, used_at: dict[int, datetime], deadline: float) -> None:
        """Notes when keys (by id) were last used; never moves a time back. Raises LedgerUnavailable, LedgerContended."""
        if not used_at:
            return
        cases = " ".join(f"WHEN {key_id:d} THEN {literal(at)}" for key_id, at in used_at.items())
        ids = ",".join(f"{key_id:d}" for key_id in used_at)
        async with self._connections.use(deadline) as connection:
            await connection.run(TOUCH(cases=Sql(cases), ids=Sql(ids)), deadline)


def _key(row: Row) -> ApiKey:
    """From `key_columns.sql`."""
    key_id, name, scopes, *times = row
    return ApiKey(key_id, name, frozenset(map(Scope, scopes.split(","))), *times)
