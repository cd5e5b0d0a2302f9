"""A store stands still, dies or is full of waiting: every request is answered in time, and all comes back by itself."""

import asyncio
import json
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from deploy.local import Store
from tests.acceptance.conftest import MakeCoupon, StartUsher, Stores
from tests.auditor import Auditor
from tests.driver import Answer, Client, Json, orders, tally
from tests.usher_process import Usher, get
from tests.waiting import stalls, until

DEADLINE_S = 2.5
"""Short, since requests wait for it here; and time for those that open connections after a store has come back."""
LATE_S = 1.5
"""A machine with two busy cores lets an answer wait beyond its deadline before the client reads it."""
QUEUE_MAX_REQUESTS = 40
READINESS_S = 30.0


@pytest.fixture(scope="module")
def usher(start_usher: StartUsher) -> Usher:
    return start_usher(settings={"USHER_REQUEST_DEADLINE_MS": str(int(DEADLINE_S * 1_000))})


@pytest.fixture(scope="module")
def narrow_usher(start_usher: StartUsher) -> Usher:
    """It lets few requests in at once."""
    return start_usher(
        settings={
            "USHER_REQUEST_DEADLINE_MS": "3000",
            "USHER_QUEUE_MAX_REQUESTS": str(QUEUE_MAX_REQUESTS),
        }
    )


@contextmanager
def standing_still(store: Store) -> Iterator[None]:
    """SIGSTOP: its connections stay open, nobody answers."""
    store.pause()
    try:
        yield
    finally:
        store.resume()


@contextmanager
def dead(store: Store) -> Iterator[None]:
    """SIGKILL, and a new start on the same port afterwards."""
    store.kill()
    try:
        yield
    finally:
        store.start()


def readiness(usher: Usher) -> tuple[int, str]:
    """Status and word of `/readyz`."""
    status, body = get(usher.port, "/readyz")
    document: Json = json.loads(body) if body else {}
    return status, str(document.get("status"))


async def timed(client: Client, code: str, wanted: list[tuple[str, str]]) -> tuple[list[Answer], float]:
    """The answers, and how long the slowest took, but for what the machine stood still."""
    begin = time.monotonic()
    async with stalls() as stood_still:
        answers = await client.redeem_all(code, wanted)
    return answers, time.monotonic() - begin - stood_still.total_s


async def test_ready(usher: Usher) -> None:
    """With both stores there, Usher is alive and ready, and says so without a key."""
    assert (200, "ready") == readiness(usher)
    assert 200 == get(usher.port, "/livez")[0]


async def test_mariadb_stands_still(usher: Usher, client: Client, coupon: MakeCoupon, auditor: Auditor, stores: Stores) -> None:
    """Every request is answered within its deadline with a 503, and nothing is lost when MariaDB goes on."""
    code = await coupon(max_redemptions=20, max_per_customer=1)
    first = await client.redeem(code, "first", "first")
    with standing_still(stores.mariadb):
        answers, took_s = await timed(client, code, orders(40))

    assert set(tally(answers)) <= {"503 unavailable", "503 outcome_unknown", "409 coupon_exhausted"}
    assert took_s < DEADLINE_S + LATE_S
    await until(lambda: readiness(usher) == (200, "ready"), what="ready again", timeout_s=READINESS_S)
    again = await client.redeem_all(code, orders(40))
    auditor.check(code, [first, *answers, *again])
    assert 20 == len(await auditor.fill(client, code))


async def test_redis_stands_still(usher: Usher, client: Client, coupon: MakeCoupon, auditor: Auditor, stores: Stores) -> None:
    """Every request is served, within its deadline: the first ones wait for one time-out, then seats come from the ledger."""
    code = await coupon(max_redemptions=20, max_per_customer=1)
    first = await client.redeem(code, "first", "first")
    with standing_still(stores.redis):
        answers, took_s = await timed(client, code, orders(15))

    assert {"201": 15} == tally(answers)
    assert took_s < DEADLINE_S + LATE_S
    await until(lambda: readiness(usher) == (200, "ready"), what="ready again", timeout_s=READINESS_S)
    auditor.check(code, [first, *answers])
    assert 20 == len(await auditor.fill(client, code))


async def test_redis_dies(usher: Usher, client: Client, coupon: MakeCoupon, auditor: Auditor, stores: Stores) -> None:
    """Degraded while Redis is away, ready when an empty one is back, without a restart of Usher; nothing is sold twice."""
    code = await coupon(max_redemptions=20, max_per_customer=1)
    before = await client.redeem_all(code, orders(5, "before"))
    with dead(stores.redis):
        await until(lambda: readiness(usher) == (200, "degraded"), what="degraded", timeout_s=READINESS_S)
        during, took_s = await timed(client, code, orders(10))
        assert 200 == get(usher.port, "/livez")[0]

    assert {"201": 5} == tally(before)
    assert {"201": 10} == tally(during)
    assert took_s < DEADLINE_S + LATE_S
    await until(lambda: readiness(usher) == (200, "ready"), what="ready again", timeout_s=READINESS_S)
    auditor.check(code, [*before, *during])
    assert 20 == len(await auditor.fill(client, code))


