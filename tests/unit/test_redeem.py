"""The flow alone: given what the counter and the ledger say, which ending is it, and what is given back?"""

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest

from service.config import Settings
from service.counts import Counts
from service.errors import LedgerUnavailable
from service.guesses import Guesses
from service.life import Life
from service.model import (
    Claim,
    ClaimAnswer,
    Ending,
    LookUp,
    NewRedemption,
    Order,
    Record,
    RecordEnding,
    Redeemed,
    Redemption,
    Refusal,
    Return,
    Search,
    Standing,
)
from service.redeem import Redeemer
from tests.unit.scripted import (
    COUPON,
    RECORDED,
    ScriptedClaims,
    ScriptedRedemptions,
    claimed,
    redemption_for,
    refused,
    scripted_ledger,
    standing,
)

ORDER = Order(code="GOLD20", customer_id="ann", order_id="o-1", api_key_id=1)
EXHAUSTED = Refusal.COUPON_EXHAUSTED
NOT_LOADED = Claim(ClaimAnswer.NOT_LOADED)


def redeemer_of(claims: ScriptedClaims, redemptions: ScriptedRedemptions, *, deadline_ms: int = 5_000) -> Redeemer:
    gateways: tuple[Any, Any, Any] = (claims, claims, scripted_ledger(redemptions))
    settings = Settings(request_deadline_ms=deadline_ms)
    life = Life(claims=gateways[0], ledger=gateways[2], settings=settings, counts=Counts())
    return Redeemer(*gateways, settings, guesses=Guesses(*gateways[1:], settings), life=life, counts=Counts())


async def redeem(claims: ScriptedClaims, redemptions: ScriptedRedemptions, *, deadline_ms: int = 5_000) -> Redeemed:
    return await redeemer_of(claims, redemptions, deadline_ms=deadline_ms).redeem(ORDER)


async def test_a_recorded_claim_is_created_and_settled() -> None:
    """The usual way: one claim, one record."""
    claims = ScriptedClaims([claimed(5)])
    redemptions = ScriptedRedemptions([RECORDED])

    answer = await redeem(claims, redemptions)

    assert (Ending.CREATED, 5) == (answer.ending, answer.redemption.seat if answer.redemption else None)
    assert [("settle", 5)] == claims.done
    assert [redemptions.rows[0].id] == [answer.redemption.id if answer.redemption else b""]


async def test_a_missing_counter_is_loaded_and_asked_again() -> None:
    """FLUSHALL costs a load."""
    claims = ScriptedClaims([NOT_LOADED, claimed(5)])

    answer = await redeem(claims, ScriptedRedemptions([RECORDED]))

    assert Ending.CREATED is answer.ending
    assert [("load", "GOLD20"), ("settle", 5)] == claims.done


async def test_a_counter_that_names_another_coupon_is_loaded_anew() -> None:
    """The id comes from the ledger: a counter edited by hand cannot make a redemption of another coupon."""
    claims = ScriptedClaims([claimed(5)._replace(coupon_id=COUPON.id + 1), claimed(6)])
    redemptions = ScriptedRedemptions([RECORDED])

    await redeem(claims, redemptions)

    assert [(COUPON.id, 6)] == [(row.coupon_id, row.seat) for row in redemptions.rows]
    assert ("load", "GOLD20") == claims.done[0]


async def test_a_code_that_the_ledger_does_not_know_is_not_found() -> None:
    """Redis is not asked for it."""
    claims = ScriptedClaims([], coupon_id=None)

    answer = await redeem(claims, ScriptedRedemptions())

    assert Redeemed(Ending.REFUSED, refusal=Refusal.COUPON_NOT_FOUND) == answer
    assert [] == claims.wishes


@pytest.mark.parametrize(("live_seat", "done"), [(5, [("settle", 5)]), (9, [("release", (5, None))])])
async def test_a_live_order_is_replayed_and_the_seat_goes_back_unless_it_sits_there(
    live_seat: int, done: list[tuple[str, object]]
) -> None:
    """Another process was faster with the same order: with the same seat, or with another."""
    claims = ScriptedClaims([claimed(5)])
    live = redemption_for(ORDER, seat=live_seat)

    answer = await redeem(claims, ScriptedRedemptions([Record(RecordEnding.ORDER_LIVE, live)]))

    assert Redeemed(Ending.REPLAYED, live) == answer
    assert done == claims.done


async def test_a_live_order_of_another_customer_is_a_mismatch() -> None:
    """One order, one customer."""
    live = redemption_for(ORDER._replace(customer_id="bob"), seat=5)

    answer = await redeem(ScriptedClaims([claimed(5)]), ScriptedRedemptions([Record(RecordEnding.ORDER_LIVE, live)]))

    assert Ending.ORDER_MISMATCH is answer.ending


