"""Usher without its guard: reads how many are live, compares, and writes. Kept to show that the tests can fail."""

import asyncio
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from aiohttp import web

from deploy.local import MariaDB, free_port
from tests.stores import Admin

BARRIER_TIMEOUT_S = 30.0


@asynccontextmanager
async def serve_unguarded(server: MariaDB, *, at_once: int) -> AsyncIterator[str]:
    """Serves `POST /v1/redemptions` on the ledger's tables; all of `at_once` requests read before the first one writes."""
    everybody_has_read = asyncio.Barrier(at_once)

    async def redeem(request: web.Request) -> web.Response:
        order = await request.json()
        used, coupon = await asyncio.to_thread(_read, server, order["code"])
        async with asyncio.timeout(BARRIER_TIMEOUT_S):
            await everybody_has_read.wait()
        if used >= coupon["max_redemptions"]:
            return web.json_response({"code": "coupon_exhausted"}, status=409)
        made = await asyncio.to_thread(_write, server, coupon["id"], order)
        return web.json_response({**order, "id": made}, status=201)

    app = web.Application()
    app.router.add_post("/v1/redemptions", redeem)
    runner = web.AppRunner(app)
    await runner.setup()
    port = free_port()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        await runner.cleanup()


def _read(server: MariaDB, code: str) -> tuple[int, dict[str, int]]:
    with Admin(server) as admin:
        (coupon,) = admin.run("SELECT id, max_redemptions FROM coupon WHERE code = %s", code)
        used = admin.value(
            "SELECT COUNT(*) FROM redemption WHERE coupon_id = %s AND status IN ('reserved', 'confirmed')", coupon["id"]
        )
        return used, coupon


def _write(server: MariaDB, coupon_id: int, order: dict[str, str]) -> str:
    made = uuid.uuid4()
    with Admin(server) as admin:
        admin.run(
            "INSERT INTO redemption (id, coupon_id, customer_id, order_id, live_order_id, status, api_key_id, created_at,"
            " confirmed_at) VALUES (%s, %s, %s, %s, %s, 'confirmed', 1, UTC_TIMESTAMP(6), UTC_TIMESTAMP(6))",
            made.bytes,
            coupon_id,
            order["customer_id"],
            order["order_id"],
            order["order_id"],
        )
    return str(made)
