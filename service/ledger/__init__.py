"""The MariaDB gateway: the ledger is the truth, and its statements decide.

Drivers' errors stop here. What is raised instead: LedgerUnavailable (nothing was done), its subclass LedgerReplyLost (perhaps
done), LedgerContended and LedgerRefusedData (nothing was done). Deadlines are in seconds of the running event loop's clock;
times are aware, in UTC.
"""

import asyncio
from contextlib import suppress
from datetime import datetime
from typing import Self

from service.config import Settings
from service.errors import LedgerUnavailable
from service.ledger import migrations
from service.ledger.clock import Clock
from service.ledger.connections import Address, Connections
from service.ledger.coupon_changes import CouponChanges
from service.ledger.coupons import Coupons
from service.ledger.guesses import Guesses
from service.ledger.keys import Keys
from service.ledger.leadership import Leadership
from service.ledger.ranges import Ranges
from service.ledger.redemptions import Redemptions
from service.ledger.runs import Runs
from service.ledger.seats import Seats
from service.ledger.seeds import Seeds
from service.ledger.sql import Query
from service.ledger.transitions import Transitions
from service.ledger.walk import Walk
from service.ledger.watching import Watching

DURABILITY = Query("durability")
ADMINISTERING = 2
"""Connections on which coupons and runs are written; each may wait for a coupon's row."""
CHECK_TIMEOUT_S = 1.0
"""For questions about the server itself, which it answers in a millisecond when it is well."""


class Ledger:
    """The ledger's parts, and its connections' life. Made by `connect`, inside the event loop that uses it."""

    def __init__(self, settings: Settings) -> None:
        where = self._where = Address.of(settings.database_url)
        self._clock = Clock()
        # One role must not wait for another: a search or a PATCH holds no writer up.
        self._reading = Connections(where, self._clock, size=settings.read_connections)
        self._writing = Connections(where, self._clock, size=settings.record_connections)
        self._changing = Connections(where, self._clock, size=settings.record_connections)
        self._administering = Connections(where, self._clock, size=ADMINISTERING)
        self._checking = Connections(where, self._clock, size=1)
        self._noting = Connections(where, self._clock, size=1)  # Opened for the first guess.
        self.redemptions = Redemptions(self._reading, self._writing, self._changing, self._clock)
        self.transitions = Transitions(self._changing)
        self.seats = Seats(self._reading)
        self.ranges = Ranges(self._reading)
        self.walk = Walk(self._reading)
        self.coupons = Coupons(self._reading)
        self.seeds = Seeds(self._reading)
        self.coupon_changes = CouponChanges(self._administering, self.seats, self._clock)
        self.keys = Keys(self._reading, self._clock)
        self.guesses = Guesses(self._reading, self._noting)
        self.runs = Runs(self._reading, self._administering, self._clock)
        self.watching = Watching(self._reading)

    @classmethod
    async def connect(cls, settings: Settings) -> Self:
        """A ledger for these settings. It reaches for the server, which sets the clock; one that is away is no error."""
        ledger = cls(settings)
        with suppress(LedgerUnavailable):  # Connections open when they are needed; until then the service is not ready.
            await ledger.ping()
        return ledger

    async def close(self) -> None:
        """Closes all connections, when the rows that are being recorded have their endings."""
        await self.redemptions.finish()
        for connections in (
            self._writing,
            self._changing,
            self._administering,
            self._reading,
            self._noting,
            self._checking,
        ):
            await connections.close()

    async def ping(self) -> None:
        """Raises LedgerUnavailable when the server does not answer within a second."""
        await self._checking.fetch("SELECT 1", _soon())

    async def check_schema(self) -> None:
        """Raises SchemaNotCurrent when a migration of this version is missing or another one was applied; LedgerUnavailable."""
        await migrations.check(self._checking, _soon())

    async def durability_warnings(self) -> list[str]:
        """A sentence for each of the server's settings that is weaker than Usher promises. Raises LedgerUnavailable."""
        ((flush_log, log_bin, sync_binlog, doublewrite),) = await self._checking.fetch(DURABILITY(), _soon())
        warnings = []
        if flush_log not in (1, 3):
            warnings.append(
                f"innodb_flush_log_at_trx_commit is {flush_log}, not 1: a power loss loses redemptions that were acknowledged"
            )
        if log_bin and sync_binlog != 1:
            warnings.append(
                f"sync_binlog is {sync_binlog}, not 1: after a power loss, replicas lack redemptions that were acknowledged"
            )
        if doublewrite in (0, "OFF"):
            warnings.append("innodb_doublewrite is off: a power loss can leave torn pages, and redemptions with them")
        return warnings

    def leadership(self, name: str) -> Leadership:
        """What a reconciler of this name needs to lead, on a connection of its own; whoever asks for it gives it back."""
        return Leadership(self._where, self._clock, name)

    def now(self) -> datetime:
        """The ledger's clock as estimated here; this machine's until the ledger has been reached."""
        return self._clock.now()


def _soon() -> float:
    return asyncio.get_running_loop().time() + CHECK_TIMEOUT_S
