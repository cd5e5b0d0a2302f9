"""Guessing is limited: who has named GUESSES_MAX unknown codes within the window is refused, whatever they name next.

The counts are in the ledger, exact over all processes; a 404 is answered only after it has been counted. Here is remembered
who is limited, as far as this process has seen or read it.
"""

import asyncio
import math
from collections import OrderedDict
from collections.abc import Sequence

import structlog

from service.config import Settings
from service.errors import LedgerUnavailable, Overloaded, UsherError
from service.flights import ANSWER_SHARE, RECORD_SHARE, UNAVAILABLE, Redeem, existing, of_key
from service.ledger import Ledger
from service.ledger.guesses import digest
from service.loads import Loads, remember
from service.model import Ending, FoundKey, Guess, LookUp, Noted, Order, Redeemed, Redemption, Refusal, Standing
from service.paced import Paced
from service.turns import Turns

NOTE_INTERVAL_S = 0.1
"""A transaction has four statements: a storm costs forty a second. A lone guess is noted at once."""
GUESSES_PER_TRANSACTION_MAX = 1_000
REPLAY_INTERVAL_S = 0.1
REPLAYS_PER_STATEMENT_MAX = 1_000
REFRESH_INTERVAL_S = 1.0
"""So long after it was limited in one process, a customer may still redeem in another one."""
REFRESH_TIMEOUT_S = 1.0
REFRESH_SHARE = 0.1
"""Of the time, at most, goes into reading who is limited: while they are many, they are read less often."""
LIMITED_MAX = 20_000
"""Customers remembered; some 150 bytes each."""
COUNTED_FOR_S = 5.0
"""How long a guess is remembered, so that a client that repeats one typing error for ever is not noted for ever."""
COUNTED_MAX = 20_000
"""Some 16 MB with the longest names."""
UNKNOWN = Redeemed(Ending.REFUSED, refusal=Refusal.COUPON_NOT_FOUND)
EVENTS_PER_REFRESH_MAX = 10
"""A storm of guesses does not flood the log: the others are a number."""

log = structlog.get_logger(__name__)


