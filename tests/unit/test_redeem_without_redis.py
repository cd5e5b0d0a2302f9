"""The flow while Redis is away, or goes in the middle of a request: the ledger answers, and has seats."""

import asyncio
from collections.abc import Collection, Sequence
from dataclasses import replace

import pytest

from service.errors import CounterUnavailable
from service.model import (
    Coupon,
    Ending,
    LookUp,
    NewRedemption,
    Record,
    RecordEnding,
    Redeemed,
    Refusal,
    Search,
    Standing,
)
from tests.unit.scripted import (
    COUPON,
    RECORDED,
    ScriptedClaims,
    ScriptedRedemptions,
    claimed,
    redemption_for,
    refused,
    standing,
)
from tests.unit.test_redeem import EXHAUSTED, ORDER, redeem, redeemer_of


async def test_a_lost_claim_is_not_claimed_again() -> None:
    """The script may have run. The request goes on by the ledger, which hands seats out in blocks meanwhile."""
    claims = ScriptedClaims([CounterUnavailable()], ledger_seat=17)
    redemptions = ScriptedRedemptions([RECORDED], standings=[standing(customer_seats=(1,))])

    answer = await redeem(claims, redemptions)

    assert Ending.CREATED is answer.ending
    assert 1 == len(claims.wishes)
    assert [("seat_in_block", "GOLD20"), ("settle", 17)] == claims.done
    assert [(17, 2)] == [(row.seat, row.customer_seat) for row in redemptions.rows]


async def test_a_redis_that_is_away_is_not_asked() -> None:
    """It would fail at once, and this does so sooner."""
    claims = ScriptedClaims([], is_away=True, ledger_seat=17)

    answer = await redeem(claims, ScriptedRedemptions([RECORDED], standings=[standing()]))

    assert Ending.CREATED is answer.ending
    assert [] == claims.wishes


@pytest.mark.parametrize(
    ("ledger_says", "expected"),
    [
        (standing(live=redemption_for(ORDER)), Redeemed(Ending.REPLAYED, redemption_for(ORDER))),
        (standing(refusal=Refusal.COUPON_PAUSED), Redeemed(Ending.REFUSED, refusal=Refusal.COUPON_PAUSED)),
        (standing(customer_seats=(1, 2)), Redeemed(Ending.REFUSED, refusal=Refusal.CUSTOMER_LIMIT_REACHED)),
        (standing(), Redeemed(Ending.REFUSED, refusal=EXHAUSTED)),
    ],
)
async def test_without_redis_the_ledger_answers(ledger_says: Standing, expected: Redeemed) -> None:
    """In the contract's order; exhausted only where no seat is to be had."""
    claims = ScriptedClaims([], is_away=True, ledger_seat=None)

    answer = await redeem(claims, ScriptedRedemptions(standings=[ledger_says, ledger_says]))

    assert expected == answer


async def test_a_collision_without_redis_is_no_reason_for_another_block() -> None:
    """Another process sees Redis and hands out the same seats: a search finds others."""
    claims = ScriptedClaims([], is_away=True, ledger_seat=17)
    redemptions = ScriptedRedemptions([Record(RecordEnding.SEAT_TAKEN), RECORDED], standings=[standing(), standing()])

    answer = await redeem(claims, redemptions)

    assert Ending.CREATED is answer.ending
    assert ["seat_in_block", "shrink", "seat_from_ledger", "settle", "settle"] == [what for what, _ in claims.done]


@pytest.mark.parametrize("what", ["refill", "shrink"])
async def test_a_redis_that_goes_while_the_counter_is_mended(what: str) -> None:
    """It is of no use any more: the request goes on by the ledger."""

    class GoingClaims(ScriptedClaims):
        async def shrink(self, code: str) -> None:
            raise CounterUnavailable(code)

        async def refill(self, coupon: Coupon) -> bool:
            raise CounterUnavailable(coupon.code)

    first = refused(EXHAUSTED, search=Search.DUE) if what == "refill" else claimed(5)
    records = [RECORDED] if what == "refill" else [Record(RecordEnding.SEAT_TAKEN), RECORDED]
    claims = GoingClaims([first], ledger_seat=17)

    answer = await redeem(claims, ScriptedRedemptions(records, standings=[standing(), standing()]))

    assert (Ending.CREATED, 17) == (answer.ending, answer.redemption.seat if answer.redemption else None)
    assert 1 == len(claims.wishes)


async def test_counters_that_have_missed_something_catch_up_before_the_claim() -> None:
    claims = ScriptedClaims([claimed(5)], is_behind=True)

    answer = await redeem(claims, ScriptedRedemptions([RECORDED]))

    assert Ending.CREATED is answer.ending
    assert [("catch_up", {"GOLD20"}), ("settle", 5)] == claims.done


async def test_nothing_is_claimed_that_has_waited_too_long_for_counters_to_catch_up() -> None:
    """It could not be recorded any more."""

    class SlowClaims(ScriptedClaims):
        async def catch_up(self, codes: Collection[str]) -> None:
            await super().catch_up(codes)
            await asyncio.sleep(0.42)

    claims = SlowClaims([], is_behind=True)

    answer = await redeem(claims, ScriptedRedemptions(), deadline_ms=500)

    assert Ending.UNAVAILABLE is answer.ending
    assert [] == claims.wishes


async def test_many_orders_of_one_customer_without_redis() -> None:
    """Nobody counts for them, and each begins with the customer's lowest seat: they soon find a seat each."""
    customer_max = 100
    coupon = replace(COUPON, max_redemptions=None, max_per_customer=customer_max)
    taken: set[int] = set()

    class Crowded(ScriptedRedemptions):
        async def look_up(self, questions: Sequence[LookUp], _deadline: float) -> list[Standing]:
            return [standing(coupon=coupon, customer_seats=tuple(sorted(taken)))] * len(questions)

        async def record(self, rows: Sequence[NewRedemption]) -> list[Record | asyncio.Future[Record]]:
            answers: list[Record | asyncio.Future[Record]] = []
            for row in rows:
                assert row.customer_seat is not None
                answers.append(Record(RecordEnding.CUSTOMER_SEAT_TAKEN) if row.customer_seat in taken else RECORDED)
                taken.add(row.customer_seat)
            return answers

    redeemer = redeemer_of(ScriptedClaims([], is_away=True), Crowded())
    orders = [ORDER._replace(order_id=f"o-{number}") for number in range(customer_max + 1)]

    answers = await asyncio.gather(*(redeemer.redeem(order) for order in orders))

    assert customer_max == len([answer for answer in answers if answer.ending is Ending.CREATED])
    assert [Refusal.CUSTOMER_LIMIT_REACHED] == [answer.refusal for answer in answers if answer.refusal]
