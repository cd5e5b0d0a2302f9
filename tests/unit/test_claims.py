"""Searches and loads that several requests share."""

import asyncio
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

from service.claims import Claims
from service.config import Settings
from service.ledger.seats import FreeSeats
from service.loads import Loads
from service.model import LoadedCoupon
from tests.unit.scripted import COUPON


class ScriptedSeats:
    """Finds what the test has written down, once the gate is open."""

    def __init__(self, *found: list[int]) -> None:
        self.found = list(found)
        self.gate = asyncio.Event()

    async def free_seats(self, _coupon_id: int, _upper: int, *, limit: int, deadline: float) -> FreeSeats:  # noqa: ARG002
        await self.gate.wait()
        return FreeSeats(self.found.pop(0), complete=True)


def claims_with(seats: ScriptedSeats) -> Claims:
    ledger: Any = SimpleNamespace(seats=seats)
    nothing: Any = None
    return Claims(nothing, ledger, nothing, Settings())


async def test_requests_that_share_a_search_get_a_seat_each_and_the_last_searches_again() -> None:
    """Callers that come in the very turn in which the search ends neither spin nor share a seat."""
    seats = ScriptedSeats([1, 2], [3], [])
    claims = claims_with(seats)
    first = asyncio.create_task(claims.seat_from_ledger(COUPON))
    await asyncio.sleep(0.01)
    seats.gate.set()
    others = [asyncio.create_task(claims.seat_from_ledger(COUPON)) for _ in range(3)]

    got = [await first, *await asyncio.gather(*others)]

    assert {1, 2, 3, None} == set(got)


async def test_a_search_by_an_old_limit_says_nothing_of_a_raised_one() -> None:
    """None was free below 20; the limit was raised to 40: the next request searches anew, at once."""
    seats = ScriptedSeats([], [21])
    seats.gate.set()
    claims = claims_with(seats)
    assert await claims.seat_from_ledger(COUPON) is None

    from_raised = await claims.seat_from_ledger(replace(COUPON, version=COUPON.version + 1, max_redemptions=40))

    assert 21 == from_raised


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
    loads = Loads(counters, ledger)

    earlier = asyncio.create_task(loads.load("A"))
    await asyncio.sleep(0.01)
    later = asyncio.create_task(loads.load("A", even_newer=True))
    await asyncio.sleep(0.01)
    gate.set()
    await asyncio.gather(earlier, later)

    assert [(["A"], []), (["A"], ["A"])] == loads_made