async def test_an_exhausted_coupon_still_replays_the_order_that_it_served() -> None:
    """No refusal is Redis' alone: no send of a live order is told no."""
    live = redemption_for(ORDER)

    answer = await redeem(
        ScriptedClaims([refused(EXHAUSTED, search=Search.RECENT)]), ScriptedRedemptions(standings=[standing(live=live)])
    )

    assert Redeemed(Ending.REPLAYED, live) == answer


@pytest.mark.parametrize("search", [Search.NEVER, Search.DUE])
async def test_exhausted_stands_only_on_a_recent_search(search: Search) -> None:
    """Before that, the ledger is asked for free seats; after it, the refusal stands."""
    claims = ScriptedClaims([refused(EXHAUSTED, search=search), refused(EXHAUSTED, search=Search.RECENT)])

    answer = await redeem(claims, ScriptedRedemptions(standings=[standing(), standing()]))

    assert Redeemed(Ending.REFUSED, refusal=EXHAUSTED) == answer
    assert [("refill", "GOLD20")] == claims.done


@pytest.mark.parametrize("live", [None, redemption_for(ORDER)])
async def test_a_complete_search_that_left_nothing_refuses_but_not_the_order_recorded_meanwhile(
    live: Redemption | None,
) -> None:
    """A counter that is flushed every few milliseconds never says that it was searched: the search's own word counts."""
    claims = ScriptedClaims([refused(EXHAUSTED, search=Search.NEVER)], found_none=True)

    answer = await redeem(claims, ScriptedRedemptions(standings=[standing(), standing(live=live)]))

    expected = Redeemed(Ending.REPLAYED, live) if live else Redeemed(Ending.REFUSED, refusal=EXHAUSTED)
    assert expected == answer


async def test_a_customer_at_the_limit_hears_that_before_exhausted() -> None:
    """Refusals are decided in the contract's order, also when the counter has forgotten its customers."""
    claims = ScriptedClaims([refused(EXHAUSTED, search=Search.RECENT)])

    answer = await redeem(claims, ScriptedRedemptions(standings=[standing(customer_seats=(1, 2))]))

    assert Redeemed(Ending.REFUSED, refusal=Refusal.CUSTOMER_LIMIT_REACHED) == answer


async def test_an_outdated_counter_is_loaded_when_it_refuses() -> None:
    """A PATCH whose write to Redis was lost must not refuse for ever."""
    claims = ScriptedClaims([refused(EXHAUSTED, search=Search.RECENT, version=2), claimed(5)])

    answer = await redeem(claims, ScriptedRedemptions([RECORDED], standings=[standing()]))

    assert Ending.CREATED is answer.ending
    assert ("load", "GOLD20") == claims.done[0]


async def test_a_window_that_only_redis_sees_closed_is_vouched_for() -> None:
    """Redis' clock may be fast: the ledger's decides."""
    claims = ScriptedClaims([refused(Refusal.COUPON_ENDED), claimed(5)])

    answer = await redeem(claims, ScriptedRedemptions([RECORDED], standings=[standing()]))

    assert Ending.CREATED is answer.ending
    assert [False, True] == [wish.vouched for wish in claims.wishes]


async def test_a_status_that_the_ledger_confirms_stands() -> None:
    """Paused is paused."""
    answer = await redeem(
        ScriptedClaims([refused(Refusal.COUPON_PAUSED)]),
        ScriptedRedemptions(standings=[standing(refusal=Refusal.COUPON_PAUSED)]),
    )

    assert Redeemed(Ending.REFUSED, refusal=Refusal.COUPON_PAUSED) == answer


async def test_a_customers_count_that_stays_too_high_is_corrected_by_the_ledger() -> None:
    """A crash left a count behind: after short pauses the ledger's word counts, with the lowest free seat."""
    limit = refused(Refusal.CUSTOMER_LIMIT_REACHED)
    claims = ScriptedClaims([limit, limit, limit, limit, claimed(5, 1)])

    answer = await redeem(claims, ScriptedRedemptions([RECORDED], standings=[standing(customer_seats=(2,))] * 4))

    assert Ending.CREATED is answer.ending
    assert (1, 1) == (claims.wishes[-1].customer_seat, claims.wishes[-1].customer_live)


async def test_a_taken_customer_seat_is_replaced_by_the_lowest_free_one() -> None:
    """Count + 1 would collide for ever after a cancel."""
    redemptions = ScriptedRedemptions(
        [Record(RecordEnding.CUSTOMER_SEAT_TAKEN), RECORDED], standings=[standing(customer_seats=(2,))]
    )

    answer = await redeem(ScriptedClaims([claimed(5, 2)]), redemptions)

    assert Ending.CREATED is answer.ending
    assert [(5, 2), (5, 1)] == [(row.seat, row.customer_seat) for row in redemptions.rows]


