"""Redemptions a second with Redis, without it, and with it again: `python -m bench.redis_away`.

Private stores, a service with so many workers, wrk with 100 connections, one hot coupon or many; Redis goes and comes under
load. It stands still and goes on with what it had then (SIGSTOP, SIGCONT), or is killed and comes back empty (`--kill`).
What counts is the ratio, and that no answer but 201 is given: beside the rate stands how many were none.
"""

import argparse
import os
import shutil
import sys
import tempfile
import threading
from collections.abc import Callable, Mapping
from pathlib import Path

from bench.last_seat import administrator
from bench.servers import server, usher
from bench.wrk import CODE, wrk
from deploy.local import MariaDB, Redis, free_port

COUPONS = """
INSERT INTO coupon (code, max_redemptions, max_per_customer, status, metadata, version, created_at, updated_at)
SELECT CONCAT(%s, IF(%s > 1, CONCAT('-', seq), '')), 1000000000, %s, 'active', '{{}}', 1, UTC_TIMESTAMP(6), UTC_TIMESTAMP(6)
FROM seq_1_to_{coupons}
"""
TURN_SECONDS = 4
"""A run in whose middle Redis goes or comes."""


def main() -> None:
    """The five runs, and the ratio."""
    asked = argparse.ArgumentParser(description=__doc__)
    asked.add_argument("--workers", type=int, default=1)
    asked.add_argument("--connections", type=int, default=100)
    asked.add_argument("--seconds", type=int, default=8, help="of each measurement")
    asked.add_argument("--coupons", type=int, default=1)
    asked.add_argument("--max-per-customer", type=int, default=None)
    asked.add_argument("--kill", action="store_true", help="SIGKILL, and an empty Redis afterwards")
    options = asked.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="usher-bench-"))
    try:
        with MariaDB(folder / "mariadb") as mariadb, Redis(folder / "redis") as redis:
            urls = {"USHER_DATABASE_URL": mariadb.url, "USHER_MIGRATION_DATABASE_URL": mariadb.migration_url}
            measure(options, {**os.environ, **urls, "USHER_REDIS_URL": redis.url}, mariadb, redis)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def measure(options: argparse.Namespace, environment: Mapping[str, str], mariadb: MariaDB, redis: Redis) -> None:
    """With Redis, it goes, without, it comes, with it again."""
    usher(environment, "migrate")
    with administrator(mariadb) as session, session.cursor() as cursor:
        cursor.execute(COUPONS.format(coupons=options.coupons), (CODE, options.coupons, options.max_per_customer))
    key = usher(environment, "key", "create", "--name", "bench", "--scope", "redeem").strip()
    port = free_port()
    serve = [sys.executable, "-m", "service.cli", "serve", "--workers", str(options.workers), "--port", str(port)]
    go, come = (redis.kill, redis.start) if options.kill else (redis.pause, redis.resume)

    def run(name: str, seconds: int, turn: Callable[[], None] | None = None) -> float:
        timer = threading.Timer(seconds / 2, turn) if turn else None
        if timer is not None:
            timer.start()
        figure = wrk(port, key, name, connections=options.connections, seconds=seconds, options={"coupons": options.coupons})
        if timer is not None:
            timer.join()
        print(f"{name:8} {figure.rate:8.0f}/s  p50 {figure.latency_ms['p50']:6.1f} ms  p99 {figure.latency_ms['p99']:6.1f} ms  "
              f"not 2xx {figure.others}  broken {figure.broken}", flush=True)  # fmt: skip
        return figure.rate

    with server(serve, environment, port):
        run("warm", 2)
        with_redis = run("with", options.seconds)
        run("goes", TURN_SECONDS, go)
        without = run("without", options.seconds)
        run("comes", TURN_SECONDS, come)
        again = run("again", options.seconds)
    print(f"without / with: {without / with_redis:.2f}; again / with: {again / with_redis:.2f}")


if __name__ == "__main__":
    main()
