"""Redis goes and comes back under load, or only one process sees it: no request notices, and the limit stays exact."""

import asyncio
import itertools
import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import redis.asyncio

from deploy.local import free_port
from tests.acceptance.conftest import MakeCoupon, StartUsher, Stores
from tests.auditor import Auditor
from tests.driver import Answer, Client, orders, tally
from tests.faults import Proxy
from tests.stores import Admin
from tests.usher_process import Usher
from tests.waiting import until, until_async

SETTINGS = {"USHER_REQUEST_DEADLINE_MS": "3000", "USHER_REDIS_TIMEOUT_MS": "250"}
WAVES = 30
WAVE = 25
GOES_AT, COMES_AT = 8, 20
"""The waves before which Redis goes and comes back."""
LIMIT = 500

Turn = Callable[[], None]


@pytest.fixture(scope="module")
def proxy(stores: Stores) -> Iterator[Proxy]:
    with Proxy(stores.redis.port) as proxy:
        yield proxy


@pytest.fixture(scope="module")
def usher(proxy: Proxy, start_usher: StartUsher, stores: Stores) -> Usher:
    """Two processes, which reach Redis through the proxy, and end before it does."""
    return start_usher(workers=2, redis_url=proxy.url(stores.redis.url), settings=SETTINGS)


@pytest.fixture(scope="module")
def other_usher(start_usher: StartUsher) -> Usher:
    """A service that sees Redis whatever the proxy does."""
    return start_usher(settings=SETTINGS)


@pytest.fixture(params=["killed", "stands still", "refuses"])
def turns(request: pytest.FixtureRequest, stores: Stores, proxy: Proxy) -> Iterator[tuple[Turn, Turn]]:
    """How Redis goes, and how it comes back: empty; late, with claims that nobody waits for any more; as it was."""
    store = stores.redis
    yield {
        "killed": (store.kill, store.start),
        "stands still": (store.pause, store.resume),
        "refuses": (proxy.refuse, proxy.accept),
    }[request.param]
    store.resume()
    proxy.accept()


@pytest.fixture
def away(usher: Usher, proxy: Proxy) -> Iterator[None]:
    """Redis refuses connections, for all workers of `usher`, until the test is over."""
    del usher
    proxy.refuse()
    yield
    proxy.accept()


async def until_ready(usher: Usher) -> None:
    """Until Redis is asked again, by all workers."""
    await asyncio.to_thread(usher.wait_until_ready)
    in_a_row = 0

    async def asked() -> bool:
        nonlocal in_a_row
        async with Client(usher.url, key=None) as anybody:
            answer = await anybody.get("/readyz")
        in_a_row = in_a_row + 1 if answer.body["status"] == "ready" else 0
        return in_a_row >= 10

    await until_async(asked, what="ready")


@pytest.fixture(autouse=True)
async def _redis_is_asked(usher: Usher, client: Client, coupon: MakeCoupon) -> None:
    """Whatever the test before has done to it; requests that find a connection of then dead are not those of the next test."""
    await until_ready(usher)
    await client.redeem_all(await coupon("BEFORE"), orders(20))
    await until_ready(usher)


async def wave(client: Client, code: str, number: int) -> list[Answer]:
    """So many requests of new customers, and the same again, as of those who are impatient."""
    wanted = orders(WAVE, f"wave-{number}")
    answers = await asyncio.gather(client.redeem_all(code, wanted), client.redeem_all(code, wanted[:5]))
    return [*answers[0], *answers[1]]


@pytest.mark.parametrize("max_per_customer", [None, 1])
async def test_redis_goes_and_comes_under_load(
    usher: Usher,
    client: Client,
    coupon: MakeCoupon,
    auditor: Auditor,
    turns: tuple[Turn, Turn],
    max_per_customer: int | None,
) -> None:
    """Nobody hears of it: each answer is a redemption or, when the coupon may be exhausted, that it is."""
    go, come = turns
    code = await coupon("AWAY", max_redemptions=LIMIT, max_per_customer=max_per_customer)
    sent = []
    for number in range(WAVES):
        if number == GOES_AT:
            await asyncio.to_thread(go)
        if number == COMES_AT:
            await asyncio.to_thread(come)
        sent.append(asyncio.create_task(wave(client, code, number)))
        await asyncio.sleep(0.03)
    answers = [answer for answers in await asyncio.gather(*sent) for answer in answers]

    assert set(tally(answers)) <= {"200", "201", "409 coupon_exhausted"}, tally(answers)
    auditor.check(code, answers)
    await until_ready(usher)
    assert LIMIT == len(await auditor.fill(client, code))


