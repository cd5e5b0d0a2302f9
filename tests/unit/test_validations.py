"""The steps of a validation: given what the counter and the ledger say, what is asked again, and what is mended?"""

import asyncio
from collections.abc import Collection, Sequence
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from service.config import Settings
from service.counters import Remaining
from service.errors import CounterUnavailable, CouponBusy, LedgerUnavailable
from service.guesses import Guesses
from service.model import Coupon, LookUp, Refusal, Search, Standing
from service.validations import TRIES_BEFORE_LEDGER, Parts, Validated, Validation, Validations
from tests.unit.scripted import COUPON, NOON, ScriptedClaims, ScriptedGuesses, standing

EXHAUSTED = Validated(Refusal.COUPON_EXHAUSTED, 0)
ASKED = Validation("GOLD20", "ann", 1)


def counter(count: int, *seats: int, search: Search = Search.NEVER, version: int = COUPON.version) -> Remaining:
    return Remaining(COUPON.id, version, COUPON.max_redemptions, count, search, seats)


class Stores:
    """Counters and ledger in one: the counter's answers in turn, the last one for ever; `taken` seats; one standing."""

    def __init__(self, *answers: Remaining | CounterUnavailable | None, taken: Collection[int] = ()) -> None:
        self.answers = list(answers)
        self.taken_seats = set(taken)
        self.standing: Standing = standing()
        self.batches: list[tuple[str, int]] = []
        self.guesses = ScriptedGuesses()
        self.redemptions = SimpleNamespace(look_up=self.look_up)
        self.seats = SimpleNamespace(taken=self.taken)
        self.hangs = False

    def now(self) -> object:
        return NOON

    async def remaining(self, codes: Sequence[str]) -> list[Remaining | None]:
        self.batches.append(("remaining", len(codes)))
        await asyncio.sleep(0.001)
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, CounterUnavailable):
            raise answer
        return [answer] * len(codes)

    async def look_up(self, questions: Sequence[LookUp], _deadline: float) -> list[Standing]:
        self.batches.append(("look_up", len(questions)))
        await asyncio.sleep(3_600 if self.hangs else 0.001)
        return [self.standing] * len(questions)

    async def taken(self, seats: Collection[tuple[int, int]], _deadline: float) -> set[tuple[int, int]]:
        self.batches.append(("taken", len(seats)))
        await asyncio.sleep(0.001)
        return {(coupon_id, seat) for coupon_id, seat in seats if seat in self.taken_seats}


def validations_of(stores: Stores, claims: ScriptedClaims, *, deadline_ms: int = 5_000) -> Validations:
    gateway: Any = stores
    scripted: Any = claims
    settings = Settings(request_deadline_ms=deadline_ms)
    life: Any = SimpleNamespace()
    return Validations(gateway, gateway, Parts(scripted, scripted, Guesses(scripted, gateway, settings), life), settings)


async def validate(stores: Stores, claims: ScriptedClaims, asked: Validation = ASKED, *, deadline_ms: int = 5_000) -> Validated:
    arrived_at = asyncio.get_running_loop().time()
    return await validations_of(stores, claims, deadline_ms=deadline_ms).validate(asked, arrived_at)


async def test_a_seat_that_the_ledger_finds_free_is_enough() -> None:
    stores, claims = Stores(counter(5, 20, 3), taken={3}), ScriptedClaims([])
    assert Validated(None, 5) == await validate(stores, claims)
    assert [] == claims.done


async def test_a_seat_taken_meanwhile_is_no_reason_to_shrink() -> None:
    """Somebody was served between the two looks: the counter is right, and says so when it is asked again."""
    stores, claims = Stores(counter(1, 20), counter(0, search=Search.RECENT), taken={20}), ScriptedClaims([])
    assert EXHAUSTED == await validate(stores, claims)
    assert [] == claims.done


async def test_a_counter_that_is_wrong_again_is_shrunk() -> None:
    stores, claims = Stores(counter(20, 20), counter(20, 20), counter(0), taken={20}), ScriptedClaims([], found_none=True)
    assert EXHAUSTED == await validate(stores, claims)
    assert [("shrink", "GOLD20"), ("refill", "GOLD20")] == claims.done


@pytest.mark.parametrize(("search", "done"), [(Search.RECENT, []), (Search.DUE, ["refill"]), (Search.NEVER, ["refill"])])
async def test_a_search_decides_unless_there_was_one_a_moment_ago(search: Search, done: list[str]) -> None:
    stores, claims = Stores(counter(0, search=search)), ScriptedClaims([], found_none=True)
    assert EXHAUSTED == await validate(stores, claims)
    assert done == [what for what, _ in claims.done]


async def test_a_counter_that_has_missed_something_catches_up_before_it_is_asked() -> None:
    """As before a claim: else a use that was left without Redis would be redeemed, and be said to be none."""
    stores, claims = Stores(counter(1, 1)), ScriptedClaims([], is_behind=True)
    assert Validated(None, 1) == await validate(stores, claims)
    assert [("catch_up", {"GOLD20"})] == claims.done


