"""Two reconcilers repair and reseed over and over, as programs, beside ten thousand requests of which many are cancelled."""

import asyncio
import itertools
from contextlib import AbstractAsyncContextManager

import pytest

from tests.acceptance.conftest import PATIENT, MakeCoupon, StartUsher, Stores
from tests.auditor import Auditor
from tests.driver import Answer, Client, Repeated, assert_none_failed, orders, repeating, tally
from tests.reconciler_process import run_reconciler
from tests.usher_process import Usher, environment

REQUESTS = 10_000
LIMIT = 3_000
"""Reached in the middle of the load: from then on each use that is given back is wanted by many."""
MORE_REQUESTS = 500
RUNS_MIN = 3
"""Of each reconciler, beside the load."""
TIMEOUT_S = 60.0


@pytest.fixture(scope="module")
def usher(start_usher: StartUsher) -> Usher:
    return start_usher(workers=2, settings=PATIENT)


async def test_two_reconcilers_beside_ten_thousand_requests(
    client: Client, coupon: MakeCoupon, auditor: Auditor, stores: Stores
) -> None:
    """Nobody is let in above the limit, and at the end exactly the limit can be reached."""
    code = await coupon(max_redemptions=LIMIT, max_per_customer=1)
    variables = environment(database_url=stores.mariadb.url, redis_url=stores.redis.url, settings=PATIENT)
    cancelled: set[str] = set()

    async def redeem(customer: str, order: str) -> Answer:
        """Every third that succeeds is cancelled at once."""
        answer = await client.redeem(code, customer, order)
        if answer.status == 201 and int(order.rpartition("-")[2]) % 3 == 0:
            cancelled.add(answer.id)
            ended = await client.send("POST", f"/v1/redemptions/{answer.id}/cancel")
            assert 200 == ended.status, ended
        return answer

    def reconciler() -> AbstractAsyncContextManager[Repeated]:
        """One after the other: mends what it finds, loads all counters as if they were missing."""
        commands = itertools.cycle((("repair",), ("reseed", "--force")))

        async def run() -> None:
            done = await asyncio.to_thread(run_reconciler, *next(commands), variables=variables, timeout_s=TIMEOUT_S)
            assert 0 == done.status, done.output

        return repeating(run, every_s=0)

    async with reconciler() as first, reconciler() as second:
        answers = list(await asyncio.gather(*(redeem(*one) for one in orders(REQUESTS, code))))
        for number in itertools.count():  # A machine that redeems fast and starts programs slowly gets more to do.
            if min(first.times, second.times) >= RUNS_MIN:
                break
            answers += await asyncio.gather(*(redeem(*one) for one in orders(MORE_REQUESTS, f"{code}-{number}")))

    assert_none_failed(answers)
    assert set(tally(answers)) <= {"201", "409 coupon_exhausted"}
    assert len(cancelled) > LIMIT // 4
    auditor.check(code, [one for one in answers if one.status != 201 or one.id not in cancelled])
    assert LIMIT == len(await auditor.fill(client, code))
