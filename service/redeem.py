"""One redemption, from the order to the answer: claim → record → one of the endings.

Redis proposes, MariaDB disposes: a claimed seat is a hint until the ledger has it in a row, and a refusal is a hint until the
ledger has confirmed it. The usual request waits on one future: the claim's batch hands it to the record's batch by itself,
and the flow hears only how that ended. A request that Redis fails goes on by the ledger alone, which has seats as well.
"""

import asyncio
from functools import partial

import structlog

from service.abandoned import Abandoned
from service.attempts import Attempt, Refused, any_free, held, lowest_free, recorded
from service.claims import Claims
from service.config import Settings
from service.counts import Counts
from service.errors import CounterUnavailable, LedgerContended, LedgerUnavailable, UsherError
from service.flights import ANSWER_SHARE, RECORD_SHARE, UNAVAILABLE, Flights, existing, of_key
from service.guesses import Guesses
from service.ledger import Ledger
from service.life import Life
from service.loads import Loads
from service.model import (
    MAX_PER_CUSTOMER_MAX,
    Claim,
    ClaimAnswer,
    Coupon,
    Ending,
    Order,
    Record,
    RecordEnding,
    Redeemed,
    Redemption,
    Refusal,
    Return,
    Search,
    Standing,
    Wish,
)
from service.standings import Standings
from service.tries import Tries

COLLISIONS_BEFORE_LEDGER = 2
"""From the third attempt the seat comes from the ledger: a counter that was wrong twice may be wrong for long."""
CUSTOMER_PAUSES_S = (0.01, 0.02, 0.04)
"""The counter counts the customer's claims under way, the ledger does not yet: they get this long to be recorded."""
TRIES_BEFORE_LEDGER = 5
"""After a flush, a claim needs three tries at most: load, refill, claim. What needs more has a counter that keeps changing."""
TRIES_WITHOUT_PAUSE = 4
"""A request that the counter sends round more often waits 1 ms, 2 ms, 4 ms … up to PAUSE_MAX_S."""
PAUSE_MAX_S = 0.1
FIND_PAUSE_MIN_S = 0.002
FIND_PAUSE_MAX_S = 0.064
"""Between two look-ups of an order that is just being recorded or ended, doubled each time."""
RELEASE_WAIT_S = 0.1
"""An answer that is known is not held up by a Redis that hangs: the release goes on by itself."""

OUTCOME_UNKNOWN, BUSY = Redeemed(Ending.OUTCOME_UNKNOWN), Redeemed(Ending.BUSY)
REFUSED = {refusal: Redeemed(Ending.REFUSED, refusal=refusal) for refusal in Refusal}

log = structlog.get_logger(__name__)