async def test_claims_go_to_redis_again(
    usher: Usher, client: Client, coupon: MakeCoupon, proxy: Proxy, redis_client: "redis.asyncio.Redis"
) -> None:
    """By themselves, and to seats above those that were taken meanwhile."""
    code = await coupon("AGAIN", max_redemptions=1_000)
    assert {"201": 5} == tally(await client.redeem_all(code, orders(5)))
    proxy.refuse()
    before = await next_seat(redis_client, code)
    told_before = len(usher.output.splitlines())
    assert {"201": 50} == tally(await client.redeem_all(code, orders(50, "meanwhile")))
    told = [json.loads(line)["event"] for line in usher.output.splitlines()[told_before:]]
    assert told.count("breaker opened") <= 2, "once a worker"
    assert set(told) <= {"breaker opened", "claims failed", "counters not loaded"}
    assert before == await next_seat(redis_client, code)
    proxy.accept()
    await until_ready(usher)
    late = itertools.count(1)

    async def is_claimed() -> bool:
        """By the counter; a machine that stands still for SETTINGS' time-out leaves it to the ledger once more."""
        answer = await client.redeem(code, "late", f"late-{next(late)}")
        assert 201 == answer.status
        seat: int = answer.body["seat"]
        assert seat > 55
        return seat == await next_seat(redis_client, code)

    await until_async(is_claimed, what="claims go to Redis")


async def next_seat(redis_client: "redis.asyncio.Redis", code: str) -> int:
    """The highest seat that the counter has handed out; 0 without one."""
    return int(await redis_client.hget(f"usher:1:{{{code}}}:counter", "next") or 0)


async def test_redis_comes_back_with_old_data(
    usher: Usher, client: Client, coupon: MakeCoupon, auditor: Auditor, stores: Stores, redis_client: "redis.asyncio.Redis"
) -> None:
    """A dump from before the outage: seats that it believes free are taken, customers whom it believes new are not."""
    code = await coupon("DUMP", max_redemptions=200, max_per_customer=2)
    answers = await client.redeem_all(code, orders(100))
    assert {"200"} == {
        str((await client.send("POST", f"/v1/redemptions/{answer.id}/cancel")).status) for answer in answers[:20]
    }
    keys = [f"usher:1:{{{code}}}:{part}" for part in ("counter", "free", "pending", "customers")]
    dump = {key: value for key in keys if (value := await redis_client.dump(key))}
    assert await redis_client.smembers(keys[1]), "it believes no seat to be free"
    stores.redis.kill()
    during = await client.redeem_all(code, orders(60, "during"))
    stores.redis.start()
    await redis_client.connection_pool.disconnect()
    for key, value in dump.items():
        await redis_client.restore(key, 0, value, replace=True)

    after = await client.redeem_all(code, orders(100, "after"))

    assert {"201": 60} == tally(during)
    assert set(tally(after)) <= {"201", "409 coupon_exhausted"}
    auditor.check(code, [*answers[20:], *during, *after])
    assert 200 == len(await auditor.fill(client, code))


async def test_one_process_sees_redis_and_another_does_not(
    usher: Usher, other_usher: Usher, away: None, api_key: str, coupon: MakeCoupon, auditor: Auditor
) -> None:
    """Both hand out seats, by the counter and by the ledger: all requests are served, and the limit stays exact."""
    code = await coupon("MIXED", max_redemptions=400, max_per_customer=1)
    async with Client(usher.url, other_usher.url, key=api_key) as client:
        answers: list[Answer] = []
        for number in range(6):
            answers += await client.redeem_all(code, orders(100, f"mixed-{number}"))
        assert set(tally(answers)) == {"201", "409 coupon_exhausted"}
        auditor.check(code, answers)
        assert 400 == len(await auditor.fill(client, code))
        live = auditor.live(code)
        cancelled = await asyncio.gather(*(client.send("POST", f"/v1/redemptions/{row['id']}/cancel") for row in live[:100]))
        assert {"200": 100} == tally(cancelled)
        assert 400 == len(await auditor.fill(client, code))


