"""Keys that somebody has written by hand: nothing breaks, nothing hangs, and what cannot be right is dropped."""

from collections.abc import Awaitable, Callable

import pytest
import redis.asyncio

from service.counters import PARTS, Counters, key
from service.model import Return, Search, Wish
from tests.counters.given import CODE, NOT_LOADED, claim, claimed, exhausted, loaded, wishes

COUNTER, FREE, PENDING, CUSTOMERS = (key(CODE, part) for part in PARTS)
MALFORMED = ["", "abc", "-1", "+2", "1.5", "2.0", "02", " 2", "2 ", "0x2", "2e0", "nan", "inf", "-inf", "9" * 400, "\0", "é"]


@pytest.fixture
async def edited(counters: Counters, raw: redis.asyncio.Redis) -> redis.asyncio.Redis:
    """Redis with a counter in full use: seats 1 to 4 of 5 handed out, 4 pending, 2 free."""
    await counters.load([loaded(5, 2, seat_max=3)])
    await claim(counters, [Wish("d", "dan")])
    await raw.sadd(FREE, 2)
    return raw


async def retype(raw: redis.asyncio.Redis, name: str, kind: str) -> None:
    await raw.delete(name)
    writes: dict[str, Callable[[], Awaitable[object]]] = {
        "string": lambda: raw.set(name, "junk"),
        "list": lambda: raw.rpush(name, "junk"),
        "set": lambda: raw.sadd(name, "junk"),
        "hash": lambda: raw.hset(name, "junk", "junk"),
        "zset": lambda: raw.zadd(name, {"junk": 1}),
        "stream": lambda: raw.xadd(name, {"junk": "junk"}),
    }
    await writes[kind]()


@pytest.mark.parametrize("kind", ["string", "list", "set", "hash", "zset", "stream"])
@pytest.mark.parametrize("part", PARTS)
async def test_types(counters: Counters, edited: redis.asyncio.Redis, part: str, kind: str) -> None:
    """A key of a wrong type counts as missing; every script works, and afterwards all is of the right type."""
    await retype(edited, key(CODE, part), kind)
    if part == "counter":
        assert [NOT_LOADED] == await claim(counters, [Wish("e", "eve")])
        assert 0 == await edited.exists(COUNTER)
        await counters.load([loaded(5, 2, seat_max=4)])

    seat = 2 if part in ("pending", "customers") else 5
    assert [claimed(seat, 1)] == await claim(counters, [Wish("e", "eve")])
    await counters.release({CODE: [Return("e", "eve", seat)]})
    assert {str(seat)} == await edited.smembers(FREE)
    assert {"hash", "set", "none"} >= {await edited.type(key(CODE, one)) for one in PARTS}


@pytest.mark.parametrize("kind", ["string", "zset"])
@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("verb", ["release", "load", "shrink", "look", "refill"])
async def test_types_in_every_script(counters: Counters, edited: redis.asyncio.Redis, verb: str, part: str, kind: str) -> None:
    """No script fails at a key of a wrong type."""
    look = await counters.look(CODE)
    assert look
    await retype(edited, key(CODE, part), kind)

    calls: dict[str, Callable[[], Awaitable[object]]] = {
        "release": lambda: counters.release({CODE: [Return("d", "dan", 4)]}),
        "load": lambda: counters.load([loaded(5, 2, seat_max=3)]),
        "shrink": lambda: counters.shrink(CODE, 4),
        "look": lambda: counters.look(CODE),
        "refill": lambda: counters.refill(CODE, look, seats=[1], complete=True),
    }
    await calls[verb]()

    assert kind != await edited.type(key(CODE, part))


@pytest.mark.parametrize("value", [*MALFORMED, "6"])
async def test_next(counters: Counters, edited: redis.asyncio.Redis, value: str) -> None:
    """A counter whose `next` cannot be right is dropped."""
    await edited.hset(COUNTER, "next", value)
    assert [NOT_LOADED] == await claim(counters, wishes("e"))
    assert 0 == await edited.exists(COUNTER)


@pytest.mark.parametrize(
    "field", ["coupon_id", "version", "max_redemptions", "max_per_customer", "starts_at", "ends_at", "loaded", "searched"]
)
async def test_numbers(counters: Counters, edited: redis.asyncio.Redis, field: str) -> None:
    """A counter with a field that is missing or no whole number in its range is dropped."""
    for value in [*MALFORMED, "9007199254740993", None]:
        await counters.load([loaded(5, 2)])
        await (edited.hdel(COUNTER, field) if value is None else edited.hset(COUNTER, field, value))
        assert (value, [NOT_LOADED]) == (value, await claim(counters, wishes("e")))


