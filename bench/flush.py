"""How long nobody's redemption succeeds when Redis is flushed at full load: `python -m bench.flush`.

Private stores, one coupon with so many live redemptions and one for each customer, wrk with 100 connections, and FLUSHALL now
and then; the first one also drops the counts of all those customers. A gap is a time between two answers 201, as wrk sees them;
those that overlap the second after a flush count as its own.
"""

import argparse
import asyncio
import os
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import redis
from pydantic import SecretStr

from bench.filling import Filler
from bench.gaps import longest, of_flush
from bench.servers import server, usher
from bench.wrk import CODE, run_wrk, wrk
from deploy.local import MariaDB, Redis, free_port
from service.counters import key as name
from service.ledger import migrations

LIMIT = 2_000_000_000
SHORTEST_GAP_MS = 10
CUSTOMERS_AT_ONCE = 1_000
FLUSH_EVERY_S = 2.0
MEMORY = "1gb"
BUFFER_POOL = "2G"


def main() -> None:
    """Fill the ledger, then measure; a line for each flush, and the longest gap that no flush made."""
    asked = argparse.ArgumentParser(description=__doc__)
    asked.add_argument("--rows", type=int, default=1_000_000, help="live redemptions of the coupon at the beginning")
    asked.add_argument("--workers", type=int, default=1)
    asked.add_argument("--connections", type=int, default=100)
    asked.add_argument("--flushes", type=int, default=5)
    asked.add_argument("--max-per-customer", type=int, default=1)
    options = asked.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="usher-bench-"))
    try:
        with (
            MariaDB(folder / "mariadb", settings={"innodb_buffer_pool_size": BUFFER_POOL}) as mariadb,
            Redis(folder / "redis", settings={"maxmemory": MEMORY}) as store,
        ):
            asyncio.run(migrations.run(SecretStr(mariadb.migration_url)))
            urls = {"USHER_DATABASE_URL": mariadb.url, "USHER_MIGRATION_DATABASE_URL": mariadb.migration_url}
            environment = {**os.environ, **urls, "USHER_REDIS_URL": store.url}
            arguments = ("--max-redemptions", str(LIMIT), "--max-per-customer", str(options.max_per_customer))
            usher(environment, "coupon", "create", CODE, *arguments)
            filler = Filler(mariadb)
            filler.redemptions_of(1, options.rows)
            filler.close()
            measure(options, environment, store.operator_url)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def measure(options: argparse.Namespace, environment: Mapping[str, str], operator_url: str) -> None:
    """The service under load, flushed again and again."""
    key = usher(environment, "key", "create", "--name", "bench", "--scope", "redeem").strip()
    port = free_port()
    serve = [sys.executable, "-m", "service.cli", "serve", "--workers", str(options.workers), "--port", str(port)]
    flushed: list[float] = []
    with server(serve, environment, port):
        wrk(port, key, "warm", connections=options.connections, seconds=2)
        remember_customers(operator_url, options.rows)
        flusher = threading.Thread(target=flush, args=(operator_url, options.flushes, flushed))
        flusher.start()
        figure = gaps(port, key, connections=options.connections, seconds=int(FLUSH_EVERY_S * (options.flushes + 1)) + 1)
        flusher.join()
    tell(figure, flushed)


def remember_customers(operator_url: str, count: int) -> None:
    """The counter knows so many customers, as if their redemptions had passed through it."""
    with redis.Redis.from_url(operator_url) as client:
        for begin in range(0, count, CUSTOMERS_AT_ONCE):
            client.hset(name(CODE, "customers"), mapping={f"customer-{begin + n}": 1 for n in range(CUSTOMERS_AT_ONCE)})


def flush(operator_url: str, times: int, flushed: list[float]) -> None:
    """FLUSHALL so many times; when, in seconds since 1970."""
    with redis.Redis.from_url(operator_url) as client:
        for _ in range(times):
            time.sleep(FLUSH_EVERY_S)
            flushed.append(time.time())
            client.flushall()


def gaps(port: int, key: str, *, connections: int, seconds: int) -> dict[str, Any]:
    """A run of wrk; its figures."""
    arguments = [key, CODE, "flush", str(SHORTEST_GAP_MS)]
    return run_wrk(port, "gaps.lua", arguments, connections=connections, seconds=seconds)


def tell(figure: Mapping[str, Any], flushed: list[float]) -> None:
    """What was measured."""
    others = list(figure["gaps"])
    for at in flushed:
        own = of_flush(figure["gaps"], at * 1_000)
        others = [gap for gap in others if gap not in own]
        print(f"flush: {longest(own):6.1f} ms without a success (0: less than {SHORTEST_GAP_MS})")
    print(
        f"{figure['requests'] / figure['duration_us'] * 1e6:,.0f} answers/s, p99 {figure['p99_us'] / 1_000:.0f} ms, "
        f"max {figure['max_us'] / 1_000:.0f} ms; longest other gap {longest(others):.1f} ms; "
        f"answers but 201: {figure['not_201'] or 'none'}"
    )


if __name__ == "__main__":
    main()
