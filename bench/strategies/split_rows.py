"""The counter split into several rows, each with its part of the limit: one is chosen by chance, another if it is empty.

Requests meet at a row only by chance; near the end they look for the last parts that have something left.
"""

import random
from collections.abc import Sequence

from bench.strategies import PARTS
from bench.strategies.model import Row
from bench.strategies.on_ledger import OnLedger
from bench.strategies.sessions import Exhausted, Session
from bench.strategies.statements import parts_left, sell_or_signal


class SplitRows(OnLedger):
    """A conditional UPDATE of a part, and the INSERT in the same transaction."""

    async def sell(self, session: Session, row: Row) -> bool:
        """Exhausted is the coupon only when no part has anything left, all of them read at one moment."""
        left: Sequence[int] = range(PARTS)
        while left:
            try:
                await session.run(sell_or_signal(row, part=random.choice(left)))
            except Exhausted:
                left = [part for (part,) in await session.rows(parts_left(row))]
            else:
                return True
        return False
