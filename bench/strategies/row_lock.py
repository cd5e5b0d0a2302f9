"""The counter's row is locked by SELECT … FOR UPDATE, compared, and written, under REPEATABLE READ, MariaDB's default.

All requests for the coupon go one after the other, each for the time from its lock to its commit.
"""

from bench.strategies.model import Row
from bench.strategies.on_ledger import OnLedger
from bench.strategies.sessions import Session
from bench.strategies.statements import insert, read_counter


class RowLock(OnLedger):
    """`SELECT … FOR UPDATE`, in one round trip: compared here, the row would be locked for two more ways over the network.

    The row is inserted first, so that the lock is held no longer than the counting takes.
    """

    isolation = "REPEATABLE READ"

    async def sell(self, session: Session, row: Row) -> bool:
        """SIGNAL says that nothing is left."""
        await session.run(
            "BEGIN NOT ATOMIC DECLARE taken, most INT UNSIGNED; START TRANSACTION; "
            f"{insert([row])}; {read_counter(row, into='taken, most')} FOR UPDATE; "
            "IF taken < most THEN "
            f"UPDATE bench_counter SET used = taken + 1 WHERE coupon_id = {row.coupon_id} AND part = 0; COMMIT; "
            "ELSE ROLLBACK; SIGNAL SQLSTATE '45000'; END IF; END"
        )
        return True
