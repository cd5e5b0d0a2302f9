"""Loads counters from the ledger, the busiest first: after Redis has lost them, before a sale, or when they are not believed.

A counter is a hint. Beside traffic, twice at once and late, this leaves each alone that says the same or is newer.
"""

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Final

from service.counters import Counters
from service.ledger import Ledger
from service.model import CouponSeed

RECENT_REDEMPTIONS: Final = 10_000
"""Who is in the newest of them is busy: some milliseconds of the ledger's time, and the last second of a busy service."""
PAGE_COUPONS: Final = 1_000
"""Read by one statement: some 5 ms of the ledger's time."""
CALL_COUPONS: Final = 250
"""Loaded by one call: so few that claims wait some 2 ms at most, so many that the call itself costs little."""
STATEMENT_DEADLINE_S: Final = 10.0
"""For a page, also where the ledger has to read its seats from the disk."""
MEMORY_SHARE_MAX: Final = 0.9
"""From here on Redis would soon drop counters that are used for such as perhaps are; the rest is loaded on demand."""

Progress = Callable[[float, int], None]
"""Told after each page how far it is: up to which coupon's id, and which is the last one's."""


@dataclass(frozen=True, slots=True)
class Report:
    """What a run of `reseed_once` has done.

    `coupons`: looked at; 0 where no coupon has the code. `loaded`: counters made; the others said the same or were newer.
    `complete`: all were looked at. `is_full`: if not, the reason is that Redis' memory is nearly full; else somebody asked
    to stop.
    """

    coupons: int
    loaded: int
    complete: bool
    is_full: bool = False


def never() -> bool:
    """Nobody asks to stop."""
    return False


def silent(_done: float, _total: int) -> None:
    """Nobody watches."""


async def reseed_once(
    ledger: Ledger,
    counters: Counters,
    *,
    code: str | None = None,
    force: bool = False,
    is_stopping: Callable[[], bool] = never,
    progress: Progress = silent,
) -> Report:
    """Loads the counters that are missing or outdated: of one coupon, or of all that are in use.

    Those in use are the coupons of the newest redemptions, which come first and whatever their status; and all others that
    are neither archived nor over. `force`: makes also those anew that say the same, as if they were missing; what is pending
    stays, and so do customers' counts. `is_stopping` is asked before each page.

    Raises LedgerUnavailable and CounterUnavailable; what was loaded by then is loaded.
    """
    run = _Run(counters, force=force)
    pages = _one(ledger, code) if code is not None else _in_use(ledger)
    async with aclosing(pages), aclosing(_read_ahead(pages)) as ahead:
        async for seeds, done, total in ahead:
            if is_stopping():
                return run.report(complete=False)
            if not await run.has_room():
                return run.report(complete=False, is_full=True)
            await run.load(seeds)
            progress(done, total)
    return run.report(complete=True)


class _Run:
    """What has been loaded so far."""

    def __init__(self, counters: Counters, *, force: bool) -> None:
        self._counters = counters
        self._force = force
        self.coupons = 0
        self._loaded = 0

    async def has_room(self) -> bool:
        """Whether Redis takes more; the first page, the busiest coupons, is worth what it displaces."""
        return not self.coupons or await self._counters.memory_share() < MEMORY_SHARE_MAX

    async def load(self, seeds: Sequence[CouponSeed]) -> None:
        for start in range(0, len(seeds), CALL_COUPONS):
            self._loaded += await self._counters.reseed(seeds[start : start + CALL_COUPONS], force=self._force)
        self.coupons += len(seeds)

    def report(self, *, complete: bool, is_full: bool = False) -> Report:
        return Report(self.coupons, self._loaded, complete, is_full)


Page = tuple[Sequence[CouponSeed], int, int]
"""Coupons, and how far it is when they are loaded."""


async def _one(ledger: Ledger, code: str) -> AsyncGenerator[Page]:
    coupon = await ledger.coupons.get(code, _soon())
    if coupon is not None:
        yield await ledger.seeds.of([coupon.id], _soon()), 1, 1


async def _in_use(ledger: Ledger) -> AsyncGenerator[Page]:
    """The busiest coupons, then the others."""
    busy = await ledger.seeds.recent(RECENT_REDEMPTIONS, _soon())
    end = await ledger.seeds.end(_soon())
    for start in range(0, len(busy), PAGE_COUPONS):
        yield await ledger.seeds.of(busy[start : start + PAGE_COUPONS], _soon()), 0, end
    is_done = frozenset(busy).__contains__
    after_id = 0
    while page := await ledger.seeds.page(after_id, limit=PAGE_COUPONS, deadline=_soon()):
        after_id = page.last_id
        seeds = [seed for seed in page.seeds if not is_done(seed.coupon_id)] if busy else page.seeds
        yield seeds, min(after_id, end), end


async def _read_ahead(pages: AsyncGenerator[Page]) -> AsyncGenerator[Page]:
    """The same pages; while one is loaded, the next is read."""
    reading = asyncio.ensure_future(anext(pages, None))
    try:
        while page := await reading:
            reading = asyncio.ensure_future(anext(pages, None))
            yield page
    finally:
        reading.cancel()
        await asyncio.wait([reading])


def _soon() -> float:
    return asyncio.get_running_loop().time() + STATEMENT_DEADLINE_S
