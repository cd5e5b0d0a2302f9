"""Mends what a comparison has found. Each mending is safe beside traffic, twice at once, and late: it costs a retry at most.

- load, of what the ledger has said after the counter was looked at: should a newer version have been loaded meanwhile, the next
  refusal or the ledger tells, and it is loaded again.
- shrink only takes away. What is free below `next` is looked for after it, as after any shrink.
- refill: a seat that has been recorded meanwhile collides once; one that is pending is left out.
- withdraw: a seat that has become free meanwhile is found by the search that is called for.
- recount: only where the count is still the one that was seen. Should it be so by chance, the ledger's keys say which of the
  customer's seats is free.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final

from reconciler import diff
from reconciler.suspects import Suspect, chunks
from service.comparing import Comparing
from service.counters import REFILL_MAX_SEATS, CounterLook, Counters
from service.ledger import Ledger
from service.model import LoadedCoupon

SEARCH_DEADLINE_S: Final = 120.0
"""For the free seats of one coupon, in bounded statements: ten million rows take some seconds."""
WITHDRAW_MAX_SEATS: Final = 5_000
RECOUNT_MAX_CUSTOMERS: Final = 2_000
"""In one script: some milliseconds of Redis' time each."""


class NotAllowed(Exception):
    """Nothing may be mended any more."""


class Mending:
    """Mends counters, and asks before each script whether it still may."""

    def __init__(
        self, ledger: Ledger, counters: Counters, comparing: Comparing, may_mend: Callable[[], Awaitable[bool]]
    ) -> None:
        self._ledger = ledger
        self._counters = counters
        self._comparing = comparing
        self._may_mend = may_mend

    async def mend(self, one: Suspect) -> None:
        """Mends all that was found of a coupon. Raises NotAllowed, CounterUnavailable, LedgerUnavailable."""
        coupon = one.ledger.coupon
        if one.outdated is not None:
            await self._ask()
            # A newer version is false only if it was there before the ledger was read, as it was here.
            even_newer = {one.code} if _is_newer(one) else ()
            await self._counters.load([LoadedCoupon(coupon, one.ledger.seat_max)], even_newer=even_newer)
            await self._complete(one)
        elif one.is_behind or one.unlisted:
            await self._ask()
            await self._counters.shrink(one.code, one.ledger.seat_high)
            await self._complete(one)
        else:
            await self._mend_seats(one)
            if one.is_all and any(seat <= one.counter.unsearched for seat in one.leaked):
                await self._complete(one)  # So that the next one that is leaked there is told.
        for some in chunks([(name, *pair) for name, pair in sorted(one.customers.items())], RECOUNT_MAX_CUSTOMERS):
            await self._ask()
            await self._comparing.recount(one.code, coupon.id, some)

    async def _mend_seats(self, one: Suspect) -> None:
        coupon = one.ledger.coupon
        ghosts: list[int | str] = [*sorted(one.ghosts), *sorted(one.strange)]
        for some in chunks(ghosts, WITHDRAW_MAX_SEATS):
            await self._ask()
            await self._comparing.withdraw(one.code, coupon.id, some)
        look = CounterLook(coupon.id, coupon.version, coupon.max_redemptions, one.counter.number("next"), frozenset())
        for seats in chunks(sorted(one.leaked), REFILL_MAX_SEATS):
            await self._ask()
            await self._counters.refill(one.code, look, seats=seats, complete=None)

    async def _complete(self, one: Suspect) -> None:
        """A counter that was made or shrunk knows of no free seats: those that are, by the ledger, are taken in.

        Beyond UNSEARCHED_SEATS_MIN of them they are left to be looked for when they are needed, as after every load.
        """
        if one.ledger.coupon.max_redemptions is None:
            return
        look = await self._counters.look(one.code)
        if look is None:
            return
        found = await self._ledger.seats.free_seats(
            look.coupon_id,
            look.next,
            limit=diff.UNSEARCHED_SEATS_MIN + len(look.pending),
            deadline=asyncio.get_running_loop().time() + SEARCH_DEADLINE_S,
            start=1,
        )
        if not found.complete:
            return
        # Only one that takes in all at once can say that nothing was left.
        complete = True if len(found.seats) - len(look.pending) <= REFILL_MAX_SEATS else None
        for seats in chunks([seat for seat in found.seats if seat not in look.pending], REFILL_MAX_SEATS):
            await self._ask()
            await self._counters.refill(one.code, look, seats=seats, complete=complete)

    async def _ask(self) -> None:
        if not await self._may_mend():
            raise NotAllowed


def _is_newer(one: Suspect) -> bool:
    return one.counter.is_right and one.counter.number("version") > one.ledger.coupon.version