class Guesses:
    """Who guesses, and who may not any more.

    Whoever tells a customer of a key whether a code exists asks `limited_for` first, and refuses whatever the code is unless
    that says 0. Then `Loads.known` tells whether there is such a coupon. One that is archived is told to be unknown, and noted.
    """

    def __init__(self, loads: Loads, ledger: Ledger, settings: Settings) -> None:
        self._loads = loads
        self._ledger = ledger
        self._statement_s = settings.request_deadline_ms / 1000 * RECORD_SHARE
        self._answer_s = settings.request_deadline_ms / 1000 * ANSWER_SHARE
        # Until when, in seconds of the loop's clock.
        self._limited: OrderedDict[bytes, float] = OrderedDict()
        self._counted: OrderedDict[Guess, float] = OrderedDict()
        self._turns = Turns()
        self._notes = Paced[Guess, Noted](
            self._note,
            interval_s=NOTE_INTERVAL_S,
            batch_max=GUESSES_PER_TRANSACTION_MAX,
            queue_max=settings.queue_max_requests,
        )
        self._replays = Paced[LookUp, Standing](
            self._look_up,
            interval_s=REPLAY_INTERVAL_S,
            batch_max=REPLAYS_PER_STATEMENT_MAX,
            queue_max=settings.queue_max_requests,
        )
        self._refresher: asyncio.Task[None] | None = None
        self._outage = False
        self._events_left = EVENTS_PER_REFRESH_MAX
        self._events_left_out = 0

    async def start(self) -> None:
        """Reads who is limited, and goes on to do so in the background. A ledger that is away is no error."""
        await self.refresh()
        self._refresher = asyncio.create_task(self._refresh_always())

    async def stop(self) -> None:
        """Ends what `start` has begun."""
        if self._refresher is not None:
            self._refresher.cancel()
            await asyncio.gather(self._refresher, return_exceptions=True)

    # --- Redeeming ---------------------------------------------------------------------------------------------

    async def redeem(self, flow: Redeem, order: Order, arrived_at: float) -> Redeemed:
        """The flow's answer, unless the customer is limited. Nothing is hashed as long as nobody is limited."""
        guess = Guess(order.api_key_id, order.customer_id, order.code)
        until = arrived_at + self._answer_s
        try:
            if self._limited or self._turns or self._loads.known(order.code) is None:
                if await self.limited_for(guess, until):
                    return await self._replayed(order, until)
                if self._loads.known(order.code) is None:
                    return UNKNOWN
            redeemed = await flow(order, arrived_at)
            if redeemed.refusal is Refusal.COUPON_NOT_FOUND and (limited_s := await self.note(guess, until)):
                return _limited(limited_s)
        except Overloaded:
            raise
        except UsherError as error:
            log.debug("guess not decided", error=f"{type(error).__name__}: {error}")
            return UNAVAILABLE
        return redeemed

    async def _replayed(self, order: Order, until: float) -> Redeemed:
        """To a limited customer: the order's live redemption, or that they are limited.

        All who are limited are looked up together, whatever is known of their codes, so that how long the answer takes
        says nothing about a code either. Another customer's redemption would say that the code exists.
        """
        question = LookUp(order.code, order.customer_id, order.order_id, order.api_key_id, order.idempotency_key)
        try:
            async with asyncio.timeout_at(until):
                standing = await self._replays.ask(question)
        except TimeoutError as error:
            raise LedgerUnavailable("no time was left to look the order up") from error
        now = self._ledger.now()
        if standing.known is not None:
            return of_key(order, standing.known.as_of(now))
        live = standing.live
        if live is not None and live.customer_id == order.customer_id and live.as_of(now) is live:
            return existing(order, live) if order.idempotency_key is None else await self._remembered(order, live)
        return _limited(max(1, self.limited_s(order.api_key_id, order.customer_id)))

    async def _remembered(self, order: Order, live: Redemption) -> Redeemed:
        """The answer to an order whose idempotency key has found this redemption: from now on the key stands for it."""
        assert order.idempotency_key is not None, "there is a key to remember"
        found = FoundKey(live.coupon_id, order.api_key_id, order.idempotency_key, live.id)
        deadline = asyncio.get_running_loop().time() + self._statement_s
        (known,) = await self._ledger.redemptions.remember([found], deadline)
        return of_key(order, known.as_of(self._ledger.now()))

    async def _look_up(self, questions: Sequence[LookUp]) -> Sequence[Standing]:
        deadline = asyncio.get_running_loop().time() + self._statement_s
        return await self._ledger.redemptions.look_up(questions, deadline)

    # --- The guard ---------------------------------------------------------------------------------------------

    def limited_s(self, api_key_id: int, customer_id: str) -> int:
        """For how many whole seconds this customer of this key is limited, as far as is known here; 0: they are not."""
        if not self._limited:
            return 0
        customer = digest(api_key_id, customer_id)
        left_s = self._limited.get(customer, 0.0) - asyncio.get_running_loop().time()
        if left_s <= 0:
            self._limited.pop(customer, None)
            return 0
        return math.ceil(left_s)

    async def limited_for(self, guess: Guess, until: float) -> int:
        """For how many whole seconds the customer is limited; 0: the code may be answered.

        By then it is known whether there is such a coupon, and a code of none has been counted. It waits while GUESSES_MAX
        other codes of this customer are on their way, until those that are guesses are counted.

        `until` in seconds of the loop's clock. Raises LedgerUnavailable when the ledger could not say in time, Overloaded.
        """
        limited_s = self.limited_s(*guess[:2])
        if limited_s:
            return limited_s
        try:
            async with asyncio.timeout_at(until):
                await self._turns.begin(guess)
        except TimeoutError as error:
            raise LedgerUnavailable("the customer's other codes were not decided in time") from error
        try:
            return self.limited_s(*guess[:2]) or await self._find(guess, until)
        finally:
            self._turns.end(guess)

    async def _find(self, guess: Guess, until: float) -> int:
        """Makes it known whether there is such a coupon, and counts the guess if there is none."""
        if self._loads.known(guess.code) is not None:
            return 0
        try:
            async with asyncio.timeout_at(until):
                found = await self._loads.load(guess.code)
        except TimeoutError as error:
            raise LedgerUnavailable("no time was left to read the coupon") from error
        return 0 if found is not None else await self.note(guess, until)

    async def note(self, guess: Guess, until: float) -> int:
        """Counts a guess, durably; 0, or for how many whole seconds the customer is limited: then it is one too many.

        `until` in seconds of the loop's clock. Raises UsherError when the ledger could not do it in time.
        """
        loop = asyncio.get_running_loop()
        if self._counted.get(guess, 0.0) > loop.time():
            return 0
        try:
            async with asyncio.timeout_at(until):
                noted = await self._notes.ask(guess)
        except TimeoutError as error:
            raise LedgerUnavailable("no time was left to note a guess") from error
        return 0 if noted.counted else max(1, math.ceil(noted.limited_s))

    async def _note(self, guesses: Sequence[Guess]) -> Sequence[Noted]:
        """One transaction."""
        loop = asyncio.get_running_loop()
        begun_at = loop.time()
        try:
            answers = await self._ledger.guesses.note(guesses, begun_at + self._statement_s)
        except UsherError as error:
            log.warning("guesses not noted", requests=len(guesses), error=f"{type(error).__name__}: {error}")
            raise
        now = loop.time()
        for guess, noted in zip(guesses, answers, strict=True):
            if noted.limited_s:
                self._remember(digest(*guess[:2]), now + noted.limited_s)
            if noted.counted:
                remember(self._counted, guess, begun_at + COUNTED_FOR_S, COUNTED_MAX)
            if noted.reached:
                self._tell(guess)
        return answers

    # --- Who is limited ----------------------------------------------------------------------------------------

    async def _refresh_always(self) -> None:
        loop = asyncio.get_running_loop()
        took_s = 0.0
        while True:
            await asyncio.sleep(max(REFRESH_INTERVAL_S, took_s / REFRESH_SHARE))
            begun_at = loop.time()
            try:
                await self.refresh()
            except Exception:
                log.exception("refresh of limited customers failed")
            took_s = loop.time() - begun_at

    async def refresh(self) -> None:
        """Reads who is limited, in one statement; forgets whose time is over."""
        now = asyncio.get_running_loop().time()
        self._limited = OrderedDict((customer, until) for customer, until in self._limited.items() if until > now)
        if self._events_left_out:
            log.info("more customers limited", customers=self._events_left_out)
        self._events_left, self._events_left_out = EVENTS_PER_REFRESH_MAX, 0
        try:
            limited = await self._ledger.guesses.limited(now + REFRESH_TIMEOUT_S)
        except UsherError as error:
            if not self._outage:
                log.warning("limited customers not read until the ledger is back", error=str(error))
            self._outage = True
            return
        self._outage = False
        for customer, left_s in limited.items():
            self._remember(customer, now + left_s)

    def _remember(self, customer: bytes, until: float) -> None:
        """The later of two ends counts: a statement may have been under way while another one moved it."""
        remember(self._limited, customer, max(until, self._limited.get(customer, 0.0)), LIMITED_MAX)

    def _tell(self, guess: Guess) -> None:
        if self._events_left:
            self._events_left -= 1
            log.info("customer limited", customer_id=guess.customer_id, api_key_id=guess.api_key_id)
        else:
            self._events_left_out += 1


def _limited(retry_after_s: int) -> Redeemed:
    return Redeemed(Ending.LIMITED, retry_after_s=retry_after_s)
