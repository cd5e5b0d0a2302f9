"""Watches that nobody was ever admitted above a limit. That is impossible, so there is nothing to mend: people must look."""

from collections.abc import Collection
from datetime import datetime
from functools import partial

from reconciler import diff
from reconciler.collecting import FINDINGS_AT_ONCE, Collecting
from reconciler.suspects import Looks, chunks
from service.ledger.ranges import ComparedCoupon, Limit
from service.ledger.walk import STEP_ROWS, CustomerCursor, Exceeding
from service.reconciling import Finding, Kind


class Oversold:
    """Looks for live redemptions above the limits that were in force when they were admitted."""

    def __init__(self, looks: Looks, collecting: Collecting) -> None:
        self._looks = looks
        self._collecting = collecting

    async def look_at_seats(self, ledger: ComparedCoupon) -> None:
        """Rows on seats above the coupon's limit, held against its history: most are there since the limit was lowered."""
        limit = ledger.coupon.max_redemptions
        if limit is None or ledger.seat_max <= limit:
            return
        ranges = self._looks.ledger.ranges
        timeline: diff.Timeline | None = None
        last = limit
        while rows := await self._looks.paced(partial(ranges.seats_above, ledger.coupon.id, last)):
            self._collecting.check_stop()
            if timeline is None:  # After the rows: a limit that was raised for one of them is in it.
                timeline = await self._timeline(ledger.coupon.id)
            found = [(seat, self._exceeded(seat, created_at, timeline)) for seat, created_at in rows]
            findings = (
                Finding(ledger.coupon.code, Kind.OVERSOLD, seat, in_force, seat=seat)
                for seat, in_force in found
                if in_force is not None
            )
            for some in chunks(findings, FINDINGS_AT_ONCE):
                await self._collecting.tell(some)
            last = rows[-1][0]

    def _exceeded(self, seat: int, created_at: datetime, timeline: diff.Timeline) -> int | None:
        return diff.limit_exceeded(seat, created_at, timeline, self._looks.claim_age_max_s)

    async def _timeline(self, coupon_id: int) -> diff.Timeline:
        limits: list[Limit] = []
        below: int | None = None
        while below != 0:
            found, below = await self._looks.paced(partial(self._looks.ledger.ranges.limits, coupon_id, below))
            limits += found
        return diff.Timeline(sorted(limits))

    async def look_at_customers(self) -> None:
        """Customers above their limits, of all coupons: one walk through the customers' key."""
        await self._walk()

    async def _walk(self, *, code: str | None = None, told: Collection[str] = ()) -> None:
        """Tells of all coupons, or of one, whose customers in `told` have been told."""
        cursor: CustomerCursor | None = CustomerCursor()
        while cursor is not None:
            self._collecting.check_stop()
            found, cursor = await self._looks.paced(partial(self._looks.ledger.walk.customers, cursor))
            await self._tell([one for one in found if code in (None, one.code) and one.customer_id not in told])

    async def look_at_customers_of(self, ledger: ComparedCoupon) -> None:
        """The same for one coupon: by its rows, or, once that proves to be the longer way, by the same walk."""
        coupon, walk = ledger.coupon, self._looks.ledger.walk
        if coupon.max_per_customer is None:
            return
        left = await self._looks.paced(walk.rows_worth_reading)
        told: set[str] = set()
        for status in walk.LIVE:
            last: bytes | None = b""
            while last is not None:
                if left < ledger.seat_max or left <= 0:
                    await self._walk(code=coupon.code, told=told)
                    return
                self._collecting.check_stop()
                found, last = await self._looks.paced(partial(walk.customers_of, coupon, status, last))
                await self._tell([one for one in found if one.customer_id not in told])
                told.update(one.customer_id for one in found)
                left -= STEP_ROWS

    async def _tell(self, found: list[Exceeding]) -> None:
        findings = (Finding(one.code, Kind.OVERSOLD, one.seat, one.limit, customer_id=one.customer_id) for one in found)
        for some in chunks(findings, FINDINGS_AT_ONCE):
            await self._collecting.tell(some)
