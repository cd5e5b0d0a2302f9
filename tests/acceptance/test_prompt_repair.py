"""Uses that a crash, a lost reply or a lost release has left behind are had again within seconds, without a reconciler."""

import asyncio
import itertools
from collections.abc import Iterator

import pytest
import redis

from tests.acceptance.conftest import MakeCoupon, StartUsher, Stores
from tests.auditor import Auditor
from tests.driver import Client, orders, tally
from tests.faults import Proxy, holding
from tests.stores import Admin
from tests.usher_process import Usher
from tests.waiting import until, until_async

LIMIT = 40
CRASHED, LOST, CANCELLED = 10, 5, 5
BOUND_S = 10.0
"""With the default deadline, a claim counts as absent after seven seconds, and a search is due a second after the last one."""


@pytest.fixture(scope="module")
def proxy(stores: Stores) -> Iterator[Proxy]:
    with Proxy(stores.redis.port) as proxy:
        yield proxy


@pytest.fixture(
    scope="module", params=["2000", pytest.param("5000", marks=pytest.mark.long)], ids=lambda deadline_ms: f"{deadline_ms} ms"
)
def usher(request: pytest.FixtureRequest, proxy: Proxy, start_usher: StartUsher, stores: Stores) -> Usher:
    return start_usher(redis_url=proxy.url(stores.redis.url), settings={"USHER_REQUEST_DEADLINE_MS": request.param})


async def test_lost_uses_are_had_again(
    usher: Usher, client: Client, coupon: MakeCoupon, auditor: Auditor, admin: Admin, proxy: Proxy, stores: Stores
) -> None:
    """All that is lost is claimed and in no row, or in no row and not told to the counter: a refill under traffic finds it."""
    code = await coupon("LOST", max_redemptions=LIMIT)

    admin.run("BEGIN")  # What is claimed now cannot be recorded.
    admin.run("SELECT * FROM coupon WHERE code = %s FOR UPDATE", code)
    crashing = asyncio.create_task(client.try_all(code, orders(CRASHED, "crash")))
    await until(lambda: highest_claimed(stores, code) == CRASHED, what="seats are claimed")
    usher.kill()
    admin.run("ROLLBACK")
    await crashing
    await asyncio.to_thread(usher.start)

    proxy.lose_reply(holding(b"order-reply"), times=LOST)
    served = [await client.redeem(code, *order) for order in orders(CANCELLED + LOST, "reply")]
    assert {"201": CANCELLED + LOST} == tally(served)

    proxy.refuse()
    for answer in served[:CANCELLED]:
        assert 200 == (await client.send("POST", f"/v1/redemptions/{answer.id}/cancel")).status
    proxy.accept()

    numbers = itertools.count()

    async def all_had() -> bool:
        answers = await client.redeem_all(code, orders(LIMIT // 4, f"traffic-{next(numbers)}"))
        assert set(tally(answers)) <= {"201", "409 coupon_exhausted"}
        return LIMIT == len(auditor.check(code, answers))

    await until_async(all_had, what=f"all {LIMIT} uses are had", timeout_s=BOUND_S)


def highest_claimed(stores: Stores, code: str) -> int:
    with redis.Redis.from_url(stores.redis.operator_url) as client:
        return int(client.hget(f"usher:1:{{{code}}}:counter", "next") or 0)
