"""Blocks of seats as a process uses them: how large, how long, and who waits for which."""

import asyncio
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from service import blocks as module
from service.blocks import BLOCK_MAX_SEATS, BLOCK_MIN_SEATS, Blocks
from service.config import Settings
from service.errors import LedgerContended, LedgerUnavailable, UsherError
from service.model import LoadedCoupon
from tests.unit.scripted import COUPON

LARGE = replace(COUPON, max_redemptions=1_000_000)


class Seats:
    """A cursor that moves up; `error` is raised instead. `seat_max`: of all in a row.

    `asked`: the size of each block; `reads`: the codes whose highest seats were read together.
    """

    def __init__(self) -> None:
        self.next = 0
        self.seat_max = 0
        self.asked: list[int] = []
        self.reads: list[list[str]] = []
        self.error: UsherError | None = None

    async def block(self, _coupon_id: int, size: int, *, limit: int, deadline: float) -> range:  # noqa: ARG002
        await asyncio.sleep(0.001)
        self.asked.append(size)
        if self.error is not None:
            raise self.error
        begin, self.next = self.next + 1, self.next + size
        return range(begin, min(self.next, limit) + 1)

    async def load(self, codes: list[str], _deadline: float) -> dict[str, LoadedCoupon]:
        await asyncio.sleep(0.001)
        self.reads.append(codes)
        if self.error is not None:
            raise self.error
        return {code: LoadedCoupon(COUPON, self.seat_max) for code in codes}


def blocks_of(seats: Seats) -> Blocks:
    ledger: Any = SimpleNamespace(seats=seats, coupons=seats)
    return Blocks(ledger, Settings())


async def test_a_coupon_that_is_asked_for_now_and_then_needs_no_block() -> None:
    """The seats above all in a row are read for many coupons at once; no cursor moves."""
    seats = Seats()
    seats.seat_max = 30
    blocks = blocks_of(seats)
    coupons = [replace(LARGE, id=number, code=f"C{number}") for number in range(1, 101)]
    assert {31} == set(await asyncio.gather(*(blocks.seat(coupon) for coupon in coupons)))
    assert [] == seats.asked
    assert sorted(coupon.code for coupon in coupons) == sorted(code for codes in seats.reads for code in codes)
    assert len(seats.reads) <= 3
    assert await blocks.seat(replace(COUPON, id=101)) is None, "of 20 seats"


async def test_asked_for_again_it_gets_one_without_the_seat_that_was_handed_out() -> None:
    """That seat is not in a row yet, so the cursor does not know of it."""
    seats = Seats()
    blocks = blocks_of(seats)
    assert [1, 2, 3] == [await blocks.seat(LARGE) for _ in range(3)]
    assert [8] == seats.asked
    small = replace(COUPON, id=8)
    seats.next = 0
    assert [1, 2, 3] == [await blocks.seat(small) for _ in range(3)]
    assert [8, 1, 1, 1] == seats.asked, "a block that held nothing else is followed by another"


async def test_each_gets_a_seat_of_its_own_from_the_lowest_on() -> None:
    """A hundred who come at the same time wait for one block, which is as large as they are many."""
    seats = Seats()
    blocks = blocks_of(seats)
    got = await asyncio.gather(*(blocks.seat(LARGE) for _ in range(100)))
    assert list(range(1, 101)) == sorted(seat for seat in got if seat)
    assert [100] == seats.asked
    assert not blocks.busy


async def test_no_more_than_a_large_one_at_once() -> None:
    seats = Seats()
    blocks = blocks_of(seats)
    got = await asyncio.gather(*(blocks.seat(LARGE) for _ in range(600)))
    assert list(range(1, 601)) == sorted(seat for seat in got if seat)
    assert BLOCK_MAX_SEATS == max(seats.asked)


async def test_one_that_is_used_up_in_time_is_followed_by_a_larger_one() -> None:
    seats = Seats()
    blocks = blocks_of(seats)
    assert list(range(1, 601)) == [await blocks.seat(LARGE) for _ in range(600)]
    assert [8, 16, 32, 64, 128, 256, 256] == seats.asked
    assert BLOCK_MIN_SEATS == seats.asked[0]


async def test_of_a_small_coupon_only_what_is_wanted() -> None:
    """What lies in a process' block would be found by the others' searches only."""
    seats = Seats()
    blocks = blocks_of(seats)
    assert [1, 2, 3] == [await blocks.seat(COUPON) for _ in range(3)]
    assert [1, 1, 1] == seats.asked


async def test_an_old_one_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    """Others may have found its seats meanwhile; and a coupon that is asked for seldom needs no large ones."""
    seats = Seats()
    blocks = blocks_of(seats)
    assert [1, 2] == [await blocks.seat(LARGE) for _ in range(2)]
    seats.seat_max = 40
    monkeypatch.setattr(module, "BLOCK_AGE_MAX_S", 0.01)
    await asyncio.sleep(0.02)
    assert 41 == await blocks.seat(LARGE)
    assert [8] == seats.asked


async def test_past_the_limit_nobody_asks_for_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    """A search is to be made. After a while a block may be to be had, since seats at the top may have been left."""
    seats = Seats()
    seats.next = seats.seat_max = 20
    blocks = blocks_of(seats)
    assert [None] * 5 == [await blocks.seat(COUPON) for _ in range(5)]
    assert (1, 0) == (len(seats.reads), len(seats.asked))
    assert 21 == await blocks.seat(replace(COUPON, version=4, max_redemptions=40)), "another version, another limit"
    monkeypatch.setattr(module, "BLOCK_AGE_MAX_S", 0.01)
    await asyncio.sleep(0.02)
    seats.seat_max = 4
    assert 5 == await blocks.seat(COUPON)


async def test_after_a_collision_nobody_asks_for_a_while() -> None:
    """Another process hands out the same seats, and goes up as the next block would."""
    seats = Seats()
    blocks = blocks_of(seats)
    await blocks.seat(LARGE)
    blocks.drop(LARGE.id)
    assert await blocks.seat(LARGE) is None
    assert (1, 0) == (len(seats.reads), len(seats.asked))
    blocks.drop(LARGE.id + 1)


async def test_a_ledger_that_fails() -> None:
    """One that is away is told to those who wait; a cursor that others hold is no reason to wait for it."""
    seats = Seats()
    seats.error = LedgerUnavailable()
    blocks = blocks_of(seats)
    answers = await asyncio.gather(blocks.seat(LARGE), blocks.seat(LARGE), return_exceptions=True)
    assert [LedgerUnavailable, LedgerUnavailable] == [type(answer) for answer in answers]
    assert 1 == len(seats.asked)
    with pytest.raises(LedgerUnavailable):
        await blocks.seat(LARGE)
    seats.error = LedgerContended()
    assert {None} == set(await asyncio.gather(blocks.seat(LARGE), blocks.seat(LARGE)))
