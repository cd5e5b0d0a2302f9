"""Transitions as their callers see them: what is tried again, what is answered, and what goes back to the counter."""

import asyncio
from typing import Any

import pytest

from service.config import Settings
from service.counts import Counts
from service.errors import LedgerContended, LedgerReplyLost, LedgerUnavailable, Overloaded, UsherError
from service.life import AWAY_TRIES_MAX, Life
from service.model import Order, Return
from service.transition import Freed, Transition, Transitioned, TransitionEnding, Verb
from tests.unit.scripted import ScriptedClaims, ScriptedRedemptions, ScriptedTransitions, redemption_for, scripted_ledger

REDEMPTION = redemption_for(Order("GOLD20", "ann", "o-1", 1))
CANCEL = Transition(Verb.CANCEL, REDEMPTION.id, reason="declined")
DONE = Transitioned(TransitionEnding.DONE, REDEMPTION, Freed("GOLD20", "ann", "o-1", 5))
BUSY: list[Transitioned | None] = [None]
LOST, AWAY, CONTENDED = LedgerReplyLost(), LedgerUnavailable(), LedgerContended()


def life_of(
    *answers: list[Transitioned | None] | UsherError, claims: ScriptedClaims | None = None, queue_max: int = 100
) -> tuple[Life, ScriptedTransitions]:
    transitions = ScriptedTransitions(list(answers))
    ledger: Any = scripted_ledger(ScriptedRedemptions(), transitions=transitions)
    gateway: Any = claims or ScriptedClaims([])
    return Life(gateway, ledger, Settings(queue_max_requests=queue_max), Counts()), transitions


async def carry_out(life: Life, within_s: float = 0.3) -> Transitioned:
    return await life.carry_out(CANCEL, asyncio.get_running_loop().time() + within_s)


@pytest.mark.parametrize(
    ("before", "again"),
    [
        ([], [False]),
        ([BUSY], [False, False]),
        ([AWAY, AWAY, AWAY], [False] * 4),
        ([CONTENDED] * 5, [False] * 6),
        ([LOST], [False, True]),
        ([LOST, BUSY, AWAY, AWAY, AWAY, AWAY], [False] + [True] * 6),
    ],
)
async def test_what_is_tried_again(before: list[list[Transitioned | None] | UsherError], again: list[bool]) -> None:
    """Until there is an answer; a try after a lost reply asks for what was freed. The use goes back before the answer."""
    claims = ScriptedClaims([])
    life, transitions = life_of(*before, [DONE], claims=claims)

    answer = await carry_out(life, within_s=30)

    assert DONE == answer
    assert again == [wish.again for (wish,) in transitions.asked]
    assert [("release", (5, None))] == claims.done


@pytest.mark.parametrize(
    ("answers", "ending"),
    [
        ([BUSY] * 100, TransitionEnding.BUSY),
        ([CONTENDED] * 100, TransitionEnding.UNAVAILABLE),
        ([LOST] + [BUSY] * 100, TransitionEnding.OUTCOME_UNKNOWN),
        ([LOST] + [AWAY] * 100, TransitionEnding.OUTCOME_UNKNOWN),
        ([LOST] * 100, TransitionEnding.OUTCOME_UNKNOWN),
    ],
)
async def test_how_it_ends_in_time(answers: list[list[Transitioned | None] | UsherError], ending: TransitionEnding) -> None:
    """Nobody says that nothing happened who has lost a reply."""
    life, _ = life_of(*answers)
    assert Transitioned(ending) == await carry_out(life)


async def test_a_ledger_that_is_away_is_an_answer_soon() -> None:
    life, transitions = life_of(*[AWAY] * 100)
    assert Transitioned(TransitionEnding.UNAVAILABLE) == await carry_out(life, within_s=60)
    assert AWAY_TRIES_MAX == len(transitions.asked)


async def test_a_full_queue() -> None:
    """An error at first, with nothing done; after a lost reply it is another try."""
    life, _ = life_of(queue_max=1)
    others = [asyncio.create_task(carry_out(life)) for _ in range(3)]
    await asyncio.sleep(0)
    with pytest.raises(Overloaded):
        await carry_out(life)
    await asyncio.gather(*others, return_exceptions=True)

    life, transitions = life_of(LOST)
    ask, full = life._wishes.ask, [False, True, True, False]

    async def ask_a_full_queue(wish: Transition) -> Transitioned | None:
        if full.pop(0):
            raise Overloaded
        return await ask(wish)

    life._wishes.ask = ask_a_full_queue  # type: ignore[method-assign, assignment]
    assert TransitionEnding.DONE is (await carry_out(life)).ending
    assert [False, True] == [wish.again for (wish,) in transitions.asked]


async def test_an_answer_does_not_wait_for_a_redis_that_hangs() -> None:
    """It is known; the use goes back by itself."""

    class HangingClaims(ScriptedClaims):
        async def release(self, _code: str, _given_back: Return) -> None:
            await asyncio.sleep(30)

    life, _ = life_of([DONE], claims=HangingClaims([]))
    assert DONE == await carry_out(life, within_s=0.3)


async def test_a_use_is_free_before_the_answer() -> None:
    """Also when Redis is slow."""
    freed: list[Return] = []

    class SlowClaims(ScriptedClaims):
        async def release(self, _code: str, given_back: Return) -> None:
            await asyncio.sleep(0.3)
            freed.append(given_back)

    life, _ = life_of([DONE], claims=SlowClaims([]))
    await carry_out(life, within_s=30)
    assert 1 == len(freed)