async def test_a_customer_whose_seats_are_all_taken_is_refused_and_the_claim_goes_back() -> None:
    """The counter learns the customer's count with it."""
    claims = ScriptedClaims([claimed(5, 1)])
    redemptions = ScriptedRedemptions([Record(RecordEnding.CUSTOMER_SEAT_TAKEN)], standings=[standing(customer_seats=(1, 2))])

    answer = await redeem(claims, redemptions)

    assert Redeemed(Ending.REFUSED, refusal=Refusal.CUSTOMER_LIMIT_REACHED) == answer
    assert [("release", (5, 2))] == claims.done


async def test_a_collision_drops_the_seat_and_shrinks() -> None:
    """The seat is not released: it is taken. The next claim is another attempt."""
    claims = ScriptedClaims([claimed(5), claimed(6)])

    answer = await redeem(claims, ScriptedRedemptions([Record(RecordEnding.SEAT_TAKEN), RECORDED]))

    assert Ending.CREATED is answer.ending
    assert [("shrink", "GOLD20"), ("settle", 6)] == claims.done
    assert [False, True] == [wish.again for wish in claims.wishes]


async def test_from_the_third_attempt_the_seat_comes_from_the_ledger() -> None:
    """A counter that was wrong twice is not asked a third time."""
    taken = Record(RecordEnding.SEAT_TAKEN)
    claims = ScriptedClaims([claimed(5), claimed(6)], ledger_seat=17)
    redemptions = ScriptedRedemptions([taken, taken, RECORDED], standings=[standing(customer_seats=(1,))])

    answer = await redeem(claims, redemptions)

    assert Ending.CREATED is answer.ending
    assert [(5, 1), (6, 1), (17, 2)] == [(row.seat, row.customer_seat) for row in redemptions.rows]
    assert 3 == len({row.id for row in redemptions.rows})


async def test_a_full_ledger_refuses_whatever_the_counter_goes_on_to_hand_out() -> None:
    """An old copy of the counter, restored again and again, hands out seats that are taken for ever."""
    taken = Record(RecordEnding.SEAT_TAKEN)
    claims = ScriptedClaims([claimed(5), claimed(6)], ledger_seat=None)

    answer = await redeem(claims, ScriptedRedemptions([taken, taken], standings=[standing(), standing()]))

    assert Redeemed(Ending.REFUSED, refusal=EXHAUSTED) == answer


async def test_what_the_coupon_refuses_goes_back_and_the_counter_is_loaded() -> None:
    """The limit was lowered, or the counter was edited: the next claim is by the limits in force."""
    claims = ScriptedClaims([claimed(21), claimed(5)])

    answer = await redeem(claims, ScriptedRedemptions([Record(RecordEnding.COUPON_REFUSES), RECORDED], standings=[standing()]))

    assert Ending.CREATED is answer.ending
    assert [("release", (21, None)), ("load", "GOLD20"), ("settle", 5)] == claims.done


async def test_what_is_certainly_not_recorded_is_compensated() -> None:
    """503, and the seat is free for others before the answer."""
    claims = ScriptedClaims([claimed(5)])

    answer = await redeem(claims, ScriptedRedemptions([Record(RecordEnding.NOT_RECORDED)]))

    assert Ending.UNAVAILABLE is answer.ending
    assert [("release", (5, None))] == claims.done


async def test_a_ledger_that_fails_in_a_look_up_refuses_nobody() -> None:
    """Without the ledger no refusal can be confirmed."""

    class AwayRedemptions(ScriptedRedemptions):
        async def look_up(self, questions: Sequence[LookUp], _deadline: float) -> list[Standing]:
            raise LedgerUnavailable(f"{len(questions)} questions")

    answer = await redeem(ScriptedClaims([refused(EXHAUSTED, search=Search.RECENT)]), AwayRedemptions())

    assert Ending.UNAVAILABLE is answer.ending


@pytest.mark.parametrize(
    ("stands", "ending", "done"),
    [(True, Ending.CREATED, [("settle", 5)]), (False, Ending.UNAVAILABLE, [("release", (5, None))])],
)
async def test_an_unknown_outcome_is_found_out_before_the_answer_if_it_can_be(
    stands: bool, ending: Ending, done: list[tuple[str, object]]
) -> None:
    """The id is written as ended: either it was there already, or it never will be."""
    claims = ScriptedClaims([claimed(5)])

    answer = await redeem(claims, ScriptedRedemptions([Record(RecordEnding.UNKNOWN)], abandoned=[stands]))

    assert ending is answer.ending
    assert done == claims.done


