"""Claims, against a real Redis."""

import asyncio
from collections import Counter
from datetime import datetime

import pytest
import redis.asyncio

from service.config import Settings
from service.counters import PARTS, ClaimBatch, Counters, key
from service.model import Claim, ClaimAnswer, CouponStatus, Refusal, Search, Wish
from tests.counters.given import FAR_OFF, LONG_AGO, NOT_LOADED, claim, claimed, exhausted, loaded, now_ms, refused, wishes

STOOD_STILL_MS = 400
"""Between the write of a time and the claim that is held against it: more, and the claim may be right to answer otherwise."""


async def test_seats_in_turn(counters: Counters) -> None:
    """The next seats are handed out in the order of the wishes, then the coupon is exhausted and was never searched."""
    await counters.load([loaded(3)])

    claims = await claim(counters, wishes("a", "b", "c", "d"))

    assert [claimed(1), claimed(2), claimed(3), exhausted(Search.NEVER)] == claims


async def test_not_loaded(counters: Counters, raw: redis.asyncio.Redis) -> None:
    """Without a counter nothing is claimed and nothing is written."""
    assert [NOT_LOADED, NOT_LOADED] == await claim(counters, wishes("a", "b"))
    assert [] == await raw.keys("*")


async def test_many_coupons_at_once(counters: Counters) -> None:
    """Each batch is answered by its own coupon, in the order of the batches."""
    await counters.load([loaded(5, code="ONE"), loaded(5, code="TWO", seat_max=3)])

    answers = await counters.claim([ClaimBatch(code, wishes("a")) for code in ("TWO", "NONE", "ONE")])

    assert [[claimed(4)], [NOT_LOADED], [claimed(1)]] == answers


async def test_no_batches(counters: Counters) -> None:
    assert [] == await counters.claim([])


async def test_free_seats_first(counters: Counters, raw: redis.asyncio.Redis) -> None:
    """A seat that is free is handed out before the next one, once."""
    await counters.load([loaded(5, seat_max=3)])
    await raw.sadd(key("GOLD20", "free"), 2)

    assert [claimed(2), claimed(4)] == await claim(counters, wishes("a", "b"))
    assert set() == await raw.smembers(key("GOLD20", "free"))


async def test_large_batch(counters: Counters, raw: redis.asyncio.Redis) -> None:
    """A batch that is larger than Lua's stack is claimed in pieces, and so are its settled orders and free seats."""
    orders = [f"o{number}" for number in range(9_500)]
    await counters.load([loaded(20_000, 9, seat_max=5_000)])
    await raw.sadd(key("GOLD20", "free"), *range(1, 5_001))

    claims = await claim(counters, wishes(*orders))
    assert set(range(1, 9_501)) == {one.seat for one in claims}

    await claim(counters, [], [(order, one.seat) for order, one in zip(orders, claims, strict=True)])
    assert 0 == await raw.hlen(key("GOLD20", "pending"))
    assert 0 == await raw.scard(key("GOLD20", "free"))


@pytest.mark.parametrize(
    ("status", "starts_at", "ends_at", "refusal"),
    [
        (CouponStatus.ARCHIVED, FAR_OFF, None, Refusal.COUPON_NOT_FOUND),
        (CouponStatus.PAUSED, FAR_OFF, None, Refusal.COUPON_PAUSED),
        (CouponStatus.ACTIVE, FAR_OFF, None, Refusal.COUPON_NOT_STARTED),
        (CouponStatus.ACTIVE, LONG_AGO, LONG_AGO, Refusal.COUPON_ENDED),
        (CouponStatus.ACTIVE, None, datetime.fromisoformat("1900-01-01T00:00Z"), Refusal.COUPON_ENDED),
    ],
)
async def test_status_and_window(
    counters: Counters, status: CouponStatus, starts_at: datetime | None, ends_at: datetime | None, refusal: Refusal
) -> None:
    """Status and window refuse everybody but those whom the ledger has just vouched for."""
    await counters.load([loaded(5, 1, status=status, starts_at=starts_at, ends_at=ends_at)])

    assert [refused(refusal)] == await claim(counters, wishes("a"))
    assert [claimed(1, 1)] == await claim(counters, [Wish("b", "bob", vouched=True)])


