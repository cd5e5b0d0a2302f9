"""What Usher takes in memory, on disk and in connections: `python -m bench.sizing`. Prints the tables of docs/sizing.md.

Private stores, filled through Usher's own gateways and by `usher serve`; a few minutes. Bytes, rows and connections do not
depend on the machine, so these are figures to plan with. `--part` measures one of the three alone.
"""

import argparse
import asyncio
import shutil
import tempfile
from pathlib import Path

from bench.sizing_stores import MILLION, measure_ledger, measure_redis
from bench.sizing_workers import measure_workers
from deploy.local import MariaDB, Redis


def main() -> None:
    """Measure what was asked for, table after table."""
    asked = argparse.ArgumentParser(description=__doc__)
    asked.add_argument("--part", choices=("redis", "ledger", "workers"), action="append")
    asked.add_argument("--rows", type=int, default=MILLION, help="redemptions recorded for each line of the ledger's table")
    options = asked.parse_args()
    parts = options.part or ["redis", "ledger", "workers"]
    folder = Path(tempfile.mkdtemp(prefix="usher-sizing-"))
    try:
        if "redis" in parts:
            with Redis(folder / "redis-alone") as store:
                asyncio.run(measure_redis(store))
        if "ledger" in parts:
            with MariaDB(folder / "mariadb-alone", settings={"log_bin": "binlog", "server_id": "1"}) as store:
                asyncio.run(measure_ledger(store, options.rows))
        if "workers" in parts:
            with MariaDB(folder / "mariadb") as mariadb, Redis(folder / "redis") as counters:
                measure_workers(mariadb, counters)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
