"""`usher-reconciler run` beside `usher serve`: wishes, a lost cache, being watched, and being stopped or killed in a run."""

import asyncio
import os
import signal
import sys
import urllib.request
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import redis
import redis.asyncio

from deploy.local import Kept
from deploy.programs import PROJECT, Program
from service.counters import key
from tests.acceptance.conftest import PATIENT, MakeCoupon, StartReconciler, Stores
from tests.auditor import Auditor
from tests.driver import Answer, Client, Json, orders, tally
from tests.faults import Proxy, holding
from tests.reconciler_process import COMMAND, END_S, run_reconciler
from tests.stores import Admin
from tests.usher_process import Finished, environment
from tests.waiting import until, until_async

PATH = "/v1/reconciliations"
LIVE, LIMIT = 8, 20
LOSS_NOTICED_S = 2.0
"""Promised; stated as the interval of a busy test machine would allow: see `SLACK_S`."""
SLACK_S = 8.0
COUPONS = 6


@pytest.fixture(autouse=True)
def _no_runs(admin: Admin) -> None:
    for table in ("reconcile_run", "reconcile_finding"):
        admin.run(f"TRUNCATE TABLE {table}")


async def ended(client: Client, asked: Answer) -> Json:
    """The run, as soon as it has ended."""
    found: Json = {}

    async def is_over() -> bool:
        nonlocal found
        found = (await client.get(f"{PATH}/{asked.id}")).body
        return found["status"] in {"done", "failed"}

    await until_async(is_over, what="the run has ended")
    return found


async def damage(raw: "redis.asyncio.Redis", code: str) -> None:
    """Two seats that nobody sits on were handed out, and one that is taken is free."""
    await raw.hincrby(key(code, "counter"), "next", 2)
    await raw.sadd(key(code, "free"), 3)


async def used(client: Client, code: str) -> None:
    assert {"201": LIVE} == tally(await client.redeem_all(code, orders(LIVE)))


async def test_wishes(
    client: Client,
    coupon: MakeCoupon,
    admin: Admin,
    auditor: Auditor,
    start_reconciler: StartReconciler,
    stores: Stores,
    redis_client: "redis.asyncio.Redis",
) -> None:
    """They are fulfilled, and show what was found, by whom, and who leads since when."""
    code = await coupon(max_redemptions=LIMIT)
    await used(client, code)
    reconciler = start_reconciler(settings={"USHER_REQUEST_DEADLINE_MS": "1000"})
    await until(lambda: reconciler.leads, what="it leads")
    await damage(redis_client, code)
    found = await ended(client, await client.send("POST", PATH, body={"mode": "check", "code": code}))
    assert ("done", "asked", 3, None) == (found["status"], found["cause"], found["finding_count"], found["error"])
    assert [("ghost", 3), ("leaked", LIVE + 1), ("leaked", LIVE + 2)] == sorted(
        (one["kind"], one["seat"]) for one in found["findings"]
    )
    name = admin.value("SELECT name FROM leader")
    assert name.endswith(f":{reconciler.kept.pid}")
    assert (name, name) == (found["run_by"], found["leader"]["name"])
    mended = await ended(client, await client.send("POST", PATH, body={"mode": "repair", "code": code}))
    assert found["findings"] == mended["findings"]
    clean = await ended(client, await client.send("POST", PATH, body={"mode": "check"}))
    assert [] == [one for one in clean["findings"] if one["kind"] != "missing"]
    assert 3 == len(
        [one for one in (await client.get(PATH)).body["items"] if one["status"] == "done" and one["cause"] == "asked"]
    )
    by_hand = await command("check", environment(database_url=stores.mariadb.url, redis_url=stores.redis.url))
    assert 0 == by_hand.status, "it needs no leadership"
    assert LIMIT == len(await auditor.fill(client, code))


async def test_a_lost_cache(
    client: Client,
    coupon: MakeCoupon,
    start_reconciler: StartReconciler,
    redis_client: "redis.asyncio.Redis",
) -> None:
    """It is noticed by itself, stored, and the counters are there again before anybody asks for them."""
    code = await coupon(max_redemptions=LIMIT)
    await used(client, code)
    reconciler = start_reconciler()
    await until(lambda: reconciler.leads, what="it leads")
    await redis_client.flushall()

    async def is_back() -> bool:
        return await redis_client.hget(key(code, "counter"), "next") == str(LIVE).encode()

    await until_async(is_back, what="the counter is there", timeout_s=LOSS_NOTICED_S + SLACK_S)
    (first, *_) = (await client.get(PATH)).body["items"]
    assert ("reseed", "cache_loss") == (first["mode"], first["cause"])


