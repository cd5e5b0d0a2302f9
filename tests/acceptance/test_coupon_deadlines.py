"""Coupons are written in time: after a slow body, with a MariaDB that stands still, and while others hold the coupon's row."""

import asyncio
import json
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from functools import partial

import pytest

from tests.acceptance.conftest import MakeCoupon, StartUsher, Stores
from tests.driver import Client, Json
from tests.stores import Admin
from tests.usher_process import Usher
from tests.waiting import stalls, until_async

DEADLINE_S = 5.0
BODY_S = 1.0
"""When the last byte of a slow body comes; at 2 s it would be late."""
LATE_S = 0.9
"""A machine with two busy cores lets an answer wait before the client reads it. Less than the body takes."""
HASTY_S = 1.9
"""Less than a lock may be waited for."""
PAUSED = {"status": "paused"}


@pytest.fixture(scope="module")
def ushers(start_usher: StartUsher) -> list[Usher]:
    """One whose time ends while it waits for a lock the first time, and one that waits for it again and again."""
    return [start_usher(settings={"USHER_REQUEST_DEADLINE_MS": str(int(1000 * one))}) for one in (HASTY_S, DEADLINE_S)]


@pytest.fixture(scope="module")
def usher(ushers: list[Usher]) -> Usher:
    return ushers[-1]


@pytest.fixture
async def clients(ushers: list[Usher], api_key: str) -> AsyncIterator[list[Client]]:
    async with AsyncExitStack() as stack:
        yield [await stack.enter_async_context(Client(one.url, key=api_key)) for one in ushers]


async def slowly(body: Json) -> AsyncIterator[bytes]:
    """All but the last byte at once."""
    data = json.dumps(body).encode()
    yield data[:-1]
    await asyncio.sleep(BODY_S)
    yield data[-1:]


@pytest.mark.parametrize("method", ["POST", "PATCH"])
async def test_a_slow_body_and_a_ledger_that_stands_still(
    client: Client, coupon: MakeCoupon, stores: Stores, method: str
) -> None:
    """The deadline is one, from the first byte on. The connection that made the coupon waits for as long as it may."""
    code = await coupon()
    path, body = ("/v1/coupons", {"code": f"{code}-NEW"}) if method == "POST" else (f"/v1/coupons/{code}", PAUSED)
    begun = time.monotonic()
    writing = asyncio.create_task(client.send(method, path, data=slowly(body)))
    await asyncio.sleep(BODY_S / 2)
    stores.mariadb.pause()
    try:
        async with stalls() as stood_still:
            answer = await writing
        took_s = time.monotonic() - begun
    finally:
        stores.mariadb.resume()

    assert (503, "unavailable") == (answer.status, answer.code)
    assert BODY_S < took_s < DEADLINE_S + LATE_S + stood_still.total_s


async def changes(client: Client, code: str) -> bool:
    """Whether a change is carried out."""
    return 200 == (await client.send("PATCH", f"/v1/coupons/{code}", body={"metadata": {}})).status


async def test_a_coupon_that_somebody_holds_is_busy(
    ushers: list[Usher], clients: list[Client], coupon: MakeCoupon, admin: Admin
) -> None:
    """However short the time is; nothing is changed, and afterwards the same change is made."""
    code = await coupon()
    for one in clients:  # A connection that is not open yet may take longer than the hasty one has: that is no lock.
        await until_async(partial(changes, one, await coupon()), what="its connections are open")
    admin.run("BEGIN")
    admin.run("SELECT id FROM coupon WHERE code = %s FOR UPDATE", code)
    try:
        held = await asyncio.gather(*(one.send("PATCH", f"/v1/coupons/{code}", body=PAUSED) for one in clients))
    finally:
        admin.run("ROLLBACK")
    assert [(503, "busy", "1")] * 2 == [(one.status, one.code, one.headers["Retry-After"]) for one in held]
    found = (await clients[0].get(f"/v1/coupons/{code}")).body
    assert (1, "active") == (found["version"], found["status"])
    assert 2 == (await clients[0].change_coupon(code, **PAUSED)).body["version"]
