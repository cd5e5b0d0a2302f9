"""Twenty workers are killed under load; then one repair, and nothing is leaked any more."""

import asyncio
import itertools
import random

import pytest

from tests.acceptance.conftest import MakeCoupon, StartUsher, Stores
from tests.auditor import Auditor
from tests.driver import Answer, Client, orders
from tests.reconciler_process import run_reconciler
from tests.usher_process import Usher, environment, kill

KILLS = 20
KILL_EVERY_S = 0.2
WAVE = 40
LIMIT = 20_000
"""Far from reached under the load: what a refill has found by then would be nothing for the repair to find."""
SETTINGS = {"USHER_REQUEST_DEADLINE_MS": "2000"}


@pytest.fixture(scope="module")
def usher(start_usher: StartUsher) -> Usher:
    return start_usher(workers=2, settings=SETTINGS)


@pytest.mark.long
async def test_one_repair_finds_it_all(
    usher: Usher, client: Client, coupon: MakeCoupon, auditor: Auditor, stores: Stores
) -> None:
    """What was claimed and not recorded, cancelled and not released, and counted for customers who have nothing."""
    code = await coupon("KILLED", max_redemptions=LIMIT, max_per_customer=1)
    is_over = False
    told: list[Answer | None] = []

    async def redeem_and_cancel(name: str) -> None:
        for wave in itertools.count():
            if is_over:
                return
            answers = await client.try_all(code, orders(WAVE, f"{name}-{wave}"))
            made = [answer for answer in answers if answer is not None and answer.status == 201]
            cancelled = made[::3]
            told.extend(answer for answer in answers if answer not in cancelled)
            await asyncio.gather(
                *(client.send("POST", f"/v1/redemptions/{one.id}/cancel") for one in cancelled), return_exceptions=True
            )

    load = [asyncio.create_task(redeem_and_cancel(name)) for name in ("a", "b")]
    for _ in range(KILLS):
        await asyncio.sleep(KILL_EVERY_S)
        if workers := usher.workers():
            kill(random.choice(workers))
    is_over = True
    await asyncio.gather(*load)
    await asyncio.to_thread(usher.wait_until_ready)
    assert None in told, "nobody has noticed that workers were killed"
    auditor.check(code, told)

    variables = environment(database_url=stores.mariadb.url, redis_url=stores.redis.url, settings=SETTINGS)

    async def command(name: str) -> tuple[int, dict[str, int]]:
        done = await asyncio.to_thread(run_reconciler, name, "--code", code, "--json", variables=variables, timeout_s=60.0)
        kinds = [one["kind"] for one in done.json["findings"]]
        return done.status, {kind: kinds.count(kind) for kind in set(kinds)}

    status, found = await command("repair")
    assert 0 == status, found
    assert found.get("leaked"), f"nothing was leaked by {KILLS} kills: {found}"
    assert (0, {}) == await command("check")
