"""The conditional UPDATE commits by itself, so that the counter's row is locked no longer than that; then the INSERT commits.

Under READ COMMITTED. Where the INSERT fails, the count is taken back. A crash between the two loses a use for ever.
"""

from bench.strategies.model import Row
from bench.strategies.on_ledger import OnLedger
from bench.strategies.sessions import Session
from bench.strategies.statements import count_one, insert, take_back


class ReadCommitted(OnLedger):
    """Two commits in one round trip, or three."""

    async def sell(self, session: Session, row: Row) -> bool:
        """SIGNAL says that nothing is left; RESIGNAL, after the count was taken back, what the INSERT has said."""
        await session.run(
            f"BEGIN NOT ATOMIC {count_one(row)}; IF ROW_COUNT() = 0 THEN SIGNAL SQLSTATE '45000'; END IF; "
            f"BEGIN DECLARE EXIT HANDLER FOR SQLEXCEPTION BEGIN {take_back(row)}; RESIGNAL; END; {insert([row])}; END; END"
        )
        return True
