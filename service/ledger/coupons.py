"""Coupons in the ledger."""

import json
from collections.abc import Sequence

from service.ledger import rows as of
from service.ledger.connections import Connections
from service.ledger.literals import Sql, ascii_text, ascii_texts, literal
from service.ledger.sql import Query
from service.model import Coupon, CouponStatus, CouponVersion, LoadedCoupon, Usage

LOAD = Query("coupon_load")
GET = Query("coupon_get")
FIND = Query("coupon_find")
USAGE = Query("coupon_usage")
HISTORY = Query("coupon_history_find")
VERSION_END = 2**32
"""Above every version that fits the column."""


class Coupons:
    """The gateway for reading coupons."""

    def __init__(self, connections: Connections) -> None:
        self._connections = connections

    async def load(self, codes: Sequence[str], deadline: float) -> dict[str, LoadedCoupon]:
        """The coupons with these codes, each with its highest seat, in one statement; unknown codes are absent.

        Whatever the coupon's status. Raises LedgerUnavailable.
        """
        askable = [code for code in codes if code.isascii()]
        if not askable:
            return {}
        found = await self._connections.fetch(LOAD(codes=ascii_texts(askable)), deadline)
        coupons = ((of.coupon(row[1:]), row[0]) for row in found)
        return {coupon.code: LoadedCoupon(coupon, int(seat_max)) for coupon, seat_max in coupons}

    async def get(self, code: str, deadline: float) -> Coupon | None:
        """The coupon with this code. Raises LedgerUnavailable."""
        if not code.isascii():
            return None
        found = await self._connections.fetch(GET(code=Sql(ascii_text(code))), deadline)
        return of.coupon(found[0]) if found else None

    async def usage(self, coupon: Coupon, deadline: float) -> Usage:
        """The coupon's live redemptions, counted. Raises LedgerUnavailable."""
        found = await self._connections.fetch(USAGE(coupon_id=coupon.id), deadline)
        ((reserved, confirmed, as_of),) = found
        limit = coupon.max_redemptions
        remaining = None if limit is None else max(0, limit - reserved - confirmed)
        return Usage(reserved, confirmed, remaining, as_of)

    async def find(
        self,
        *,
        status: CouponStatus | None = None,
        prefix: str = "",
        after_code: str = "",
        limit: int,
        deadline: float,
    ) -> list[Coupon]:
        """Coupons by ascending code, at most `limit`, with codes above `after_code`. Raises LedgerUnavailable."""
        if not (prefix + after_code).isascii():
            return []
        conditions = [f"c.code > {ascii_text(after_code)}"]
        if prefix:
            # A range, not LIKE: `_` is a letter of codes. `~` comes after all of these.
            conditions.append(f"c.code BETWEEN {ascii_text(prefix)} AND {ascii_text(prefix + '~')}")
        if status is not None:
            conditions.append(f"c.status = {literal(status.value)}")
        found = await self._connections.fetch(FIND(conditions=Sql(" AND ".join(conditions)), limit=limit), deadline)
        return [of.coupon(row) for row in found]

    async def history(self, code: str, *, below_version: int | None = None, limit: int, deadline: float) -> list[CouponVersion]:
        """The coupon's versions, newest first, at most `limit`; only those below a version. Raises LedgerUnavailable."""
        query = HISTORY(code=Sql(ascii_text(code)), below_version=below_version or VERSION_END, limit=limit)
        found = await self._connections.fetch(query, deadline)
        return [
            CouponVersion(version, at, by, before and json.loads(before), json.loads(after))
            for version, at, by, before, after in found
        ]
