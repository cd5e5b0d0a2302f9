"""A conditional UPDATE and the INSERT in one transaction, under REPEATABLE READ, MariaDB's default.

All requests for the coupon meet at the counter's row, each for the time from its UPDATE to its commit.
"""

from bench.strategies.model import Row
from bench.strategies.on_ledger import OnLedger
from bench.strategies.sessions import Session
from bench.strategies.statements import sell_or_signal


class ConditionalUpdate(OnLedger):
    """`UPDATE … SET used = used + 1 WHERE used < max`."""

    isolation = "REPEATABLE READ"

    async def sell(self, session: Session, row: Row) -> bool:
        """In one round trip."""
        await session.run(sell_or_signal(row))
        return True
