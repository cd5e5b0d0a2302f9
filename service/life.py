"""What happens to redemptions after they were made: confirm, extend, cancel, expire; in batches, seats given back.

All of it can be repeated, so a wish whose reply was lost is simply carried out again. A use that has ended is free in the
ledger with the commit, and in the counter before the answer.
"""

import asyncio
from collections.abc import Iterable, Sequence
from datetime import timedelta
from typing import Final

import structlog

from service.batcher import Asker
from service.claims import Claims
from service.config import Settings
from service.counts import OVERLOADED, Counts
from service.errors import LedgerContended, LedgerReplyLost, LedgerUnavailable, Overloaded
from service.ledger import Ledger
from service.model import Redemption, Return
from service.transition import Freed, Transition, Transitioned, TransitionEnding, Verb

BATCHES_AT_ONCE: Final = 2
"""One that waits for a lock does not hold up all others; more would make the batches smaller."""
STATEMENT_DEADLINE_S: Final = 2.5
"""For a batch, a little above the time that it may wait for a lock."""
PAUSE_MIN_S: Final = 0.002
PAUSE_MAX_S: Final = 0.064
"""Between two tries, doubled each time: a coupon is being changed for some milliseconds, longer while a large move goes on."""
AWAY_TRIES_MAX: Final = 4
"""A ledger that is away is tried so often, within some 30 ms: a connection may fail whose server has just been replaced."""
SEARCH_AGE_S: Final = 2.0
"""A use that ended longer ago is found by the next search of whoever needs it; searches are a second apart at most."""

log = structlog.get_logger(__name__)


class Life:
    """Carries out transitions. Trouble of the stores is an answer; only a full queue is an error."""

    def __init__(self, claims: Claims, ledger: Ledger, settings: Settings, counts: Counts) -> None:
        self._claims = claims
        self._counts = counts
        self._ledger = ledger
        self._releases: dict[bytes, asyncio.Task[None]] = {}
        self._wishes = Asker[Transition, Transitioned | None](
            self._carry_out,
            at_once=BATCHES_AT_ONCE,
            batch_max=settings.record_batch_max_rows,
            queue_max=settings.queue_max_requests,
        )

    @property
    def busy(self) -> bool:
        """Whether a wish waits or is being carried out."""
        return self._wishes.busy or bool(self._releases)

    async def carry_out(self, wish: Transition, until: float) -> Transitioned:
        """The answer to a wish, before `until` (seconds of the loop's clock). Raises Overloaded at once, with nothing done."""
        try:
            answer = await self._answer(wish, until)
        except Overloaded:
            self._counts.transitions[wish.verb, OVERLOADED] += 1
            raise
        self._counts.transitions[wish.verb, answer.ending] += 1
        return answer

    async def _answer(self, wish: Transition, until: float) -> Transitioned:
        ending, answer = TransitionEnding.UNAVAILABLE, None
        pause_s, tries_left = PAUSE_MIN_S, AWAY_TRIES_MAX
        try:
            async with asyncio.timeout_at(until):
                while tries_left:
                    # What holds should the time be over before there is an answer: the wish goes on by itself.
                    ending, before = TransitionEnding.OUTCOME_UNKNOWN, ending
                    try:
                        answer = await self._wishes.ask(wish)
                    except LedgerReplyLost:
                        wish = wish._replace(again=True)
                    except (LedgerUnavailable, LedgerContended) as error:
                        log.debug("transition not carried out", verb=wish.verb, error=f"{type(error).__name__}: {error}")
                        ending = before
                        tries_left -= not wish.again and isinstance(error, LedgerUnavailable)
                    except Overloaded:
                        if not wish.again:
                            raise
                        ending = before
                    else:
                        if answer is not None:
                            break
                        ending = before if wish.again else TransitionEnding.BUSY
                    await asyncio.sleep(pause_s)
                    pause_s = min(2 * pause_s, PAUSE_MAX_S)
        except TimeoutError:
            log.debug("transition not answered in time", verb=wish.verb)
        if answer is None:
            return Transitioned(ending)
        await self._wait_for_release(wish.id, answer, until)
        return answer

    async def expire(self, ids: Iterable[bytes], until: float) -> None:
        """Ends holds whose time is over. Those that could not be ended stay as they are: expired, and not written so."""
        await asyncio.gather(*(self.carry_out(Transition(Verb.EXPIRE, one), until) for one in ids))

    async def _wait_for_release(self, redemption_id: bytes, answer: Transitioned, until: float) -> None:
        """Until the use that has ended is free in the counter too, or Redis has failed. At `until` it goes on by itself.

        Somebody else may have ended it, a moment ago and in another process, and be about to release it, or have died: then the
        counter is made to search before it refuses anybody.
        """
        release, ended = self._releases.get(redemption_id), answer.redemption
        try:
            async with asyncio.timeout_at(until):
                if release is not None:
                    await asyncio.shield(release)
                elif answer.freed is None and ended is not None and self._has_just_ended(ended):
                    await self._claims.search_anew(ended.code)
        except TimeoutError:
            log.debug("release not awaited")

    def _has_just_ended(self, redemption: Redemption) -> bool:
        ended_at = redemption.ended_at
        return ended_at is not None and self._ledger.now() - ended_at < timedelta(seconds=SEARCH_AGE_S)

    def _release(self, redemption_id: bytes, freed: Freed) -> None:
        """Gives a use back to the counter, whether or not anybody waits for it."""
        given_back = self._claims.release(freed.code, Return(freed.order_id, freed.customer_id, freed.seat))
        task = self._releases[redemption_id] = asyncio.create_task(given_back)
        task.add_done_callback(lambda done: self._released(redemption_id, done))

    def _released(self, redemption_id: bytes, task: asyncio.Task[None]) -> None:
        if self._releases.get(redemption_id) is task:
            del self._releases[redemption_id]

    async def _carry_out(self, wishes: Sequence[Transition]) -> Sequence[Transitioned | None]:
        deadline = asyncio.get_running_loop().time() + STATEMENT_DEADLINE_S
        answers = await self._ledger.transitions.carry_out(wishes, deadline)
        for wish, answer in zip(wishes, answers, strict=True):
            if answer is not None and answer.freed is not None:
                self._release(wish.id, answer.freed)
        return answers
