"""Would redeeming be refused? The steps of a redemption, in the same order, by the same judges, without claim and record.

Status, window and the customer's live redemptions are the ledger's word. Whether a seat is left is the counter's hint, and the
ledger looks at seats that the counter would hand out; when the counter has none left, or Redis is away, a search decides, as
for redeeming.
Counters are loaded, shrunk and refilled on the way, and holds whose time is over may be ended; nothing that a client can see
changes.
"""

import asyncio
import itertools
from collections.abc import Collection, Sequence
from typing import Final, NamedTuple

from service.batcher import Asker
from service.claims import Claims
from service.config import Settings
from service.counters import Counters, Remaining
from service.errors import CounterUnavailable, CouponBusy, LedgerUnavailable
from service.flights import ANSWER_SHARE, RECORD_SHARE
from service.guesses import Guesses
from service.ledger import Ledger
from service.life import Life
from service.loads import Loads
from service.model import MAX_PER_CUSTOMER_MAX, Coupon, Guess, Order, Refusal, Search, Standing
from service.standings import Standings

TRIES_BEFORE_LEDGER: Final = 5
"""After a flush, three are needed: load, refill, look. What needs more has a counter that keeps changing."""
COUNTERS_AT_ONCE: Final = 1
SEATS_AT_ONCE: Final = 2
"""Statements side by side; more would make the batches smaller."""
NOBODY: Final = ""
"""No customer and no order is called so."""

Seat = tuple[int, int]
"""A coupon's id and a seat of it."""


class Validation(NamedTuple):
    """A question: would this coupon be refused to this customer, or to one who has not used it?"""

    code: str
    customer_id: str | None
    api_key_id: int


class Validated(NamedTuple):
    """The answer: why it would be refused, None if it would not.

    `remaining`: uses left by the counter, never negative; None for an unlimited coupon. `limited_s`: the customer has named
    too many unknown codes, nothing else is said, and so many whole seconds are left; 0 for everybody else.
    """

    refusal: Refusal | None
    remaining: int | None
    limited_s: int = 0


NOT_FOUND: Final = Validated(Refusal.COUPON_NOT_FOUND, 0)


class Parts(NamedTuple):
    """What validations share with redeeming."""

    claims: Claims
    loads: Loads
    guesses: Guesses
    life: Life


