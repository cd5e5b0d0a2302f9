"""What idle and slow clients cost the others: `python -m bench.slow_clients`.

Redemptions by a few connections (wrk, each sends its next request when it has its answer), alone and beside 1,000 idle
connections and 200 that send a byte a second: half of them heads, half of them bodies. A slow one that the service cuts comes
back at once. In turns, so that a busy machine is busy for both; what counts is the ratio of the medians.
"""

import argparse
import asyncio
import itertools
import os
import shutil
import sys
import tempfile
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from statistics import median

from bench.servers import server, usher
from bench.tally import Tally
from bench.wrk import CODE, wrk
from deploy.local import MariaDB, Redis, free_port
from service.workers import allow_files

IDLE = 1_000
SLOW = 200
PACE_S = 1.0
SPREAD_S = 5.0
"""In which the slow ones come: as long as the service waits for a head."""
FILES = 2_000
KEPT_ALIVE = b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n"
HEAD = b"GET /livez HTTP/1.1\r\n", b"A: b\r\n"
POST = b"POST /v1/redemptions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 10000\r\n"


def main() -> None:
    """Run the rounds and print a table, then the ratios."""
    asked = argparse.ArgumentParser(description=__doc__)
    asked.add_argument("--connections", type=int, default=8, help="of those who are measured")
    asked.add_argument("--seconds", type=int, default=6, help="of each measurement")
    asked.add_argument("--rounds", type=int, default=4)
    options = asked.parse_args()
    allow_files(FILES)
    folder = Path(tempfile.mkdtemp(prefix="usher-bench-"))
    try:
        with MariaDB(folder / "mariadb") as mariadb, Redis(folder / "redis") as redis:
            urls = {"USHER_DATABASE_URL": mariadb.url, "USHER_MIGRATION_DATABASE_URL": mariadb.migration_url}
            environment = {**os.environ, **urls, "USHER_REDIS_URL": redis.url}
            usher(environment, "migrate")
            usher(environment, "coupon", "create", CODE, "--max-redemptions", "2000000000")
            asyncio.run(measure(options, environment))
    finally:
        shutil.rmtree(folder, ignore_errors=True)


async def measure(options: argparse.Namespace, environment: Mapping[str, str]) -> None:
    """One service; wrk alone and in company, in turns."""
    key = usher(environment, "key", "create", "--name", "bench", "--scope", "redeem").strip()
    port = free_port()
    figures: dict[str, list[Tally]] = {"alone": [], "beside": []}
    serve = [sys.executable, "-m", "service.cli", "serve", "--port", str(port)]

    async def load(run: str, seconds: int) -> Tally:
        return await asyncio.to_thread(wrk, port, key, run, connections=options.connections, seconds=seconds)

    with server(serve, environment, port):
        await load("warm", 2)
        for turn in range(options.rounds):
            figures["alone"].append(await load(f"alone-{turn}", options.seconds))
            async with company(port, key) as cut:
                figures["beside"].append(await load(f"beside-{turn}", options.seconds))
            for name, found in figures.items():
                figure = found[-1]
                print(f"{name:6} {figure.rate:6.0f}/s  p50 {figure.latency_ms['p50']:6.2f} ms  "
                      f"p99 {figure.latency_ms['p99']:6.2f} ms  not 2xx {figure.others}", flush=True)  # fmt: skip
            print(f"       {len(cut)} slow ones were cut meanwhile")
    for what in ("p50", "p99"):
        alone, beside = (median(figure.latency_ms[what] for figure in figures[name]) for name in ("alone", "beside"))
        print(f"{what} alone {alone:.2f} ms, beside them {beside:.2f} ms, ratio {beside / alone:.2f}")


@asynccontextmanager
async def company(port: int, key: str) -> AsyncIterator[list[float]]:
    """The idle and the slow ones; yields when each that was cut was, by the loop's clock."""
    cut: list[float] = []
    idle = [await asyncio.open_connection("127.0.0.1", port) for _ in range(IDLE)]
    for reader, writer in idle:
        writer.write(KEPT_ALIVE)
        await reader.readuntil(b"}")
    ways = itertools.cycle((HEAD, (POST + b"Authorization: Bearer %s\r\n\r\n" % key.encode(), b" ")))
    tasks = []
    for way in itertools.islice(ways, SLOW):
        tasks.append(asyncio.create_task(be_slow(port, way, cut)))
        # All at the same moment would be another attack: a herd.
        await asyncio.sleep(SPREAD_S / SLOW)
    try:
        yield cut
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for _, writer in idle:
            writer.transport.abort()
        await asyncio.sleep(PACE_S)


async def be_slow(port: int, way: tuple[bytes, bytes], cut: list[float]) -> None:
    """Sends a byte now and then; when cut, begins anew."""
    first, then = way
    while True:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        try:
            writer.write(first)
            reading = asyncio.create_task(reader.read())
            for byte in itertools.cycle(then):
                done, _ = await asyncio.wait([reading], timeout=PACE_S)
                if done:
                    with suppress(ConnectionError):
                        await reading
                    cut.append(asyncio.get_running_loop().time())
                    break
                writer.write(bytes([byte]))
        finally:
            writer.transport.abort()


if __name__ == "__main__":
    main()
