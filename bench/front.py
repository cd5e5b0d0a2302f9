"""The one server in front of every way of counting: `python -m bench.front STRATEGY --port P --workers N --pool K`.

It serves `POST /v1/redemptions` on 127.0.0.1 until SIGTERM, with Usher's requests and answers, from USHER_DATABASE_URL and
USHER_REDIS_URL. Redis' URL is the operator's: Usher's own account may neither touch other keys than Usher's nor run the
commands that the rivals need. Before the first run, `bench.strategies.preparation` makes the counters.

The empty handler has the same server around it, and nothing else.
"""

import argparse
import asyncio
import gc
import os
import signal
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any

import orjson
import uvloop
from aiohttp import web

from bench.strategies import KINDS, empty
from bench.strategies.by_statement import ConditionalUpdateByStatement, RowLockByStatement
from bench.strategies.conditional_update import ConditionalUpdate
from bench.strategies.floor import Floor
from bench.strategies.model import Failed, Failure, Order, Refusal, Row, Sold, Stores, Strategy
from bench.strategies.naive import Naive
from bench.strategies.queue_batch import QueueBatch
from bench.strategies.queue_single import QueueSingle
from bench.strategies.read_committed import ReadCommitted
from bench.strategies.redis_insert import RedisInsert
from bench.strategies.redis_only import RedisOnly
from bench.strategies.row_lock import RowLock
from bench.strategies.split_rows import SplitRows
from service import workers

STRATEGIES: Mapping[str, Callable[[Stores], Strategy]] = {
    "floor": Floor,
    "naive": Naive,
    "row-lock": RowLock,
    "row-lock-by-statement": RowLockByStatement,
    "conditional-update": ConditionalUpdate,
    "conditional-update-by-statement": ConditionalUpdateByStatement,
    "read-committed": ReadCommitted,
    "split-rows": SplitRows,
    "queue-single": QueueSingle,
    "queue-batch": QueueBatch,
    "redis-only": RedisOnly,
    "redis-insert": RedisInsert,
}
DEADLINE_S = 5.0
"""Usher's own: every request has its answer by then, whichever."""
BACKLOG = 4096
"""As Usher's: with the usual 128, a thousand clients that connect at once wait for seconds."""
SHUTDOWN_S = DEADLINE_S + 1.0
"""Requests under way have their answers by then; a stop among them would leave uses that are counted and not sold."""
GC_YOUNG_OBJECTS = 50_000
"""As in `usher serve`: requests leave no cycles behind."""
STATUS = {Refusal.COUPON_EXHAUSTED: 409, Refusal.COUPON_NOT_FOUND: 404}
FAILED_STATUS = 503


def main() -> None:
    """Serve until SIGTERM."""
    asked = argparse.ArgumentParser(description=__doc__)
    asked.add_argument("strategy", choices=[name for name, kind in KINDS.items() if kind.served_by_front])
    asked.add_argument("--port", type=int, required=True)
    asked.add_argument("--workers", type=int, default=1)
    asked.add_argument("--pool", type=int, default=16, help="connections to each store that a worker needs")
    options = asked.parse_args()
    if options.workers == 1:
        run(options)
        return
    # Nobody else may listen there: the connections would be split with them.
    workers.close(workers.reserve(workers.resolve("127.0.0.1", options.port)))
    gc.freeze()  # As `usher serve` does before it forks.

    def work(_place: int, orphaned: int) -> int:
        run(options, orphaned)
        return 0

    raise SystemExit(workers.Supervisor(options.workers, work, SHUTDOWN_S).run())


def run(options: argparse.Namespace, orphaned: int | None = None) -> None:
    """One worker. `orphaned`: a descriptor that is readable when the parent is gone."""
    gc.set_threshold(GC_YOUNG_OBJECTS)
    app = web.Application()
    if options.strategy == "empty":
        app.router.add_post("/v1/redemptions", empty.redeem)
    else:
        environment = os.environ
        stores = Stores(environment["USHER_DATABASE_URL"], environment["USHER_REDIS_URL"], options.pool)
        add(app, STRATEGIES[options.strategy](stores))
    if orphaned is not None:
        app.on_startup.append(lambda _app: stop_with_parent(orphaned))
    web.run_app(
        app, host="127.0.0.1", port=options.port, reuse_port=orphaned is not None, backlog=BACKLOG, access_log=None, print=None,
        loop=uvloop.new_event_loop(), shutdown_timeout=SHUTDOWN_S,
    )  # fmt: skip


async def stop_with_parent(orphaned: int) -> None:
    """Ends this worker when the supervisor is gone, however that one ended."""
    loop = asyncio.get_running_loop()

    def stop() -> None:
        loop.remove_reader(orphaned)
        os.kill(os.getpid(), signal.SIGTERM)

    loop.add_reader(orphaned, stop)


def add(app: web.Application, strategy: Strategy) -> None:
    """The route, and the strategy's connections for as long as the application runs."""

    async def connections(_app: web.Application) -> AsyncIterator[None]:
        async with strategy:
            yield

    async def redeem(request: web.Request) -> web.Response:
        asked = orjson.loads(await request.read())
        order = Order(asked["code"], asked["customer_id"], asked["order_id"])
        try:
            async with asyncio.timeout(DEADLINE_S):
                found = await strategy.redeem(order)
        except TimeoutError:
            return problem(Failure.TIME_OUT, FAILED_STATUS)
        except Failed as failed:
            return problem(failed.failure, FAILED_STATUS)
        if isinstance(found, Sold):
            return answer(view(found.row), 201 if found.is_new else 200)
        return problem(found, STATUS[found])

    app.cleanup_ctx.append(connections)
    app.router.add_post("/v1/redemptions", redeem)


def view(row: Row) -> dict[str, Any]:
    """A redemption as Usher's answers show it."""
    created_at = f"{row.created_at}Z"
    return {
        "id": row.id,
        "code": row.code,
        "customer_id": row.customer_id,
        "order_id": row.order_id,
        "status": "confirmed",
        "seat": None,
        "expires_at": None,
        "created_at": created_at,
        "confirmed_at": created_at,
        "ended_at": None,
        "end_reason": None,
    }


def answer(body: Mapping[str, Any], status: int, media_type: str = "application/json") -> web.Response:
    """A JSON answer."""
    return web.Response(body=orjson.dumps(body), status=status, content_type=media_type)


def problem(code: str, status: int) -> web.Response:
    """What is no redemption, in the form of Usher's problems."""
    body = {
        "type": f"https://usher.invalid/problems/{code}",
        "title": code,
        "status": status,
        "detail": code,
        "code": code,
        "request_id": "bench",
    }
    return answer(body, status, "application/problem+json")


if __name__ == "__main__":
    main()