class Validations:
    """Answers validations. What comes together is asked together."""

    def __init__(self, counters: Counters, ledger: Ledger, parts: Parts, settings: Settings) -> None:
        self._counters = counters
        self._ledger = ledger
        self._claims, self._loads, self._guesses, _ = parts
        self._answer_s = settings.request_deadline_ms / 1000 * ANSWER_SHARE
        self._statement_s = settings.request_deadline_ms / 1000 * RECORD_SHARE
        self._standings = Standings(ledger, parts.life, settings, statement_s=self._statement_s)
        batch_max, queue_max = settings.record_batch_max_rows, settings.queue_max_requests
        self._remaining = Asker[str, Remaining | None](
            self._ask_counters, at_once=COUNTERS_AT_ONCE, batch_max=batch_max, queue_max=queue_max, heard_only=True
        )
        self._seats = Asker[Collection[Seat], bool](
            self._ask_seats, at_once=SEATS_AT_ONCE, batch_max=batch_max, queue_max=queue_max, heard_only=True
        )

    async def validate(self, asked: Validation, arrived_at: float) -> Validated:
        """The answer, within the request's deadline. `arrived_at` in seconds of the loop's clock.

        Raises LedgerUnavailable, LedgerContended, CouponBusy, Overloaded.
        """
        until = arrived_at + self._answer_s
        try:
            async with asyncio.timeout_at(until):
                if asked.customer_id is None:  # Nobody to be limited: unknown codes are looked up at a measured pace.
                    return await self._validate(asked, until)
                return await self._guarded(asked, Guess(asked.api_key_id, asked.customer_id, asked.code), until)
        except TimeoutError as error:
            raise LedgerUnavailable("no time was left to validate") from error

    async def _guarded(self, asked: Validation, guess: Guess, until: float) -> Validated:
        """Unless the customer is limited; an unknown code is noted before it is told."""
        limited_s = await self._guesses.limited_for(guess, until)
        if limited_s:
            return Validated(None, None, limited_s)
        if self._loads.known(asked.code) is None:
            return NOT_FOUND
        validated = await self._validate(asked, until)
        if validated.refusal is Refusal.COUPON_NOT_FOUND:  # An archived one, too.
            return validated._replace(limited_s=await self._guesses.note(guess, until))
        return validated

    async def _validate(self, asked: Validation, until: float) -> Validated:
        """The ledger's word, then the counter's with the ledger's look at it; again after what was wrong has been mended."""
        code = asked.code
        if self._loads.known(code) is None and await self._loads.load(code) is None:
            return NOT_FOUND
        order = Order(code, asked.customer_id or NOBODY, NOBODY, asked.api_key_id)
        for number in itertools.count(1):
            standing = await self._standings.of(order, until)
            coupon, refusal = standing.coupon, _refusal(standing)
            if coupon is None or refusal is Refusal.COUPON_NOT_FOUND:
                break
            if number > TRIES_BEFORE_LEDGER:
                return await self._by_ledger(coupon, refusal)
            try:
                validated = await self._by_counter(coupon, refusal, number)
            except CounterUnavailable:
                return await self._by_ledger(coupon, refusal)
            if validated is not None:
                return validated
        return NOT_FOUND

    async def _by_counter(self, coupon: Coupon, refusal: Refusal | None, number: int) -> Validated | None:
        """What the counter says, where it is of this coupon; None: to be asked again. `number`: of this try, from 1 on."""
        remaining = await self._remaining.ask(coupon.code)
        if remaining is None or not _is_of(remaining, coupon):
            # Only a counter that is newer than the ledger again, after a load, is false.
            newer = remaining is not None and remaining.version > coupon.version
            await self._loads.load(coupon.code, even_newer=newer and number > 1)
            return None
        if refusal is not None or coupon.max_redemptions is None:
            return Validated(refusal, None if coupon.max_redemptions is None else remaining.count)
        return await self._seat_left(coupon, remaining, number)

    async def _seat_left(self, coupon: Coupon, remaining: Remaining, number: int) -> Validated | None:
        """Whether a seat is left of a limited coupon; None: to be asked again."""
        if not remaining.count:
            found_none = remaining.search is Search.RECENT or await self._claims.refill(coupon)
            return Validated(Refusal.COUPON_EXHAUSTED, 0) if found_none else None
        if await self._seats.ask([(coupon.id, seat) for seat in remaining.seats]):
            return Validated(None, remaining.count)
        if number > 1:  # Seats may have been taken between the two looks; again and again, it is the counter that is wrong.
            await self._claims.shrink(coupon.code)
        return None

    async def _by_ledger(self, coupon: Coupon, refusal: Refusal | None) -> Validated:
        """Whatever the counter believes, or without one. How many seats are left is not counted then: 1 stands for some."""
        if coupon.max_redemptions is None:
            return Validated(refusal, None)
        is_left = await self._claims.is_left(coupon)
        return Validated(refusal or (None if is_left else Refusal.COUPON_EXHAUSTED), int(is_left))

    async def _ask_counters(self, codes: Sequence[str]) -> Sequence[Remaining | None]:
        """A batch for the counters: each is asked once, however many want to know."""
        once = list(dict.fromkeys(codes))
        if self._claims.is_behind:
            await self._claims.catch_up(once)
        found = dict(zip(once, await self._counters.remaining(once), strict=True))
        return [found[code] for code in codes]

    async def _ask_seats(self, wanted: Sequence[Collection[Seat]]) -> Sequence[bool]:
        """A batch for the ledger: whether any of these seats is in no row."""
        seats = {seat for some in wanted for seat in some}
        taken = await self._ledger.seats.taken(seats, asyncio.get_running_loop().time() + self._statement_s)
        return [not taken.issuperset(some) for some in wanted]


def _refusal(standing: Standing) -> Refusal | None:
    """What the ledger refuses by itself, in the contract's order. Raises CouponBusy."""
    coupon, refusal = standing.coupon, standing.refusal
    if coupon is None or refusal is not None:
        return refusal
    if standing.is_busy:
        raise CouponBusy
    if len(standing.customer_seats) >= (coupon.max_per_customer or MAX_PER_CUSTOMER_MAX + 1):
        return Refusal.CUSTOMER_LIMIT_REACHED
    return None


def _is_of(remaining: Remaining, coupon: Coupon) -> bool:
    """Whether the counter speaks of this coupon, this version and these seats."""
    own = (remaining.coupon_id, remaining.version, remaining.max_redemptions)
    return own == (coupon.id, coupon.version, coupon.max_redemptions)
