"""The empty handler: parses the same request, answers the same JSON, and does nothing else. The framework's ceiling."""

import sys

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


def main(port: int) -> None:
    """Serve on 127.0.0.1 until SIGTERM."""
    app = web.Application()
    app.router.add_post("/v1/redemptions", redeem)
    try:
        import uvloop  # noqa: PLC0415 - an optional extra

        loop = uvloop.new_event_loop()
    except ImportError:
        loop = None
    web.run_app(app, host="127.0.0.1", port=port, access_log=None, print=None, loop=loop, backlog=4096)


if __name__ == "__main__":
    main(int(sys.argv[1]))
