"""Where seats come from: the counter in Redis, made from the ledger, mended by the ledger."""

import asyncio
from collections.abc import Callable, Coroutine, Hashable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import structlog

from service.batcher import Asker
from service.config import Settings
from service.counters import REFILL_MAX_SEATS, ClaimBatch, Counters
from service.errors import CounterUnavailable, Overloaded, UsherError
from service.ledger import Ledger
from service.loads import Loads
from service.model import Claim, Coupon, Return, Wish

SHRINK_INTERVAL_S = 0.1
"""Collisions come in crowds, and one shrink serves them all: no coupon is shrunk more often by one process."""
SEARCH_MAX_SEATS = 256
"""Free seats read at once for requests that collided again and again."""
SEARCH_AGE_MAX_S = 0.1
"""Seats found longer ago have most probably been handed out by others; and no refusal rests on an older search."""
SETTLED_MAX = 10_000
"""Settled orders that wait for their coupon's next claim. Beyond it all are forgotten, and leave `pending` by their age."""
LEDGER_DEADLINE_S = 2.0
"""For searches, which several requests share; each request still keeps its own deadline."""

Result = TypeVar("Result")

log = structlog.get_logger(__name__)


@dataclass(slots=True)
class Found:
    """The free seats that a search has found and nobody has got yet; `at` in seconds of the loop's clock."""

    at: float
    seats: list[int]
    found_none: bool


class Claims:
    """Claims seats and gives them back; loads, shrinks and refills counters, each once at a time per coupon."""

    def __init__(self, counters: Counters, ledger: Ledger, loads: Loads, settings: Settings) -> None:
        self._counters = counters
        self._ledger = ledger
        self._loads = loads
        self._settled: dict[str, list[tuple[str, int | None]]] = {}
        self._settled_count = 0
        self._shrunk_at: dict[str, float] = {}
        self._searches: dict[tuple[int, int], Found] = {}
        self._under_way: dict[Hashable, asyncio.Task[Any]] = {}
        self._releases = Asker[tuple[str, Return], None](
            self._release,
            at_once=1,
            batch_max=settings.claim_batch_max_requests,
            queue_max=2 * settings.queue_max_requests,
        )

    # --- The counter -------------------------------------------------------------------------------------------

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
        try:
            await self._releases.ask((code, given_back))
        except (CounterUnavailable, Overloaded) as error:
            log.warning("release lost", error=f"{type(error).__name__}: {error}")

    async def _release(self, releases: Sequence[tuple[str, Return]]) -> list[None]:
        by_code: dict[str, list[Return]] = {}
        for code, given_back in releases:
            by_code.setdefault(code, []).append(given_back)
        await self._counters.release(by_code)
        return [None] * len(releases)

    # --- Mending -----------------------------------------------------------------------------------------------

    async def shrink(self, code: str) -> None:
        """After a collision: forget what the counter thinks is free."""
        now = asyncio.get_running_loop().time()
        key = ("shrink", code)
        if key in self._under_way or now - self._shrunk_at.get(code, -SHRINK_INTERVAL_S) >= SHRINK_INTERVAL_S:
            await self._once(key, lambda: self._shrink(code, now))

    async def _shrink(self, code: str, now: float) -> None:
        self._shrunk_at = {other: at for other, at in self._shrunk_at.items() if now - at < SHRINK_INTERVAL_S}
        self._shrunk_at[code] = now
        for loaded in (await self._ledger.coupons.load([code], now + LEDGER_DEADLINE_S)).values():
            await self._counters.shrink(code, loaded.seat_max)

    async def refill(self, coupon: Coupon) -> bool:
        """Look for free seats in the ledger and take them into the counter. True: a complete search has left nothing.

        A flush just after it cannot take that word back, and a counter that is flushed again and again never says it.
        """
        return await self._once(("refill", coupon.id, coupon.version), lambda: self._refill(coupon))

    async def _refill(self, coupon: Coupon) -> bool:
        """The counter is held against the ledger's limits first, or one with a wrong limit would be exhausted for ever.

        What is pending is read before the ledger: a seat that is recorded meanwhile must not be taken for free.
        """
        await self._loads.load(coupon.code)
        look = await self._counters.look(coupon.code)
        if look is None:
            return False
        found = await self._ledger.seats.free_seats(
            coupon.id,
            look.next,
            limit=REFILL_MAX_SEATS + len(look.pending),
            deadline=asyncio.get_running_loop().time() + LEDGER_DEADLINE_S,
        )
        taken = await self._counters.refill(coupon.code, look, seats=found.seats, complete=found.complete)
        log.debug("refill", found=len(found.seats), taken=taken, complete=found.complete)
        all_handed_out = look.next >= (coupon.max_redemptions or 0)
        return look.version == coupon.version and all_handed_out and found.complete and look.pending.issuperset(found.seats)

    async def seat_from_ledger(self, coupon: Coupon) -> int | None:
        """A seat that is in no row, whatever the counter believes; None: a complete search of now has found none.

        Several requests share a search, each gets a seat of its own from it.
        """
        key = (coupon.id, coupon.version)  # A search by an old limit says nothing of a raised one.
        while True:
            found = self._searches.get(key)
            if found is not None and asyncio.get_running_loop().time() - found.at <= SEARCH_AGE_MAX_S:
                if found.seats:
                    return found.seats.pop()
                if found.found_none:
                    return None
                del self._searches[key]  # All of them were handed out: what became of them, the ledger knows.
            await self._once(("search", *key), lambda: self._search(coupon))

    async def _search(self, coupon: Coupon) -> None:
        loop = asyncio.get_running_loop()
        begun_at = loop.time()
        found = await self._ledger.seats.free_seats(
            coupon.id, coupon.max_redemptions or 0, limit=SEARCH_MAX_SEATS, deadline=begun_at + LEDGER_DEADLINE_S
        )
        fresh = {key: search for key, search in self._searches.items() if begun_at - search.at <= SEARCH_AGE_MAX_S}
        self._searches = fresh | {
            (coupon.id, coupon.version): Found(loop.time(), found.seats, found.complete and not found.seats)
        }

    async def _once(self, key: Hashable, work: Callable[[], Coroutine[None, None, Result]]) -> Result:
        """Join the work under way for this key, or begin it; it goes on when the caller does not wait for its end."""
        task: asyncio.Task[Result] | None = self._under_way.get(key)
        if task is None or task.done():
            task = self._under_way[key] = asyncio.create_task(work())
            task.add_done_callback(lambda done: self._ended(key, done))
        return await asyncio.shield(task)

    def _ended(self, key: Hashable, task: asyncio.Task[Any]) -> None:
        """Make room for the next one. An error is logged: perhaps nobody waits for it any more."""
        if self._under_way.get(key) is task:
            del self._under_way[key]
        error = None if task.cancelled() else task.exception()
        if isinstance(error, UsherError):
            log.warning("counter not mended", error=str(error))
        elif error is not None:
            log.error("counter not mended", exc_info=error)

    async def drain(self) -> None:
        """Wait until every release has reached Redis or failed, and nothing is being mended."""
        while self._releases.busy or self._under_way:  # noqa: ASYNC110 - seen only when stopping
            await asyncio.sleep(0.01)
