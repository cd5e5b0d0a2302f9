"""One leader among many reconcilers: who holds a lock of the server's, by a session that does nothing else.

The lock goes with its session. That of a leader that was killed ends at once; that of one that hangs, was stopped or cut off
is ended by the server after SILENCE_MAX_S without a word, so that another one can lead. Who wakes up after that finds the
session closed, and a new session does not have the lock: hence `is_leading` before each step.
"""

import asyncio
from contextlib import suppress
from typing import Final

from service.errors import LedgerContended, LedgerUnavailable
from service.ledger.clock import Clock
from service.ledger.connections import Address, Connections
from service.ledger.sql import Query

TAKE: Final = Query("leader_take")
HOLDS: Final = Query("leader_holds")
NOTE: Final = Query("leader_note")
GIVE_BACK: Final = Query("leader_give_back")

SILENCE_MAX_S: Final = 10
"""The leader says something every second; whoever is silent for so long leads no longer."""
ANSWER_DEADLINE_S: Final = 3.0
"""A server that is busy for a moment changes no leader; one that answers nothing to anybody has none."""


class Leadership:
    """This reconciler's part in it. `leads`: what the server said when it was asked last. `term`: how often it took over."""

    def __init__(self, where: Address, clock: Clock, name: str) -> None:
        self._connections = Connections(where, clock, size=1, idle_timeout_s=SILENCE_MAX_S)
        self.name = name
        self.leads = False
        self.term = 0

    async def seek(self) -> bool:
        """Leads, unless somebody else does; to be called every second, by those who lead and those who stand by alike.

        Raises LedgerUnavailable; nobody leads then who does not know it.
        """
        try:
            self.leads = await self._seek(_soon())
        except BaseException:
            self.leads = False
            raise
        return self.leads

    async def _seek(self, deadline: float) -> bool:
        async with self._connections.use(deadline) as connection:
            ((holds,),) = await connection.fetch(HOLDS(), deadline)
            if not holds:
                ((granted,),) = await connection.fetch(TAKE(), deadline)
                if granted != 1:
                    return False
            if not (holds and self.leads):
                try:
                    await connection.run(NOTE(name=self.name), deadline)
                except LedgerContended as error:
                    raise LedgerUnavailable(str(error)) from error
                self.term += 1
        return True

    async def is_leading(self) -> bool:
        """Whether the server says so now; one that does not say is no reason to go on."""
        if self.leads:
            deadline = _soon()
            try:
                ((holds,),) = await self._connections.fetch(HOLDS(), deadline)
            except LedgerUnavailable:
                holds = 0
            self.leads = bool(holds)
        return self.leads

    async def give_back(self) -> None:
        """Lets another one lead at once, and ends the session."""
        if self.leads:
            self.leads = False
            with suppress(LedgerUnavailable):  # It goes with the session.
                await self._connections.fetch(GIVE_BACK(), _soon())
        await self._connections.close()


def _soon() -> float:
    return asyncio.get_running_loop().time() + ANSWER_DEADLINE_S