async def test_open_window(counters: Counters) -> None:
    """Within its window, and with a time beyond any clock, a coupon is redeemed."""
    await counters.load([loaded(5, starts_at=LONG_AGO, ends_at=FAR_OFF)])
    assert [claimed(1)] == await claim(counters, wishes("a"))


async def test_refusals_in_order(counters: Counters) -> None:
    """A customer who has reached the limit of an exhausted coupon is told of the limit."""
    await counters.load([loaded(1, 1)])
    await claim(counters, [Wish("a", "ann")])

    claims = await claim(counters, [Wish("b", "ann"), Wish("c", "cat")])

    assert [refused(Refusal.CUSTOMER_LIMIT_REACHED), exhausted(Search.NEVER)] == claims


# --- Pending -----------------------------------------------------------------------------------------------------


async def test_pending_order_keeps_its_seat(counters: Counters) -> None:
    """An order that is pending gets its own seats again: in the batch, later, and when the coupon is paused by then."""
    await counters.load([loaded(5, 2)])
    first = await claim(counters, [Wish("a", "ann"), Wish("a", "ann")])
    await counters.load([loaded(5, 2, status=CouponStatus.PAUSED)])

    again = await claim(counters, [Wish("a", "ann"), Wish("b", "bob")])

    assert [claimed(1, 1), claimed(1, 1)] == first
    assert [claimed(1, 1), refused(Refusal.COUPON_PAUSED)] == again


async def test_pending_order_is_counted_once(counters: Counters) -> None:
    """Sends of one order count as one redemption of its customer."""
    await counters.load([loaded(5, 2)])
    for _ in range(3):
        await claim(counters, [Wish("a", "ann")])

    claims = await claim(counters, [Wish("b", "ann"), Wish("c", "ann")])

    assert [claimed(2, 2), refused(Refusal.CUSTOMER_LIMIT_REACHED)] == claims


async def test_settled_order_is_not_pending(counters: Counters) -> None:
    """What has settled with the seat that is pending leaves, also for a wish of the same batch."""
    await counters.load([loaded(5)])
    await claim(counters, wishes("a", "b"))

    claims = await claim(counters, wishes("a", "b"), settled=[("a", 1), ("b", 9), ("c", 3)])

    assert [claimed(3), claimed(2)] == claims


async def test_settled_without_a_counter(counters: Counters, raw: redis.asyncio.Redis) -> None:
    """What has settled leaves also when the counter has gone."""
    await counters.load([loaded(5)])
    await claim(counters, wishes("a"))
    await raw.delete(key("GOLD20", "counter"))

    assert [NOT_LOADED] == await claim(counters, wishes("b"), settled=[("a", 1)])
    assert {} == await raw.hgetall(key("GOLD20", "pending"))


@pytest.mark.parametrize(("age_ms", "seat"), [(5_000, 1), (9_000, 2), (-5_000, 1), (-9_000, 2)])
async def test_pending_ages(counters: Counters, raw: redis.asyncio.Redis, age_ms: int, seat: int) -> None:
    """A pending order that is older than the maximum, or from a clock that was so far ahead, counts as absent."""
    await counters.load([loaded(5)])
    await claim(counters, wishes("a"))
    await raw.hset(key("GOLD20", "pending"), "a", f"1 0 {await now_ms(raw) - age_ms}")

    assert [claimed(seat)] == await claim(counters, wishes("a"))


async def test_again(counters: Counters, raw: redis.asyncio.Redis) -> None:
    """After a collision the order gets another seat, which is then its own; its customer is not counted twice."""
    await counters.load([loaded(5, 2)])
    await claim(counters, [Wish("a", "ann")])

    assert [claimed(2, 1)] == await claim(counters, [Wish("a", "ann", again=True)])
    assert [claimed(2, 1)] == await claim(counters, [Wish("a", "ann")])
    assert {"ann": "1"} == await raw.hgetall(key("GOLD20", "customers"))


