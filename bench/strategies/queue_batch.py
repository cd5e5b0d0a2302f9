"""A queue with one worker, which takes what has gathered: one transaction and one commit for the whole batch.

The rows go first, then an UPDATE for each coupon, all in one round trip, so that a counter's row is locked only from there to
the commit. Where not enough is left for all, a second transaction takes what is left and writes as many rows.
"""

from collections import Counter
from collections.abc import Sequence

from bench.strategies.model import Answer, Refusal, Row, Sold
from bench.strategies.queued import Queued
from bench.strategies.sessions import Duplicate, Exhausted, Session
from bench.strategies.statements import count_up_to, insert, sell_all_or_signal, sell_or_signal


class QueueBatch(Queued):
    """A transaction for each batch."""

    batch_max = 256

    async def sell_all(self, session: Session, rows: Sequence[Row]) -> Sequence[Answer]:
        """All of them, or what is left for those who came first. With an order among them that is there already, one by one."""
        if len(rows) == 1:
            return [await self.answer(session, rows[0])]
        try:
            await session.run(sell_all_or_signal(rows))
        except Exhausted:
            return await self._sell_what_is_left(session, rows)
        except Duplicate:
            return await self._one_by_one(session, rows)
        return [Sold(row) for row in rows]

    async def sell(self, session: Session, row: Row) -> bool:
        """One alone, in one round trip."""
        await session.run(sell_or_signal(row))
        return True

    async def _sell_what_is_left(self, session: Session, rows: Sequence[Row]) -> Sequence[Answer]:
        """Counted first, which says for how many it is enough: two round trips."""
        wanted = sorted(Counter([row.coupon_id for row in rows]).items())
        counts = "; ".join([count_up_to(coupon_id, count) for coupon_id, count in wanted])
        _, *taken = await session.results(f"START TRANSACTION; {counts}")
        left = {coupon_id: result.insert_id for (coupon_id, _), result in zip(wanted, taken, strict=True)}
        answers: list[Answer] = []
        for row in rows:
            answers.append(Sold(row) if left[row.coupon_id] else Refusal.COUPON_EXHAUSTED)
            left[row.coupon_id] -= isinstance(answers[-1], Sold)
        sold = [answer.row for answer in answers if isinstance(answer, Sold)]
        try:
            await session.results(f"{insert(sold)}; COMMIT" if sold else "ROLLBACK")
        except Duplicate:
            return await self._one_by_one(session, rows)
        return answers

    async def _one_by_one(self, session: Session, rows: Sequence[Row]) -> Sequence[Answer]:
        await session.run("ROLLBACK")
        return [await self.answer(session, row) for row in rows]
