"""What counters are made of, for many coupons at once."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from itertools import starmap

import orjson

from service.ledger.connections import Connections
from service.ledger.literals import Sql, integer
from service.ledger.sql import Query
from service.model import CouponSeed

PAGE = Query("seeds_page")
PAGE_END = Query("seeds_page_end")
OF = Query("seeds_of")
RECENT = Query("seeds_recent")
END = Query("seeds_end")


@dataclass(frozen=True, slots=True)
class SeedsPage:
    """Some coupons by ascending id. `last_id`: as far as was looked, also where none of them can be redeemed any more."""

    seeds: Sequence[CouponSeed]
    last_id: int


class Seeds:
    """The gateway for reading coupons with their highest seats, in bounded statements. All raise LedgerUnavailable."""

    def __init__(self, connections: Connections) -> None:
        self._connections = connections

    async def recent(self, redemptions: int, deadline: float) -> list[int]:
        """The ids of the coupons of so many newest redemptions, those first that have most of them."""
        ((ids,),) = await self._connections.fetch(RECENT(limit=redemptions), deadline)
        return [] if ids is None else [int(one) for one in ids.split(",")]

    async def of(self, coupon_ids: Collection[int], deadline: float) -> list[CouponSeed]:
        """These coupons, whatever their status, in any order."""
        if not coupon_ids:
            return []
        ((found,),) = await self._connections.fetch(OF(ids=Sql(",".join(map(integer, coupon_ids)))), deadline)
        return _seeds(found)

    async def page(self, after_id: int, *, limit: int, deadline: float) -> SeedsPage | None:
        """Those of the next `limit` coupons by id that are not archived and not over; None after the last coupon."""
        ((last_id,),) = await self._connections.fetch(PAGE_END(after_id=after_id, limit=limit), deadline)
        if last_id is None:
            return None
        ((found,),) = await self._connections.fetch(PAGE(after_id=after_id, last_id=last_id), deadline)
        return SeedsPage(_seeds(found), last_id)

    async def end(self, deadline: float) -> int:
        """The highest id of a coupon; 0 where there is none."""
        ((last_id,),) = await self._connections.fetch(END(), deadline)
        return int(last_id)


def _seeds(found: str | None) -> list[CouponSeed]:
    """From a JSON array of arrays of `seed_fields.sql`."""
    return [] if found is None else list(starmap(CouponSeed, orjson.loads(found)))