async def test_again_and_refused(counters: Counters, raw: redis.asyncio.Redis) -> None:
    """When there is no other seat the order is not pending any more, and its customer is not counted."""
    await counters.load([loaded(1, 2)])
    await claim(counters, [Wish("a", "ann")])

    assert [exhausted(Search.NEVER)] == await claim(counters, [Wish("a", "ann", again=True)])
    assert {} == await raw.hgetall(key("GOLD20", "pending"))
    assert {"ann": "0"} == await raw.hgetall(key("GOLD20", "customers"))


# --- Customers ---------------------------------------------------------------------------------------------------


async def test_customer_limit(counters: Counters) -> None:
    """A customer gets as many as the limit says, each with a customer's seat of its own, within one batch and over many."""
    await counters.load([loaded(9, 2)])

    assert [claimed(1, 1), claimed(2, 2), refused(Refusal.CUSTOMER_LIMIT_REACHED), claimed(3, 1)] == await claim(
        counters, [Wish("a", "ann"), Wish("b", "ann"), Wish("c", "ann"), Wish("d", "dan")]
    )
    assert [refused(Refusal.CUSTOMER_LIMIT_REACHED), claimed(4, 2)] == await claim(
        counters, [Wish("e", "ann"), Wish("f", "dan")]
    )


async def test_exhausted_does_not_count(counters: Counters, raw: redis.asyncio.Redis) -> None:
    """A wish that finds no seat does not count against its customer."""
    await counters.load([loaded(1, 1)])
    await claim(counters, [Wish("a", "ann"), Wish("b", "bob")])
    assert {"ann": "1"} == await raw.hgetall(key("GOLD20", "customers"))


async def test_customer_seat_by_the_ledger(counters: Counters, raw: redis.asyncio.Redis) -> None:
    """The customer's seat and count that the ledger has said win over what the counter believes."""
    await counters.load([loaded(9, 3)])
    await raw.hset(key("GOLD20", "customers"), "ann", 3)

    claims = await claim(counters, [Wish("a", "ann", customer_seat=2, customer_live=1), Wish("b", "ann")])

    assert [claimed(1, 2), claimed(2, 3)] == claims
    assert {"ann": "3"} == await raw.hgetall(key("GOLD20", "customers"))


async def test_customer_seat_by_the_ledger_while_pending(counters: Counters, raw: redis.asyncio.Redis) -> None:
    """An order that is pending keeps its seat, also on a paused coupon, and takes the customer's seat of the ledger."""
    await counters.load([loaded(9, 3)])
    await claim(counters, [Wish("a", "ann")])
    await counters.load([loaded(9, 3, status=CouponStatus.PAUSED)])

    assert [claimed(1, 3)] == await claim(counters, [Wish("a", "ann", customer_seat=3, customer_live=2)])
    assert [claimed(1, 3)] == await claim(counters, [Wish("a", "ann")])
    assert {"ann": "3"} == await raw.hgetall(key("GOLD20", "customers"))


async def test_no_live_redemptions_by_the_ledger(counters: Counters) -> None:
    """A customer without any live redemption is not refused, whatever the counter believes."""
    await counters.load([loaded(9, 1)])
    await claim(counters, [Wish("a", "ann")])
    assert [claimed(2, 1)] == await claim(counters, [Wish("b", "ann", customer_live=0)])


# --- Without seats -----------------------------------------------------------------------------------------------


async def test_unlimited(counters: Counters, raw: redis.asyncio.Redis) -> None:
    """A coupon without any limit needs its fields only; nothing is pending."""
    await counters.load([loaded(None)])

    assert [claimed(None), claimed(None)] == await claim(counters, [Wish("a", "ann"), Wish("a", "ann", again=True)])
    assert [key("GOLD20", "counter")] == await raw.keys("*")


