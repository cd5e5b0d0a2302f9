"""Redis forgets everything, or remembers what was long ago, while thousands redeem."""

from dataclasses import dataclass

import pytest
import redis.asyncio

from tests.acceptance.conftest import PATIENT, MakeCoupon, StartUsher
from tests.auditor import Auditor
from tests.driver import Answer, Client, assert_none_failed, repeating, tally
from tests.usher_process import Usher

REQUESTS = 5_000
CUSTOMERS = 4_000
"""Every fifth request is of a customer who was there before."""
LIMIT = 2_000
EVERY_S = 0.05
STORMS_MIN = 5
"""A storm that struck less often than this while the requests ran has shown nothing."""


@pytest.fixture(scope="module")
def usher(start_usher: StartUsher) -> Usher:
    return start_usher(workers=2, settings=PATIENT)


def crowd(begin: int = 0, end: int = REQUESTS) -> list[tuple[str, str]]:
    return [(f"customer-{number % CUSTOMERS}", f"order-{number}") for number in range(begin, end)]


async def check(code: str, answers: list[Answer], client: Client, auditor: Auditor) -> None:
    """Nobody saw an error, nothing was oversold or lost, and what is left can still be had."""
    assert_none_failed(answers)
    assert set(tally(answers)) <= {"201", "409 coupon_exhausted", "409 customer_limit_reached"}
    auditor.check(code, answers)
    assert LIMIT == len(await auditor.fill(client, code))


@pytest.mark.parametrize("scripts_too", [False, True], ids=["keys", "keys and scripts"])
async def test_flushed_every_50_ms(
    client: Client, coupon: MakeCoupon, auditor: Auditor, redis_client: "redis.asyncio.Redis", scripts_too: bool
) -> None:
    """FLUSHALL every 50 ms under 5,000 requests: no oversell, no 5xx, every 201 is in the ledger, and the limit is reached."""
    code = await coupon(max_redemptions=LIMIT, max_per_customer=1)

    async def flush() -> None:
        await redis_client.flushall()
        if scripts_too:
            await redis_client.script_flush()

    async with repeating(flush, every_s=EVERY_S) as flushes:
        answers = await client.redeem_all(code, crowd())

    assert flushes.times >= STORMS_MIN
    await check(code, answers, client, auditor)


@dataclass
class Dump:
    """All keys of a Redis as they were at one moment."""

    keys: dict[bytes, bytes]

    @classmethod
    async def take(cls, client: "redis.asyncio.Redis") -> "Dump":
        names = [name async for name in client.scan_iter(count=1_000)]
        values = [await client.dump(name) for name in names]
        return cls({name: value for name, value in zip(names, values, strict=True) if value is not None})

    async def restore(self, client: "redis.asyncio.Redis") -> None:
        """In one transaction: everything is as it was."""
        async with client.pipeline(transaction=True) as pipe:
            pipe.flushall()
            for name, value in self.keys.items():
                pipe.restore(name, 0, value)
            await pipe.execute()


async def test_old_dump_restored_in_mid_run(
    client: Client, coupon: MakeCoupon, auditor: Auditor, redis_client: "redis.asyncio.Redis"
) -> None:
    """A replica that lags by hundreds of redemptions takes over, again and again: as exact as ever."""
    code = await coupon(max_redemptions=LIMIT, max_per_customer=1)
    early = await client.redeem_all(code, crowd(0, 400))
    dump = await Dump.take(redis_client)
    assert f"usher:1:{{{code}}}:counter".encode() in dump.keys
    middle = await client.redeem_all(code, crowd(400, 1_200))

    async with repeating(lambda: dump.restore(redis_client), every_s=EVERY_S) as restores:
        late = await client.redeem_all(code, crowd(1_200, REQUESTS))

    assert restores.times >= STORMS_MIN
    await check(code, [*early, *middle, *late], client, auditor)


async def test_dump_restored_at_rest(
    client: Client, coupon: MakeCoupon, auditor: Auditor, redis_client: "redis.asyncio.Redis"
) -> None:
    """An old dump that says that half is free although all is taken lets nobody in, and keeps nobody out."""
    code = await coupon(max_redemptions=200, max_per_customer=1)
    first = await client.redeem_all(code, crowd(0, 100))
    dump = await Dump.take(redis_client)
    second = await client.redeem_all(code, crowd(100, 190))
    await dump.restore(redis_client)

    again = await client.redeem_all(code, [(customer, f"{order}-2") for customer, order in crowd(0, 190)])
    replayed = await client.redeem_all(code, crowd(0, 190))

    assert {"201": 190} == tally([*first, *second])
    assert {"409 customer_limit_reached": 190} == tally(again)
    assert {"200": 190} == tally(replayed)
    auditor.check(code, [*first, *second, *again, *replayed])
    assert 200 == len(await auditor.fill(client, code))
