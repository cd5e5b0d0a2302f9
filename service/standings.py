"""What the ledger says of orders: looked up in batches, with holds whose time is over out of the way."""

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from service.batcher import Asker
from service.config import Settings
from service.errors import LedgerUnavailable
from service.ledger import Ledger
from service.life import Life
from service.model import FoundKey, LookUp, Order, Redemption, Standing

PAUSE_S: Final = 0.005
LOOK_UPS_AT_ONCE: Final = 2
"""While Redis is away every request asks: two statements side by side keep both the ledger and this process busy."""


class Standings:
    """Looks orders up. `statement_s`: for one statement, in seconds."""

    def __init__(self, ledger: Ledger, life: Life, settings: Settings, *, statement_s: float) -> None:
        self._ledger = ledger
        self._life = life
        self._statement_s = statement_s
        self._look_ups = Asker[LookUp, Standing](
            self._look_up,
            at_once=LOOK_UPS_AT_ONCE,
            batch_max=settings.record_batch_max_rows,
            queue_max=settings.queue_max_requests,
            heard_only=True,
        )
        self._keys = Asker[FoundKey, Redemption](
            self._remember,
            at_once=1,
            batch_max=settings.record_batch_max_rows,
            queue_max=settings.queue_max_requests,
        )

    async def of(self, order: Order, until: float) -> Standing:
        """What the ledger says of this order, its customer, its coupon and its key now.

        Holds of the order and the customer whose time is over are ended first, before `until` (seconds of the loop's clock):
        nobody is refused because of them, and they are nobody's answer. `overdue` names them. Raises LedgerUnavailable.
        """
        question = LookUp(order.code, order.customer_id, order.order_id, order.api_key_id, order.idempotency_key)
        standing = await self._look_ups.ask(question)
        ended: set[bytes] = set()
        while overdue := self._overdue(standing):
            if asyncio.get_running_loop().time() >= until:
                raise LedgerUnavailable("holds whose time is over could not be ended in time")
            await self._life.expire(overdue, until)
            ended |= overdue
            standing = await self._look_ups.ask(question)
            if self._overdue(standing):  # By this process' clock, which may be fast, and not yet by the ledger's.
                await asyncio.sleep(PAUSE_S)
        return replace(standing, overdue=tuple(ended)) if ended else standing

    def _overdue(self, standing: Standing) -> set[bytes]:
        """The ids of holds of the order and the customer whose time is over."""
        overdue = set(standing.overdue)
        if standing.live is not None and self.is_overdue(standing.live):
            overdue.add(standing.live.id)
        return overdue

    def is_hindered(self, standing: Standing) -> bool:
        """Whether there are holds of the order and the customer whose time is over, and that have to be ended first."""
        return bool(self._overdue(standing))

    def is_overdue(self, redemption: Redemption) -> bool:
        """Whether it is a hold whose time is over."""
        return redemption.as_of(self._ledger.now()) is not redemption

    async def remember(self, order: Order, redemption: Redemption) -> Redemption:
        """Remembers that the order's key has found this redemption; what the key stands for from now on.

        Raises LedgerUnavailable, LedgerContended.
        """
        assert order.idempotency_key is not None, "there is a key to remember"
        return await self._keys.ask(FoundKey(redemption.coupon_id, order.api_key_id, order.idempotency_key, redemption.id))

    async def _look_up(self, look_ups: Sequence[LookUp]) -> Sequence[Standing]:
        return await self._ledger.redemptions.look_up(look_ups, self._deadline())

    async def _remember(self, keys: Sequence[FoundKey]) -> Sequence[Redemption]:
        return await self._ledger.redemptions.remember(keys, self._deadline())

    def _deadline(self) -> float:
        return asyncio.get_running_loop().time() + self._statement_s
