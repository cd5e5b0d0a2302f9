"""What the reconciler's metrics say of the ledger."""

from datetime import datetime
from typing import Final

from service.ledger.connections import Connections
from service.ledger.sql import Query

HOLDS_OVERDUE: Final = Query("holds_overdue")
COUPONS_OVER: Final = Query("coupons_over")
CLEAN_CHECK: Final = Query("clean_check")

OVERDUE_MAX: Final = 100_000
"""Counted; with more, the number does not matter any more, and to count them would."""


class Watching:
    """Figures. Each method raises LedgerUnavailable; `deadline` in seconds of the running loop's clock."""

    def __init__(self, reading: Connections) -> None:
        self._reading = reading

    async def holds_overdue(self, deadline: float) -> int:
        """Holds whose time is over and that are not ended yet, OVERDUE_MAX at most."""
        ((count,),) = await self._reading.fetch(HOLDS_OVERDUE(limit=OVERDUE_MAX), deadline)
        return int(count)

    async def coupons_over(self, deadline: float) -> int:
        """Coupons with live redemptions above their limit, by one look for each coupon that was ever changed."""
        ((count,),) = await self._reading.fetch(COUPONS_OVER(), deadline)
        return int(count)

    async def clean_check(self, deadline: float) -> datetime | None:
        """When the last check or repair of all coupons that found nothing, notes aside, has ended; None: none did."""
        found = await self._reading.fetch(CLEAN_CHECK(), deadline)
        return found[0][0] if found else None