@pytest.mark.parametrize(
    ("field", "value"),
    [("status", "open"), ("status", ""), ("coupon_id", "0"), ("max_redemptions", "2000000001"), ("max_per_customer", "1001")],
)
async def test_ranges(counters: Counters, edited: redis.asyncio.Redis, field: str, value: str) -> None:
    await edited.hset(COUNTER, field, value)
    assert await counters.look(CODE) is None


async def test_next_back_to_0(counters: Counters, edited: redis.asyncio.Redis) -> None:
    """Seats are handed out again from 1, for the ledger to refuse; a shrink puts an end to it."""
    await edited.hset(COUNTER, "next", 0)
    assert [claimed(1)] != await claim(counters, wishes("e"))
    await counters.shrink(CODE, 4)
    assert [claimed(5, 1)] == await claim(counters, [Wish("e", "customer of e", again=True)])


async def test_limit_of_a_thousand_million(counters: Counters, edited: redis.asyncio.Redis) -> None:
    """A limit that is not the ledger's is put right by the next load."""
    await edited.hset(COUNTER, mapping={"max_redemptions": 1_000_000_000, "next": 999_999_999})
    await edited.delete(FREE)
    assert [1_000_000_000] == [one.seat for one in await claim(counters, wishes("e"))]

    await counters.load([loaded(5, 2, seat_max=5)])
    assert [exhausted(Search.NEVER)] == await claim(counters, wishes("f"))


@pytest.mark.parametrize("member", [*MALFORMED, "0", "5", "6", "2000000000", "9" * 30])
async def test_free(counters: Counters, edited: redis.asyncio.Redis, member: str) -> None:
    """A member that cannot be a free seat is never handed out: the set is dropped, and a search called for."""
    await edited.hset(COUNTER, "searched", "9" * 13)
    await edited.sadd(FREE, member)

    claims = await claim(counters, wishes("e", "f"))

    assert [claimed(5, 1), exhausted(Search.NEVER)] == claims
    assert [exhausted(Search.NEVER)] == await claim(counters, wishes("f"))
    assert 0 == await edited.exists(FREE)


async def test_free_full_of_junk(counters: Counters, edited: redis.asyncio.Redis) -> None:
    """A set of any size is dropped at the first look."""
    await edited.sadd(FREE, *(f"junk {number}" for number in range(100_000)))
    assert [claimed(5, 1)] == await claim(counters, wishes("e"))
    assert 0 == await edited.exists(FREE)


@pytest.mark.parametrize(
    "value",
    [
        "",
        "junk",
        "1",
        "1 1",
        "1 1 1 1",
        " 1 1 {now}",
        "-1 1 {now}",
        "1.5 1 {now}",
        "6 1 {now}",
        "0 1 {now}",
        "1 0 {now}",
        "1 3 {now}",
        "1 -1 {now}",
        "1 1 -{now}",
        "1 1 " + "9" * 400,
        "9" * 400 + " 1 {now}",
        "nan nan nan",
        "1 1 0x5",
    ],
)
async def test_pending(counters: Counters, edited: redis.asyncio.Redis, value: str) -> None:
    """A value that no claim has written counts as absent."""
    now = (await edited.time())[0] * 1_000
    await edited.hset(PENDING, "e", value.format(now=now))
    assert [claimed(2, 1)] == await claim(counters, [Wish("e", "eve")])


async def test_pending_without_bounds(counters: Counters, edited: redis.asyncio.Redis) -> None:
    """More orders than can be under way are not read one by one: they are dropped."""
    for first in range(0, 200_001, 20_000):
        await edited.hset(PENDING, mapping={str(number): "2 1 1" for number in range(first, first + 20_000)})
    look = await counters.look(CODE)
    assert look
    assert frozenset() == look.pending
    assert 0 == await edited.exists(PENDING)


@pytest.mark.parametrize("value", [*MALFORMED, "3", "1000"])
async def test_customers(counters: Counters, edited: redis.asyncio.Redis, value: str) -> None:
    """A count that cannot be right counts as none: the ledger refuses what is too much."""
    await edited.hset(CUSTOMERS, "eve", value)
    assert [claimed(2, 1)] == await claim(counters, [Wish("e", "eve")])
    assert "1" == await edited.hget(CUSTOMERS, "eve")


@pytest.mark.parametrize("gone", [{"free"}, {"pending"}, {"customers"}, {"free", "pending", "customers"}])
async def test_deleted(counters: Counters, edited: redis.asyncio.Redis, gone: set[str]) -> None:
    """Without one of the other keys the counter goes on."""
    await edited.delete(*(key(CODE, part) for part in gone))
    (answer,) = await claim(counters, [Wish("d", "dan")])
    held, free = "pending" not in gone, "free" not in gone
    assert (4 if held else 2 if free else 5) == answer.seat
