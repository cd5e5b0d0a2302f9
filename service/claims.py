"""Where seats come from: the counter in Redis, made from the ledger, mended by the ledger; the ledger alone without Redis."""

import asyncio
from collections import OrderedDict
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from itertools import islice

import structlog

from service.batcher import Asker
from service.blocks import Blocks
from service.config import Settings
from service.counters import REFILL_MAX_SEATS, ClaimBatch, Counters
from service.counts import Counts
from service.errors import CounterUnavailable, LedgerUnavailable, Overloaded, UsherError
from service.ledger import Ledger
from service.ledger.seats import FreeSeats
from service.loads import Loads, remember
from service.model import Claim, Coupon, Return, Wish
from service.once import Once
from service.told import Told

SHRINK_INTERVAL_S = 0.1
"""Collisions come in crowds, and one shrink serves them all: no coupon is shrunk more often by one process."""
SEARCH_MAX_SEATS = 256
"""Free seats read at once for requests that collided again and again."""
SEARCH_AGE_MAX_S = 0.1
"""Seats found longer ago have most probably been handed out by others."""
SEARCH_INTERVAL_S = 0.02
"""Between the beginnings of two searches for such requests: those that come meanwhile share the next one."""
SETTLED_MAX = 10_000
"""Settled orders that wait for their coupon's next claim. Beyond it all are forgotten, and leave `pending` by their age."""
HOLDERS_MAX = 1_000
"""Claims that one refill asks the ledger about, when all that it has found is pending."""
CLOCKS_DIFFER_S = 0.1
"""By so much may two processes' estimates of the ledger's clock differ."""
OVERDUE_MAX = 1_000
"""Holds past their time that one search ends before it looks; the sweep ends the others."""
SEARCH_DEADLINE_S = 3.5
"""Ten million rows are counted in a second and a half; the request that waits has a second left then, by default."""
SEARCH_ENOUGH_S = 0.3
"""From then on a search ends with what it has found, for those who wait."""
LEDGER_DEADLINE_S = 2.0
"""For other statements that several requests share; each request still keeps its own deadline."""
CATCH_UP_SHARE = 0.1
"""Of the request's deadline: all claims wait for the ledger so long at most when Redis is back."""
REACHED_MAX = 1_000
"""Coupons of which it is remembered how far a search has come."""
MISSED_MAX = 10_000
"""Coupons that are remembered for when Redis is back; the counters of others are found wrong by collisions."""
MISSED_AT_ONCE_MAX = 64
"""Of them, so many counters are shrunk before one batch of claims: each costs a round trip."""

log = structlog.get_logger(__name__)


@dataclass(slots=True)
class Found:
    """The free seats that a search has found and nobody has got yet.

    `begun_at`, and `at`, when it had ended: in seconds of the loop's clock. `found_any`: None when its time was over before.
    """

    begun_at: float
    at: float
    seats: list[int]
    found_any: bool | None