async def test_being_watched(start_reconciler: StartReconciler) -> None:
    """Each on its own port: one leads, one stands by, and both say so."""
    settings = {"USHER_REPAIR_INTERVAL_S": "1"}
    leader = start_reconciler(settings=settings)
    await until(lambda: leader.leads, what="it leads")
    other = start_reconciler(settings=settings)
    await until(lambda: bool(other.events()), what="the other one runs")

    def get(url: str) -> str:
        with urllib.request.urlopen(url, timeout=END_S) as answer:  # noqa: S310 - this machine's own
            text: str = answer.read().decode()
            return text

    assert '"status":"leading"' in get(f"{leader.url}/readyz")
    assert '"status":"standby"' in get(f"{other.url}/readyz")
    told = {"usher_reconciler_leading 1.0", "usher_holds_overdue 0.0", "usher_coupons_over 0.0"}
    await until(lambda: told <= set(get(f"{leader.url}/metrics").splitlines()), what="what it has counted")
    await until(lambda: "usher_seconds_since_clean_check " in get(f"{leader.url}/metrics"), what="a clean check")
    assert "usher_reconciler_leading 0.0" in get(f"{other.url}/metrics").splitlines()


async def test_sigterm_in_a_run(
    client: Client,
    coupon: MakeCoupon,
    start_reconciler: StartReconciler,
    stores: Stores,
    faults: Callable[[int], Proxy],
) -> None:
    """The step at hand is finished, the run has failed and says why, and the program ends with status 0."""
    code = await coupon(max_redemptions=LIMIT)
    await used(client, code)
    proxy = faults(stores.redis.port)
    reconciler = start_reconciler(redis_url=proxy.url(stores.redis.url), settings=PATIENT)
    await until(lambda: reconciler.leads, what="it leads")
    held = proxy.hold(holding(b"EVALSHA"), times=1)
    asked = await client.send("POST", PATH, body={"mode": "check", "code": code})
    await until(lambda: held.hits == 1, what="it compares")
    os.kill(reconciler.kept.pid, signal.SIGTERM)
    await asyncio.sleep(0.3)
    assert reconciler.kept.running
    held.release()
    assert 0 == await asyncio.to_thread(reconciler.kept.wait, END_S)
    run = (await client.get(f"{PATH}/{asked.id}")).body
    assert ("failed", "it was stopped before it was done") == (run["status"], run["error"])


async def test_sigkill_in_a_repair(
    client: Client,
    coupon: MakeCoupon,
    auditor: Auditor,
    stores: Stores,
    faults: Callable[[int], Proxy],
    redis_client: "redis.asyncio.Redis",
) -> None:
    """Wherever it was: what is left is found by the next repair, and then all is well, and all of the limit can be had."""
    variables = environment(
        database_url=stores.mariadb.url, redis_url=stores.redis.url, settings={**PATIENT, "USHER_REQUEST_DEADLINE_MS": "20000"}
    )
    codes = [await coupon("KILLED", max_redemptions=LIMIT) for _ in range(COUPONS)]
    for code in codes:
        await used(client, code)
    proxy = faults(stores.redis.port)

    async def killed_after(steps: int) -> bool:
        """Whether a repair was in the middle when it was killed."""
        held = proxy.hold(holding(b"EVALSHA"), skip=steps)
        repairing = kept_command("repair", {**variables, "USHER_REDIS_URL": proxy.url(stores.redis.url)})
        await until(lambda: held.hits > 0 or not repairing.running, what="it repairs")
        repairing.kill()
        held.release()
        proxy.cut()
        return held.hits > 0

    for code in codes:
        await damage(redis_client, code)
    counted = proxy.count(holding(b"EVALSHA"))
    whole = await command("repair", {**variables, "USHER_REDIS_URL": proxy.url(stores.redis.url)})
    assert 0 == whole.status, whole.errors
    total = counted.hits
    # Before anything, between its looks, and between two coupons' mending.
    for steps in (0, total // 2, total * 3 // 4):
        for code in codes:
            await damage(redis_client, code)
        assert await killed_after(steps), f"it was over after {steps} scripts"
    mended = await command("repair", variables)
    assert (0, 0) == (mended.status, mended.json["not_mended"]), mended.errors
    clean = await command("check", variables)
    assert 0 == clean.status, clean.output
    for code in codes:
        assert LIMIT == len(await auditor.fill(client, code))


def kept_command(name: str, variables: Mapping[str, str]) -> Kept:
    program = Program(Path(sys.executable), sys.executable, before=COMMAND, environment=variables)
    return Kept(program, [name, "--json"], folder=PROJECT)


async def command(name: str, variables: Mapping[str, str]) -> Finished:
    return await asyncio.to_thread(run_reconciler, name, "--json", variables=variables, timeout_s=60.0)
