"""Counters loaded from the ledger, many at once, against real stores."""

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import redis.asyncio

from reconciler import reseeding
from reconciler.reseeding import Report, reseed_once
from service.counters import ClaimBatch, Counters, key
from service.errors import CounterUnavailable, LedgerUnavailable
from service.ledger import Ledger
from service.model import Claim, Coupon, CouponStatus, LoadedCoupon, Wish
from tests.faults import Proxy, holding
from tests.ledger import given
from tests.stores import Admin

DAY = timedelta(days=1)
LONG_AGO = datetime(1969, 5, 1, tzinfo=UTC)
FAR_OFF = datetime(9999, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC)
CODES = [f"C{number}" for number in range(10)]


async def fields(raw: redis.asyncio.Redis, code: str) -> Mapping[str, str]:
    """A counter's, but not when it was loaded."""
    found = {str(name): str(value) for name, value in (await raw.hgetall(key(code, "counter"))).items()}
    found.pop("loaded", None)
    return found


async def loaded(raw: redis.asyncio.Redis) -> set[str]:
    """The codes that have counters."""
    return {str(name).split("{")[1].split("}")[0] for name in await raw.keys("*:counter")}


async def claim(counters: Counters, code: str, *orders: str) -> list[Claim]:
    (claims,) = await counters.claim([ClaimBatch(code, [Wish(order, f"customer of {order}") for order in orders])])
    assert not isinstance(claims, CounterUnavailable)
    return claims


async def load(counters: Counters, coupon: Coupon, seat_max: int = 0) -> None:
    await counters.load([LoadedCoupon(coupon, seat_max)])


async def redeem(ledger: Ledger, coupon: Coupon, *seats: int | None) -> None:
    await given.records(ledger, [given.row(ledger, coupon, seat=seat, customer_seat=None) for seat in seats])


@pytest.mark.parametrize(
    "coupon",
    [
        {},
        {"max_redemptions": None},
        {"max_redemptions": 2_000_000_000, "max_per_customer": 1_000},
        {"max_redemptions": 4},  # and a row above it
        {"status": CouponStatus.PAUSED},
        {"starts_at": LONG_AGO, "ends_at": FAR_OFF},
        {"starts_at": datetime(2030, 1, 2, 3, 4, 5, 678_901, tzinfo=UTC)},
    ],
    ids=str,
)
async def test_as_a_load_makes_it(
    ledger: Ledger, counters: Counters, raw: redis.asyncio.Redis, admin: Admin, coupon: dict[str, Any]
) -> None:
    """A counter says what it says when it is loaded for the first claim."""
    made = await given.coupon(ledger, **coupon)
    if made.max_redemptions is not None:
        given.insert(admin, given.row(ledger, made, seat=3, customer_seat=1))
        given.insert(admin, given.row(ledger, made, seat=7, customer_seat=1))

    assert Report(coupons=1, loaded=1, complete=True) == await reseed_once(ledger, counters)

    reseeded = await fields(raw, made.code)
    await raw.flushall()
    await counters.load(list((await ledger.coupons.load([made.code], given.soon())).values()))
    assert await fields(raw, made.code) == reseeded
    assert str(made.id) == reseeded["coupon_id"]


async def test_which_are_loaded(ledger: Ledger, counters: Counters, raw: redis.asyncio.Redis, admin: Admin) -> None:
    """Those that can be redeemed, now or later; and those that were redeemed lately, since somebody asks for them."""
    now = ledger.now()
    await given.coupon(ledger, "ACTIVE", ends_at=now + DAY)
    await given.coupon(ledger, "PAUSED", status=CouponStatus.PAUSED)
    await given.coupon(ledger, "LATER", starts_at=now + DAY)
    for code in ("ARCHIVED", "OVER", "ARCHIVED-NOW", "OVER-NOW"):
        coupon = await given.coupon(ledger, code)
        if code.endswith("-NOW"):
            await redeem(ledger, coupon, 1)
    admin.run("UPDATE coupon SET status = 'archived' WHERE code LIKE 'ARCHIVED%%'")
    admin.run("UPDATE coupon SET ends_at = UTC_TIMESTAMP(6) WHERE code LIKE 'OVER%%'")

    assert Report(coupons=5, loaded=5, complete=True) == await reseed_once(ledger, counters)

    assert {"ACTIVE", "PAUSED", "LATER", "ARCHIVED-NOW", "OVER-NOW"} == await loaded(raw)


