"""Which way of counting a hot coupon holds under load? `python -m bench`, or `make bench`. See docs/benchmarks.md.

Private stores, a ledger full of data, every strategy behind the same handler, wrk and an open loop, all on this machine's
loopback. Writes a folder below bench/results/: a JSON document for each measurement, the tables, the plots.
"""

import argparse
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any

import pymysql
import redis

from bench import crowd, report, results
from bench.figures import chosen, tally
from bench.machine import machine
from bench.measuring import Measuring, Record
from bench.plan import LOADS, SECTIONS, Step, Wanted, plan
from bench.progress import Display, counting
from bench.stores import private_stores
from bench.strategies import KINDS, NAMES
from bench.tally import Tally
from deploy.terminal import own_foreground, stop_signals_interrupt
from service.workers import allow_files

FILES = 8_192
QUICK: dict[str, Any] = {
    "rows": 0, "sections": ["loads"], "loads": ["hot"], "strategies": ["empty", "usher"], "users": [100], "duration": 24.0,
}  # fmt: skip
"""Usher beside the empty handler, one worker, 100 connections: a minute."""
PROBE_S = 3.0
FAILURES = (SystemExit, OSError, ValueError, LookupError, subprocess.SubprocessError, pymysql.Error, redis.RedisError)
"""With which a measurement can end: a server does not start, a program fails, a store refuses."""


def main() -> int:
    """Measure what was asked for; returns the exit status."""
    options = asked_for(sys.argv[1:])
    allow_files(FILES)
    folder = Path(tempfile.mkdtemp(prefix="usher-bench-"))
    try:
        with own_foreground(), stop_signals_interrupt():
            return run(options, folder)
    except KeyboardInterrupt:
        print("interrupted; python -m bench.report tells what was measured", file=sys.stderr)
        return 130
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def asked_for(arguments: Sequence[str]) -> argparse.Namespace:
    """The options, `--quick` below those that are given beside it."""
    asked = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    asked.add_argument("--rows", type=int, default=1_000_000, help="redemptions in the ledger, half of them on the hot coupon")
    asked.add_argument("--duration", type=float, default=15.0, help="seconds for each figure, all rounds together (15)")
    asked.add_argument("--rounds", type=int, default=3, help="turns into which each figure is divided (3)")
    asked.add_argument("--workers", type=int, default=2, help="processes that serve, where strategies are compared (2)")
    asked.add_argument("--strategies", type=listed(NAMES), default=NAMES, help=f"some of {','.join(NAMES)}")
    asked.add_argument("--users", type=numbers, default=[10, 100, 1_000], help="virtual users (10,100,1000)")
    asked.add_argument("--sections", type=listed(SECTIONS), default=SECTIONS, help=f"some of {','.join(SECTIONS)}")
    asked.add_argument("--loads", type=listed(LOADS), default=LOADS, help=f"some of {','.join(LOADS)}")
    asked.add_argument("--rates", type=numbers, default=[500], help="of the open loop, for every strategy (500)")
    asked.add_argument("--pool", type=int, default=None, help="connections of a rival's worker where no trial says better")
    asked.add_argument("--no-plots", dest="plots", action="store_false", help="tables only")
    asked.add_argument("--quick", action="store_true", help="Usher beside the empty handler, one worker, 100 users")
    if "--quick" in arguments:
        asked.set_defaults(**QUICK, plots=False)
    return asked.parse_args(arguments)


def listed(allowed: Sequence[str]) -> Any:  # noqa: ANN401 - argparse's own
    """Reads words with commas between them, all of them among those allowed."""

    def read(text: str) -> list[str]:
        words = text.split(",")
        if unknown := sorted(set(words) - set(allowed)):
            raise argparse.ArgumentTypeError(f"unknown: {', '.join(unknown)}; known: {', '.join(allowed)}")
        return [word for word in allowed if word in words]

    return read


def numbers(text: str) -> list[int]:
    """Reads numbers with commas between them."""
    return [int(word) for word in text.split(",")]