class Redeemer:
    """Redeems orders. Store trouble and refusals are answers; only a full queue is an error."""

    def __init__(
        self, claims: Claims, loads: Loads, ledger: Ledger, settings: Settings, *, guesses: Guesses, life: Life, counts: Counts
    ) -> None:
        self._claims = claims
        self._loads = loads
        self._ledger = ledger
        self._life = life
        self._record_s = settings.request_deadline_ms / 1000 * RECORD_SHARE
        self._answer_s = settings.request_deadline_ms / 1000 * ANSWER_SHARE
        self._flights = Flights(settings.queue_max_requests, counts)
        self._guarded = partial(guesses.redeem, self._redeem)
        self._tries = Tries(claims, ledger, settings, counts, statement_s=self._record_s)
        self._standings = Standings(ledger, life, settings, statement_s=self._record_s)
        self._abandoned = Abandoned(claims, ledger, settings, counts)

    # --- In front ----------------------------------------------------------------------------------------------

    async def redeem(self, order: Order, arrived_at: float | None = None) -> Redeemed:
        """The answer to an order, within the request's deadline. Raises Overloaded at once, with nothing claimed.

        `arrived_at`: when the request came, in seconds of the loop's clock; now unless given.
        """
        at = asyncio.get_running_loop().time() if arrived_at is None else arrived_at
        return await self._flights.board(order, at, self._guarded, self._join)

    async def find_live(self, code: str, order_id: str, until: float) -> bytes | None:
        """The id of the order's live redemption, or of its hold whose time is over; after its requests under way here.

        `until` in seconds of the loop's clock. Raises LedgerUnavailable.
        """
        pause_s = FIND_PAUSE_MIN_S
        try:
            async with asyncio.timeout_at(until):
                await self._flights.landed(code, order_id)
                await self._abandoned.known(code, order_id)
                while True:
                    try:
                        return await self._ledger.redemptions.find_live(code, order_id, until)
                    except LedgerContended:
                        await asyncio.sleep(pause_s)
                        pause_s = min(2 * pause_s, FIND_PAUSE_MAX_S)
        except TimeoutError as error:
            raise LedgerUnavailable("no time was left to find the order") from error

    async def coupon_changed(self, code: str) -> None:
        """Make the counter follow a change that the ledger has committed.

        Redis away is no harm: the ledger refuses what an outdated counter allows, and confirms each of its refusals.
        """
        try:
            await self._loads.load(code)
        except LedgerUnavailable as error:
            log.warning("counter not loaded after a change", error=str(error))

    async def drain(self, within_s: float) -> None:
        """Wait until all that was claimed is recorded or given back, and every abandoned id is known; at most so long."""
        try:
            async with asyncio.timeout(within_s):
                while self._flights or self._abandoned or self._life.busy:  # noqa: ASYNC110 - an event would cost every request
                    await asyncio.sleep(0.01)
                await self._claims.drain()
        except TimeoutError:
            log.warning("stopped with requests under way", requests=len(self._flights), abandoned=len(self._abandoned))

    async def _join(self, order: Order, arrived_at: float, live: Redemption) -> Redeemed:
        """The answer to an order whose overlapping send has this live redemption; its idempotency key is remembered."""
        try:
            async with asyncio.timeout_at(arrived_at + self._answer_s):
                return await self._of_live(order, live)
        except (UsherError, TimeoutError) as error:
            log.debug("key not remembered", error=f"{type(error).__name__}: {error}")
            return UNAVAILABLE

    # --- The flow ----------------------------------------------------------------------------------------------

    async def _redeem(self, order: Order, arrived_at: float) -> Redeemed:
        """The flow, and what is left to do when a store fails in the middle of it."""
        wish = Wish(order.order_id, order.customer_id)
        attempt = Attempt(order, arrived_at + self._record_s, arrived_at + self._answer_s, wish)
        attempt.coupon_id = self._loads.known(order.code) or 0
        try:
            return await self._flow(attempt)
        except (UsherError, TimeoutError) as error:  # A full queue too: the front's own is not within this.
            log.debug("redemption unavailable", error=f"{type(error).__name__}: {error}")
            await self._release(attempt)
            return UNAVAILABLE

    async def _flow(self, attempt: Attempt) -> Redeemed:  # noqa: C901, PLR0912 - the closed set of endings, seen whole
        """Claim → record → one of the endings. A branch answers, or sets right what the next try needs.

        RECORDED and a refusal that stands are free of timers: a try keeps its own deadlines, the branches get what is left.
        """
        while True:
            ending = await self._tries.of(attempt)
            if isinstance(ending, Record):
                if ending.ending is RecordEnding.RECORDED:
                    return self._created(attempt)
                if ending.ending is RecordEnding.UNKNOWN:
                    return await self._abandon(attempt)
            elif isinstance(ending, Refused) and (refusal := ending.stands()) is not None:
                return REFUSED[refusal]
            async with asyncio.timeout_at(attempt.answer_until):
                answer = None
                try:
                    match ending:
                        case CounterUnavailable():
                            attempt.without_counter = True
                        case Refused():
                            answer = await self._refused(attempt, ending)
                        case Claim(ClaimAnswer.NOT_LOADED):
                            answer = await self._load(attempt, is_missing=True)
                        case Claim():  # Made for another coupon.
                            answer = await self._load(attempt)
                        case Record(RecordEnding.KEY_KNOWN, Redemption() as known):
                            answer = await self._known(attempt, known)
                        case Record(RecordEnding.ORDER_LIVE, Redemption() as live):
                            answer = await self._order_live(attempt, live)
                        case Record(RecordEnding.COUPON_REFUSES):
                            answer = await self._refused_by_coupon(attempt)
                        case Record(RecordEnding.CUSTOMER_SEAT_TAKEN):
                            answer = await self._customer_seat_taken(attempt)
                        case Record(RecordEnding.SEAT_TAKEN):
                            await self._collided(attempt)
                        case _:  # Certainly not recorded.
                            answer = await self._not_redeemed(attempt)
                except CounterUnavailable:  # In the middle of mending a counter, which nobody needs any more.
                    attempt.without_counter = True
                answer = answer or await self._prepare(attempt)
                if answer is not None:
                    return answer

    # --- The endings -------------------------------------------------------------------------------------------

    def _created(self, attempt: Attempt) -> Redeemed:
        """Recorded. The order may leave `pending`."""
        row = held(attempt)
        if row.seat is not None or row.customer_seat is not None:
            self._claims.settle(row.code, row.order_id, row.seat)
        redemption = recorded(row)
        if redemption.expires_at is not None:  # A hold can be over by the time it is recorded.
            redemption = redemption.as_of(self._ledger.now())
        return Redeemed(Ending.CREATED, redemption)

    async def _known(self, attempt: Attempt, known: Redemption) -> Redeemed:
        """The idempotency key stands for a redemption: that one is the answer, whatever became of it."""
        await self._give_back(attempt, known)
        return of_key(attempt.order, known.as_of(self._ledger.now()))

    async def _order_live(self, attempt: Attempt, live: Redemption) -> Redeemed | None:
        """The order has a live redemption; or a hold whose time is over: the look-up ends that one, and the row can land."""
        if self._standings.is_overdue(live):
            return await self._by_ledger(attempt, await self._look_up(attempt))
        return await self._replayed(attempt, live)

    async def _replayed(self, attempt: Attempt, live: Redemption) -> Redeemed:
        """The order has a live redemption: that is the answer."""
        await self._give_back(attempt, live)
        return await self._of_live(attempt.order, live)

    async def _of_live(self, order: Order, live: Redemption) -> Redeemed:
        """The answer to an order that has a live redemption; its idempotency key, if it has one, is remembered.

        Raises LedgerUnavailable, LedgerContended.
        """
        if order.idempotency_key is None or live.customer_id != order.customer_id:
            return existing(order, live)
        known = await self._standings.remember(order, live)
        return of_key(order, known.as_of(self._ledger.now()))

    async def _refused(self, attempt: Attempt, refused: Refused) -> Redeemed | None:
        """The counter refuses: the refusal stands if the ledger confirms it, else what misled the counter is mended."""
        attempt.wish = attempt.wish._replace(customer_seat=None, customer_live=None)  # The ledger's word of a moment ago.
        claim, standing = refused
        if was_hindered := self._standings.is_hindered(standing):
            standing = await self._look_up(attempt)
        coupon = standing.coupon
        answer = await self._by_ledger(attempt, standing)
        if answer is not None or coupon is None or was_hindered:  # Holds have ended since the counter was asked.
            return answer
        if coupon.version != claim.version:
            return await self._load(attempt, even_newer=claim.version > coupon.version)
        if claim.refusal is Refusal.COUPON_EXHAUSTED:
            if claim.search is Search.RECENT:
                return REFUSED[Refusal.COUPON_EXHAUSTED]
            if await self._claims.refill(coupon):
                return await self._exhausted(attempt)
        elif claim.refusal is Refusal.CUSTOMER_LIMIT_REACHED:
            await self._vouch_for_customer(attempt, coupon, standing.customer_seats)
        else:  # By status or window, which the ledger does not confirm: wrong fields, or Redis' clock.
            attempt.wish = attempt.wish._replace(vouched=True)
            return await self._load(attempt)
        return None

    async def _exhausted(self, attempt: Attempt) -> Redeemed:
        """A search has left nothing: the refusal stands, unless what was being recorded meanwhile is this very order."""
        return await self._by_ledger(attempt, await self._look_up(attempt)) or REFUSED[Refusal.COUPON_EXHAUSTED]

    async def _refused_by_coupon(self, attempt: Attempt) -> Redeemed | None:
        """The ledger refuses what the counter allowed: the counter is outdated. The claim goes back, to the seats in force."""
        await self._release(attempt)
        answer = await self._load(attempt)
        return answer or await self._by_ledger(attempt, await self._look_up(attempt))

    async def _customer_seat_taken(self, attempt: Attempt) -> Redeemed | None:
        """The customer's count was wrong: a free one of the customer's seats is tried, if there is one."""
        standing = await self._look_up(attempt)
        answer = await self._by_ledger(attempt, standing)
        coupon = standing.coupon
        if answer is None and attempt.row is not None and coupon is not None and coupon.max_per_customer is not None:
            attempt.hold(attempt.row.seat, any_free(standing.customer_seats, coupon.max_per_customer), self._ledger.now())
        return answer

    async def _collided(self, attempt: Attempt) -> None:
        """The seat is taken: it is dropped, the counter shrinks, and another one is claimed or read from the ledger."""
        attempt.collided_seat, attempt.row = held(attempt).seat, None
        attempt.collisions += 1
        attempt.wish = attempt.wish._replace(again=True, customer_seat=None, customer_live=None)
        await self._claims.shrink(attempt.order.code)

    async def _not_redeemed(self, attempt: Attempt) -> Redeemed:
        """The ledger certainly did not record: compensate."""
        await self._release(attempt)
        return UNAVAILABLE

    async def _abandon(self, attempt: Attempt) -> Redeemed:
        """Nobody knows what became of the row: from now on it is not recorded any more, and its id is written as ended.

        The answer waits for that as long as it can; the background goes on until it is known.
        """
        try:
            async with asyncio.timeout_at(attempt.answer_until):
                stands = await self._abandoned.find_out(held(attempt))
        except TimeoutError:
            return OUTCOME_UNKNOWN
        return Redeemed(Ending.CREATED, recorded(held(attempt))) if stands else UNAVAILABLE

    # --- The steps of the endings ------------------------------------------------------------------------------

    async def _load(self, attempt: Attempt, *, is_missing: bool = False, even_newer: bool = False) -> Redeemed | None:
        """Load the counter; an answer only if there is no such coupon."""
        code = attempt.order.code
        coupon_id = await (self._loads.load_missing(code) if is_missing else self._loads.load(code, even_newer=even_newer))
        if coupon_id is None:
            return REFUSED[Refusal.COUPON_NOT_FOUND]
        attempt.coupon_id = coupon_id
        return None

    async def _look_up(self, attempt: Attempt) -> Standing:
        """What the ledger says of this order, its customer and its coupon now."""
        return await self._standings.of(attempt.order, attempt.answer_until)

    async def _by_ledger(self, attempt: Attempt, standing: Standing) -> Redeemed | None:
        """What the ledger answers by itself, in the contract's order, with the claim given back; None: it may redeem."""
        if standing.known is not None:
            return await self._known(attempt, standing.known)
        if standing.live is not None:
            return await self._replayed(attempt, standing.live)
        coupon = standing.coupon
        refusal = standing.refusal
        if coupon is None:
            refusal = Refusal.COUPON_NOT_FOUND
        elif refusal is None and standing.is_busy:
            await self._release(attempt)
            return BUSY
        elif refusal is None and len(standing.customer_seats) >= (coupon.max_per_customer or MAX_PER_CUSTOMER_MAX + 1):
            refusal = Refusal.CUSTOMER_LIMIT_REACHED
        if refusal is None:
            return None
        await self._release(attempt, customer_live=len(standing.customer_seats))
        return REFUSED[refusal]

    async def _vouch_for_customer(self, attempt: Attempt, coupon: Coupon, customer_seats: tuple[int, ...]) -> None:
        """The counter counts more of the customer than the ledger: wait for what is under way, then believe the ledger."""
        if attempt.customer_refusals < len(CUSTOMER_PAUSES_S):
            await asyncio.sleep(CUSTOMER_PAUSES_S[attempt.customer_refusals])
            attempt.customer_refusals += 1
        elif coupon.max_per_customer is not None:
            attempt.wish = attempt.wish._replace(customer_seat=lowest_free(customer_seats), customer_live=len(customer_seats))

    async def _release(self, attempt: Attempt, customer_live: int | None = None) -> None:
        """Give back what the attempt holds. It goes on by itself when the answer can't wait for it any longer."""
        row, attempt.row = attempt.row, None
        if row is None:
            return
        try:
            async with asyncio.timeout(RELEASE_WAIT_S):
                await self._claims.release(row.code, Return(row.order_id, row.customer_id, row.seat, customer_live))
        except TimeoutError:
            log.debug("release not awaited")

    async def _give_back(self, attempt: Attempt, redemption: Redemption) -> None:
        """Gives back what the attempt holds, unless the redemption that is its answer sits on that seat."""
        if attempt.row is not None and attempt.row.seat == redemption.seat and redemption.seat is not None:
            self._claims.settle(redemption.code, redemption.order_id, redemption.seat)
            attempt.row = None
        await self._release(attempt)

    async def _prepare(self, attempt: Attempt) -> Redeemed | None:
        """Before the next try: a request that Redis has failed, or the counter misled often, is served by the ledger alone.

        So no request goes round for ever, whatever happens to the counter meanwhile: it may be flushed, restored or edited
        every few milliseconds.
        """
        if attempt.tries > TRIES_WITHOUT_PAUSE:
            await asyncio.sleep(min(0.001 * 2 ** (attempt.tries - TRIES_WITHOUT_PAUSE), PAUSE_MAX_S))
        misled = attempt.collisions >= COLLISIONS_BEFORE_LEDGER or attempt.tries >= TRIES_BEFORE_LEDGER
        by_ledger = (attempt.without_counter or misled) and attempt.row is None
        return await self._claim_from_ledger(attempt) if by_ledger else None

    async def _claim_from_ledger(self, attempt: Attempt) -> Redeemed | None:
        """Hold a seat that is in no row, as the ledger says; an answer where the ledger has one, or has no seat."""
        standing = await self._look_up(attempt)
        answer = await self._by_ledger(attempt, standing)
        coupon = standing.coupon
        if answer is not None or coupon is None:
            return answer
        seat = None
        if coupon.max_redemptions is not None:
            in_block = attempt.without_counter and not attempt.collisions
            since = attempt.record_until - self._record_s
            seat = await self._claims.seat_from_ledger(coupon, since=since, in_block=in_block)
            if seat is None:
                return await self._exhausted(attempt)
        if attempt.collided_seat is not None:  # It is not claimed again, and must not stay pending with others' seat.
            self._claims.settle(coupon.code, attempt.order.order_id, attempt.collided_seat)
            attempt.collided_seat = None
        attempt.coupon_id = coupon.id
        limited = coupon.max_per_customer is not None
        attempt.hold(seat, lowest_free(standing.customer_seats) if limited else None, self._ledger.now())
        return None