async def test_the_busiest_first(
    ledger: Ledger, counters: Counters, raw: redis.asyncio.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who has most of the newest redemptions is loaded first, and older redemptions do not count."""
    monkeypatch.setattr(reseeding, "PAGE_COUPONS", 1)
    monkeypatch.setattr(reseeding, "RECENT_REDEMPTIONS", 5)
    first, busy, busier, *_ = [await given.coupon(ledger, code) for code in CODES]
    for coupon, seats in ((first, range(1, 11)), (busier, (1, 2)), (busy, (1, 2)), (busier, (3,))):
        await redeem(ledger, coupon, *seats)
    order: list[set[str]] = []
    told: list[tuple[float, int]] = []

    for pages in range(4):
        left = iter(range(pages))
        report = await reseed_once(
            ledger,
            counters,
            is_stopping=lambda left=left: next(left, None) is None,  # type: ignore[misc]
            progress=lambda done, total: told.append((done, total)),
        )
        assert Report(coupons=pages, loaded=pages, complete=False) == report
        order.append(await loaded(raw))
        await raw.flushall()

    assert [set(), {"C2"}, {"C2", "C1"}, {"C2", "C1", "C0"}] == order
    assert [(0, busier.id + 7), (0, busier.id + 7), (first.id, busier.id + 7)] == told[-3:]


async def test_several_pages(
    ledger: Ledger, counters: Counters, raw: redis.asyncio.Redis, monkeypatch: pytest.MonkeyPatch, admin: Admin
) -> None:
    """Pages end where they may: between coupons that are over, with coupons that are busy, after the last one."""
    monkeypatch.setattr(reseeding, "PAGE_COUPONS", 2)
    monkeypatch.setattr(reseeding, "CALL_COUPONS", 1)
    coupons = [await given.coupon(ledger, code) for code in CODES]
    await redeem(ledger, coupons[5], 1)
    admin.run("UPDATE coupon SET status = 'archived' WHERE code IN ('C2', 'C3')")

    assert Report(coupons=8, loaded=8, complete=True) == await reseed_once(ledger, counters)

    assert set(CODES) - {"C2", "C3"} == await loaded(raw)


async def test_nothing_to_load(ledger: Ledger, counters: Counters) -> None:
    """An empty ledger, and a code that no coupon has."""
    nothing = Report(coupons=0, loaded=0, complete=True)
    assert [nothing, nothing] == [await reseed_once(ledger, counters), await reseed_once(ledger, counters, code="GÖLD")]


async def test_one(ledger: Ledger, counters: Counters, raw: redis.asyncio.Redis, admin: Admin) -> None:
    """One coupon is loaded whatever its status, and no other."""
    for code in CODES:
        await given.coupon(ledger, code)
    admin.run("UPDATE coupon SET status = 'archived' WHERE code = 'C3'")
    assert Report(coupons=1, loaded=1, complete=True) == await reseed_once(ledger, counters, code="C3")
    assert {"C3"} == await loaded(raw)


async def test_what_the_counter_knows_better(ledger: Ledger, counters: Counters, raw: redis.asyncio.Redis) -> None:
    """A counter that has come further stays; one that is outdated is made anew."""
    same, newer, outdated = [await given.coupon(ledger, code) for code in CODES[:3]]
    await load(counters, same)
    await claim(counters, same.code, "a", "b")
    await load(counters, await given.changed(ledger, newer.code, max_redemptions=50))
    await load(counters, outdated)
    await given.changed(ledger, outdated.code, max_redemptions=50)
    # A run that has read the ledger before it was changed.
    slow = await ledger.seeds.of([newer.id], given.soon())
    await load(counters, await given.changed(ledger, newer.code, max_redemptions=60))
    before = [await fields(raw, coupon.code) for coupon in (same, newer)]

    assert 0 == await counters.reseed(slow)
    assert 0 == await counters.reseed(slow, force=True)
    assert Report(coupons=3, loaded=1, complete=True) == await reseed_once(ledger, counters)

    assert before == [await fields(raw, coupon.code) for coupon in (same, newer)]
    assert "50" == (await fields(raw, outdated.code))["max_redemptions"]


async def test_forced(ledger: Ledger, counters: Counters, raw: redis.asyncio.Redis) -> None:
    """A counter that is not believed is made anew; what is pending stays, and is not handed out a second time."""
    coupon = await given.coupon(ledger)
    await redeem(ledger, coupon, 1, 2)
    await load(counters, coupon, 15)
    await raw.sadd(key(coupon.code, "free"), 1, 2)
    await raw.hset(key(coupon.code, "pending"), "a", f"5 0 {(await raw.time())[0] * 1_000}")

    assert Report(coupons=1, loaded=1, complete=True) == await reseed_once(ledger, counters, force=True)

    assert "5" == (await fields(raw, coupon.code))["next"]
    assert not await raw.exists(key(coupon.code, "free"))
    assert [5, 6] == [one.seat for one in await claim(counters, coupon.code, "a", "b")]


@pytest.mark.parametrize("part", ["counter", "free", "pending", "customers"])
async def test_keys_of_a_wrong_type(ledger: Ledger, counters: Counters, raw: redis.asyncio.Redis, part: str) -> None:
    """Whatever somebody has written there counts as missing."""
    coupon, other = [await given.coupon(ledger, code) for code in CODES[:2]]
    await raw.set(key(coupon.code, part), "x")
    assert Report(coupons=2, loaded=2, complete=True) == await reseed_once(ledger, counters)
    assert [1, 1] == [(await claim(counters, one.code, "a"))[0].seat for one in (coupon, other)]


async def test_keys_expire(ledger: Ledger, counters: Counters, raw: redis.asyncio.Redis) -> None:
    """What nobody asks for leaves, as it does after any load."""
    coupon = await given.coupon(ledger)
    await raw.hset(key(coupon.code, "pending"), "a", f"5 0 {(await raw.time())[0] * 1_000}")
    await reseed_once(ledger, counters)
    assert all([await raw.ttl(key(coupon.code, part)) > 0 for part in ("counter", "pending")])


async def test_full_memory(
    ledger: Ledger, counters: Counters, raw: redis.asyncio.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The busiest are loaded; for others, Redis would only drop what is used."""
    monkeypatch.setattr(reseeding, "MEMORY_SHARE_MAX", 0.001)
    coupons = [await given.coupon(ledger, code) for code in CODES]
    await redeem(ledger, coupons[5], 1)
    assert Report(coupons=1, loaded=1, complete=False, is_full=True) == await reseed_once(ledger, counters)
    assert {"C5"} == await loaded(raw)


async def test_scripts_flushed(ledger: Ledger, counters: Counters, raw: redis.asyncio.Redis) -> None:
    """Redis that has restarted does not know the scripts any more."""
    await given.coupon(ledger)
    await raw.script_flush()
    assert Report(coupons=1, loaded=1, complete=True) == await reseed_once(ledger, counters)


async def test_without_redis(ledger: Ledger, far_counters: Counters, redis_proxy: Proxy) -> None:
    await given.coupon(ledger)
    redis_proxy.lose_reply(holding(b"EVALSHA"), times=None)
    with pytest.raises(CounterUnavailable):
        await reseed_once(ledger, far_counters)


async def test_without_mariadb(far_ledger: Ledger, counters: Counters, mariadb_proxy: Proxy) -> None:
    mariadb_proxy.refuse()
    with pytest.raises(LedgerUnavailable):
        await reseed_once(far_ledger, counters)
