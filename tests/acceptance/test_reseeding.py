"""Counters are loaded again while thousands redeem: by the service on demand, and by reconcilers for all."""

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator

import pytest
import redis.asyncio
from pydantic import SecretStr

from reconciler.reseeding import reseed_once
from service.config import Settings
from service.counters import LOAD, Counters, key
from service.ledger import Ledger
from tests.acceptance.conftest import PATIENT, MakeCoupon, StartUsher, Stores
from tests.auditor import Auditor
from tests.driver import Answer, Client, assert_none_failed, orders, repeating, tally
from tests.reconciler.comparisons import check, compared, repair
from tests.usher_process import Usher

WORKERS = 2
REQUESTS = 3_000
LIMIT = 1_500
RESEEDS_MIN = 5
EVERY_S = 0.02
WAVES, WAVE = 5, 2_000
CANCELLED_SHARE = 0.7
SPOILED_EVERY_S = 0.5


@pytest.fixture(scope="module")
def usher(start_usher: StartUsher) -> Usher:
    return start_usher(workers=WORKERS, settings=PATIENT)


@pytest.fixture
async def gateways(stores: Stores) -> AsyncIterator[tuple[Ledger, Counters]]:
    """As a reconciler has them."""
    settings = Settings(database_url=SecretStr(stores.mariadb.url), redis_url=SecretStr(stores.redis.url))
    ledger, counters = await Ledger.connect(settings), await Counters.connect(settings)
    yield ledger, counters
    await counters.close()
    await ledger.close()


async def test_on_demand(client: Client, coupon: MakeCoupon, redis_client: "redis.asyncio.Redis") -> None:
    """After a flush each process loads a coupon that is asked for by many requests once."""
    codes = [await coupon(max_redemptions=LIMIT) for _ in range(3)]
    # Connections are open, and the code is known.
    await asyncio.gather(*(client.redeem_all(code, orders(100, f"{code}-before")) for code in codes))
    loads: list[str] = []
    async with redis_client.monitor() as monitor:
        await redis_client.flushall()
        answers = await asyncio.gather(*(client.redeem_all(code, orders(300, code)) for code in codes))
        await redis_client.ping()
        async for sent in monitor.listen():
            words = sent["command"].split()
            if words[:2] == ["EVALSHA", LOAD.sha]:
                loads.append(words[3])
            if words[0].upper() == "PING":
                break
    assert [{"201": 300}] * 3 == [tally(answered) for answered in answers]
    assert {key(code, "counter") for code in codes} == set(loads)
    assert max(Counter(loads).values()) <= WORKERS


@pytest.mark.parametrize("force", [False, True], ids=["missing", "forced"])
async def test_reseeded_by_two_beside_traffic(
    client: Client,
    coupon: MakeCoupon,
    auditor: Auditor,
    redis_client: "redis.asyncio.Redis",
    gateways: tuple[Ledger, Counters],
    force: bool,
) -> None:
    """Two load all counters over and over, after flushes or by force: nobody is let in above the limit, and it is reached."""
    code = await coupon(max_redemptions=LIMIT, max_per_customer=1)
    cancelled: set[str] = set()

    async def redeem(customer: str, order: str) -> Answer:
        """Every third that succeeds is cancelled at once."""
        answer = await client.redeem(code, customer, order)
        if answer.status == 201 and int(order.rpartition("-")[2]) % 3 == 0:
            cancelled.add(answer.id)
            ended = await client.send("POST", f"/v1/redemptions/{answer.id}/cancel")
            assert 200 == ended.status, ended
        return answer

    async def flush() -> None:
        if not force:
            await redis_client.flushall()

    async with (
        repeating(flush, every_s=EVERY_S),
        repeating(lambda: reseed_once(*gateways, force=force), every_s=EVERY_S) as first,
        repeating(lambda: reseed_once(*gateways, force=force), every_s=EVERY_S) as second,
    ):
        answers = list(await asyncio.gather(*(redeem(*one) for one in orders(REQUESTS, code))))

    assert_none_failed(answers)
    assert min(first.times, second.times) >= RESEEDS_MIN
    assert set(tally(answers)) <= {"201", "409 coupon_exhausted"}
    assert cancelled
    auditor.check(code, [one for one in answers if one.status != 201 or one.id not in cancelled])
    assert LIMIT == len(await auditor.fill(client, code))


@pytest.mark.long
async def test_repaired_and_reseeded_by_two_beside_traffic(
    client: Client,
    coupon: MakeCoupon,
    auditor: Auditor,
    redis_client: "redis.asyncio.Redis",
    gateways: tuple[Ledger, Counters],
) -> None:
    """Both in loops, two at once, while somebody spoils the counter, beside ten thousand requests and their cancels."""
    code = await coupon(max_redemptions=LIMIT)
    dice = random.Random(1)
    ended: set[str] = set()

    async def redeem_and_cancel(customer: str, order: str) -> Answer:
        answer = await client.redeem(code, customer, order)
        if answer.status == 201 and dice.random() < CANCELLED_SHARE:
            ended.add(answer.id)
            assert 200 == (await client.send("POST", f"/v1/redemptions/{answer.id}/cancel")).status
        return answer

    async def spoil() -> None:
        await redis_client.sadd(key(code, "free"), *dice.sample(range(1, LIMIT), 10))
        await redis_client.hset(key(code, "counter"), "next", dice.randrange(LIMIT // 2, LIMIT))

    answers: list[Answer] = []
    async with (
        repeating(spoil, every_s=SPOILED_EVERY_S),
        repeating(lambda: compared(*gateways, mend=True), every_s=EVERY_S) as first,
        repeating(lambda: compared(*gateways, mend=True), every_s=EVERY_S) as second,
        repeating(lambda: reseed_once(*gateways, force=True), every_s=SPOILED_EVERY_S) as third,
        repeating(lambda: reseed_once(*gateways), every_s=EVERY_S) as fourth,
    ):
        for wave in range(WAVES):
            sent = [redeem_and_cancel(*one) for one in orders(WAVE, f"{code}-{wave}")]
            answers += await asyncio.gather(*sent)
    assert_none_failed(answers)
    assert min(one.times for one in (first, second, third, fourth)) > 0
    assert set(tally(answers)) <= {"201", "409 coupon_exhausted"}
    assert len(ended) > LIMIT
    auditor.check(code, [one for one in answers if one.status != 201 or one.id not in ended])
    await repair(*gateways)
    assert [] == await check(*gateways, code=code)
    assert LIMIT == len(await auditor.fill(client, code))
