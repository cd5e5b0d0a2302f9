"""The last use of a large coupon, whose counter is gone: `python -m bench.last_seat`.

Private stores and a service; all seats of the coupon are live but one, and nobody knows which. Redis is flushed, and the use is
asked for; then once more, which must be refused; the next round leaves another seat. The same without Redis, whose first
request waits for the time-out. Every request is to be answered within the default deadline, 5 s.
"""

import argparse
import http.client
import json
import os
import random
import shutil
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pymysql
import redis

from bench.servers import server, usher
from deploy.local import MariaDB, Redis, free_port

CODE = "LARGE"
ROWS_PER_STATEMENT = 500_000
FILL = """
INSERT INTO redemption
    (id, coupon_id, customer_id, order_id, status, seat, live_order_id, api_key_id, created_at, confirmed_at)
SELECT
    UNHEX(LPAD(HEX(seq), 32, '0')), c.id, LPAD(seq, 9, '0'), LPAD(seq, 9, '0'), 'confirmed', seq, LPAD(seq, 9, '0'), 1,
    UTC_TIMESTAMP(6), UTC_TIMESTAMP(6)
FROM seq_{first}_to_{last} JOIN coupon c
"""
EMPTY = """
UPDATE redemption SET status = 'cancelled', was_seat = seat, seat = NULL, live_order_id = NULL,
    ended_at = UTC_TIMESTAMP(6), end_reason = 'bench'
WHERE coupon_id = (SELECT id FROM coupon) AND seat = %s
"""
BUFFER_POOL = "4G"
"""Ten million rows with their keys are some 3 GB; in production they are in memory as well."""


def main() -> None:
    """Fill, then the rounds, one line each."""
    asked = argparse.ArgumentParser(description=__doc__)
    asked.add_argument("--seats", type=int, default=1_000_000)
    asked.add_argument("--rounds", type=int, default=3)
    options = asked.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="usher-bench-"))
    try:
        with (
            MariaDB(folder / "mariadb", settings={"innodb_buffer_pool_size": BUFFER_POOL}) as mariadb,
            Redis(folder / "redis") as store,
        ):
            urls = {"USHER_DATABASE_URL": mariadb.url, "USHER_MIGRATION_DATABASE_URL": mariadb.migration_url}
            environment = {**os.environ, **urls, "USHER_REDIS_URL": store.url}
            usher(environment, "migrate")
            usher(environment, "coupon", "create", CODE, "--max-redemptions", str(options.seats))
            key = usher(environment, "key", "create", "--name", "bench", "--scope", "redeem").strip()
            begun_at = time.monotonic()
            fill(mariadb, options.seats)
            print(f"{options.seats:,} rows in {time.monotonic() - begun_at:.0f} s", flush=True)
            measure(options, environment, key, (mariadb, store))
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def measure(options: argparse.Namespace, environment: Mapping[str, str], key: str, stores: tuple[MariaDB, Redis]) -> None:
    """Rounds with a Redis that was flushed, then without."""
    mariadb, store = stores
    port = free_port()
    serve = [sys.executable, "-m", "service.cli", "serve", "--port", str(port)]
    with server(serve, environment, port), redis.Redis.from_url(store.operator_url) as client:
        for turn in range(2 * options.rounds):
            is_away = turn >= options.rounds
            if turn == options.rounds:
                store.pause()
            seat = random.randint(1, options.seats)
            empty(mariadb, seat)
            if not is_away:
                client.flushall()
            had, had_s = redeem(port, key, f"had-{turn}")
            refused, refused_s = redeem(port, key, f"refused-{turn}")
            found = f"{had[0]} on seat {had[1].get('seat')} of {seat}"
            print(f"{'without Redis' if is_away else 'flushed':13}  {found} after {had_s:.2f} s, then {refused[0]} "
                  f"{refused[1].get('code')} after {refused_s:.2f} s", flush=True)  # fmt: skip
        store.resume()


def redeem(port: int, key: str, order: str) -> tuple[tuple[int, dict[str, Any]], float]:
    """Status and body of the answer, and after how many seconds it came."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    body = json.dumps({"code": CODE, "customer_id": "late", "order_id": order})
    begun_at = time.monotonic()
    headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
    connection.request("POST", "/v1/redemptions", body, headers)
    answer = connection.getresponse()
    document = json.loads(answer.read())
    took_s = time.monotonic() - begun_at
    connection.close()
    return (answer.status, document), took_s


def administrator(mariadb: MariaDB) -> "pymysql.Connection[Any]":
    """A session that may do everything."""
    return pymysql.connect(unix_socket=str(mariadb.socket), user="root", database=mariadb.database, autocommit=True)


def fill(mariadb: MariaDB, seats: int) -> None:
    """A live row on every seat. Names ascend with the seats: in the keys' order, many rows are written soon."""
    with administrator(mariadb) as session, session.cursor() as cursor:
        cursor.execute("SET unique_checks = 0, innodb_lock_wait_timeout = 600")
        for first in range(1, seats + 1, ROWS_PER_STATEMENT):
            last = min(first + ROWS_PER_STATEMENT - 1, seats)
            cursor.execute(FILL.format(first=first, last=last))
        cursor.execute("ANALYZE TABLE redemption")


def empty(mariadb: MariaDB, seat: int) -> None:
    """Nobody sits on this seat any more, and nobody is told."""
    with administrator(mariadb) as session, session.cursor() as cursor:
        cursor.execute(EMPTY, (seat,))
        assert cursor.rowcount == 1


if __name__ == "__main__":
    main()
