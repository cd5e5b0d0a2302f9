"""The load of a step: what is sent to the server that is up. Each returns a tally's document, and more where there is more."""

import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import redis

from bench.crowd import MANY
from bench.plan import Step
from bench.stores import Stores
from bench.wrk import CODE, run_wrk, wrk

EXHAUSTED = "EXHAUSTED"
REPLAYED = 2_000
"""Orders that come again and again: few enough to be made while the first requests are sent."""
SHORTEST_GAP_MS = 10
FLUSHED_AT = (3.0, 6.0)
"""Seconds after the beginning."""

Found = dict[str, Any]


class Target(NamedTuple):
    """Where a load goes: the server's port, the stores behind it, the coupon, and a word that no other run has used."""

    port: int
    stores: Stores
    code: str
    run: str


def by_wrk(step: Step, target: Target, **options: int) -> Found:
    """The closed loop."""
    return wrk(
        target.port, target.stores.key, target.run, connections=step.users, seconds=max(int(step.seconds), 1),
        code=target.code, options=options,
    ).document()  # fmt: skip


def by_program(module: str, target: Target, **options: object) -> Found:
    """A generator of our own, in a process of its own."""
    named = {"port": target.port, "key": target.stores.key, "code": target.code, "run": target.run, **options}
    arguments = [word for name, value in named.items() for word in (f"--{name}", str(value))]
    done = subprocess.run([sys.executable, "-m", module, *arguments], capture_output=True, text=True, check=True)
    found: Found = json.loads(done.stdout)
    return found


def open_loop(step: Step, target: Target) -> Found:
    """Redemptions at a fixed rate."""
    return by_program("bench.open_loop", target, rate=step.rate, seconds=step.seconds, connections=step.users)


def last(step: Step, target: Target) -> Found:
    """Everybody at once for the last hundred seats."""
    return by_program("bench.burst", target, clients=step.users)


def flush(step: Step, target: Target) -> Found:
    """The closed loop while Redis is flushed: `successes` for each 50 ms, the longest `gaps`, and when it was `flushed`."""
    flushed: list[float] = []

    def flusher() -> None:
        begun_at = time.monotonic()
        with redis.Redis.from_url(target.stores.redis.operator_url) as client:
            for at in FLUSHED_AT:
                time.sleep(max(begun_at + at - time.monotonic(), 0))
                flushed.append(time.time() * 1_000)
                client.flushall()

    thread = threading.Thread(target=flusher)
    thread.start()
    arguments = [target.stores.key, target.code, target.run, str(SHORTEST_GAP_MS)]
    found = run_wrk(target.port, "gaps.lua", arguments, connections=step.users, seconds=int(step.seconds))
    thread.join()
    not_made = {f"{status} ": times for status, times in dict(found["not_201"]).items()}
    return {
        "seconds": found["duration_us"] / 1e6,
        "answers": {"201 ": sum(times for _, times in found["successes"]), **not_made},
        "latency_ms": {name: found[f"{name}_us"] / 1_000 for name in ("p50", "p99", "max")},
        "broken": 0,
        "unanswered": 0,
        "line": {"flushed_ms": flushed, "successes": sorted(found["successes"]), "gaps": found["gaps"]},
    }


LOADS: Mapping[str, Callable[[Step, Target], Found]] = {
    "hot": by_wrk,
    "exhausted": by_wrk,
    "zipf": lambda step, target: by_wrk(step, target, coupons=MANY, zipf=1),
    "replays": lambda step, target: by_wrk(step, target, orders=REPLAYED),
    "shop": lambda step, target: by_wrk(step, target, shop=1),
    "open": open_loop,
    "last": last,
    "flush": flush,
}
CODES = {"exhausted": EXHAUSTED}


def code_of(step: Step) -> str:
    """The coupon that a step's load asks for."""
    return CODES.get(step.load, CODE)
