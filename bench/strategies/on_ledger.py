"""What the ways of counting that go to MariaDB have in common: their sessions, the coupons' ids, and orders that come again."""

from abc import ABC, abstractmethod
from types import TracebackType
from typing import ClassVar, Self

from bench.strategies.model import Answer, Failed, Failure, Order, Refusal, Row, Sold, Stores, new_row
from bench.strategies.sessions import Duplicate, Exhausted, Pool, Session
from bench.strategies.statements import find_coupon, find_live


class OnLedger(ABC):
    """A way of counting that has a session of its own for each request. What it does there is `sell`."""

    isolation: ClassVar[str] = "READ COMMITTED"
    """As Usher's sessions, and as deploy/stores/ sets the server."""

    def __init__(self, stores: Stores) -> None:
        self._pool = Pool(stores.database_url, stores.pool, self.isolation)
        self._coupon_ids: dict[str, int] = {}

    async def __aenter__(self) -> Self:
        await self._pool.open()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._pool.close()

    async def redeem(self, order: Order) -> Answer:
        """One use of the coupon for the order; raises Failed."""
        async with self._pool.use() as session:
            coupon_id = await self.coupon_id(session, order.code)
            if coupon_id is None:
                return Refusal.COUPON_NOT_FOUND
            return await self.answer(session, new_row(order, coupon_id))

    async def answer(self, session: Session, row: Row) -> Answer:
        """What becomes of a row: sold, refused, or there already."""
        try:
            return Sold(row) if await self.sell(session, row) else Refusal.COUPON_EXHAUSTED
        except Exhausted:
            return Refusal.COUPON_EXHAUSTED
        except Duplicate:
            return await existing(session, row)

    @abstractmethod
    async def sell(self, session: Session, row: Row) -> bool:
        """Count and write the row durably; false where the coupon is exhausted. Raises Duplicate, Exhausted, Failed."""

    async def coupon_id(self, session: Session, code: str) -> int | None:
        """A coupon's id, remembered for ever; None where there is no such coupon."""
        found = self._coupon_ids.get(code)
        if found is None:
            rows = await session.rows(find_coupon(code))
            if rows:
                found = self._coupon_ids[code] = rows[0][0]
        return found


async def existing(session: Session, row: Row) -> Sold:
    """The order's redemption that was there before; whatever had been done for this row is rolled back."""
    _, found = await session.results(f"ROLLBACK; {find_live(row)}")
    if not found.rows:
        raise Failed(Failure.OTHER)
    ((id_, customer_id, created_at),) = found.rows
    return Sold(row._replace(id=id_, customer_id=customer_id, created_at=created_at), is_new=False)
