"""Clients hang up, workers are killed, servers are told to stop: nothing that was promised is lost."""

import asyncio
import json
import os
import random
import signal
import time
from collections.abc import Iterator
from contextlib import suppress

import aiohttp
import pytest
import redis

from tests.acceptance.conftest import PATIENT, MakeCoupon, StartUsher, Stores
from tests.auditor import Auditor
from tests.driver import Answer, Client, orders, tally
from tests.stores import Admin
from tests.usher_process import Usher, kill
from tests.waiting import until

KILLS = 6
KILL_EVERY_S = 0.3
STANDS_STILL_S = 0.1
"""Five times the pause between two waves of requests."""
STOP_DEADLINE_S = 10.0
LATE_S = 10.0
"""Two busy cores: a process that has finished its work in time may still be gone a little later."""


@pytest.fixture(scope="module")
def usher(start_usher: StartUsher) -> Usher:
    return start_usher(workers=2, settings={"USHER_STOP_DEADLINE_MS": str(int(STOP_DEADLINE_S * 1_000))})


@pytest.fixture
def running(usher: Usher) -> Iterator[Usher]:
    """The server, which may be stopped by the test; afterwards it runs again."""
    yield usher
    if not usher.running:
        usher.stop()
        usher.start()


async def test_disconnecting_clients(usher: Usher, client: Client, api_key: str, coupon: MakeCoupon, auditor: Auditor) -> None:
    """300 clients hang up without waiting for the answer: each order is redeemed once or not at all, and no use is lost."""
    code = await coupon(max_redemptions=200, max_per_customer=1)

    await asyncio.gather(*(send_and_hang_up(usher.port, api_key, code, *order) for order in orders(300)))
    answers = await client.redeem_all(code, orders(300))

    assert set(tally(answers)) <= {"200", "201", "409 coupon_exhausted"}
    assert tally(answers)["200"] > 0
    auditor.check(code, answers)
    assert 200 == len(await auditor.fill(client, code))


async def send_and_hang_up(port: int, key: str, code: str, customer: str, order: str) -> None:
    body = json.dumps({"code": code, "customer_id": customer, "order_id": order})
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(
        (
            f"POST /v1/redemptions HTTP/1.1\r\nHost: usher\r\nAuthorization: Bearer {key}\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n{body}"
        ).encode()
    )
    await writer.drain()
    if order.endswith(("1", "2", "3")):
        writer.transport.abort()  # A reset instead of a goodbye.
    else:
        writer.close()
    del reader


async def test_killed_workers_are_started_again(usher: Usher) -> None:
    """A worker that dies is replaced, as often as it takes; the others and their parent stay."""
    for _ in range(KILLS):
        first, second = usher.workers()
        kill(first)
        await until(lambda gone=first: gone not in usher.workers(), what="the dead worker is gone")  # type: ignore[misc]
        await until(lambda: len(usher.workers()) == 2, what="there are two workers again")
        assert second in usher.workers()
    await asyncio.to_thread(usher.wait_until_ready)


async def test_workers_killed_under_load(usher: Usher, api_key: str, coupon: MakeCoupon, auditor: Auditor) -> None:
    """SIGKILL of workers while 2,000 customers redeem: every 201 that a client saw is in the ledger, once; no use is lost."""
    async with Client(usher.url, key=api_key) as client:
        code = await coupon(max_redemptions=1_000, max_per_customer=1)
        wanted = orders(2_000)
        answers: list[Answer | None] = []

        async def send() -> None:
            for part in range(0, 2_000, 50):
                answers.extend(await client.try_all(code, wanted[part : part + 50]))
                await asyncio.sleep(0.02)

        sending = asyncio.create_task(send())
        for _ in range(KILLS):
            await asyncio.sleep(KILL_EVERY_S)
            if workers := usher.workers():
                await kill_with_requests(random.choice(workers))
        await sending
        await asyncio.to_thread(usher.wait_until_ready)

        assert None in answers
        told = [answer for answer in answers if answer is not None]
        assert set(tally(told)) <= {"201", "409 coupon_exhausted", "503 unavailable"}
        auditor.check(code, answers)
        again = await client.redeem_all(code, wanted)
        assert set(tally(again)) <= {"200", "201", "409 coupon_exhausted"}
        auditor.check(code, [*answers, *again])
        assert 1_000 == len(await auditor.fill(client, code))


async def kill_with_requests(pid: int) -> None:
    """SIGKILL wherever the worker is; it stands still for a moment before, so that requests are surely waiting for it."""
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGSTOP)
        await asyncio.sleep(STANDS_STILL_S)
    kill(pid)


