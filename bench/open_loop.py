"""The open loop: redemptions at a fixed rate, whether or not answers come: `python -m bench.open_loop`.

Each request has its intended time, one after the other at even distances, and its latency counts from then on; so an answer
that is late makes those behind it late as well, and nothing is left out. There is a limit of requests in flight. Whatever waits
for one of them to end, waits at its own cost; how many did, is told. `kept_up` is false where the generator itself, with
connections free, could not keep to its times.

Prints one JSON document. It is a program of its own, so that nothing else disturbs its times.
"""

import argparse
import asyncio
import gc
import json
import sys
from collections import Counter, deque
from time import perf_counter
from typing import Any

import uvloop
from hdrh.histogram import HdrHistogram

from bench.tally import PERCENTILES, Tally
from bench.ticks import every
from bench.wire import BROKEN, Wire, connect, redemption, split
from service.workers import allow_files

LONGEST_US = 120_000_000
DIGITS = 3
US_PER_S = 1_000_000
TICK_S = 0.000_25
"""So late may a request be sent because of the clock alone."""
LATE_MS = 5.0
"""A generator that sends one in a hundred later than this measures itself."""
BEGIN_S = 0.1
DRAIN_S = 15.0
"""For the answers to what was sent last: three times Usher's deadline."""
FILES_BESIDE = 64


class OpenLoop:
    """One run.

    Args:
        rate: requests a second.
        count: requests in all.
        request: makes the request of this number.
    """

    def __init__(self, rate: float, count: int, request: "Request") -> None:
        self._rate, self._count, self._request = rate, count, request
        self._begin = 0.0
        self._sent = 0
        self._free: deque[Wire] = deque()
        self._lost = 0
        self._done = asyncio.Event()
        self._counts: Counter[str] = Counter()
        self._latency = HdrHistogram(1, LONGEST_US, DIGITS)
        self._lateness = HdrHistogram(1, LONGEST_US, DIGITS)
        self._in_flight = self._most_in_flight = self._waited = 0
        self._is_short = False
        self._ended_at = 0.0

    async def run(self, port: int, connections: int) -> dict[str, Any]:
        """The tally's document, and `open`: what the generator says of itself."""
        wires = await connect(port, connections, self._answered)
        self._free.extend(wires)
        self._begin = perf_counter() + BEGIN_S
        try:
            with every(TICK_S, self._tick):
                async with asyncio.timeout(BEGIN_S + self._count / self._rate + DRAIN_S):
                    await self._done.wait()
        except TimeoutError:
            self._ended_at = perf_counter()
        for wire in wires:
            wire.close()
        return self._found(connections)

    def _tick(self) -> None:
        """Sends what is due, as far as connections are free."""
        now = perf_counter()
        while self._is_due(now) and self._free:
            self._send(self._free.popleft(), now)
        # Until all that is due has been sent, what is late is late for want of connections.
        self._is_short = self._is_due(now)

    def _is_due(self, now: float) -> bool:
        """Whether the next request's time has come."""
        return self._sent < self._count and self._begin + self._sent / self._rate <= now

    def _send(self, wire: Wire, now: float) -> None:
        intended = self._begin + self._sent / self._rate
        self._sent += 1
        self._in_flight += 1
        self._most_in_flight = max(self._most_in_flight, self._in_flight)
        if self._is_short:
            self._waited += 1
        else:
            self._lateness.record_value(max(int((now - intended) * US_PER_S), 1))
        wire.send(self._request(self._sent), intended)

    def _answered(self, wire: Wire, what: str) -> None:
        now = perf_counter()
        self._in_flight -= 1
        self._counts[what] += 1
        if what == BROKEN:
            self._lost += 1
        else:
            self._latency.record_value(max(int((now - wire.sent_for_s) * US_PER_S), 1))
            if self._is_short and self._is_due(now):
                self._send(wire, now)
            else:
                self._free.append(wire)
        if self._sent == self._count and not self._in_flight:
            self._ended_at = now
            self._done.set()

    def _found(self, connections: int) -> dict[str, Any]:
        answers, broken = split(self._counts)
        latency_ms = {name: self._latency.get_value_at_percentile(at) / 1_000 for name, at in PERCENTILES.items()}
        tally = Tally(
            seconds=self._ended_at - self._begin,
            answers=answers,
            latency_ms={**latency_ms, "max": self._latency.get_max_value() / 1_000},
            broken=broken,
            unanswered=self._count - sum(self._counts.values()),
        )
        late_ms = self._lateness.get_value_at_percentile(PERCENTILES["p99"]) / 1_000
        own = {
            "asked_per_s": self._rate,
            "sent": self._sent,
            "sent_late_p99_ms": late_ms,
            "connections": connections,
            "most_in_flight": self._most_in_flight,
            "waited": self._waited,
            "lost_connections": self._lost,
            "kept_up": self._sent == self._count and late_ms <= LATE_MS,
        }
        return {**tally.document(), "open": own}


class Request:
    """Requests of one run, each of a customer and an order of its own."""

    def __init__(self, key: str, code: str, run: str) -> None:
        self._head, _, self._body = redemption(key, code, f"{run}-{0:09d}").partition(b"\r\n\r\n")
        self._pieces = self._body.split(b"0" * 9)

    def __call__(self, number: int) -> bytes:
        """The request of this number; all are equally long."""
        first, second, third = self._pieces
        digits = b"%09d" % number
        return b"".join((self._head, b"\r\n\r\n", first, digits, second, digits, third))


def main() -> None:
    """One run, as asked."""
    asked = argparse.ArgumentParser(description=__doc__)
    asked.add_argument("--port", type=int, required=True)
    asked.add_argument("--key", required=True)
    asked.add_argument("--code", required=True)
    asked.add_argument("--run", required=True, help="a word that no other run has used")
    asked.add_argument("--rate", type=float, required=True, help="requests a second")
    asked.add_argument("--seconds", type=float, required=True)
    asked.add_argument("--connections", type=int, default=1_000, help="requests in flight at most")
    options = asked.parse_args()
    allow_files(options.connections + FILES_BESIDE)
    gc.freeze()
    gc.disable()

    async def run() -> dict[str, Any]:
        request = Request(options.key, options.code, options.run)
        loop = OpenLoop(options.rate, max(int(options.rate * options.seconds), 1), request)
        return await loop.run(options.port, options.connections)

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        json.dump(runner.run(run()), sys.stdout)


if __name__ == "__main__":
    main()
