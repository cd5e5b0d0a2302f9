"""`/metrics` of a real service: exact over its workers, whichever of them is asked, and also when one dies."""

import asyncio
import os
import re
import signal
from pathlib import Path

import aiohttp
import pytest
from prometheus_client.parser import text_string_to_metric_families

from service.metrics import SHARED_MEMORY
from tests.acceptance.conftest import MakeCoupon, StartUsher
from tests.driver import Client, orders
from tests.usher_process import Usher
from tests.waiting import until, until_async

WORKERS = 2


@pytest.fixture(scope="module")
def usher(start_usher: StartUsher) -> Usher:
    return start_usher(workers=WORKERS)


async def text(usher: Usher) -> str:
    """What a new connection, to any of the workers, is told; without a key."""
    async with aiohttp.ClientSession() as session, session.get(f"{usher.url}/metrics") as response:
        assert (200, "text/plain") == (response.status, response.content_type)
        assert "no-store" == response.headers["Cache-Control"]
        return await response.text()


async def value(usher: Usher, name: str, **labels: str) -> float:
    return sum(
        sample.value
        for family in text_string_to_metric_families(await text(usher))
        for sample in family.samples
        if sample.name == name and labels.items() <= sample.labels.items()
    )


async def until_is(expected: float, usher: Usher, name: str, **labels: str) -> None:
    """Others hand over what they have counted a moment later."""

    async def is_so() -> bool:
        return expected == await value(usher, name, **labels)

    await until_async(is_so, what=f"{name} {labels} is {expected}")


async def test_counted(client: Client, usher: Usher, coupon: MakeCoupon) -> None:
    code = await coupon(max_redemptions=200)
    before = await value(usher, "usher_redemptions_total", ending="created")
    answers = await client.redeem_all(code, orders(250, code))
    await client.redeem_all(code, orders(250, code))
    made = [answer.id for answer in answers if answer.status == 201]
    await asyncio.gather(*(client.send("POST", f"/v1/redemptions/{one}/cancel") for one in made[:20]))

    await until_is(before + 200, usher, "usher_redemptions_total", ending="created")
    await until_is(200, usher, "usher_redemptions_total", ending="replayed")
    await until_is(100, usher, "usher_refusals_total", code="coupon_exhausted")
    await until_is(20, usher, "usher_transitions_total", verb="cancel", ending="done")
    await until_is(WORKERS, usher, "usher_workers")
    await until_is(0, usher, "usher_redemptions_under_way")
    await until_is(100, usher, "usher_http_answers_total", status="409")
    assert await value(usher, "usher_record_batch_rows_sum") >= 200
    assert code not in await text(usher)


async def test_a_worker_dies(client: Client, usher: Usher, coupon: MakeCoupon, api_key: str) -> None:
    """Nothing that was counted is lost, and who takes its place goes on."""
    code = await coupon(max_redemptions=1_000)
    before = await value(usher, "usher_redemptions_total", ending="created")
    await client.redeem_all(code, orders(100, "a"))
    await until_is(before + 100, usher, "usher_redemptions_total", ending="created")

    workers = usher.workers()
    for worker in workers:
        os.kill(worker, signal.SIGKILL)
    await until(lambda: len(set(usher.workers()) - set(workers)) == WORKERS, what="others took their places")
    await until_async(lambda: _serves(usher), what="they serve")
    assert before + 100 == await value(usher, "usher_redemptions_total", ending="created")
    async with Client(usher.url, key=api_key) as again:
        await again.redeem_all(code, orders(100, "b"))
    await until_is(before + 200, usher, "usher_redemptions_total", ending="created")
    await until_is(WORKERS, usher, "usher_workers")


async def _serves(usher: Usher) -> bool:
    try:
        await text(usher)
    except aiohttp.ClientError:
        return False
    return True


def test_nothing_is_left_behind(start_usher: StartUsher) -> None:
    """Of the folder whose files its workers share; others' servers have others."""
    server = start_usher(workers=WORKERS)
    maps = "".join(Path(f"/proc/{pid}/maps").read_text() for pid in server.workers())
    (folder,) = {Path(found) for found in re.findall(rf"{SHARED_MEMORY}/usher-metrics-[^/\s]+", maps)}
    assert folder.is_dir()

    server.stop()
    assert not folder.exists()
