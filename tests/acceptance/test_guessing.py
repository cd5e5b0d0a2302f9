"""Codes that do not exist cost next to nothing, and one that comes into being is found at once."""

import asyncio

import pytest
import redis.asyncio

from tests.acceptance.conftest import MakeCoupon, StartUsher
from tests.auditor import Auditor
from tests.driver import Client, orders, tally
from tests.stores import Admin
from tests.usher_process import Usher
from tests.waiting import until_async

GUESSES = 20_000
STATEMENTS_MAX = 2_000
"""Some hundred, and those of the seconds that a busy machine takes for the guesses."""
KEYS_MAX = 10
REPEATED_SENDS = 500


@pytest.fixture(scope="module")
def usher(start_usher: StartUsher) -> Usher:
    return start_usher()


@pytest.fixture(scope="module")
def other_usher(start_usher: StartUsher) -> Usher:
    return start_usher()


async def test_20000_guesses_cost_some_hundred_statements(
    client: Client, coupon: MakeCoupon, admin: Admin, auditor: Auditor, redis_client: "redis.asyncio.Redis"
) -> None:
    """Each guess is told 404; the ledger is asked for many at once, Redis remembers none, and a good code works."""
    code = await coupon(max_redemptions=100)
    before, keys_before = admin.status("Questions"), await redis_client.dbsize()

    sending = asyncio.gather(
        *(client.redeem(f"GUESS-{number}", f"customer-{number}", f"order-{number}") for number in range(GUESSES))
    )
    good = await client.redeem_all(code, orders(100))
    answers = await sending

    statements = admin.status("Questions") - before
    assert {"404 coupon_not_found": GUESSES} == tally(answers)
    assert {"201": 100} == tally(good)
    assert statements < STATEMENTS_MAX
    assert await redis_client.dbsize() - keys_before < KEYS_MAX
    auditor.check(code, good)


async def test_one_guess_repeated_costs_nothing(client: Client, admin: Admin) -> None:
    """A code that the ledger has just denied is not asked for again within the same moment."""
    assert 404 == (await client.redeem("NOTHING-HERE", "c", "o")).status
    before = admin.status("Questions")

    answers = await client.redeem_all("NOTHING-HERE", orders(REPEATED_SENDS))

    assert {"404 coupon_not_found": REPEATED_SENDS} == tally(answers)
    assert admin.status("Questions") - before < REPEATED_SENDS / 4


async def test_coupon_created_after_it_was_guessed(client: Client, other_usher: Usher, api_key: str, auditor: Auditor) -> None:
    """Whoever creates it can redeem it at once; another process that has just denied it finds it within a second or so."""
    code = "JUST-GUESSED"
    async with Client(other_usher.url, key=api_key) as other:
        assert [404, 404] == [(await one.redeem(code, "early", "early")).status for one in (client, other)]
        assert 201 == (await client.create_coupon(code, max_redemptions=5)).status

        assert 201 == (await client.redeem(code, "a", "order-a")).status

        async def is_known() -> bool:
            return (await other.redeem(code, "b", "order-b")).status != 404

        await until_async(is_known, what="the other process knows the coupon")
        assert 200 == (await other.redeem(code, "b", "order-b")).status
    assert 2 == len(auditor.check(code))
