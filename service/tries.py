"""One try of a request: claim, then record, or look up what was refused. Each in batches, handed over from one to the next."""

import asyncio
from datetime import datetime
from typing import Final

import structlog

from service.attempts import Attempt, Refused, TryEnding, fail
from service.batcher import Batcher
from service.claims import Claims
from service.config import Settings
from service.counts import Counts
from service.errors import CounterUnavailable, LedgerUnavailable, UsherError
from service.ledger import Ledger
from service.model import Claim, ClaimAnswer, LookUp, Record, RecordEnding
from service.told import Told

LANE_PATIENCE_S: Final = 0.02
"""A second statement goes to the ledger beside one that has been under way for so long: it waits for a lock or for a slow disk.
Before, two side by side only make the batches smaller."""
EXPIRY_LOOK_SHARE: Final = 0.01
"""Of the time in which a request is answered: so often those that wait for a look-up are looked at. A timer for each would cost
more than the look-up."""
AWAY: Final = CounterUnavailable("Redis is away")

log = structlog.get_logger(__name__)


class Tries:
    """Claims a seat for an attempt and records it. `statement_s`: for looking up what was refused, in seconds."""

    def __init__(self, claims: Claims, ledger: Ledger, settings: Settings, counts: Counts, *, statement_s: float) -> None:
        self._claims = claims
        self._counts = counts
        self._ledger = ledger
        self._statement_s = statement_s
        self._told = Told()
        self._claim_queue = Batcher[Attempt](
            self._claim,
            fail,
            at_once=1,
            batch_max=settings.claim_batch_max_requests,
            queue_max=settings.queue_max_requests,
        )
        self._record_queue = Batcher[Attempt](
            self._record,
            fail,
            at_once=settings.record_connections,
            batch_max=settings.record_batch_max_rows,
            queue_max=settings.queue_max_requests,
            patience_s=LANE_PATIENCE_S,
        )
        self._refused_queue = Batcher[tuple[Attempt, Claim]](
            self._look_up,
            lambda refused, error: fail([attempt for attempt, _ in refused], error),
            at_once=1,  # It waits for no lock: where one is stuck, another would be.
            batch_max=settings.record_batch_max_rows,
            queue_max=settings.queue_max_requests,
        )
        # The endings that are waited for until then, in seconds of the loop's clock.
        self._expiring: list[tuple[asyncio.Future[TryEnding], float]] = []
        counts.gauges["claim_queue_requests"] = self._claim_queue.__len__
        counts.gauges["record_queue_rows"] = self._record_queue.__len__
        counts.gauges["look_up_queue_orders"] = self._refused_queue.__len__

    def of(self, attempt: Attempt) -> asyncio.Future[TryEnding]:
        """Claim and record; or record alone, when the attempt holds a seat already. While Redis is away nothing is claimed.

        The future can raise UsherError: the ledger could not be asked about a claim that was refused.
        """
        if attempt.tries:
            ending = attempt.future.result()
            self._counts.tried_again(ending.claim if isinstance(ending, Refused) else ending)
        attempt.tries += 1
        attempt.future = asyncio.get_running_loop().create_future()
        if not attempt.coupon_id:
            attempt.end(Claim(ClaimAnswer.NOT_LOADED))
        elif attempt.row is not None:
            self._record_queue.put(attempt)
        elif self._claims.is_away:
            attempt.end(AWAY)
        else:
            self._claim_queue.put(attempt)
        return attempt.future

    async def _claim(self, attempts: list[Attempt]) -> None:
        """A batch of claims. What was claimed goes on to be recorded, what was refused to be looked up."""
        if self._claims.is_behind:
            await self._claims.catch_up({attempt.order.code for attempt in attempts})
        now = asyncio.get_running_loop().time()
        if any(attempt.record_until <= now for attempt in attempts):
            attempts = self._in_time(attempts, now)
        try:
            answers = await self._claims.claim([(attempt.order.code, attempt.wish) for attempt in attempts])
        except CounterUnavailable as error:
            self._tell(len(attempts) + len(self._claim_queue), error)
            while attempts:  # Those who wait behind would wait as long for the same.
                for attempt in attempts:
                    attempt.end(error)
                attempts = self._claim_queue.take()
            return
        self._counts.claims.add(len(attempts), asyncio.get_running_loop().time() - now)
        claimed_at = self._ledger.now()
        for attempt, answer in zip(attempts, answers, strict=True):
            self._hand_on(attempt, answer, claimed_at)
        failed = [answer for answer in answers if isinstance(answer, CounterUnavailable)]
        if failed:
            self._tell(len(failed), failed[0])

    def _hand_on(self, attempt: Attempt, answer: Claim | CounterUnavailable, claimed_at: datetime) -> None:
        """To be recorded, or looked up; or there is nothing more that this try can do."""
        if isinstance(answer, CounterUnavailable) or answer.answer is ClaimAnswer.NOT_LOADED:
            attempt.end(answer)
        elif answer.answer is ClaimAnswer.REFUSED:
            self._expire_later(attempt)
            self._refused_queue.put((attempt, answer))
        elif answer.coupon_id == attempt.coupon_id:
            attempt.hold(answer.seat, answer.customer_seat, claimed_at)
            self._record_queue.put(attempt)
        else:
            attempt.end(Claim(ClaimAnswer.NOT_LOADED))

    def _tell(self, requests: int, error: CounterUnavailable) -> None:
        """None when Redis has gone, which is an event of its own."""
        if not self._claims.is_away and (due := self._told.due(requests)):
            log.warning("claims failed", requests=due, error=str(error))

    @staticmethod
    def _in_time(attempts: list[Attempt], now: float) -> list[Attempt]:
        """The attempts that may still claim; the others have waited too long and end."""
        for attempt in attempts:
            if attempt.record_until <= now:
                attempt.end(Record(RecordEnding.NOT_RECORDED))
        return [attempt for attempt in attempts if attempt.record_until > now]

    async def _look_up(self, refused: list[tuple[Attempt, Claim]]) -> None:
        """A batch of refused claims, looked up by one statement."""
        orders = [attempt.order for attempt, _ in refused]
        deadline = asyncio.get_running_loop().time() + self._statement_s
        questions = [LookUp(one.code, one.customer_id, one.order_id, one.api_key_id, one.idempotency_key) for one in orders]
        try:
            standings = await self._ledger.redemptions.look_up(questions, deadline)
        except UsherError as error:
            fail([attempt for attempt, _ in refused], error)
            return
        for (attempt, claim), standing in zip(refused, standings, strict=True):
            attempt.end(Refused(claim, standing))

    def _expire_later(self, attempt: Attempt) -> None:
        """The look-up is waited for until the request is to be answered, whatever becomes of the statement."""
        if not self._expiring:
            self._look_again()
        self._expiring.append((attempt.future, attempt.answer_until))

    def _look_again(self) -> None:
        asyncio.get_running_loop().call_later(self._statement_s * EXPIRY_LOOK_SHARE, self._expire)

    def _expire(self) -> None:
        """Ends those whose time is over, and forgets those that have ended."""
        now = asyncio.get_running_loop().time()
        waiting = [(future, until) for future, until in self._expiring if not future.done()]
        self._expiring = [(future, until) for future, until in waiting if until > now]
        for future, until in waiting:
            if until <= now:
                future.set_exception(LedgerUnavailable("the refused order was not looked up in time"))
        if self._expiring:
            self._look_again()

    async def _record(self, attempts: list[Attempt]) -> None:
        """A batch of records: one statement, one commit."""
        loop = asyncio.get_running_loop()
        begun_at = loop.time()
        rows = [attempt.row for attempt in attempts if attempt.row is not None]
        records = await self._ledger.redemptions.record(rows)
        self._counts.records.add(len(rows), loop.time() - begun_at)
        for attempt, record in zip(attempts, records, strict=True):
            if isinstance(record, Record):
                attempt.end(record)
            else:  # Its coupon is being changed: the ledger goes on with it, and this writer with the others.
                record.add_done_callback(attempt.end_later)