def run(options: argparse.Namespace, folder: Path) -> int:
    """Fill, measure, report; returns the exit status: 1 when something could not be measured."""
    wanted = Wanted(
        strategies=options.strategies, users=options.users, sections=options.sections, loads=options.loads,
        duration=options.duration, rounds=options.rounds, workers=options.workers, rates=options.rates,
    )  # fmt: skip
    steps = plan(wanted)
    minutes = sum(step.takes_s for step in steps) / 60
    print(f"{len(steps)} measurements, some {minutes:.0f} minutes after the ledger is filled", file=sys.stderr)
    begun_at = datetime.now(UTC)
    into = results.new_folder(begun_at)
    with ExitStack() as life:
        expected = {name: sum(step.rows for step in steps if step.ledger == name) for name in ("full", "empty")}
        ledgers = {"full": life.enter_context(private_stores(folder / "full", options.rows + expected["full"]))}
        if any(step.ledger == "empty" for step in steps):
            ledgers["empty"] = life.enter_context(private_stores(folder / "empty", expected["empty"]))
            crowd.fill(ledgers["empty"].mariadb, 0, lambda _: None)
        with counting(options.rows, "redemptions filled in") as told:
            crowd.fill(ledgers["full"].mariadb, options.rows, told)
        about = {
            "begun_at": begun_at.isoformat(timespec="seconds"),
            "rows": options.rows,
            "wanted": asdict(wanted),
            "pool": options.pool,
        }
        results.write_about(into, {**about, "machine": machine(ledgers["full"])})
        measuring = Measuring(ledgers, into / "servers.log")
        life.callback(measuring.end)
        failed = measure(steps, measuring, into, options.pool)
    print(report.write(into), flush=True)
    if options.plots:
        report.plots(into)
    for line in failed:
        print(f"not measured: {line}", file=sys.stderr)
    print(f"all of it is in {into}", file=sys.stderr)
    return 1 if failed else 0


def measure(steps: Sequence[Step], measuring: Measuring, into: Path, pool: int | None) -> list[str]:
    """All steps, a document for each; returns what could not be measured, and why."""
    records: list[Record] = []
    failed: list[Record] = []
    highest: float | None = None
    with Display([step.takes_s for step in steps]).shown() as display:
        for step in steps:
            settled = replace(step, pool=step.pool or best_pool(step, records) or pool)
            with display.step(f"{step.section}: {settled}") as said:
                try:
                    if step.share is not None:
                        highest = highest or highest_rate(step, records, measuring)
                        settled = replace(settled, rate=float(round(highest * step.share)))
                    record = measuring.measure(settled)
                except FAILURES as failure:
                    # One strategy that cannot be measured does not take the others' hour with it.
                    failed.append({**asdict(settled), "why": measuring.why(failure)})
                    results.write_failed(into, failed)
                    said.append(f"FAILED, {failed[-1]['why']}")
                    measuring.end()
                    continue
                said.extend(in_short(tally(record)))
            records.append(record)
            results.write(into, record)
    return [f"{one['section']}: {one['strategy']}, {one['load']}, {one['users']:,} users: {one['why']}" for one in failed]


def in_short(found: Tally) -> list[str]:
    """For the line of a measurement."""
    errors = [f"{times:,} {kind}" for kind, times in found.errors.items()]
    return [f"{(found.good + found.refused) / found.seconds:,.0f}/s", f"p99 {found.latency_ms['p99']:.1f} ms", *errors]


def highest_rate(step: Step, records: Sequence[Record], measuring: Measuring) -> float:
    """What Usher does with one worker and 100 users; measured now, shortly, unless it was before."""
    found = chosen(records, section="loads", strategy="usher", load="hot", users=100)
    if not found:
        short = replace(step, strategy="usher", load="hot", users=100, seconds=PROBE_S, share=None)
        found = [measuring.measure(short)]
    return median(tally(one).rate for one in found)


def best_pool(step: Step, records: Sequence[Record]) -> int | None:
    """The pool with which this strategy was fastest, with so many users or the next smaller number; None without a trial."""
    if len(KINDS[step.strategy].pools) == 1:
        return KINDS[step.strategy].pools[0]
    trials = chosen(records, section="trial", strategy=step.strategy)
    users = max((one["users"] for one in trials if one["users"] <= step.users), default=None)
    best = max(chosen(trials, users=users), key=lambda one: float(one["durable_per_s"] or tally(one).rate), default=None)
    return int(best["pool"]) if best else None


if __name__ == "__main__":
    sys.exit(main())
