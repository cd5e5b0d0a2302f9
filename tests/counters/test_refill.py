"""Shrink, look and refill, against a real Redis."""

import pytest
import redis.asyncio

from service.counters import REFILL_MAX_SEATS, CounterLook, Counters, key
from service.model import Search, Wish
from tests.counters.given import CODE, claim, claimed, exhausted, loaded, wishes

COUNTER, FREE, PENDING = (key(CODE, part) for part in ("counter", "free", "pending"))


def looked(next_seat: int, *pending: int, version: int = 3, coupon_id: int = 77) -> CounterLook:
    return CounterLook(coupon_id, version, 5, next_seat, frozenset(pending))


@pytest.mark.parametrize(("seat_max", "next_seat"), [(0, "2"), (2, "2"), (4, "4"), (9, "5")])
async def test_shrink(counters: Counters, raw: redis.asyncio.Redis, seat_max: int, next_seat: str) -> None:
    """Nothing is free, no search was made, and `next` rises to the highest seat in a row; it never falls."""
    await counters.load([loaded(5, seat_max=2)])
    await counters.refill(CODE, looked(2), seats=[1], complete=True)

    await counters.shrink(CODE, seat_max)

    assert [next_seat, "0"] == await raw.hmget(COUNTER, "next", "searched")
    assert set() == await raw.smembers(FREE)


async def test_shrink_leaves_pending(counters: Counters) -> None:
    await counters.load([loaded(5)])
    await claim(counters, wishes("a"))
    await counters.shrink(CODE, 3)
    assert [claimed(1), claimed(4)] == await claim(counters, wishes("a", "b"))


async def test_without_a_counter(counters: Counters, raw: redis.asyncio.Redis) -> None:
    """Where no counter is loaded there is nothing to shrink, to see or to fill."""
    await counters.shrink(CODE, 3)
    assert await counters.look(CODE) is None
    assert 0 == await counters.refill(CODE, looked(5), seats=[1], complete=True)
    assert [] == await raw.keys("*")


async def test_look(counters: Counters, raw: redis.asyncio.Redis) -> None:
    """A look shows how far seats were handed out and which are pending; what is too old or malformed leaves."""
    await counters.load([loaded(5, seat_max=1)])
    await claim(counters, wishes("a", "b"))
    await raw.hset(PENDING, mapping={"old": "1 0 1", "junk": "junk", "": ""})

    assert looked(3, 2, 3) == await counters.look(CODE)
    assert {"a", "b"} == set(await raw.hkeys(PENDING))


async def test_look_at_unlimited(counters: Counters) -> None:
    await counters.load([loaded(None, 1)])
    await claim(counters, wishes("a"))
    assert CounterLook(77, 3, None, 0, frozenset()) == await counters.look(CODE)


async def test_holders(counters: Counters, raw: redis.asyncio.Redis) -> None:
    """Which orders claimed these seats and since when; what is too old or malformed holds none, and strange keys leave."""
    await counters.load([loaded(5)])
    await claim(counters, wishes("a", "b", "ü"))
    seconds, micros = await raw.time()
    now_ms = int(seconds) * 1000 + int(micros) // 1000
    await raw.hset(PENDING, mapping={"b": f"2 0 {now_ms - 2_000}", "old": "4 0 1", "junk": "junk"})

    held = {one.order_id: one for one in await counters.holders(CODE, [2, 3, 4, 5])}

    assert {"b": 2, "ü": 3} == {order: one.seat for order, one in held.items()}
    assert 2 <= held["b"].age_s
    assert 0 <= held["ü"].age_s < held["b"].age_s
    await raw.delete(PENDING)
    await raw.set(PENDING, "text")
    assert [] == await counters.holders(CODE, [2])
    assert 0 == await raw.exists(PENDING)


async def test_refill(counters: Counters) -> None:
    """Seats that the ledger has shown to be free are handed out; after a complete search exhausted is fresh."""
    await counters.load([loaded(5, seat_max=5)])
    look = await counters.look(CODE)
    assert look

    assert 2 == await counters.refill(CODE, look, seats=[2, 4], complete=True)

    first, second, third = await claim(counters, wishes("a", "b", "c"))
    assert {2, 4} == {first.seat, second.seat}
    assert exhausted(Search.RECENT) == third


async def test_incomplete_refill(counters: Counters) -> None:
    """When there may be more free seats than were found, the next exhausted calls for a search."""
    await counters.load([loaded(5, seat_max=5)])
    await counters.refill(CODE, looked(5), seats=[], complete=True)
    await counters.refill(CODE, looked(5), seats=[2], complete=False)
    assert [claimed(2), exhausted(Search.NEVER)] == await claim(counters, wishes("a", "b"))


async def test_refill_leaves_pending_seats_out(counters: Counters) -> None:
    """What was pending at the look, or is now, is not free; what was pending too long ago is."""
    await counters.load([loaded(5, seat_max=2)])
    look = await counters.look(CODE)
    await claim(counters, [Wish("a", "ann")])
    assert look

    assert 0 == await counters.refill(CODE, look, seats=[3], complete=True)
    assert 0 == await counters.refill(CODE, looked(3, 1, 2), seats=[1, 2], complete=True)
    assert 2 == await counters.refill(CODE, looked(3), seats=[1, 2, 3], complete=True)


async def test_refill_with_old_pending(counters: Counters, raw: redis.asyncio.Redis) -> None:
    await counters.load([loaded(5, seat_max=5)])
    await raw.hset(PENDING, "old", "2 0 1")
    assert 1 == await counters.refill(CODE, looked(5), seats=[2], complete=True)
    assert {} == await raw.hgetall(PENDING)


async def test_refill_with_strange_seats(counters: Counters, raw: redis.asyncio.Redis) -> None:
    """A seat that was not handed out yet comes by itself; one that does not exist never."""
    await counters.load([loaded(5, seat_max=3)])
    assert 1 == await counters.refill(CODE, looked(3), seats=[-1, 0, 3, 4, 6, 10**12], complete=True)
    assert {"3"} == await raw.smembers(FREE)


@pytest.mark.parametrize("look", [looked(5, version=2), looked(5, version=4), looked(5, coupon_id=78)])
async def test_refill_of_another(counters: Counters, raw: redis.asyncio.Redis, look: CounterLook) -> None:
    """Seats that were looked for by another coupon or version are not taken, and no search counts."""
    await counters.load([loaded(5, seat_max=5)])
    assert 0 == await counters.refill(CODE, look, seats=[2], complete=True)
    assert ["0"] == await raw.hmget(COUNTER, "searched")
    assert set() == await raw.smembers(FREE)


@pytest.mark.parametrize(("seats", "search"), [(REFILL_MAX_SEATS, Search.RECENT), (REFILL_MAX_SEATS + 1, Search.NEVER)])
async def test_refill_is_bounded(counters: Counters, raw: redis.asyncio.Redis, seats: int, search: Search) -> None:
    """At most so many seats are taken at once; with more of them the search was not complete."""
    await counters.load([loaded(20_000, seat_max=20_000)])
    look = await counters.look(CODE)
    assert look

    freed = await counters.refill(CODE, look, seats=range(1, seats + 1), complete=True)

    assert REFILL_MAX_SEATS == freed == await raw.scard(FREE)
    await raw.delete(FREE)
    assert [exhausted(search)] == await claim(counters, wishes("a"))
