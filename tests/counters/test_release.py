"""Claims given back, against a real Redis."""

import pytest
import redis.asyncio

from service.counters import Counters, key
from service.model import Refusal, Return, Search, Wish
from tests.counters.given import CODE, claim, claimed, exhausted, loaded, refused, wishes

FREE, PENDING, CUSTOMERS = (key(CODE, part) for part in ("free", "pending", "customers"))


async def test_a_seat_comes_back(counters: Counters, raw: redis.asyncio.Redis) -> None:
    """A released seat is free, its order is not pending, and the next one gets it."""
    await counters.load([loaded(1, 1)])
    await claim(counters, [Wish("a", "ann")])

    await counters.release({CODE: [Return("a", "ann", 1)]})

    assert {"1"} == await raw.smembers(FREE)
    assert {} == await raw.hgetall(PENDING)
    assert {} == await raw.hgetall(CUSTOMERS)
    assert [claimed(1, 1)] == await claim(counters, [Wish("b", "ann")])


async def test_many_coupons(counters: Counters) -> None:
    """Claims of many coupons go back in one call; one without a counter is passed over."""
    await counters.load([loaded(1, code="ONE"), loaded(1, code="TWO")])
    for code in ("ONE", "TWO"):
        await claim(counters, wishes("a"), code=code)

    await counters.release({code: [Return("a", "customer of a", 1)] for code in ("ONE", "NONE", "TWO")})

    assert [[claimed(1)]] * 2 == [await claim(counters, wishes("b"), code=code) for code in ("ONE", "TWO")]


async def test_a_missing_counter(counters: Counters, raw: redis.asyncio.Redis) -> None:
    """Without a counter nothing is written: it will be loaded from the ledger."""
    await counters.release({CODE: [Return("a", "ann", 1)]})
    assert [] == await raw.keys("*")


@pytest.mark.parametrize("seat", [0, -1, 4, 6, 2_000_000_000, 2**53])
async def test_seats_that_nobody_has(counters: Counters, raw: redis.asyncio.Redis, seat: int) -> None:
    """A seat that was not handed out does not become free: it comes by itself, or never."""
    await counters.load([loaded(5, seat_max=3)])
    await counters.release({CODE: [Return("a", "ann", seat)]})
    assert set() == await raw.smembers(FREE)


async def test_a_seat_of_another_order(counters: Counters, raw: redis.asyncio.Redis) -> None:
    """A seat that another order holds does not become free, and that order keeps it."""
    await counters.load([loaded(5)])
    await claim(counters, wishes("a"))

    await counters.release({CODE: [Return("b", "bob", 1)]})

    assert set() == await raw.smembers(FREE)
    assert [claimed(1)] == await claim(counters, wishes("a"))


async def test_a_seat_of_an_old_order(counters: Counters, raw: redis.asyncio.Redis) -> None:
    """A seat that was claimed too long ago is held by nobody."""
    await counters.load([loaded(5, seat_max=3)])
    await raw.hset(PENDING, "b", "2 0 1")
    await counters.release({CODE: [Return("a", "ann", 2)]})
    assert {"2"} == await raw.smembers(FREE)


async def test_an_order_with_another_seat(counters: Counters, raw: redis.asyncio.Redis) -> None:
    """The order stays pending with the seat that it has by now; the old one becomes free."""
    await counters.load([loaded(5)])
    await claim(counters, wishes("a"))
    await claim(counters, [Wish("a", "ann", again=True)])

    await counters.release({CODE: [Return("a", "ann", 1)]})

    assert {"1"} == await raw.smembers(FREE)
    assert [claimed(2)] == await claim(counters, wishes("a"))


async def test_a_seat_that_was_handed_on(counters: Counters) -> None:
    """The order is not pending any more, its seat does not become free, and whoever has it now can give it back."""
    await counters.load([loaded(1)])
    await claim(counters, wishes("a"))
    await counters.release({CODE: [Return("a", "ann", None)]})
    assert [exhausted(Search.NEVER)] == await claim(counters, wishes("b"))
    await counters.release({CODE: [Return("c", "cid", 1)]})
    assert [claimed(1)] == await claim(counters, wishes("b"))


async def test_twice(counters: Counters, raw: redis.asyncio.Redis) -> None:
    """A seat that is given back twice is free once."""
    await counters.load([loaded(5)])
    await claim(counters, wishes("a"))
    for _ in range(2):
        await counters.release({CODE: [Return("a", "ann", 1), Return("a", "ann", 1)]})
    assert [claimed(1), claimed(2)] == await claim(counters, wishes("b", "c"))
    assert set() == await raw.smembers(FREE)


@pytest.mark.parametrize(
    ("before", "live", "after"),
    [
        ("3", None, {"ann": "2"}),
        ("1", None, {}),
        (None, None, {}),
        ("junk", None, {}),
        ("1", 2, {"ann": "2"}),
        ("3", 0, {}),
        ("1", 9, {"ann": "3"}),
    ],
)
async def test_customers_count(
    counters: Counters, raw: redis.asyncio.Redis, before: str | None, live: int | None, after: dict[str, str]
) -> None:
    """The customer's count is what the ledger has said, else one less; nobody is kept with none."""
    await counters.load([loaded(9, 3, seat_max=9)])
    if before:
        await raw.hset(CUSTOMERS, "ann", before)
    await counters.release({CODE: [Return("a", "ann", 1, customer_live=live)]})
    assert after == await raw.hgetall(CUSTOMERS)


async def test_two_of_one_customer(counters: Counters) -> None:
    """Two claims of one customer in one call count as two."""
    await counters.load([loaded(9, 2)])
    await claim(counters, [Wish("a", "ann"), Wish("b", "ann")])
    await counters.release({CODE: [Return("a", "ann", 1), Return("b", "ann", 2)]})
    claims = await claim(counters, [Wish(order, "ann") for order in ("c", "d", "e")])
    assert [1, 2, None] == [one.customer_seat for one in claims]


async def test_without_seats(counters: Counters) -> None:
    """Where only customers are limited, the customer may redeem again."""
    await counters.load([loaded(None, 1)])
    await claim(counters, [Wish("a", "ann")])
    await counters.release({CODE: [Return("a", "ann", None)]})
    assert [claimed(None, 1), refused(Refusal.CUSTOMER_LIMIT_REACHED)] == await claim(
        counters, [Wish("b", "ann"), Wish("a", "ann")]
    )


async def test_many_at_once(counters: Counters, raw: redis.asyncio.Redis) -> None:
    """More claims than Lua's stack holds are given back in one call."""
    orders = [f"o{number}" for number in range(9_000)]
    await counters.load([loaded(9_000, 1)])
    claims = await claim(counters, wishes(*orders))

    await counters.release(
        {CODE: [Return(order, f"customer of {order}", one.seat) for order, one in zip(orders, claims, strict=True)]}
    )

    assert [9_000, 0, 0] == [await raw.scard(FREE), await raw.hlen(PENDING), await raw.hlen(CUSTOMERS)]
    assert [exhausted(Search.NEVER)] == (await claim(counters, wishes(*orders, "one more")))[-1:]