async def test_an_outcome_that_stays_unknown_is_said_in_time_and_found_out_afterwards() -> None:
    """The answer keeps its deadline; a stop waits until the id is known; the claim then goes back."""
    claims = ScriptedClaims([claimed(5)])
    redemptions = ScriptedRedemptions([Record(RecordEnding.UNKNOWN)])
    redeemer = redeemer_of(claims, redemptions, deadline_ms=500)

    answer = await redeemer.redeem(ORDER)

    assert Ending.OUTCOME_UNKNOWN is answer.ending
    assert [] == claims.done
    redemptions.abandoned.append(False)
    await redeemer.drain(5)
    assert [("release", (5, None))] == claims.done


@pytest.mark.parametrize("misleading", [NOT_LOADED, refused(Refusal.COUPON_PAUSED), claimed(21)])
async def test_a_request_that_the_counter_misleads_again_and_again_is_served_by_the_ledger(misleading: Claim) -> None:
    """It may be flushed or edited every few milliseconds: no request goes round for ever."""
    claims = ScriptedClaims([misleading] * 1_000, ledger_seat=17)
    refuses = [Record(RecordEnding.COUPON_REFUSES)] if misleading.seat else []
    redemptions = ScriptedRedemptions(standings=[standing(customer_seats=(1,))] * 1_000)

    async def record(rows: Sequence[NewRedemption]) -> list[Record | asyncio.Future[Record]]:
        redemptions.rows.extend(rows)
        return [RECORDED if row.seat == 17 else refuses[0] for row in rows]

    redemptions.record = record  # type: ignore[method-assign]

    answer = await redeem(claims, redemptions)

    assert Ending.CREATED is answer.ending
    assert (17, 2) == (redemptions.rows[-1].seat, redemptions.rows[-1].customer_seat)
    assert len(claims.wishes) < 10


async def test_a_ledger_that_never_agrees_ends_at_the_deadline() -> None:
    """A request does not go round for ever, and not in a tight loop."""
    taken = Record(RecordEnding.SEAT_TAKEN)
    redemptions = ScriptedRedemptions([taken] * 1_000, standings=[standing()] * 1_000)

    async with asyncio.timeout(5):
        answer = await redeem(ScriptedClaims([claimed(5)] * 9, ledger_seat=17), redemptions, deadline_ms=500)

    assert Ending.UNAVAILABLE is answer.ending
    assert len(redemptions.rows) < 100


async def test_an_abandoned_id_is_asked_for_until_it_is_known_whatever_goes_wrong() -> None:
    """A defect in between, and a ledger that is away, leave the question open."""
    errors: list[Exception] = [ZeroDivisionError("a defect"), LedgerUnavailable()]

    class StumblingRedemptions(ScriptedRedemptions):
        async def abandon(self, rows: Sequence[NewRedemption], deadline: float) -> list[bool | None]:
            if errors:
                raise errors.pop(0)
            return await super().abandon(rows, deadline)

    claims = ScriptedClaims([claimed(5)])

    answer = await redeem(claims, StumblingRedemptions([Record(RecordEnding.UNKNOWN)], abandoned=[True]))

    assert Ending.CREATED is answer.ending
    assert [("settle", 5)] == claims.done


async def test_a_replay_does_not_wait_for_a_redis_that_hangs() -> None:
    """What the ledger has said is the answer; the release goes on by itself."""

    class HangingClaims(ScriptedClaims):
        async def release(self, _code: str, given_back: Return) -> None:
            await asyncio.sleep(30)
            self.done.append(("release", given_back.seat))

    live = redemption_for(ORDER, seat=9)

    async with asyncio.timeout(5):
        answer = await redeem(HangingClaims([claimed(5)]), ScriptedRedemptions([Record(RecordEnding.ORDER_LIVE, live)]))

    assert Redeemed(Ending.REPLAYED, live) == answer


@pytest.mark.parametrize(("version", "even_newer"), [(2, False), (999, True)])
async def test_a_counter_above_the_ledgers_version_is_known_to_be_false(version: int, even_newer: bool) -> None:
    """The ledger was read after the counter: what is newer there was written by hand, or the ledger was restored."""
    loads: list[bool] = []

    class WatchedClaims(ScriptedClaims):
        async def load(self, code: str, *, even_newer: bool = False) -> int | None:
            loads.append(even_newer)
            return await super().load(code)

    claims = WatchedClaims([refused(EXHAUSTED, search=Search.RECENT, version=version), claimed(5)])

    await redeem(claims, ScriptedRedemptions([RECORDED], standings=[standing()]))

    assert [even_newer] == loads