async def test_customer_limit_only(counters: Counters, raw: redis.asyncio.Redis) -> None:
    """A coupon that limits its customers alone has customers' seats, and pending orders."""
    await counters.load([loaded(None, 1)])

    claims = await claim(counters, [Wish("a", "ann"), Wish("a", "ann"), Wish("b", "ann")])
    assert [claimed(None, 1), claimed(None, 1), refused(Refusal.CUSTOMER_LIMIT_REACHED)] == claims

    await claim(counters, [], settled=[("a", None)])
    assert {} == await raw.hgetall(key("GOLD20", "pending"))


# --- The search --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("age_ms", "search"),
    [(0, Search.RECENT), (500, Search.RECENT), (1_500, Search.DUE), (10**8, Search.DUE), (-60_000, Search.DUE)],
)
async def test_when_searched(counters: Counters, raw: redis.asyncio.Redis, age_ms: int, search: Search) -> None:
    """Exhausted says whether free seats were looked for within a second; a time to come says nothing."""
    await counters.load([loaded(1, seat_max=1)])
    begun_ms, answers = 0, list[Claim]()
    while await now_ms(raw) - begun_ms > STOOD_STILL_MS:  # Then nobody knows how long ago it was when the claim was made.
        begun_ms = await now_ms(raw)
        await raw.hset(key("GOLD20", "counter"), "searched", str(begun_ms - age_ms))
        answers = await claim(counters, wishes("a"))
    assert [exhausted(search)] == answers


# --- All ---------------------------------------------------------------------------------------------------------


async def test_keys_expire_together(counters: Counters, counter_settings: Settings, raw: redis.asyncio.Redis) -> None:
    """Every key of a coupon leaves some time after the last claim."""
    await counters.load([loaded(9, 3, seat_max=5)])
    await raw.sadd(key("GOLD20", "free"), 1, 2, 3)
    for part in PARTS:
        await raw.persist(key("GOLD20", part))

    before_ms = await now_ms(raw)
    await claim(counters, wishes("a"))
    after_ms = await now_ms(raw)
    (ends_ms,) = {await raw.pexpiretime(key("GOLD20", part)) for part in PARTS}
    assert before_ms <= ends_ms - 1_000 * counter_settings.counter_idle_s <= after_ms


async def test_names_of_any_kind(counters: Counters) -> None:
    """Names are kept to the byte: quotes, backslashes, spaces and any script are no more than text."""
    names = ['"', "\\", "a ", "a", "A", "💶", "\u00e9", "e\u0301", '"],[', "null", "1", "0", "\u2028", "x" * 128]
    await counters.load([loaded(50, 1)])

    for _ in range(2):
        claims = await claim(counters, [Wish(name, name) for name in names])
        assert [claimed(seat, 1) for seat in range(1, len(names) + 1)] == claims


@pytest.mark.parametrize("batch_wishes", [1, 7])
async def test_race(counter_settings: Settings, batch_wishes: int) -> None:
    """A hundred who want one of 20 seats at once: exactly 20 get one, each its own."""
    patient = counter_settings.model_copy(update={"redis_timeout_ms": 20_000, "request_deadline_ms": 60_000})
    gateways = [await Counters.connect(patient) for _ in range(4)]
    await gateways[0].load([loaded(20)])

    async def one(number: int) -> list[tuple[ClaimAnswer, int | None]]:
        wanted = wishes(*(f"{number}-{place}" for place in range(batch_wishes)))
        return [(answer.answer, answer.seat) for answer in await claim(gateways[number % 4], wanted)]

    answers = [answer for batch in await asyncio.gather(*map(one, range(100))) for answer in batch]
    for gateway in gateways:
        await gateway.close()

    assert {ClaimAnswer.CLAIMED: 20, ClaimAnswer.REFUSED: 100 * batch_wishes - 20} == Counter(kind for kind, _ in answers)
    assert set(range(1, 21)) == {seat for _, seat in answers if seat}
