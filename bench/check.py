"""A check of one large coupon with planted faults, beside redemptions of another one: `python -m bench.check`.

Private stores. The coupon has so many redemptions, its counter knows some of the customers, and so many faults of each kind are
planted that can be planted for each seat or customer. A program of its own compares: what it finds must be exactly what was
planted. wrk redeems another coupon meanwhile, and did so before: its p99 is shown for both. A run of wrk takes `--seconds`; one
that ends after the check does not count.
"""

import argparse
import asyncio
import json
import os
import random
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import redis
from pydantic import SecretStr

from bench.filling import Filler
from bench.servers import server, usher
from bench.tally import Tally
from bench.wrk import wrk
from deploy.local import MariaDB, Redis, free_port
from reconciler.compare import compare_once
from service.config import Settings
from service.counters import Counters
from service.counters import key as name
from service.ledger import Ledger, migrations
from service.reconciling import Finding, Kind

CODE = "LARGE"
ROOM = 1_000_000
"""Seats of the coupon that were never handed out."""
PER_CUSTOMER = 5
AT_ONCE = 1_000
MEMORY = "1gb"
BYTES_PER_ROW = 256
"""Of the buffer pool, as docs/sizing.md has it."""

Faults = dict[str, list[int | str]]
"""By kind, the seats or customers."""


class Stores(NamedTuple):
    """Both stores, and the environment in which programs reach them."""

    mariadb: MariaDB
    redis: Redis
    environment: Mapping[str, str]


def main() -> None:
    """Fill the ledger, plant, measure; or, for the program of its own, compare."""
    asked = argparse.ArgumentParser(description=__doc__)
    asked.add_argument("--rows", type=int, default=1_000_000, help="redemptions of the coupon")
    asked.add_argument("--customers", type=int, default=200_000, help="customers whose counts the counter knows")
    asked.add_argument("--faults", type=int, default=1_000, help="of each kind")
    asked.add_argument("--connections", type=int, default=16)
    asked.add_argument("--seconds", type=int, default=4)
    asked.add_argument("--one", action="store_true", help="compare this coupon alone")
    asked.add_argument("--compare", type=Path, help=argparse.SUPPRESS)
    options = asked.parse_args()
    if options.compare is not None:
        options.compare.write_text(json.dumps(asyncio.run(compare(CODE if options.one else None))))
        return
    folder = Path(tempfile.mkdtemp(prefix="usher-bench-"))
    pool = str(max(512 * 1024**2, options.rows * BYTES_PER_ROW))
    try:
        with (
            MariaDB(folder / "mariadb", settings={"innodb_buffer_pool_size": pool}) as mariadb,
            Redis(folder / "redis", settings={"maxmemory": MEMORY}) as store,
        ):
            urls = {"USHER_DATABASE_URL": mariadb.url, "USHER_MIGRATION_DATABASE_URL": mariadb.migration_url}
            stores = Stores(mariadb, store, {**os.environ, **urls, "USHER_REDIS_URL": store.url})
            planted = prepare(options, stores)
            measure(options, stores, planted, folder / "found.json")
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def prepare(options: argparse.Namespace, stores: Stores) -> Faults:
    """A coupon, its redemptions, its counter; and what is wrong with them."""
    asyncio.run(migrations.run(SecretStr(stores.mariadb.migration_url)))
    limits = ("--max-redemptions", str(options.rows + ROOM), "--max-per-customer", str(PER_CUSTOMER))
    usher(stores.environment, "coupon", "create", CODE, *limits)
    filler = Filler(stores.mariadb)
    filler.redemptions_of(1, options.rows)
    asyncio.run(load(stores))
    with redis.Redis.from_url(stores.redis.operator_url) as client:
        for begin in range(1, options.customers + 1, AT_ONCE):
            known = {f"customer-{n}": 1 for n in range(begin, min(begin + AT_ONCE, options.customers + 1))}
            client.hset(name(CODE, "customers"), mapping=known)
        planted = plant(options, filler, client)
    filler.close()
    return planted


async def load(stores: Stores) -> None:
    """The counter, as the service makes it."""
    settings = Settings(database_url=SecretStr(stores.mariadb.url), redis_url=SecretStr(stores.redis.url))
    ledger, counters = await Ledger.connect(settings), await Counters.connect(settings)
    found = await ledger.coupons.load([CODE], asyncio.get_running_loop().time() + 10)
    await counters.load(list(found.values()))
    await counters.close()
    await ledger.close()


