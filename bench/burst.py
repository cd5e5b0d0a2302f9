"""Everybody at once: so many clients connect, then all of them send one redemption each: `python -m bench.burst`.

Prints one JSON document. The answers of a coupon whose last seats are asked for so are all counted.
"""

import argparse
import asyncio
import json
import sys
from collections import Counter
from time import perf_counter
from typing import Any

import uvloop

from bench.tally import PERCENTILES, Tally
from bench.wire import Wire, connect, redemption, split
from service.workers import allow_files

WAIT_S = 30.0
FILES_BESIDE = 64


async def burst(options: argparse.Namespace) -> dict[str, Any]:
    """The tally's document."""
    counts: Counter[str] = Counter()
    latencies: list[float] = []
    done = asyncio.Event()

    def answered(wire: Wire, what: str) -> None:
        counts[what] += 1
        latencies.append((perf_counter() - wire.sent_for_s) * 1_000)
        if len(latencies) == options.clients:
            done.set()

    wires = await connect(options.port, options.clients, answered)
    requests = [redemption(options.key, options.code, f"{options.run}-{number}") for number in range(options.clients)]
    begun_at = perf_counter()
    for wire, request in zip(wires, requests, strict=True):
        wire.send(request, begun_at)
    try:
        async with asyncio.timeout(WAIT_S):
            await done.wait()
    except TimeoutError:
        pass  # Those without an answer are counted as such.
    took_s = perf_counter() - begun_at
    for wire in wires:
        wire.close()
    answers, broken = split(counts)
    ordered = sorted(latencies) or [WAIT_S * 1_000]
    latency_ms = {name: ordered[min(int(len(ordered) * at / 100), len(ordered) - 1)] for name, at in PERCENTILES.items()}
    unanswered = options.clients - len(latencies)
    return Tally(took_s, answers, {**latency_ms, "max": ordered[-1]}, broken, unanswered).document()


def main() -> None:
    """One burst, as asked."""
    asked = argparse.ArgumentParser(description=__doc__)
    asked.add_argument("--port", type=int, required=True)
    asked.add_argument("--key", required=True)
    asked.add_argument("--code", required=True)
    asked.add_argument("--run", required=True, help="a word that no other run has used")
    asked.add_argument("--clients", type=int, default=1_000)
    options = asked.parse_args()
    allow_files(options.clients + FILES_BESIDE)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        json.dump(runner.run(burst(options)), sys.stdout)


if __name__ == "__main__":
    main()