async def test_uses_that_are_left_without_redis(client: Client, away: None, coupon: MakeCoupon) -> None:
    """When a cancel has been answered, its use is free for the next request, which a moment ago was refused."""
    code = await coupon("LEFT", max_redemptions=1)
    for number in range(5):
        served = await client.redeem(code, "ann", f"served-{number}")
        refused = await client.redeem(code, "bob", f"refused-{number}")
        cancelled = await client.send("POST", f"/v1/redemptions/{served.id}/cancel")
        assert ["201", "409 coupon_exhausted", "200"] == [*map(shown, (served, refused, cancelled))]


async def test_a_use_that_is_left_without_redis_is_had_when_it_is_back(
    start_usher: StartUsher,
    stores: Stores,
    proxy: Proxy,
    api_key: str,
    coupon: MakeCoupon,
    redis_client: "redis.asyncio.Redis",
) -> None:
    """At once, though the counter knows nothing of it and says that all free seats were looked for a moment ago."""
    lone = start_usher(redis_url=proxy.url(stores.redis.url), settings=SETTINGS)
    code = await coupon("BACK", max_redemptions=1)
    async with Client(lone.url, key=api_key) as client:
        served = await client.redeem(code, "ann", "served")
        proxy.refuse()
        try:
            cancelled = await client.send("POST", f"/v1/redemptions/{served.id}/cancel")
        finally:
            proxy.accept()
        await until_ready(lone)
        seconds, microseconds = await redis_client.time()
        now_ms = 1_000 * seconds + microseconds // 1_000
        await redis_client.hset(f"usher:1:{{{code}}}:counter", "searched", str(now_ms))
        had = await client.redeem(code, "bob", "had")
    assert ["201", "200", "201"] == [*map(shown, (served, cancelled, had))]


def shown(answer: Answer) -> str:
    return next(iter(tally([answer])))


async def test_life_without_redis(client: Client, away: None, coupon: MakeCoupon, admin: Admin) -> None:
    """Reserve, confirm, extend, cancel, expire; by order, by key; and changes of the coupon: all as ever."""
    code = await coupon("LIFE", max_redemptions=2, max_per_customer=1)

    async def redeem(customer: str, order: str, key: str | None = None, **more: int) -> Answer:
        body = {"code": code, "customer_id": customer, "order_id": order, **more}
        return await client.send("POST", "/v1/redemptions", body=body, headers={"Idempotency-Key": key} if key else {})

    async def act(answer: Answer, verb: str, body: object = None) -> Answer:
        return await client.send("POST", f"/v1/redemptions/{answer.id}/{verb}", body=body)

    hold = await redeem("ann", "o-1", hold_s=600)
    assert (201, "reserved") == (hold.status, hold.body["status"])
    assert "200" == shown(await act(hold, "extend", {"hold_s": 900}))
    assert "confirmed" == (await act(hold, "confirm")).body["status"]
    assert (200, hold.id) == ((again := await redeem("ann", "o-1")).status, again.id)
    assert "422 order_mismatch" == shown(await redeem("bob", "o-1"))
    assert "409 customer_limit_reached" == shown(await redeem("ann", "o-2"))
    by_key = await redeem("bob", "o-3", key="key-1")
    assert (200, by_key.id) == ((again := await redeem("bob", "o-3", key="key-1")).status, again.id)
    assert "422 idempotency_key_reused" == shown(await redeem("cid", "o-4", key="key-1"))
    assert "409 coupon_exhausted" == shown(await redeem("cid", "o-4"))
    cancel = {"code": code, "order_id": "o-3"}
    assert "cancelled" == (await client.send("POST", "/v1/redemptions/cancel", body=cancel)).body["status"]
    overdue = await redeem("cid", "o-4", hold_s=600)
    assert 201 == overdue.status
    assert "409 coupon_exhausted" == shown(await redeem("dan", "o-5"))
    admin.run("UPDATE redemption SET expires_at = UTC_TIMESTAMP(6) - INTERVAL 1 SECOND WHERE status = 'reserved'")
    assert "201" == shown(await redeem("dan", "o-5"))
    assert "409 reservation_expired" == shown(await act(overdue, "confirm"))
    await client.change_coupon(code, status="paused")
    assert "422 coupon_paused" == shown(await redeem("eve", "o-6"))
    await client.change_coupon(code, status="active", max_redemptions=3)
    assert "201" == shown(await redeem("eve", "o-6"))


