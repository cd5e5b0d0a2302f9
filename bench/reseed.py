"""How fast counters are loaded from the ledger, and in how much memory: `python -m bench.reseed`.

Private stores; so many coupons, with redemptions by Zipf's law. Each round flushes Redis and loads all, loads again (all say
the same), and loads again by force.
"""

import argparse
import asyncio
import resource
import shutil
import sys
import tempfile
import time
from pathlib import Path

import redis.asyncio
from pydantic import SecretStr

from bench.filling import Filler
from deploy.local import MariaDB, Redis
from reconciler.reseeding import reseed_once
from service.config import Settings
from service.counters import Counters
from service.ledger import Ledger, migrations

MEMORY = "4gb"
"""Redis' own 256 MB hold some 700,000 counters; the rest of a million would not be loaded."""
BUFFER_POOL = "2G"
"""The seats' key of ten million redemptions is read once by each round."""
MIB = 1024


def main() -> None:
    """Fill the ledger, then measure; one line for each way."""
    asked = argparse.ArgumentParser(description=__doc__)
    asked.add_argument("--coupons", type=int, default=1_000_000)
    asked.add_argument("--per-coupon", type=int, default=10, help="redemptions, on average")
    asked.add_argument("--rounds", type=int, default=2)
    options = asked.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="usher-bench-"))
    try:
        with (
            MariaDB(folder / "mariadb", settings={"innodb_buffer_pool_size": BUFFER_POOL}) as mariadb,
            Redis(folder / "redis", settings={"maxmemory": MEMORY}) as store,
        ):
            asyncio.run(migrations.run(SecretStr(mariadb.migration_url)))
            filler = Filler(mariadb)
            filler.coupons(options.coupons)
            filler.redemptions_by_zipf(options.coupons * options.per_coupon, options.coupons)
            filler.close()
            settings = Settings(database_url=SecretStr(mariadb.url), redis_url=SecretStr(store.url))
            asyncio.run(measure(options, settings, store.operator_url))
    finally:
        shutil.rmtree(folder, ignore_errors=True)


async def measure(options: argparse.Namespace, settings: Settings, operator_url: str) -> None:
    """The rounds."""
    ledger, counters = await Ledger.connect(settings), await Counters.connect(settings)
    client = redis.asyncio.Redis.from_url(operator_url, socket_timeout=60)
    try:
        for _ in range(options.rounds):
            await client.flushall()
            for way, force in (("missing", False), ("the same", False), ("forced", True)):
                begun_at, used_s = time.monotonic(), time.process_time()
                report = await reseed_once(ledger, counters, force=force)
                took_s, used_s = time.monotonic() - begun_at, time.process_time() - used_s
                print(
                    f"{way:9} {report.coupons:9,} coupons, {report.loaded:9,} loaded  {report.coupons / took_s:8,.0f}/s  "
                    f"{used_s / took_s:4.0%} of a processor  peak RSS {peak_mib():.0f} MiB",
                    flush=True,
                )
    finally:
        await client.aclose()
        await counters.close()
        await ledger.close()


def peak_mib() -> float:
    """The most memory that this process has had."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / MIB if sys.platform == "linux" else peak / MIB / MIB


if __name__ == "__main__":
    main()
