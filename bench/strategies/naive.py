"""Read, compare, write: the counter's value is read, compared here, and written back one higher, as an ORM does it.

Who reads before another has written writes the same number: the counter falls behind, and the coupon is sold too often.
"""

from bench.strategies.model import Row
from bench.strategies.on_ledger import OnLedger
from bench.strategies.sessions import Session
from bench.strategies.statements import insert, read_counter


class Naive(OnLedger):
    """Nothing holds the counter between reading and writing."""

    async def sell(self, session: Session, row: Row) -> bool:
        """Two round trips."""
        used, limit = await self.read(session, row)
        if used >= limit:
            return False
        await session.run(
            f"BEGIN NOT ATOMIC START TRANSACTION; {insert([row])}; "
            f"UPDATE bench_counter SET used = {used + 1} WHERE coupon_id = {row.coupon_id} AND part = 0; COMMIT; END"
        )
        return True

    async def read(self, session: Session, row: Row) -> tuple[int, int]:
        """How much of the coupon is used, and its limit."""
        ((used, limit),) = await session.rows(read_counter(row))
        return used, limit
