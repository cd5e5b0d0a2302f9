"""Counters made from the ledger, against a real Redis."""

from typing import Any

import pytest
import redis.asyncio

from service.config import Settings
from service.counters import Counters, key
from service.model import ClaimAnswer, CouponStatus, Search, Wish
from tests.counters.given import CODE, FAR_OFF, LONG_AGO, claim, claimed, exhausted, loaded, now_ms, wishes

COUNTER, FREE, PENDING, CUSTOMERS = (key(CODE, part) for part in ("counter", "free", "pending", "customers"))


async def test_fields(counters: Counters, raw: redis.asyncio.Redis) -> None:
    """A counter holds the ledger's coupon, and begins after the highest seat in a row; it was never searched."""
    await counters.load([loaded(5, 1, seat_max=3, starts_at=LONG_AGO, ends_at=FAR_OFF)])

    fields = await raw.hgetall(COUNTER)
    assert abs((await raw.time())[0] * 1_000 - int(fields.pop("loaded"))) < 60_000
    assert {
        "coupon_id": "77",
        "version": "3",
        "status": "active",
        "max_redemptions": "5",
        "max_per_customer": "1",
        "starts_at": "1577836800000",
        "ends_at": "253402300799000",
        "next": "3",
        "searched": "0",
        "unsearched": "3",
    } == fields


async def test_keys_expire(counters: Counters, counter_settings: Settings, raw: redis.asyncio.Redis) -> None:
    """A counter that nobody asks for leaves some time after the load."""
    before_ms = await now_ms(raw)
    await counters.load([loaded(5)])
    after_ms = await now_ms(raw)
    assert before_ms <= await raw.pexpiretime(COUNTER) - 1_000 * counter_settings.counter_idle_s <= after_ms


async def test_rows_above_the_limit(counters: Counters) -> None:
    """Where rows sit above a limit that was lowered, nothing is left to hand out."""
    await counters.load([loaded(5, seat_max=9)])
    assert [exhausted(Search.NEVER)] == await claim(counters, wishes("a"))


async def test_the_same_again(counters: Counters, raw: redis.asyncio.Redis) -> None:
    """A counter that says what the ledger says is left alone, however far it has come."""
    await counters.load([loaded(5)])
    await claim(counters, wishes("a", "b"))
    await raw.sadd(FREE, 1)
    before = await raw.hgetall(COUNTER)

    await counters.load([loaded(5)])

    assert before == await raw.hgetall(COUNTER)
    assert {"1"} == await raw.smembers(FREE)


@pytest.mark.parametrize(
    "change",
    [
        {"version": 4},
        {"status": CouponStatus.PAUSED},
        {"max_redemptions": 6},
        {"max_redemptions": 4},
        {"max_per_customer": 2},
        {"starts_at": LONG_AGO},
        {"ends_at": FAR_OFF},
        {"version": 4, "max_redemptions": None},
    ],
)
async def test_a_difference(counters: Counters, raw: redis.asyncio.Redis, change: dict[str, Any]) -> None:
    """A counter that differs in any field is made anew; orders that are pending and customers' counts stay."""
    await counters.load([loaded(5, 1)])
    await claim(counters, [Wish("a", "ann")])
    await raw.sadd(FREE, 1)

    await counters.load([loaded(**{"max_redemptions": 5, "max_per_customer": 1, "seat_max": 2, **change})])

    fields = await raw.hgetall(COUNTER)
    assert "0" if change.get("max_redemptions", 5) is None else "2" == fields["next"]
    assert [0, 1, 1] == [await raw.scard(FREE), await raw.hlen(PENDING), await raw.hlen(CUSTOMERS)]


async def test_another_coupon(counters: Counters, raw: redis.asyncio.Redis) -> None:
    """Nothing is left of a coupon that had this code before, whatever its version was."""
    await counters.load([loaded(5, 1, version=9)])
    await claim(counters, [Wish("a", "ann")])

    await counters.load([loaded(5, 1, coupon_id=78, version=1)])

    assert [COUNTER] == await raw.keys("*")
    assert "78" == await raw.hget(COUNTER, "coupon_id")


async def test_an_older_version(counters: Counters, raw: redis.asyncio.Redis) -> None:
    """What a slow reader of the ledger brings does not undo a newer version."""
    await counters.load([loaded(7, version=4)])
    await counters.load([loaded(5, version=3)])
    assert ["4", "7"] == await raw.hmget(COUNTER, "version", "max_redemptions")


@pytest.mark.parametrize("loaded_at", ["0", "9007199254740991"])
async def test_a_version_that_nobody_made(counters: Counters, raw: redis.asyncio.Redis, loaded_at: str) -> None:
    """A version that is newer than the ledger's for longer than any reader is late was never the ledger's."""
    await counters.load([loaded(5)])
    await raw.hset(COUNTER, mapping={"version": "999", "max_redemptions": "1", "loaded": loaded_at})
    await counters.load([loaded(5)])
    assert ["3", "5"] == await raw.hmget(COUNTER, "version", "max_redemptions")


async def test_many(counters: Counters) -> None:
    """Many are loaded in one call, and none is no call."""
    await counters.load([loaded(5, code=f"C{number}") for number in range(300)])
    await counters.load([])
    assert [claimed(1)] == await claim(counters, wishes("a"), code="C299")


async def test_limits_at_their_largest(counters: Counters) -> None:
    """The largest limits are exact."""
    await counters.load([loaded(2_000_000_000, 1_000, seat_max=1_999_999_999)])
    claims = await claim(counters, [Wish("a", "ann", customer_seat=1_000, customer_live=999), Wish("b", "bob")])
    assert [claimed(2_000_000_000, 1_000), exhausted(Search.NEVER)] == claims


async def test_raised_limit(counters: Counters) -> None:
    """When the limit was raised, the next seats are handed out."""
    await counters.load([loaded(1)])
    await claim(counters, wishes("a", "b"))
    await counters.load([loaded(2, seat_max=1, version=4)])
    claims = await claim(counters, wishes("b", "c"))
    assert [ClaimAnswer.CLAIMED, ClaimAnswer.REFUSED] == [one.answer for one in claims]
