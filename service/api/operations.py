"""`/livez`, `/readyz` and `/metrics`: for whoever watches over the process. They need no key."""

from typing import Final

from aiohttp import web

from service.api.answers import answer
from service.api.parts import METRICS, READINESS
from service.metrics import CONTENT_TYPE

NOT_STORED: Final = {"Cache-Control": "no-store"}


async def livez(_: web.Request) -> web.Response:
    """`GET /livez`: the process runs."""
    return answer({"status": "alive"})


async def readyz(request: web.Request) -> web.Response:
    """`GET /readyz`: whether to send traffic here."""
    report = await request.app[READINESS].report()
    body = {"status": report.stage, "stores": {"ledger": report.ledger, "redis": report.redis}}
    return answer(body, status=200 if report.accepts_traffic else 503, headers=NOT_STORED)


async def show_metrics(request: web.Request) -> web.Response:
    """`GET /metrics`: what all workers have counted, in Prometheus' text format."""
    return web.Response(body=request.app[METRICS].exposed(), headers={"Content-Type": CONTENT_TYPE, **NOT_STORED})


ROUTES: Final = (web.get("/livez", livez), web.get("/readyz", readyz), web.get("/metrics", show_metrics))