async def test_stop_under_load(
    running: Usher, start_usher: StartUsher, api_key: str, coupon: MakeCoupon, auditor: Auditor
) -> None:
    """SIGTERM while 3,000 customers redeem: it ends in time and well, each 201 is true, and another server goes on at once."""
    other = start_usher()
    async with Client(running.url, key=api_key) as client, Client(other.url, key=api_key) as elsewhere:
        code = await coupon(max_redemptions=2_000, max_per_customer=1)
        sending = asyncio.create_task(client.try_all(code, orders(3_000)))
        await until(lambda: len(auditor.live(code)) >= 300, what="300 have redeemed")
        assert not sending.done()

        begin = time.monotonic()
        running.terminate()
        status = await asyncio.to_thread(running.wait)
        took_s = time.monotonic() - begin
        answers = await sending

        assert 0 == status
        assert took_s < STOP_DEADLINE_S + LATE_S
        assert None in answers
        told = [answer for answer in answers if answer is not None]
        assert set(tally(told)) <= {"201", "409 coupon_exhausted", "503 unavailable"}
        auditor.check(code, answers)
        again = await elsewhere.redeem_all(code, orders(3_000))
        assert set(tally(again)) <= {"200", "201", "409 coupon_exhausted"}
        assert len([answer for answer in told if answer.status == 201]) <= tally(again)["200"]
        auditor.check(code, [*answers, *again])
        assert 2_000 == len(await auditor.fill(elsewhere, code))


async def test_stop_answers_what_it_has_begun(running: Usher, api_key: str, coupon: MakeCoupon, auditor: Auditor) -> None:
    """Requests that were under way when SIGTERM came are answered, and new connections are refused afterwards."""
    async with Client(running.url, key=api_key) as client:
        code = await coupon(max_redemptions=100, max_per_customer=1)
        await client.redeem_all(code, orders(20, "warm"))
        sending = asyncio.create_task(client.try_all(code, orders(60)))
        await until(lambda: len(auditor.live(code)) > 20, what="the first has redeemed")
        running.terminate()
        answers = await sending
        assert 0 == await asyncio.to_thread(running.wait)

        auditor.check(code, answers)
        served = {row["order_id"] for row in auditor.live(code)}
        told = {answer.body["order_id"] for answer in answers if answer is not None and answer.status == 201}
        assert served - {order for _, order in orders(20, "warm")} == told
        with pytest.raises(aiohttp.ClientError):
            await client.redeem(code, "late", "late")


async def test_stop_finishes_what_nobody_waits_for(
    start_usher: StartUsher, api_key: str, coupon: MakeCoupon, auditor: Auditor, admin: Admin, stores: Stores
) -> None:
    """The clients have hung up, SIGTERM has come, and only then can the ledger record what was claimed: it is recorded."""
    server = start_usher(settings={**PATIENT, "USHER_STOP_DEADLINE_MS": "30000"})
    code = await coupon("HUNG-UP", max_redemptions=6)
    async with Client(server.url, key=api_key) as client:
        assert 201 == (await client.redeem(code, "first", "first")).status
    with Admin(stores.mariadb) as blocker:
        blocker.run("BEGIN")
        blocker.run("SELECT * FROM coupon WHERE code = %s FOR UPDATE", code)
        await asyncio.gather(*(send_and_hang_up(server.port, api_key, code, *order) for order in orders(5)))
        await until(lambda: highest_claimed(stores, code) == 6, what="five seats are claimed")
        server.terminate()
        await until(lambda: server.readiness() != 200, what="it takes no more requests")
        assert 1 == len(auditor.live(code))
        blocker.run("ROLLBACK")

    assert 0 == await asyncio.to_thread(server.wait)
    assert {"first", *(order for _, order in orders(5))} == {row["order_id"] for row in auditor.check(code)}


def highest_claimed(stores: Stores, code: str) -> int:
    with redis.Redis.from_url(stores.redis.operator_url) as client:
        return int(client.hget(f"usher:1:{{{code}}}:counter", "next") or 0)


async def test_server_dies_whole(running: Usher, api_key: str, coupon: MakeCoupon, auditor: Auditor) -> None:
    """SIGKILL of the server and all its workers: the next one serves every order that was promised, and sells the rest."""
    async with Client(running.url, key=api_key) as client:
        code = await coupon(max_redemptions=300, max_per_customer=1)
        sending = asyncio.create_task(client.try_all(code, orders(500)))
        await until(lambda: len(auditor.live(code)) >= 50, what="50 have redeemed")
        running.kill()
        answers = await sending
        running.start()

        again = await client.redeem_all(code, orders(500))
        assert set(tally(again)) <= {"200", "201", "409 coupon_exhausted"}
        auditor.check(code, [*answers, *again])
        assert 300 == len(await auditor.fill(client, code))
