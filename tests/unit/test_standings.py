"""Look-ups with holds whose time is over out of the way."""

import asyncio
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from service.config import Settings
from service.counts import Counts
from service.errors import LedgerUnavailable
from service.life import Life
from service.model import Order, RedemptionStatus, Standing
from service.standings import Standings
from service.transition import Transitioned, Verb
from tests.unit.scripted import (
    NOON,
    ScriptedClaims,
    ScriptedRedemptions,
    ScriptedTransitions,
    redemption_for,
    scripted_ledger,
    standing,
)

ORDER = Order("GOLD20", "ann", "o-1", 1)
HELD = redemption_for(ORDER)._replace(
    status=RedemptionStatus.RESERVED, confirmed_at=None, expires_at=NOON - timedelta(seconds=1)
)
OVERDUE = standing(live=HELD, customer_seats=(1,))
ENDED = replace(standing(), overdue=(HELD.id,))


async def look_up(transitions: ScriptedTransitions, *found: Standing, within_s: float = 0.3) -> Standing:
    ledger: Any = scripted_ledger(ScriptedRedemptions(standings=list(found)), transitions=transitions)
    claims: Any = ScriptedClaims([])
    standings = Standings(ledger, Life(claims, ledger, Settings(), Counts()), Settings(), statement_s=1.0)
    return await standings.of(ORDER, asyncio.get_running_loop().time() + within_s)


async def test_what_is_not_overdue_is_looked_up_once() -> None:
    transitions = ScriptedTransitions()
    live = standing(live=redemption_for(ORDER))
    assert live == await look_up(transitions, live)
    assert [] == transitions.asked


async def test_an_overdue_hold_is_ended_and_looked_up_again() -> None:
    """It is neither the order's answer nor in the customer's way; and it is named, since it has made room."""
    transitions = ScriptedTransitions()
    assert ENDED == await look_up(transitions, OVERDUE, standing())
    assert [(Verb.EXPIRE, HELD.id)] == [(wish.verb, wish.id) for (wish,) in transitions.asked]


async def test_a_fast_clock_waits_for_the_ledgers() -> None:
    """Over by this process' clock, and not yet by the ledger's: it is asked again."""
    transitions = ScriptedTransitions()
    assert ENDED == await look_up(transitions, OVERDUE, OVERDUE, OVERDUE, standing())
    assert 3 == len(transitions.asked)


async def test_an_overdue_hold_that_cannot_be_ended_is_no_answer() -> None:
    """Its coupon is being changed all the time: nobody is told that the order has it, or that the customer has too many."""
    busy: list[Transitioned | None] = [None]
    with pytest.raises(LedgerUnavailable):
        await look_up(ScriptedTransitions([busy] * 1_000), *[OVERDUE] * 1_000)
