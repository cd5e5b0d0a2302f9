"""What a counter could still hand out, against a real Redis."""

import pytest
import redis.asyncio

from service.counters import Counters, Remaining, key
from service.model import Return, Search
from tests.counters.given import CODE, claim, loaded, wishes

COUNTER, FREE, PENDING, CUSTOMERS = (key(CODE, part) for part in ("counter", "free", "pending", "customers"))


async def remaining(counters: Counters) -> Remaining | None:
    (found,) = await counters.remaining([CODE])
    return found


async def test_each_coupon_in_turn(counters: Counters) -> None:
    """One answer for each code, None where no counter is loaded."""
    await counters.load([loaded(5, seat_max=2), loaded(None, 3, code="FREE", coupon_id=78)])
    assert [
        Remaining(78, 3, None, 0, Search.NEVER, ()),
        None,
        Remaining(77, 3, 5, 3, Search.NEVER, (5,)),
    ] == await counters.remaining(["FREE", "NONE", CODE])


async def test_seats_that_it_would_hand_out(counters: Counters) -> None:
    """The last of those beyond `next`, and one of those below it that are free."""
    await counters.load([loaded(3)])
    await claim(counters, wishes("a", "b"))
    assert Remaining(77, 3, 3, 1, Search.NEVER, (3,)) == await remaining(counters)
    await counters.release({CODE: [Return("a", "customer of a", 1)]})
    assert Remaining(77, 3, 3, 2, Search.NEVER, (3, 1)) == await remaining(counters)
    await claim(counters, wishes("c", "d"))
    assert Remaining(77, 3, 3, 0, Search.NEVER, ()) == await remaining(counters)


@pytest.mark.parametrize(("ago_ms", "search"), [(-5_000, Search.DUE), (0, Search.RECENT), (1_000, Search.DUE)])
async def test_when_it_was_searched(counters: Counters, raw: redis.asyncio.Redis, ago_ms: int, search: Search) -> None:
    """As a claim says it: within the last second or not; a time to come is none."""
    await counters.load([loaded(5, seat_max=5)])
    seconds, microseconds = await raw.time()
    await raw.hset(COUNTER, "searched", seconds * 1_000 + microseconds // 1_000 - ago_ms)
    assert Remaining(77, 3, 5, 0, search, ()) == await remaining(counters)


async def test_nothing_changes(counters: Counters, raw: redis.asyncio.Redis) -> None:
    """Neither what is there nor how long it stays."""
    await counters.load([loaded(5, 1)])
    await claim(counters, wishes("a", "b"))
    await counters.release({CODE: [Return("a", "customer of a", 1)]})
    keys = (COUNTER, FREE, PENDING, CUSTOMERS)
    for name in keys:
        await raw.persist(name)
    before = [await raw.type(name) for name in keys], [await raw.dump(name) for name in (PENDING, CUSTOMERS)]
    fields = await raw.hgetall(COUNTER)
    await remaining(counters)
    assert before == ([await raw.type(name) for name in keys], [await raw.dump(name) for name in (PENDING, CUSTOMERS)])
    assert (fields, {"1"}) == (await raw.hgetall(COUNTER), await raw.smembers(FREE))
    assert [-1] * 4 == [await raw.ttl(name) for name in keys]


@pytest.mark.parametrize("member", ["junk", "", "-1", "0", "3", "01"])
async def test_free_seats_that_are_none(counters: Counters, raw: redis.asyncio.Redis, member: str) -> None:
    """The set is dropped, and a search is due, as a claim would have it."""
    await counters.load([loaded(2, seat_max=2)])
    await raw.hset(COUNTER, "searched", 1)
    await raw.sadd(FREE, member)
    assert Remaining(77, 3, 2, 0, Search.NEVER, ()) == await remaining(counters)
    assert (0, "0") == (await raw.exists(FREE), await raw.hget(COUNTER, "searched"))


async def test_never_more_than_there_are(counters: Counters, raw: redis.asyncio.Redis) -> None:
    await counters.load([loaded(5, seat_max=3)])
    await raw.sadd(FREE, *range(1, 4), "junk", "more")
    found = await remaining(counters)
    assert found is not None
    assert found.count in (2, 5)  # Whether the junk is seen is a matter of luck.