def plant(options: argparse.Namespace, filler: Filler, client: "redis.Redis") -> Faults:
    """Faults of each kind that concerns a seat or a customer. Nobody is in two of them."""
    dice, count, rows = random.Random(1), options.faults, options.rows
    first, second, third = (dice.sample(range(options.customers + n, rows, 3), count) for n in (1, 2, 3))
    wrong = dice.sample(range(1, options.customers + 1), count)
    filler.run(DELETE.format(seats=listed(first)))
    client.sadd(name(CODE, "free"), *second)
    client.hset(name(CODE, "customers"), mapping={f"customer-{n}": 2 for n in wrong})
    above = [rows + ROOM + n for n in range(1, count + 1)]
    for old, new in zip(dice.sample(range(1, options.customers), count), above, strict=True):
        filler.run(MOVE.format(old=old, new=new))
    emptied = [int(str(seat)) for (seat,) in filler.run(EMPTIED.format(customers=options.customers))]
    filler.run(EXCEED.format(customer_seat=PER_CUSTOMER + 1, seats=listed(third)))
    return {
        Kind.LEAKED.value: sorted([*first, *emptied]),
        Kind.GHOST.value: sorted(second),
        Kind.CUSTOMER_COUNT.value: sorted(f"customer-{n}" for n in wrong),
        Kind.OVERSOLD.value: [*sorted(above), *sorted(f"customer-{n}" for n in third)],
    }


DELETE = "DELETE FROM redemption WHERE coupon_id = 1 AND seat IN ({seats})"
MOVE = "UPDATE redemption SET seat = {new} WHERE coupon_id = 1 AND seat = {old}"
EXCEED = "UPDATE redemption SET customer_seat = {customer_seat} WHERE coupon_id = 1 AND seat IN ({seats})"
EMPTIED = """
SELECT s.seq FROM seq_1_to_{customers} s
LEFT JOIN redemption r ON r.coupon_id = 1 AND r.seat = s.seq
WHERE r.seat IS NULL
"""
"""The seats of those who were moved above the limit: they leaked."""


def listed(numbers: Sequence[int]) -> str:
    """For IN (…)."""
    return ",".join(map(str, numbers))


def measure(options: argparse.Namespace, stores: Stores, planted: Faults, into: Path) -> None:
    """Redemptions alone, then beside the check; then what the check has found."""
    usher(stores.environment, "coupon", "create", "HOT", "--max-redemptions", "2000000000")
    key = usher(stores.environment, "key", "create", "--name", "bench", "--scope", "redeem").strip()
    port = free_port()
    serve = [sys.executable, "-m", "service.cli", "serve", "--port", str(port)]
    with server(serve, stores.environment, port):
        wrk(port, key, "warm", connections=options.connections, seconds=3)
        alone = [wrk(port, key, f"alone-{n}", connections=options.connections, seconds=options.seconds) for n in range(4)]
        arguments = ["-m", "bench.check", "--compare", str(into), *(["--one"] if options.one else [])]
        check = subprocess.Popen([sys.executable, *arguments], env=stores.environment)
        beside: list[Tally] = []
        while check.poll() is None:
            figure = wrk(port, key, f"beside-{len(beside)}", connections=options.connections, seconds=options.seconds)
            if check.poll() is None or not beside:
                beside.append(figure)
    assert check.returncode == 0, "the check has failed"
    found = json.loads(into.read_text())
    print(f"{options.rows:,} redemptions, {options.customers:,} customers known, {options.faults:,} faults of each kind")
    print(f"check: {found['took_s']:.1f} s, {found['memory_mb']:.0f} MB at most")
    for kind, wanted in planted.items():
        got = found["findings"].pop(kind, [])
        print(f"{kind}: {len(wanted)} planted, {len(set(wanted) & set(got))} found, {len(set(got) - set(wanted))} made up")
    print(f"other findings: {dict(Counter({kind: len(of) for kind, of in found['findings'].items()})) or 'none'}")
    for title, figures in (("alone", alone), ("beside the check", beside)):
        p99 = median(figure.latency_ms["p99"] for figure in figures)
        print(f"redeem {title}: {median(figure.rate for figure in figures):,.0f}/s, p99 {p99:.1f} ms, {len(figures)} runs")


async def compare(code: str | None) -> dict[str, Any]:
    """The program of its own: one check, and what it found, by kind."""
    settings = Settings()
    ledger, counters = await Ledger.connect(settings), await Counters.connect(settings)
    findings: dict[str, list[Any]] = {}

    async def found(some: Sequence[Finding]) -> None:
        for one in some:
            findings.setdefault(one.kind.value, []).append(one.customer_id or one.seat)

    begun_at = time.monotonic()
    await compare_once(ledger, counters, found, code=code)
    took_s = time.monotonic() - begun_at
    memory_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    await counters.close()
    await ledger.close()
    return {"took_s": took_s, "memory_mb": memory_mb, "findings": findings}


if __name__ == "__main__":
    main()
