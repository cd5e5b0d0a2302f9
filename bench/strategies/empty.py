"""The empty handler: parses the same request, answers the same JSON, and does nothing else. The framework's ceiling."""

import orjson
from aiohttp import web

ANSWER = {
    "id": "019ab6a2-1c5e-7c3d-9a52-5d6f0a8c1b2e",
    "code": "HOT",
    "customer_id": "c-0-0",
    "order_id": "o-0-0",
    "status": "confirmed",
    "seat": 1,
    "expires_at": None,
    "created_at": "2026-11-22T10:15:30.123456Z",
    "confirmed_at": "2026-11-22T10:15:30.123456Z",
    "ended_at": None,
    "end_reason": None,
}


async def redeem(request: web.Request) -> web.Response:
    """Parse, answer."""
    order = orjson.loads(await request.read())
    answer = {**ANSWER, "customer_id": order["customer_id"], "order_id": order["order_id"]}
    return web.Response(body=orjson.dumps(answer), status=201, content_type="application/json")