async def test_mariadb_dies(usher: Usher, client: Client, coupon: MakeCoupon, stores: Stores) -> None:
    """Not ready and 503 `unavailable` while MariaDB is away; alive; ready when it is back, and every 201 is still there."""
    code = await coupon(max_redemptions=20, max_per_customer=1)
    before = await client.redeem_all(code, orders(5, "before"))
    with dead(stores.mariadb):
        await until(lambda: readiness(usher)[0] == 503, what="not ready", timeout_s=READINESS_S)
        during, took_s = await timed(client, code, orders(10))
        reads = [await client.get(f"/v1/coupons/{code}"), await client.get("/v1/redemptions", code=code)]
        assert 200 == get(usher.port, "/livez")[0]

    assert {"503 unavailable": 10} == tally(during)
    assert {"503 unavailable": 2} == tally(reads)
    assert took_s < DEADLINE_S + LATE_S
    await until(lambda: readiness(usher) == (200, "ready"), what="ready again", timeout_s=READINESS_S)
    again = await client.redeem_all(code, [*orders(5, "before"), *orders(10)])
    assert {"200": 5, "201": 10} == tally(again)
    assert [answer.id for answer in before] == [answer.id for answer in again[:5]]


async def test_mariadb_dies_under_load(
    usher: Usher, client: Client, coupon: MakeCoupon, stores: Stores, auditor: Auditor
) -> None:
    """SIGKILL of MariaDB while 300 customers redeem: every 201 survives its recovery, and the rest can be had."""
    code = await coupon(max_redemptions=200, max_per_customer=1)
    sending = asyncio.create_task(client.redeem_all(code, orders(300)))
    await asyncio.sleep(0.05)
    with dead(stores.mariadb):
        answers = await sending

    await until(lambda: readiness(usher) == (200, "ready"), what="ready again", timeout_s=READINESS_S)
    assert set(tally(answers)) <= {"201", "409 coupon_exhausted", "503 unavailable", "503 outcome_unknown"}
    auditor.reconnect()
    auditor.check(code, answers)
    assert 200 == len(await auditor.fill(client, code))


async def test_both_die(usher: Usher, client: Client, coupon: MakeCoupon, auditor: Auditor, stores: Stores) -> None:
    """503 `unavailable` at once; when MariaDB is back alone, all is served; and nothing is lost when both are."""
    code = await coupon(max_redemptions=20, max_per_customer=1)
    before = await client.redeem_all(code, orders(5, "before"))
    with dead(stores.redis):
        with dead(stores.mariadb):
            await until(lambda: readiness(usher)[0] == 503, what="not ready", timeout_s=READINESS_S)
            during, took_s = await timed(client, code, orders(10))
        await until(lambda: readiness(usher) == (200, "degraded"), what="degraded", timeout_s=READINESS_S)
        again = await client.redeem_all(code, orders(10))

    assert {"503 unavailable": 10} == tally(during)
    assert took_s < DEADLINE_S + LATE_S
    assert {"201": 10} == tally(again)
    auditor.reconnect()
    auditor.check(code, [*before, *during, *again])
    assert 20 == len(await auditor.fill(client, code))


async def test_overloaded(
    narrow_usher: Usher, api_key: str, client: Client, coupon: MakeCoupon, auditor: Auditor, stores: Stores
) -> None:
    """With the queue full, 503 `overloaded` comes at once, before any of those in the queue is answered; nothing is lost."""
    code = await coupon(max_redemptions=200)
    async with Client(narrow_usher.url, key=api_key, connections=300) as crowd:
        first = await crowd.redeem(code, "first", "first")
        done: list[Answer] = []
        with standing_still(stores.mariadb):
            waiting = [asyncio.create_task(crowd.redeem(code, *order)) for order in orders(200)]
            done.extend([await next_done for next_done in asyncio.as_completed(waiting)])

        at_once = 200 - QUEUE_MAX_REQUESTS
        assert {"503 overloaded": at_once} == tally(done[:at_once])
        assert {"1"} == {answer.headers["Retry-After"] for answer in done[:at_once]}
        assert set(tally(done[at_once:])) <= {"503 unavailable", "503 outcome_unknown"}
        auditor.check(code, [first, *done])
        assert 200 == len(await auditor.fill(client, code))
