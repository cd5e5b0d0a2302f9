"""One redemption, from the order to the answer: claim → record → one of the endings.

Redis proposes, MariaDB disposes: a claimed seat is a hint until the ledger has it in a row, and a refusal is a hint until the
ledger has confirmed it. The usual request waits on one future: the claim's batch hands it to the record's batch by itself,
and the flow hears only how that ended.
"""

import asyncio
from collections.abc import Sequence
from functools import partial

import structlog

from service.abandoned import Abandoned
from service.attempts import Attempt, confirmed, fail, held, lowest_free
from service.batcher import Asker, Batcher
from service.claims import Claims
from service.config import Settings
from service.errors import CounterUnavailable, LedgerUnavailable, UsherError
from service.flights import ANSWER_SHARE, RECORD_SHARE, UNAVAILABLE, Flights, existing
from service.guesses import Guesses
from service.ledger import Ledger
from service.loads import Loads
from service.model import (
    MAX_PER_CUSTOMER_MAX,
    Claim,
    ClaimAnswer,
    Coupon,
    Ending,
    LookUp,
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

LOOK_UPS_AT_ONCE = 2
"""Two statements side by side keep both the ledger and this process busy; more would make the batches smaller."""
COLLISIONS_BEFORE_LEDGER = 2
"""From the third attempt the seat comes from the ledger: a counter that was wrong twice may be wrong for long."""
CUSTOMER_PAUSES_S = (0.01, 0.02, 0.04)
"""The counter counts the customer's claims under way, the ledger does not yet: they get this long to be recorded."""
TRIES_BEFORE_LEDGER = 5
"""After a flush, a claim needs three tries at most: load, refill, claim. What needs more has a counter that keeps changing."""
TRIES_WITHOUT_PAUSE = 4
"""A request that the counter sends round more often waits 1 ms, 2 ms, 4 ms … up to PAUSE_MAX_S."""
PAUSE_MAX_S = 0.1
RELEASE_WAIT_S = 0.1
"""An answer that is known is not held up by a Redis that hangs: the release goes on by itself."""

OUTCOME_UNKNOWN = Redeemed(Ending.OUTCOME_UNKNOWN)
REFUSED = {refusal: Redeemed(Ending.REFUSED, refusal=refusal) for refusal in Refusal}

log = structlog.get_logger(__name__)


class Redeemer:
    """Redeems orders. Store trouble and refusals are answers; only a full queue is an error."""

    def __init__(self, claims: Claims, loads: Loads, ledger: Ledger, settings: Settings, *, guesses: Guesses) -> None:
        self._claims = claims
        self._loads = loads
        self._ledger = ledger
        self._record_s = settings.request_deadline_ms / 1000 * RECORD_SHARE
        self._answer_s = settings.request_deadline_ms / 1000 * ANSWER_SHARE
        queue_max = settings.queue_max_requests
        self._flights = Flights(queue_max)
        self._guarded = partial(guesses.redeem, self._redeem)
        self._claim_queue = Batcher[Attempt](
            self._claim, fail, at_once=1, batch_max=settings.claim_batch_max_requests, queue_max=queue_max
        )
        self._record_queue = Batcher[Attempt](
            self._record,
            fail,
            at_once=settings.record_connections,
            batch_max=settings.record_batch_max_rows,
            queue_max=queue_max,
        )
        self._look_ups = Asker[LookUp, Standing](
            self._look_up_batch,
            at_once=LOOK_UPS_AT_ONCE,
            batch_max=settings.record_batch_max_rows,
            queue_max=queue_max,
            heard_only=True,
        )
        self._abandoned = Abandoned(claims, ledger, settings)

    # --- In front ----------------------------------------------------------------------------------------------

    async def redeem(self, order: Order, arrived_at: float | None = None) -> Redeemed:
        """The answer to an order, within the request's deadline. Raises Overloaded at once, with nothing claimed.

        `arrived_at`: when the request came, in seconds of the loop's clock; now unless given.
        """
        if arrived_at is None:
            arrived_at = asyncio.get_running_loop().time()
        return await self._flights.board(order, arrived_at, self._guarded)

    async def coupon_changed(self, code: str) -> None:
        """Make the counter follow a change that the ledger has committed.

        Redis away is no harm: the ledger refuses what an outdated counter allows, and confirms each of its refusals.
        """
        self._loads.forget(code)
        try:
            await self._loads.load(code)
        except (CounterUnavailable, LedgerUnavailable) as error:
            log.warning("counter not loaded after a change", error=str(error))

    async def drain(self, within_s: float) -> None:
        """Wait until all that was claimed is recorded or given back, and every abandoned id is known; at most so long."""
        try:
            async with asyncio.timeout(within_s):
                while self._flights or self._abandoned:  # noqa: ASYNC110 - an event would cost every request
                    await asyncio.sleep(0.01)
                await self._claims.drain()
        except TimeoutError:
            log.warning("stopped with requests under way", requests=len(self._flights), abandoned=len(self._abandoned))

    # --- The flow ----------------------------------------------------------------------------------------------

    async def _redeem(self, order: Order, arrived_at: float) -> Redeemed:
        """The flow, and what is left to do when a store fails in the middle of it."""
        if self._loads.is_unknown(order.code):
            return REFUSED[Refusal.COUPON_NOT_FOUND]
        wish = Wish(order.order_id, order.customer_id)
        attempt = Attempt(order, arrived_at + self._record_s, arrived_at + self._answer_s, wish)
        attempt.coupon_id = self._loads.known(order.code) or 0
        try:
            return await self._flow(attempt)
        except (UsherError, TimeoutError) as error:  # A full queue too: the front's own is not within this.
            log.debug("redemption unavailable", error=f"{type(error).__name__}: {error}")
            await self._release(attempt)
            return UNAVAILABLE

    async def _flow(self, attempt: Attempt) -> Redeemed:  # noqa: C901 - the closed set of endings, seen whole
        """Claim → record → one of the endings. A branch answers, or sets right what the next try needs.

        Only RECORDED is free of timers: claim and record keep their own deadlines, the branches get what is left.
        """
        while True:
            ending = await self._try(attempt)
            if isinstance(ending, Record):
                if ending.ending is RecordEnding.RECORDED:
                    return self._created(attempt)
                if ending.ending is RecordEnding.UNKNOWN:
                    return await self._abandon(attempt)
            async with asyncio.timeout_at(attempt.answer_until):
                match ending:
                    case Claim(ClaimAnswer.REFUSED):
                        answer = await self._refused(attempt, ending)
                    case Claim():  # Not loaded, or made for another coupon.
                        answer = await self._load(attempt)
                    case Record(RecordEnding.ORDER_LIVE, Redemption() as live):
                        answer = await self._replayed(attempt, live)
                    case Record(RecordEnding.COUPON_REFUSES):
                        answer = await self._refused_by_coupon(attempt)
                    case Record(RecordEnding.CUSTOMER_SEAT_TAKEN):
                        answer = await self._customer_seat_taken(attempt)
                    case Record(RecordEnding.SEAT_TAKEN):
                        await self._collided(attempt)
                        answer = None
                    case _:  # Certainly not recorded, or not claimed.
                        answer = await self._not_redeemed(attempt, ending)
                answer = answer or await self._prepare(attempt)
                if answer is not None:
                    return answer

    def _try(self, attempt: Attempt) -> asyncio.Future[Claim | Record | CounterUnavailable]:
        """Claim and record; or record alone, when the attempt holds a seat already."""
        attempt.tries += 1
        attempt.future = asyncio.get_running_loop().create_future()
        if not attempt.coupon_id:
            attempt.end(Claim(ClaimAnswer.NOT_LOADED))
        elif attempt.row is None:
            self._claim_queue.put(attempt)
        else:
            self._record_queue.put(attempt)
        return attempt.future

    async def _claim(self, attempts: list[Attempt]) -> None:
        """A batch of claims. What was claimed goes on to be recorded; everything else is for the flow to decide."""
        now = asyncio.get_running_loop().time()
        if any(attempt.record_until <= now for attempt in attempts):
            attempts = self._in_time(attempts, now)
        try:
            answers = await self._claims.claim([(attempt.order.code, attempt.wish) for attempt in attempts])
        except CounterUnavailable as error:
            log.warning("claims failed", requests=len(attempts) + len(self._claim_queue), error=str(error))
            while attempts:  # Those who wait behind would wait as long for the same.
                for attempt in attempts:
                    attempt.end(error)
                attempts = self._claim_queue.take()
            return
        claimed_at = self._ledger.now()
        for attempt, answer in zip(attempts, answers, strict=True):
            if isinstance(answer, Claim) and answer.answer is ClaimAnswer.CLAIMED:
                if answer.coupon_id == attempt.coupon_id:
                    attempt.hold(answer.seat, answer.customer_seat, claimed_at)
                    self._record_queue.put(attempt)
                else:
                    attempt.end(Claim(ClaimAnswer.NOT_LOADED))
            else:
                attempt.end(answer)
        failed = [answer for answer in answers if isinstance(answer, CounterUnavailable)]
        if failed:
            log.warning("claims failed", requests=len(failed), error=str(failed[0]))

    @staticmethod
    def _in_time(attempts: list[Attempt], now: float) -> list[Attempt]:
        """The attempts that may still claim; the others have waited too long and end."""
        for attempt in attempts:
            if attempt.record_until <= now:
                attempt.end(CounterUnavailable("waited too long for Redis"))
        return [attempt for attempt in attempts if attempt.record_until > now]

    async def _record(self, attempts: list[Attempt]) -> None:
        """A batch of records: one statement, one commit."""
        rows = [attempt.row for attempt in attempts if attempt.row is not None]
        for attempt, record in zip(attempts, await self._ledger.redemptions.record(rows), strict=True):
            if isinstance(record, Record):
                attempt.end(record)
            else:  # Its coupon is being changed: the ledger goes on with it, and this writer with the others.
                record.add_done_callback(attempt.end_later)

    # --- The endings -------------------------------------------------------------------------------------------

    def _created(self, attempt: Attempt) -> Redeemed:
        """Recorded. The order may leave `pending`."""
        row = held(attempt)
        if row.seat is not None or row.customer_seat is not None:
            self._claims.settle(row.code, row.order_id, row.seat)
        return Redeemed(Ending.CREATED, confirmed(row))

    async def _replayed(self, attempt: Attempt, live: Redemption) -> Redeemed:
        """The order has a live redemption: that is the answer, and the claimed seat goes back unless that one sits on it."""
        if attempt.row is not None and attempt.row.seat == live.seat and live.seat is not None:
            self._claims.settle(live.code, live.order_id, live.seat)
            attempt.row = None
        await self._release(attempt)
        return existing(attempt.order, live)

    async def _refused(self, attempt: Attempt, claim: Claim) -> Redeemed | None:
        """The counter refuses: the refusal stands if the ledger confirms it, else what misled the counter is mended."""
        attempt.wish = attempt.wish._replace(customer_seat=None, customer_live=None)  # The ledger's word of a moment ago.
        standing = await self._look_up(attempt)
        coupon = standing.coupon
        answer = await self._by_ledger(attempt, standing)
        if answer is not None or coupon is None:
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
        """The customer's count was wrong: the lowest free of the customer's seats is tried, if there is one."""
        standing = await self._look_up(attempt)
        answer = await self._by_ledger(attempt, standing)
        if answer is None and attempt.row is not None:
            attempt.hold(attempt.row.seat, lowest_free(standing.customer_seats), self._ledger.now())
        return answer

    async def _collided(self, attempt: Attempt) -> None:
        """The seat is taken: it is dropped, the counter shrinks, and another one is claimed or read from the ledger."""
        attempt.collided_seat, attempt.row = held(attempt).seat, None
        attempt.collisions += 1
        attempt.wish = attempt.wish._replace(again=True, customer_seat=None, customer_live=None)
        await self._claims.shrink(attempt.order.code)

    async def _not_redeemed(self, attempt: Attempt, ending: object) -> Redeemed:
        """Redis failed, or the ledger certainly did not record: compensate."""
        log.debug("not redeemed", ending=str(ending))
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
        return Redeemed(Ending.CREATED, confirmed(held(attempt))) if stands else UNAVAILABLE

    # --- The steps of the endings ------------------------------------------------------------------------------

    async def _load(self, attempt: Attempt, *, even_newer: bool = False) -> Redeemed | None:
        """Load the counter; an answer only if there is no such coupon."""
        coupon_id = await self._loads.load(attempt.order.code, even_newer=even_newer)
        if coupon_id is None:
            return REFUSED[Refusal.COUPON_NOT_FOUND]
        attempt.coupon_id = coupon_id
        return None

    async def _look_up(self, attempt: Attempt) -> Standing:
        """What the ledger says of this order, its customer and its coupon now."""
        order = attempt.order
        return await self._look_ups.ask(LookUp(order.code, order.customer_id, order.order_id))

    async def _by_ledger(self, attempt: Attempt, standing: Standing) -> Redeemed | None:
        """What the ledger answers by itself, in the contract's order, with the claim given back; None: it may redeem."""
        if standing.live is not None:
            return await self._replayed(attempt, standing.live)
        coupon = standing.coupon
        refusal = standing.refusal
        if coupon is None:
            refusal = Refusal.COUPON_NOT_FOUND
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

    async def _prepare(self, attempt: Attempt) -> Redeemed | None:
        """Before the next try: a request that the counter has misled often enough is served by the ledger alone.

        So no request goes round for ever, whatever happens to the counter meanwhile: it may be flushed, restored or edited
        every few milliseconds.
        """
        if attempt.tries > TRIES_WITHOUT_PAUSE:
            await asyncio.sleep(min(0.001 * 2 ** (attempt.tries - TRIES_WITHOUT_PAUSE), PAUSE_MAX_S))
        misled = attempt.collisions >= COLLISIONS_BEFORE_LEDGER or attempt.tries >= TRIES_BEFORE_LEDGER
        return await self._claim_from_ledger(attempt) if misled and attempt.row is None else None

    async def _claim_from_ledger(self, attempt: Attempt) -> Redeemed | None:
        """Hold a seat that is in no row, as the ledger says; an answer where the ledger has one, or has no seat."""
        standing = await self._look_up(attempt)
        answer = await self._by_ledger(attempt, standing)
        coupon = standing.coupon
        if answer is not None or coupon is None:
            return answer
        seat = None
        if coupon.max_redemptions is not None:
            seat = await self._claims.seat_from_ledger(coupon)
            if seat is None:
                return await self._exhausted(attempt)
        if attempt.collided_seat is not None:  # It is not claimed again, and must not stay pending with others' seat.
            self._claims.settle(coupon.code, attempt.order.order_id, attempt.collided_seat)
            attempt.collided_seat = None
        attempt.coupon_id = coupon.id
        limited = coupon.max_per_customer is not None
        attempt.hold(seat, lowest_free(standing.customer_seats) if limited else None, self._ledger.now())
        return None

    async def _look_up_batch(self, look_ups: Sequence[LookUp]) -> Sequence[Standing]:
        deadline = asyncio.get_running_loop().time() + self._record_s
        return await self._ledger.redemptions.look_up(look_ups, deadline)