class Claims:
    """Claims seats and gives them back; loads, shrinks and refills counters, each once at a time per coupon.

    While Redis is away nobody waits for it: claiming and refilling fail at once, and what is given back is dropped, since the
    next search in the ledger finds it.
    """

    def __init__(self, counters: Counters, ledger: Ledger, loads: Loads, settings: Settings, *, counts: Counts) -> None:
        self._counters = counters
        self._count = counts.plain
        self._ledger = ledger
        self._loads = loads
        self._settled: dict[str, list[tuple[str, int | None]]] = {}
        self._settled_count = 0
        self._shrunk_at: dict[str, float] = {}
        self._reached: OrderedDict[int, int] = OrderedDict()
        self._searches: dict[tuple[int, int], Found] = {}
        self._blocks = Blocks(ledger, settings)
        self._missed: OrderedDict[str, None] = OrderedDict()
        self._catch_up_s = settings.request_deadline_ms / 1000 * CATCH_UP_SHARE
        self._once = Once(self._not_mended)
        self._releases_told, self._searches_told, self._mends_told = Told(), Told(), Told()
        self._releases = Asker[tuple[str, Return], None](
            self._release,
            at_once=1,
            batch_max=settings.claim_batch_max_requests,
            queue_max=2 * settings.queue_max_requests,
        )

    # --- The counter -------------------------------------------------------------------------------------------

    @property
    def is_away(self) -> bool:
        """Whether Redis is known to be away, so that it is not asked."""
        return self._counters.is_away

    async def claim(self, wishes: Sequence[tuple[str, Wish]]) -> list[Claim | CounterUnavailable]:
        """One answer for each (code, wish), in one round trip; a coupon whose script failed answers with the error.

        Raises CounterUnavailable when Redis could not be asked, or its reply was lost.
        """
        places: dict[str, list[int]] = {}
        for place, (code, _) in enumerate(wishes):
            places.setdefault(code, []).append(place)
        batches = [
            ClaimBatch(code=code, wishes=[wishes[place][1] for place in at], settled=self._take_settled(code))
            for code, at in places.items()
        ]
        replies = await self._counters.claim(batches)
        answers: list[Claim | CounterUnavailable] = [CounterUnavailable()] * len(wishes)
        for at, reply in zip(places.values(), replies, strict=True):
            if isinstance(reply, CounterUnavailable):
                for place in at:
                    answers[place] = reply
            else:
                for place, claim in zip(at, reply, strict=True):
                    answers[place] = claim
        return answers

    def settle(self, code: str, order_id: str, seat: int | None) -> None:
        """The order's claim is recorded: the coupon's next claim takes it out of `pending`."""
        if self._counters.is_away:  # There is no next claim, and the order leaves `pending` by its age.
            return
        if self._settled_count >= SETTLED_MAX:
            self._settled.clear()
            self._settled_count = 0
        self._settled.setdefault(code, []).append((order_id, seat))
        self._settled_count += 1

    def _take_settled(self, code: str) -> list[tuple[str, int | None]]:
        settled = self._settled.pop(code, [])
        self._settled_count -= len(settled)
        return settled

    async def release(self, code: str, given_back: Return) -> None:
        """Give a claim back to the counter. A release that is lost is logged; the next refill finds the seat."""
        if self._counters.is_away:
            self._count["releases_lost"] += 1
            self._miss(code)
            return
        try:
            await self._releases.ask((code, given_back))
        except Overloaded as error:
            self._lose_releases(1, error)

    async def _release(self, releases: Sequence[tuple[str, Return]]) -> list[None]:
        by_code: dict[str, list[Return]] = {}
        for code, given_back in releases:
            by_code.setdefault(code, []).append(given_back)
        try:
            await self._counters.release(by_code)
        except CounterUnavailable as error:
            for code in by_code:
                self._miss(code)
            self._lose_releases(len(releases), error)
        return [None] * len(releases)

    def _lose_releases(self, count: int, error: UsherError) -> None:
        self._count["releases_lost"] += count
        if not self._counters.is_away and (due := self._releases_told.due(count)):  # Else its going was told.
            log.warning("release lost", requests=due, error=str(error))

    async def search_anew(self, code: str) -> None:
        """Before the counter refuses anybody as exhausted, it is to look for free seats, however short ago it has."""
        try:
            look = await self._counters.look(code)
            if look is not None:
                await self._counters.refill(code, look, seats=(), complete=False)
        except CounterUnavailable as error:
            self._miss(code)
            if not self._counters.is_away and (due := self._searches_told.due()):
                log.warning("counter not told to search", coupons=due, error=str(error))

    def _miss(self, code: str) -> None:
        """The coupon's counter was not told what has happened: it is shrunk before its next claim, and will search."""
        remember(self._missed, code, None, MISSED_MAX)

    @property
    def is_behind(self) -> bool:
        """Whether Redis is back and there are counters that have missed something."""
        return bool(self._missed) and not self._counters.is_away

    async def catch_up(self, codes: Collection[str]) -> None:
        """Before they are claimed from: shrinks those of these counters that have missed something, and may be all wrong."""
        missed = list(islice((code for code in codes if code in self._missed), MISSED_AT_ONCE_MAX))
        if not missed:
            return
        for code in missed:
            del self._missed[code]
        try:
            found = await self._ledger.coupons.load(missed, asyncio.get_running_loop().time() + self._catch_up_s)
            await asyncio.gather(*(self._counters.shrink(code, loaded.seat_max) for code, loaded in found.items()))
        except (LedgerUnavailable, CounterUnavailable) as error:  # Collisions will tell, should these be served at all.
            log.debug("counters not shrunk", error=str(error))
            if self._counters.is_away:
                for code in missed:
                    self._miss(code)

    # --- Mending -----------------------------------------------------------------------------------------------

    async def shrink(self, code: str) -> None:
        """After a collision: forget what the counter thinks is free, and what is left of a block."""
        self._count["collisions"] += 1
        coupon_id = self._loads.known(code)
        if coupon_id is not None:
            self._blocks.drop(coupon_id)
        if self._counters.is_away:
            self._miss(code)
            return
        now = asyncio.get_running_loop().time()
        key = ("shrink", code)
        if self._once.is_under_way(key) or now - self._shrunk_at.get(code, -SHRINK_INTERVAL_S) >= SHRINK_INTERVAL_S:
            await self._once.do(key, lambda: self._shrink(code, now))

    async def _shrink(self, code: str, now: float) -> None:
        self._shrunk_at = {other: at for other, at in self._shrunk_at.items() if now - at < SHRINK_INTERVAL_S}
        self._shrunk_at[code] = now
        for loaded in (await self._ledger.coupons.load([code], now + LEDGER_DEADLINE_S)).values():
            await self._counters.shrink(code, loaded.seat_max)

    async def refill(self, coupon: Coupon) -> bool:
        """Look for free seats in the ledger and take them into the counter. True: a complete search has left nothing.

        A flush just after it cannot take that word back, and a counter that is flushed again and again never says it.
        """
        return await self._once.do(("refill", coupon.id, coupon.version), lambda: self._refill(coupon))

    async def _refill(self, coupon: Coupon) -> bool:
        """The counter is held against the ledger's limits first, or one with a wrong limit would be exhausted for ever.

        What is pending is read before the ledger: a seat that is recorded meanwhile must not be taken for free.
        """
        await self._loads.load(coupon.code)
        await self._end_overdue(coupon)
        look = await self._counters.look(coupon.code)
        if look is None:
            return False
        found = await self._free_seats(coupon, look.next, REFILL_MAX_SEATS + len(look.pending))
        pending = look.pending
        if found.seats and pending.issuperset(found.seats):
            pending -= await self._settle_recorded(coupon, found.seats[:HOLDERS_MAX])
        look = replace(look, pending=pending)
        taken = await self._counters.refill(coupon.code, look, seats=found.seats, complete=found.complete)
        self._count["refills"] += 1
        self._count["refilled_seats"] += taken
        log.debug("refill", found=len(found.seats), taken=taken, complete=found.complete)
        all_handed_out = look.next >= (coupon.max_redemptions or 0)
        return look.version == coupon.version and all_handed_out and found.complete and pending.issuperset(found.seats)

    async def _free_seats(self, coupon: Coupon, upper: int, seats_max: int) -> FreeSeats:
        """A search, from where the last one was when its time was over without a seat: so that a large coupon is seen whole."""
        start = self._reached.pop(coupon.id, None)
        now = asyncio.get_running_loop().time()
        deadline, enough_at = now + SEARCH_DEADLINE_S, now + SEARCH_ENOUGH_S
        found = await self._ledger.seats.free_seats(
            coupon.id, upper, limit=seats_max, deadline=deadline, start=start, enough_at=enough_at
        )
        if not found.complete and not found.seats:
            remember(self._reached, coupon.id, found.reached, REACHED_MAX)
        return found

    async def _settle_recorded(self, coupon: Coupon, seats: Sequence[int]) -> set[int]:
        """Those of these seats, in no row and pending, whose claims the ledger has recorded: they leave `pending`.

        Recorded and yet in no row: the row has moved to another seat or has ended, and whoever claimed it has not told the
        counter yet, or Redis has come back with an older copy.
        """
        now = self._ledger.now() - timedelta(seconds=CLOCKS_DIFFER_S)
        holders = await self._counters.holders(coupon.code, seats)
        claimed = [(one.order_id, now - timedelta(seconds=one.age_s)) for one in holders]
        deadline = asyncio.get_running_loop().time() + LEDGER_DEADLINE_S
        recorded = await self._ledger.redemptions.recorded(coupon.id, claimed, deadline)
        settled = [(one.order_id, one.seat) for one in holders if one.order_id in recorded]
        if settled:
            await self._counters.claim([ClaimBatch(code=coupon.code, wishes=(), settled=settled)])
        return {seat for _, seat in settled}

    async def _end_overdue(self, coupon: Coupon) -> None:
        """Holds whose time is over leave their seats: usually they have been swept already."""
        deadline = asyncio.get_running_loop().time() + LEDGER_DEADLINE_S
        ids = await self._ledger.redemptions.overdue_of(coupon.id, limit=OVERDUE_MAX, deadline=deadline)
        if not ids:
            return
        ended = await self._ledger.transitions.expire(ids, LEDGER_DEADLINE_S)
        freed = [one.freed for one in ended if one is not None and one.freed is not None]
        log.debug("overdue holds ended", found=len(ids), ended=len(freed))
        await asyncio.gather(*(self.release(one.code, Return(one.order_id, one.customer_id, one.seat)) for one in freed))

    # --- Without the counter -----------------------------------------------------------------------------------

    async def seat_from_ledger(self, coupon: Coupon, *, since: float, in_block: bool = False) -> int | None:
        """A seat in no row, whatever the counter believes; None: a complete search has found none.

        Several requests share a search, each gets a seat of its own from it. None rests on one that began at `since` or later,
        when the request came (seconds of the loop's clock): a use that ended before is found. `in_block`: a seat of a block,
        if one is to be had.
        """
        if in_block:
            if self._counters.is_away:
                self._miss(coupon.code)
            seat = await self._blocks.seat(coupon)
            if seat is not None:
                return seat
        key = (coupon.id, coupon.version)  # A search by an old limit says nothing of a raised one.
        loop = asyncio.get_running_loop()
        while True:
            found = self._searches.get(key)
            if found is not None and loop.time() - found.at <= SEARCH_AGE_MAX_S:
                if found.seats:
                    return found.seats.pop()
                if found.found_any is False and found.begun_at >= since:
                    return None
            await self._once.do(("search", *key), lambda: self._search(coupon))

    async def is_left(self, coupon: Coupon) -> bool:
        """Whether a seat is in no row, by a search that began since. However many ask, they leave it to those who redeem."""
        key = (coupon.id, coupon.version)
        asked_at = asyncio.get_running_loop().time()
        while True:
            found = self._searches.get(key)
            if found is not None and found.begun_at >= asked_at and found.found_any is not None:
                return found.found_any
            await self._once.do(("search", *key), lambda: self._search(coupon))

    async def _search(self, coupon: Coupon) -> None:
        loop = asyncio.get_running_loop()
        key = (coupon.id, coupon.version)
        before = self._searches.get(key)
        if before is not None:
            await asyncio.sleep(before.begun_at + SEARCH_INTERVAL_S - loop.time())
        begun_at = loop.time()
        self._count["searches"] += 1
        await self._end_overdue(coupon)
        found = await self._free_seats(coupon, coupon.max_redemptions or 0, SEARCH_MAX_SEATS)
        fresh = {other: search for other, search in self._searches.items() if begun_at - search.at <= SEARCH_AGE_MAX_S}
        found_any = bool(found.seats) if found.seats or found.complete else None
        self._searches = fresh | {key: Found(begun_at, loop.time(), found.seats, found_any)}

    def _not_mended(self, error: BaseException) -> None:
        """Of a search, a shrink or a refill. While Redis is away it goes without saying that counters are not mended."""
        if isinstance(error, CounterUnavailable) and self._counters.is_away:
            return
        if not isinstance(error, UsherError):
            log.error("counter not mended", exc_info=error)
        elif due := self._mends_told.due():
            log.warning("counter not mended", coupons=due, error=str(error))

    async def drain(self) -> None:
        """Wait until every release has reached Redis or failed, and nothing is being mended."""
        while self._releases.busy or self._once.busy or self._blocks.busy:  # noqa: ASYNC110 - seen only when stopping
            await asyncio.sleep(0.01)