async def test_what_a_search_has_found_is_asked_for() -> None:
    stores, claims = Stores(counter(0), counter(2, 4)), ScriptedClaims([])
    assert Validated(None, 2) == await validate(stores, claims)
    assert [("refill", "GOLD20")] == claims.done


@pytest.mark.parametrize(
    "outdated",
    [
        None,
        counter(1, 1, version=2),
        replace(counter(1, 1), coupon_id=8),
        replace(counter(1, 1), max_redemptions=21),
        replace(counter(1, 1), max_redemptions=None),
    ],
)
async def test_a_counter_that_is_not_there_is_loaded(outdated: Remaining | None) -> None:
    stores, claims = Stores(outdated, counter(2, 4)), ScriptedClaims([])
    assert Validated(None, 2) == await validate(stores, claims)
    assert [("load", "GOLD20")] == claims.done


async def test_a_refused_one_is_told_what_remains() -> None:
    """By a counter that is of this version."""
    stores, claims = Stores(counter(1, version=2), counter(7, 20)), ScriptedClaims([])
    stores.standing = standing(refusal=Refusal.COUPON_PAUSED)
    assert Validated(Refusal.COUPON_PAUSED, 7) == await validate(stores, claims)
    assert [("load", "GOLD20")] == claims.done


@pytest.mark.parametrize("left", [4, None])
async def test_a_counter_that_keeps_changing_is_asked_no_more(left: int | None) -> None:
    """The ledger answers alone."""
    stores, claims = Stores(None), ScriptedClaims([], ledger_seat=left)
    assert (Validated(None, 1) if left else EXHAUSTED) == await validate(stores, claims)
    assert ["load"] * TRIES_BEFORE_LEDGER + ["is_left"] == [what for what, _ in claims.done]


async def test_only_a_counter_that_stays_newer_is_false() -> None:
    """The ledger may have been read before the change that the counter knows of."""

    class Loads(ScriptedClaims):
        async def load(self, code: str, *, even_newer: bool = False) -> int | None:
            self.done.append(("load", even_newer))
            return await super().load(code) and self.coupon_id

    stores, claims = Stores(counter(1, version=4), counter(1, version=4), counter(2, 4)), Loads([])
    assert Validated(None, 2) == await validate(stores, claims)
    assert [False, True] == [what for name, what in claims.done if isinstance(what, bool) and name == "load"]


async def test_customers_seats_and_busy() -> None:
    """The customer's limit stands before the coupon's; a coupon that is being changed says nothing but what holds anyway."""
    stores = Stores(counter(0, search=Search.RECENT))
    stores.standing = standing(customer_seats=(1, 2))
    assert Validated(Refusal.CUSTOMER_LIMIT_REACHED, 0) == await validate(stores, ScriptedClaims([]))
    stores.standing = Standing(COUPON, None, None, (), is_busy=True)
    with pytest.raises(CouponBusy):
        await validate(stores, ScriptedClaims([]))


@pytest.mark.parametrize(
    ("limit", "left", "expected"),
    [
        (None, None, Validated(None, None)),
        (20, 4, Validated(None, 1)),
        (20, None, EXHAUSTED),
    ],
)
async def test_redis_away(limit: int | None, left: int | None, expected: Validated) -> None:
    """The ledger answers alone, as for redeeming, whether there is a limit or not."""
    coupon = Coupon(7, "GOLD20", limit, None, None, None, COUPON.status, {}, 3, NOON, NOON)
    stores = Stores(CounterUnavailable("away"))
    stores.standing = standing(coupon=coupon)
    assert expected == await validate(stores, ScriptedClaims([], ledger_seat=left))


async def test_redis_goes_in_the_middle() -> None:
    class Going(ScriptedClaims):
        async def refill(self, coupon: Coupon) -> bool:
            raise CounterUnavailable(coupon.code)

    assert Validated(None, 1) == await validate(Stores(counter(0)), Going([], ledger_seat=4))


async def test_a_ledger_that_hangs() -> None:
    """The answer comes within the deadline."""
    stores = Stores(counter(1, 1))
    stores.hangs = True
    with pytest.raises(LedgerUnavailable):
        await validate(stores, ScriptedClaims([]), deadline_ms=500)


async def test_what_comes_together_is_asked_together() -> None:
    """A thousand: a few questions to each store, the counter once for each coupon, the ledger once for each seat."""
    stores = Stores(counter(5, 20, 3))
    validations = validations_of(stores, ScriptedClaims([]))
    now = asyncio.get_running_loop().time()
    answers = await asyncio.gather(
        *(validations.validate(Validation("GOLD20", f"customer-{number}", 1), now) for number in range(1_000))
    )
    assert {Validated(None, 5)} == set(answers)
    counts = {kind: [size for what, size in stores.batches if what == kind] for kind in ("look_up", "remaining", "taken")}
    assert 1_000 == sum(counts["look_up"])
    assert {1} == set(counts["remaining"])
    assert {2} == set(counts["taken"])
    assert sum(map(len, counts.values())) <= 15
