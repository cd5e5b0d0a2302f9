"""Redemptions a second on one hot coupon, beside the empty handler, in turns: `python -m bench.redeem`.

Private stores, a service with so many workers, wrk with 100 connections, unique customers and orders; every 201 is a durable
row. What counts is the ratio: the machine is shared by load, service and stores.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

from deploy.local import MariaDB, Redis, free_port
from deploy.programs import NEEDS, provide

HERE = Path(__file__).parent
CODE = "HOT"
START_S = 30


def main() -> None:
    """Run the rounds and print a table, then the ratio of the medians."""
    asked = argparse.ArgumentParser(description=__doc__)
    asked.add_argument("--workers", type=int, default=1)
    asked.add_argument("--connections", type=int, default=100)
    asked.add_argument("--seconds", type=int, default=8, help="of each measurement")
    asked.add_argument("--rounds", type=int, default=3)
    asked.add_argument("--max-per-customer", type=int, default=None)
    options = asked.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="usher-bench-"))
    try:
        with MariaDB(folder / "mariadb") as mariadb, Redis(folder / "redis") as redis:
            urls = {"USHER_DATABASE_URL": mariadb.url, "USHER_MIGRATION_DATABASE_URL": mariadb.migration_url}
            environment = {**os.environ, **urls, "USHER_REDIS_URL": redis.url}
            measure(options, environment)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def measure(options: argparse.Namespace, environment: Mapping[str, str]) -> None:
    """Both servers up, wrk against each in turns."""
    usher(environment, "migrate")
    limit = ["--max-per-customer", str(options.max_per_customer)] if options.max_per_customer else []
    usher(environment, "coupon", "create", CODE, "--max-redemptions", "2000000000", *limit)
    key = usher(environment, "key", "create", "--name", "bench", "--scope", "redeem").strip()
    figures: dict[str, list[dict[str, Any]]] = {"empty": [], "usher": []}
    serve = [sys.executable, "-m", "service.cli", "serve", "--workers", str(options.workers)]
    ports = {"empty": free_port(), "usher": free_port()}
    with (
        server([sys.executable, "-m", "bench.empty", str(ports["empty"])], environment, ports["empty"]),
        server([*serve, "--port", str(ports["usher"])], environment, ports["usher"]),
    ):
        for name, port in ports.items():
            wrk(port, key, f"{name}-warm", connections=options.connections, seconds=2)
        for turn in range(options.rounds):
            for name, port in ports.items():
                figure = wrk(port, key, f"{name}-{turn}", connections=options.connections, seconds=options.seconds)
                figures[name].append(figure)
                print(f"{name:6} {rate(figure):8.0f}/s  p50 {figure['p50_us'] / 1000:6.1f} ms  "
                      f"p99 {figure['p99_us'] / 1000:6.1f} ms  not 2xx {figure['not_2xx']}", flush=True)  # fmt: skip
    medians = {name: median(rate(figure) for figure in found) for name, found in figures.items()}
    print(f"usher / empty handler: {medians['usher'] / medians['empty']:.2f}")


def rate(figure: Mapping[str, Any]) -> float:
    """Answers 2xx a second."""
    answered: float = (figure["requests"] - figure["not_2xx"]) / figure["duration_us"] * 1_000_000
    return answered


def usher(environment: Mapping[str, str], *arguments: str) -> str:
    """Run an `usher` command; its standard output."""
    command = [sys.executable, "-m", "service.cli", *arguments]
    return subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True).stdout


def wrk(port: int, key: str, run: str, *, connections: int, seconds: int) -> dict[str, Any]:
    """One run of wrk; its figures."""
    program = provide(NEEDS["wrk"])
    command = program.command(
        "-t1", f"-c{connections}", f"-d{seconds}", "-s", str(HERE / "redeem.lua"), f"http://127.0.0.1:{port}", "--",
        key, CODE, run,
    )  # fmt: skip
    done = subprocess.run(
        command, executable=program.path, env=program.full_environment(), capture_output=True, text=True, check=True
    )
    figures: dict[str, Any] = json.loads(done.stdout.partition("RESULT ")[2])
    return figures


@contextmanager
def server(command: list[str], environment: Mapping[str, str], port: int) -> Iterator[None]:
    """A server that listens on this port, ended afterwards."""
    process = subprocess.Popen(command, env=environment)
    try:
        until = time.monotonic() + START_S
        while not answers(port):
            if process.poll() is not None or time.monotonic() > until:
                raise SystemExit(f"{' '.join(command)} did not start")
            time.sleep(0.1)
        yield
    finally:
        process.terminate()
        process.wait(30)


def answers(port: int) -> bool:
    """Whether somebody answers HTTP there, with whatever status."""
    try:
        urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=1)
    except urllib.error.HTTPError:
        return True
    except OSError:
        return False
    return True


if __name__ == "__main__":
    main()
