"""Searches and loads that several requests share."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
from structlog.testing import capture_logs

from service.claims import Claims
from service.config import Settings
from service.counters import ClaimBatch
from service.counts import Counts
from service.errors import CounterUnavailable, LedgerUnavailable
from service.ledger.seats import FreeSeats
from service.loads import Loads
from service.model import Claim, LoadedCoupon, Return, Wish
from tests.unit.scripted import COUPON, claimed
from tests.waiting import stalls


class ScriptedSeats:
    """Finds what the test has written down, once the gate is open."""

    def __init__(self, *found: list[int]) -> None:
        self.found = list(found)
        self.complete: list[bool] = []
        self.starts: list[int | None] = []
        self.gate = asyncio.Event()

    async def free_seats(self, _coupon_id: int, _upper: int, *, start: int | None, **_of: object) -> FreeSeats:
        self.starts.append(start)
        await self.gate.wait()
        return FreeSeats(self.found.pop(0), complete=self.complete.pop(0) if self.complete else True, reached=13)


class NothingOverdue:
    """No hold of any coupon is past its time."""

    async def overdue_of(self, _coupon_id: int, **_of: object) -> list[bytes]:
        return []


def now() -> float:
    return asyncio.get_running_loop().time()


def claims_with(seats: ScriptedSeats) -> Claims:
    ledger: Any = SimpleNamespace(seats=seats, redemptions=NothingOverdue())
    nothing: Any = None
    return Claims(nothing, ledger, nothing, Settings(), counts=Counts())


async def test_requests_that_share_a_search_get_a_seat_each_and_the_last_searches_again() -> None:
    """Callers that come in the very turn in which the search ends neither spin nor share a seat."""
    seats = ScriptedSeats([1, 2], [3], [])
    claims = claims_with(seats)
    first = asyncio.create_task(claims.seat_from_ledger(COUPON, since=now()))
    await asyncio.sleep(0.01)
    seats.gate.set()
    others = [asyncio.create_task(claims.seat_from_ledger(COUPON, since=now())) for _ in range(3)]

    got = [await first, *await asyncio.gather(*others)]

    assert {1, 2, 3, None} == set(got)


async def test_a_search_by_an_old_limit_says_nothing_of_a_raised_one() -> None:
    """None was free below 20; the limit was raised to 40: the next request searches anew, at once."""
    seats = ScriptedSeats([], [21])
    seats.gate.set()
    claims = claims_with(seats)
    assert await claims.seat_from_ledger(COUPON, since=now()) is None

    from_raised = await claims.seat_from_ledger(replace(COUPON, version=COUPON.version + 1, max_redemptions=40), since=now())

    assert 21 == from_raised


async def test_a_use_that_ended_after_a_search_had_begun_is_found_by_the_next() -> None:
    """Who asks while a search is under way is not refused by it: a cancel may have been answered since it began."""
    seats = ScriptedSeats([], [7])
    claims = claims_with(seats)
    first = asyncio.create_task(claims.seat_from_ledger(COUPON, since=now()))
    await asyncio.sleep(0.01)
    second = asyncio.create_task(claims.seat_from_ledger(COUPON, since=now()))
    await asyncio.sleep(0.01)
    seats.gate.set()
    assert [None, 7] == [await first, await second]


async def test_a_search_that_began_after_the_request_came_is_enough() -> None:
    """It takes some milliseconds until a request needs a seat: one search serves all that came before it."""
    seats = ScriptedSeats([], [7])
    seats.gate.set()
    claims = claims_with(seats)
    came_at = now()
    assert [None, None] == [await claims.seat_from_ledger(COUPON, since=came_at) for _ in range(2)]
    assert 7 == await claims.seat_from_ledger(COUPON, since=now())


async def test_a_search_goes_on_where_the_last_one_ran_out_of_time() -> None:
    """From a random seat each, none of several searches may look at the one seat of a very large coupon that is free."""
    seats = ScriptedSeats([], [7], [8])
    seats.complete = [False, False]
    seats.gate.set()
    claims = claims_with(seats)
    assert 7 == await claims.seat_from_ledger(COUPON, since=now())
    assert 8 == await claims.seat_from_ledger(COUPON, since=now())
    assert [None, 13, None] == seats.starts


async def test_those_who_only_ask_whether_a_seat_is_left_take_none() -> None:
    """A hundred are answered by one search, and its one seat is there for who redeems. The next who ask are told anew."""
    seats = ScriptedSeats([7], [])
    seats.gate.set()
    claims = claims_with(seats)
    assert [True] * 100 == await asyncio.gather(*(claims.is_left(COUPON) for _ in range(100)))
    assert 7 == await claims.seat_from_ledger(COUPON, since=now())
    assert not await claims.is_left(COUPON)


async def test_a_search_that_ran_out_of_time_does_not_say_that_no_seat_is_left() -> None:
    seats = ScriptedSeats([], [])
    seats.complete = [False, True]
    seats.gate.set()
    assert not await claims_with(seats).is_left(COUPON)
    assert 2 == len(seats.starts)


LARGE = replace(COUPON, max_redemptions=1_000)


class Away:
    """A Redis that is away while `is_away`, and one that `refuses` whatever it is asked; `done`: what it was asked."""

    def __init__(self) -> None:
        self.is_away = True
        self.refuses = False
        self.done: list[object] = []

    async def claim(self, batches: Sequence[ClaimBatch]) -> list[list[Claim]]:
        self._ask(("claim", [(batch.code, list(batch.settled)) for batch in batches]))
        return [[claimed(5) for _ in batch.wishes] for batch in batches]

    async def release(self, returns: Mapping[str, Sequence[Return]]) -> None:
        self._ask(("release", list(returns)))

    async def look(self, code: str) -> None:
        self._ask(("look", code))

    async def shrink(self, code: str, seat_max: int) -> None:
        self._ask(("shrink", code, seat_max))

    def _ask(self, what: object) -> None:
        if self.is_away or self.refuses:
            raise CounterUnavailable
        self.done.append(what)


def claims_without(redis: Away) -> Claims:
    """Two coupons; 30 is the highest seat in a row."""

    async def load(codes: Sequence[str], _deadline: float) -> dict[str, LoadedCoupon]:
        return {code: LoadedCoupon(replace(COUPON, code=code), 30) for code in codes}

    async def block(_coupon_id: int, size: int, **_of: object) -> range:
        return range(31, 31 + size)

    ledger: Any = SimpleNamespace(coupons=SimpleNamespace(load=load), seats=SimpleNamespace(block=block))
    loads: Any = SimpleNamespace(known=lambda _code: COUPON.id)
    counters: Any = redis
    return Claims(counters, ledger, loads, Settings(), counts=Counts())


async def test_without_redis_nothing_is_kept_for_it_and_nobody_is_told_in_vain() -> None:
    """What is given back is dropped, what is recorded is not kept to be settled; the log is not flooded."""
    redis = Away()
    claims = claims_without(redis)
    given_back = Return("o-1", "ann", 5)
    with capture_logs() as events:
        for _ in range(100):
            claims.settle("GOLD20", "o-1", 5)
            await claims.release("GOLD20", given_back)
            await claims.search_anew("GOLD20")
            await claims.shrink("GOLD20")
    assert [] == [event for event in events if event["log_level"] != "debug"]
    await claims.drain()
    redis.is_away = False
    await claims.claim([("OTHER", Wish("o-2", "bob"))])
    assert [("claim", [("OTHER", [])])] == redis.done


async def test_a_redis_that_refuses_everything_does_not_flood_the_log() -> None:
    """A replica, or one whose disk is full, answers at once, a thousand times a second: each kind of event is told once."""
    redis = Away()
    redis.is_away, redis.refuses = False, True
    claims = claims_without(redis)
    with capture_logs() as events:
        for number in range(100):
            await claims.release("GOLD20", Return("o-1", "ann", 5))
            await claims.search_anew("GOLD20")
            with pytest.raises(CounterUnavailable):
                await claims.shrink(f"GOLD-{number}")
    told = [event["event"] for event in events if event["log_level"] == "warning"]
    assert ["release lost", "counter not told to search", "counter not mended"] == told


@pytest.mark.parametrize("missed", ["release", "search_anew", "shrink", "seat_from_ledger"])
async def test_a_counter_that_has_missed_something_is_shrunk_before_its_next_claim(missed: str) -> None:
    """It would hand out seats that were taken meanwhile, and refuse because of a search before them. Once is enough."""
    redis = Away()
    claims = claims_without(redis)
    arguments: dict[str, tuple[object, ...]] = {"release": ("GOLD20", Return("o-1", "ann", 5)), "seat_from_ledger": (LARGE,)}
    more: dict[str, Any] = {"in_block": True, "since": 0.0} if missed == "seat_from_ledger" else {}
    await getattr(claims, missed)(*arguments.get(missed, ("GOLD20",)), **more)
    redis.is_away = False

    assert claims.is_behind
    for _ in range(2):
        await claims.catch_up(["GOLD20", "OTHER"])

    assert [("shrink", "GOLD20", 30)] == redis.done
    assert not claims.is_behind


async def test_a_ledger_that_hangs_does_not_hold_up_claims_when_redis_is_back() -> None:
    """Whoever waits for a claim waits for this, too, and has a deadline that may be shorter than a statement's."""

    async def hang(_codes: Sequence[str], deadline: float) -> dict[str, LoadedCoupon]:
        await asyncio.sleep(deadline - asyncio.get_running_loop().time())
        raise LedgerUnavailable

    redis, ledger = Away(), SimpleNamespace(coupons=SimpleNamespace(load=hang))
    parts: tuple[Any, Any, Any] = (redis, ledger, None)
    claims = Claims(*parts, Settings(request_deadline_ms=1_000), counts=Counts())
    await claims.release("GOLD20", Return("o-1", "ann", 5))
    redis.is_away = False
    begun_at = now()
    async with stalls() as stood_still:
        await claims.catch_up(["GOLD20"])
    assert now() - begun_at < 0.5 + stood_still.total_s
    assert [] == redis.done


async def test_only_what_was_asked_before_the_ledger_was_read_replaces_a_newer_counter() -> None:
    """A read that began earlier may be the outdated one: it must not be forced over the counter."""
    gate = asyncio.Event()
    loads_made: list[tuple[list[str], list[str]]] = []

    async def load_coupons(codes: list[str], _deadline: float) -> dict[str, LoadedCoupon]:
        await gate.wait()
        return dict.fromkeys(codes, LoadedCoupon(COUPON, 0))

    async def load_counters(_coupons: list[LoadedCoupon], *, even_newer: set[str]) -> None:
        loads_made.append((["A"], sorted(even_newer)))

    counters: Any = SimpleNamespace(load=load_counters)
    ledger: Any = SimpleNamespace(coupons=SimpleNamespace(load=load_coupons))
    loads = Loads(counters, ledger, Counts())

    earlier = asyncio.create_task(loads.load("A"))
    await asyncio.sleep(0.01)
    later = asyncio.create_task(loads.load("A", even_newer=True))
    await asyncio.sleep(0.01)
    gate.set()
    await asyncio.gather(earlier, later)

    assert [(["A"], []), (["A"], ["A"])] == loads_made
