"""Refused claims on their way: looked up in batches, each answered within its own time; and which refusals stand."""

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from service.attempts import Attempt, Refused
from service.config import Settings
from service.counts import Counts
from service.errors import LedgerUnavailable
from service.model import LookUp, Order, Refusal, Search, Standing, Wish
from service.tries import Tries
from tests.unit.scripted import COUPON, ScriptedClaims, ScriptedRedemptions, redemption_for, refused, scripted_ledger, standing

EXHAUSTED = Refusal.COUPON_EXHAUSTED
ORDER = Order(code="GOLD20", customer_id="ann", order_id="o-1", api_key_id=1)
RECENT = refused(EXHAUSTED, search=Search.RECENT)


class SlowRedemptions(ScriptedRedemptions):
    """Answers each look-up when `go` is set. `asked`: how many questions each statement had."""

    def __init__(self) -> None:
        super().__init__()
        self.go = asyncio.Event()
        self.asked: list[int] = []

    async def look_up(self, questions: Sequence[LookUp], _deadline: float) -> list[Standing]:
        self.asked.append(len(questions))
        await self.go.wait()
        return [standing()] * len(questions)


def tries_of(redemptions: ScriptedRedemptions, claims: int, *, statement_s: float = 4.0) -> Tries:
    gateways: tuple[Any, Any] = (ScriptedClaims([RECENT] * claims), scripted_ledger(redemptions))
    return Tries(*gateways, Settings(), Counts(), statement_s=statement_s)


def attempt(number: int, *, answer_in_s: float) -> Attempt:
    now = asyncio.get_running_loop().time()
    order = ORDER._replace(order_id=f"o-{number}")
    return Attempt(order, now + 60, now + answer_in_s, Wish(order.order_id, order.customer_id), coupon_id=COUPON.id)


async def test_refused_together_looked_up_together() -> None:
    """One statement for all of a batch of claims; each attempt gets its own standing."""
    redemptions = ScriptedRedemptions(standings=[standing(), standing(live=redemption_for(ORDER))])
    tries = tries_of(redemptions, 2)

    endings = await asyncio.gather(*(tries.of(attempt(number, answer_in_s=5)) for number in (1, 2)))

    assert [Refused(RECENT, standing()), Refused(RECENT, standing(live=redemption_for(ORDER)))] == endings


async def test_each_is_answered_within_its_own_time() -> None:
    """While a statement hangs, whoever has no time left is told so, in the statement or behind it; the others go on waiting."""
    redemptions = SlowRedemptions()
    tries = tries_of(redemptions, 4)
    first = [tries.of(attempt(number, answer_in_s=seconds)) for number, seconds in ((1, 0.1), (2, 60))]
    await asyncio.sleep(0.01)
    behind = [tries.of(attempt(number, answer_in_s=seconds)) for number, seconds in ((3, 0.1), (4, 60))]

    for late in (first[0], behind[0]):
        with pytest.raises(LedgerUnavailable):
            await asyncio.wait_for(late, 5)
    assert not first[1].done()
    assert not behind[1].done()

    redemptions.go.set()
    assert [Refused(RECENT, standing())] * 2 == [await first[1], await behind[1]]
    assert [2, 2] == redemptions.asked


async def test_a_ledger_that_fails_tells_all_of_a_batch() -> None:
    class Failing(ScriptedRedemptions):
        async def look_up(self, questions: Sequence[LookUp], _deadline: float) -> list[Standing]:
            raise LedgerUnavailable(f"not for {len(questions)}")

    tries = tries_of(Failing(), 2)
    endings = await asyncio.gather(*(tries.of(attempt(number, answer_in_s=5)) for number in (1, 2)), return_exceptions=True)
    assert [LedgerUnavailable, LedgerUnavailable] == [type(one) for one in endings]


@pytest.mark.parametrize(
    ("claim", "found", "stands"),
    [
        (RECENT, standing(), EXHAUSTED),
        (refused(EXHAUSTED, search=Search.DUE), standing(), None),
        (refused(EXHAUSTED, search=Search.NEVER), standing(), None),
        (refused(EXHAUSTED, search=Search.RECENT, version=COUPON.version - 1), standing(), None),
        (RECENT, standing(coupon=None), None),
        (RECENT, standing(live=redemption_for(ORDER)), None),
        (RECENT, replace(standing(), known=redemption_for(ORDER)), None),
        (RECENT, replace(standing(), overdue=(bytes(16),)), None),
        (RECENT, replace(standing(), is_busy=True), None),
        (RECENT, replace(standing(refusal=Refusal.COUPON_PAUSED), is_busy=True), Refusal.COUPON_PAUSED),
        (RECENT, standing(refusal=Refusal.COUPON_NOT_FOUND), Refusal.COUPON_NOT_FOUND),
        (refused(Refusal.COUPON_PAUSED, version=1), standing(refusal=Refusal.COUPON_PAUSED), Refusal.COUPON_PAUSED),
        (refused(Refusal.COUPON_PAUSED), standing(), None),
        (RECENT, standing(customer_seats=(1, 2)), Refusal.CUSTOMER_LIMIT_REACHED),
        (RECENT, standing(customer_seats=(2,)), EXHAUSTED),
        (refused(Refusal.CUSTOMER_LIMIT_REACHED), standing(customer_seats=(1, 2)), Refusal.CUSTOMER_LIMIT_REACHED),
        (refused(Refusal.CUSTOMER_LIMIT_REACHED), standing(customer_seats=(1,)), None),
        (RECENT, standing(coupon=replace(COUPON, max_per_customer=None)), EXHAUSTED),
    ],
)
def test_what_stands(claim: Any, found: Standing, stands: Refusal | None) -> None:  # noqa: ANN401 - a Claim
    """The ledger's own reasons do; the counter's word only of the same version, where a search has just left nothing."""
    assert stands is Refused(claim, found).stands()
