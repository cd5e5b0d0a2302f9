"""A queue with one worker, which does one order after the other: nobody waits for a lock, and every order for all before it."""

from collections.abc import Sequence

from bench.strategies.model import Answer, Row
from bench.strategies.queued import Queued
from bench.strategies.sessions import Session
from bench.strategies.statements import sell_or_signal


class QueueSingle(Queued):
    """A transaction for each order."""

    batch_max = 1

    async def sell_all(self, session: Session, rows: Sequence[Row]) -> Sequence[Answer]:
        """There is one."""
        return [await self.answer(session, row) for row in rows]

    async def sell(self, session: Session, row: Row) -> bool:
        """In one round trip."""
        await session.run(sell_or_signal(row))
        return True
