"""A claim is pending until its process tells the counter otherwise; nobody is refused because of one that is over."""

from collections.abc import AsyncIterator

import pytest
import redis.asyncio

from service.counters import key
from tests.acceptance.conftest import MakeCoupon, StartUsher
from tests.auditor import Auditor
from tests.driver import Answer, Client, tally
from tests.usher_process import Usher


@pytest.fixture(scope="module")
def usher(start_usher: StartUsher) -> Usher:
    return start_usher()


@pytest.fixture(scope="module")
def other_usher(start_usher: StartUsher) -> Usher:
    return start_usher()


@pytest.fixture
async def other(other_usher: Usher, api_key: str) -> AsyncIterator[Client]:
    """A client of another process."""
    async with Client(other_usher.url, key=api_key) as connected:
        yield connected


async def cancel(client: Client, redemption: Answer) -> None:
    assert 200 == (await client.send("POST", f"/v1/redemptions/{redemption.id}/cancel")).status


@pytest.fixture
async def moved(
    client: Client, other: Client, coupon: MakeCoupon, redis_client: "redis.asyncio.Redis"
) -> tuple[str, list[Answer]]:
    """A coupon of 3 with two redemptions; the last was claimed by the other process on seat 3, and sits on seat 1 by now."""
    code = await coupon(max_redemptions=3)
    made = [await client.redeem(code, "ann", f"order-{number}") for number in (1, 2)]
    made.append(await other.redeem(code, "ann", "order-3"))
    await cancel(client, made[0])
    await client.change_coupon(code, max_redemptions=2)
    await client.change_coupon(code, max_redemptions=3)
    pending = await redis_client.hget(key(code, "pending"), "order-3")
    assert pending is not None
    assert 3 == int(pending.split()[0])
    return code, made


async def test_moved_and_still_pending(client: Client, moved: tuple[str, list[Answer]], auditor: Auditor) -> None:
    """The seat that it was claimed on is had by the next, and by the one after that has ended."""
    code, _ = moved
    third = await client.redeem(code, "bob", "order-4")
    await cancel(client, third)
    fourth = await client.redeem(code, "bob", "order-5")
    assert {"201": 2} == tally([third, fourth])
    assert 3 == len(auditor.check(code))


async def test_moved_cancelled_and_still_pending(client: Client, moved: tuple[str, list[Answer]], auditor: Auditor) -> None:
    """It has ended on the seat that it was moved to; the seat that it was claimed on goes from one to the next all the same."""
    code, made = moved
    await cancel(client, made[2])
    for orders in [("order-4", "order-5"), ("order-6", "order-7")]:
        two = [await client.redeem(code, "bob", order) for order in orders]
        assert {"201": 2} == tally(two)
        assert 3 == len(auditor.check(code))
        for one in two:
            await cancel(client, one)


async def test_ended_and_pending_again(
    client: Client, other: Client, coupon: MakeCoupon, redis_client: "redis.asyncio.Redis", auditor: Auditor
) -> None:
    """Redis comes back as it was a moment ago, when the claim of a use that has ended since was pending: it is had at once."""
    code = await coupon(max_redemptions=1)
    made = await client.redeem(code, "ann", "order-1")
    counter, pending = (key(code, part) for part in ("counter", "pending"))
    before = {name: await redis_client.hgetall(name) for name in (counter, pending)}
    assert [b"order-1"] == list(before[pending])
    await cancel(client, made)
    await redis_client.flushall()
    for name, fields in before.items():
        await redis_client.hset(name, items=[part for field in fields.items() for part in field])
    assert {"201": 1} == tally([await other.redeem(code, "bob", "order-2")])
    assert 1 == len(auditor.check(code))