async def test_validations_without_redis(client: Client, away: None, coupon: MakeCoupon) -> None:
    code, unlimited = await coupon("VALID", max_redemptions=1), await coupon("UNLIMITED")

    async def validate(code: str) -> tuple[int, bool, str | None]:
        answer = await client.send("POST", "/v1/validations", body={"code": code, "customer_id": "ann"})
        return answer.status, answer.body["valid"], answer.body.get("reason")

    assert [(200, True, None)] * 2 == [await validate(code), await validate(unlimited)]
    served = [await client.redeem(one, "ann", "o-1") for one in (code, unlimited)]
    assert {"201": 2} == tally(served)
    assert [(200, False, "coupon_exhausted"), (200, True, None)] == [await validate(code), await validate(unlimited)]
    assert (200, False, "coupon_not_found") == await validate("NO-SUCH-CODE")


async def test_guesses_without_redis(usher: Usher, client: Client, away: None, coupon: MakeCoupon) -> None:
    """Codes that no process has seen are looked up in the ledger alone, and guessing is limited."""
    code = await coupon("NEW", max_redemptions=5)
    assert "201" == shown(await client.redeem(code, "ann", "o-1"))
    answers = [await client.redeem(f"GUESS-{number}", "mallory", "o-2") for number in range(25)]
    assert {"404 coupon_not_found": 20, "429 too_many_attempts": 5} == tally(answers)
    await until(lambda: usher.readiness() == 200, what="ready, if degraded")
    async with Client(usher.url, key=None) as anybody:
        assert "degraded" == (await anybody.get("/readyz")).body["status"]


async def test_a_service_that_has_never_seen_redis(
    start_usher: StartUsher, api_key: str, coupon: MakeCoupon, auditor: Auditor
) -> None:
    """It starts, says that it is degraded, and serves."""
    lonely = start_usher(redis_url=f"redis://127.0.0.1:{free_port()}/0", settings=SETTINGS)
    code = await coupon("LONELY", max_redemptions=30)
    async with Client(lonely.url, key=api_key) as client:
        assert "degraded" == (await client.get("/readyz")).body["status"]
        answers = await client.redeem_all(code, orders(50))
    assert {"201": 30, "409 coupon_exhausted": 20} == tally(answers)
    auditor.check(code, answers)


async def test_a_redis_that_refuses_to_write(
    client: Client, coupon: MakeCoupon, auditor: Auditor, redis_client: "redis.asyncio.Redis"
) -> None:
    """Full, or a replica after a failover: it answers, with errors, and is of no use. The ledger serves, and it is counted."""
    code = await coupon("FULL", max_redemptions=60)
    failed_before = await redis_failed(client)
    assert {"201": 5} == tally(await client.redeem_all(code, orders(5)))
    before: Any = await redis_client.config_get("maxmemory*")
    try:
        await redis_client.config_set("maxmemory-policy", "noeviction")
        await redis_client.config_set("maxmemory", 1)
        full = await client.redeem_all(code, orders(20, "full"))
        await redis_client.config_set("maxmemory", before["maxmemory"])
        await redis_client.replicaof("127.0.0.1", str(free_port()))
        replica = await client.redeem_all(code, orders(20, "replica"))
    finally:
        for name, value in before.items():
            await redis_client.config_set(name, value)
        await redis_client.replicaof("NO", "ONE")
    assert {"201": 40} == tally([*full, *replica])
    auditor.check(code, [*full, *replica])
    assert 60 == len(await auditor.fill(client, code))

    async def all_counted() -> bool:
        return await redis_failed(client) - failed_before >= 40

    await until_async(all_counted, what="each request that Redis has failed is counted")


async def redis_failed(client: Client) -> float:
    """What the alert for a life without Redis looks at when the breaker is closed."""
    lines = (await client.get("/metrics")).text.decode().splitlines()
    (line,) = (line for line in lines if line.startswith('usher_retries_total{cause="redis_failed"}'))
    return float(line.rpartition(" ")[2])
