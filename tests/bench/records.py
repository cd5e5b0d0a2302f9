"""Records as a run makes them, made up."""

from dataclasses import asdict, replace
from typing import Any

from bench.plan import Step, Wanted, plan
from bench.tally import Tally

Record = dict[str, Any]
ABOUT: Record = {
    "begun_at": "2026-01-02T03:04:05+00:00",
    "rows": 1_000,
    "wanted": {
        "duration": 15.0,
        "rounds": 3,
        "workers": 2,
        "sections": list(dict.fromkeys(step.section for step in plan(Wanted()))),
    },
    "machine": {"processor": "2 cores, made up"},
}


def record(number: int, step: Step, rate: float = 100.0) -> Record:
    """As measured: so many redemptions a second."""
    made = int(rate * 10)
    what = "409 coupon_exhausted" if step.load == "exhausted" else "201 "
    tally = Tally(10.0, {what: made}, {"p50": 1.0, "p95": 2.0, "p99": 3.0, "p99.9": 4.0, "max": 5.0})
    found: Record = {
        "durable_per_s": rate,
        "durable": made,
        "cpu_s": {"service": made / 1_000, "redis": 0.1, "mariadb": 0.2, "load": 9.5 if step.strategy == "empty" else 5.0},
    }
    if step.load == "open":
        found["open"] = {"most_in_flight": 7, "waited": 0, "sent_late_p99_ms": 0.3, "kept_up": True}
    if step.load == "last":
        found |= {"sold_too_many": 0, "sold_too_few": 0}
    if step.load == "flush":
        found["line"] = {"flushed_ms": [3_000.0], "gaps": [[3_040.0, 40.0], [5_000.0, 90.0]], "successes": [[0, 5], [50, 6]]}
    if step.share:
        step = replace(step, rate=1_000 * step.share)
    return {"number": number, **asdict(step), **tally.document(), **found}


def whole_run() -> list[Record]:
    """All as fast as the others."""
    return [record(number, step) for number, step in enumerate(plan(Wanted()), 1)]
