"""Row lock and conditional UPDATE as applications have them that write one statement after the other, or let an ORM do it.

Each statement is a round trip, and the counter's row stays locked for all that follow its own, and for whatever else the
process does before it comes back to this request. Measured beside the same two in one round trip, they show what that costs.
"""

from bench.strategies.model import Row
from bench.strategies.on_ledger import OnLedger
from bench.strategies.sessions import Session
from bench.strategies.statements import count_one, insert, read_counter


class RowLockByStatement(OnLedger):
    """START TRANSACTION, SELECT … FOR UPDATE, UPDATE, INSERT, COMMIT; compared here."""

    isolation = "REPEATABLE READ"

    async def sell(self, session: Session, row: Row) -> bool:
        """Five round trips."""
        await session.run("START TRANSACTION")
        ((used, limit),) = await session.rows(f"{read_counter(row)} FOR UPDATE")
        if used >= limit:
            await session.run("ROLLBACK")
            return False
        await session.run(f"UPDATE bench_counter SET used = {used + 1} WHERE coupon_id = {row.coupon_id} AND part = 0")
        await session.run(insert([row]))
        await session.run("COMMIT")
        return True


class ConditionalUpdateByStatement(OnLedger):
    """START TRANSACTION, UPDATE … WHERE used < max, INSERT, COMMIT."""

    isolation = "REPEATABLE READ"

    async def sell(self, session: Session, row: Row) -> bool:
        """Four round trips."""
        await session.run("START TRANSACTION")
        if await session.run(count_one(row)) == 0:
            await session.run("ROLLBACK")
            return False
        await session.run(insert([row]))
        await session.run("COMMIT")
        return True
