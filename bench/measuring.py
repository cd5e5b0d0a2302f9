"""One measurement: a server, its first requests, the load, and what each program used meanwhile; then the ledger is counted."""

import itertools
import resource
import subprocess
from collections.abc import Mapping
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bench import crowd
from bench.loading import CODES, EXHAUSTED, LOADS, Target, code_of
from bench.plan import Step
from bench.processors import used_s
from bench.serving import BESIDE, WITHOUT_REDIS, Servers, Serving
from bench.stores import Stores
from bench.strategies import KINDS
from bench.strategies.preparation import Places, recount
from bench.tally import Tally
from bench.wrk import CODE, wrk

LAST_SEATS = 100
LAST_LIMIT = 1_000
FIRST_S = 1
"""Of requests before the measurement begins: connections are opened, and what is made at first use is made."""
FIRST_WITHOUT_REDIS_S = 3
"""The first ones wait a second before Usher knows that Redis is away."""
FIRST_USERS = 50
"""Few, so that little of it is still under way when the measurement begins."""
STDERR_CHARACTERS = 500
UNCOUNTED = ("trial", *BESIDE)
"""Sections whose servers stay up, with requests under way perhaps."""
ROWS = "SELECT COUNT(*) FROM redemption"
"""Of the ledger that is called empty: turn by turn it is less so."""
MADE = "SELECT COUNT(*) FROM redemption WHERE order_id LIKE %s"

Record = dict[str, Any]


class Measuring:
    """Measures step after step.

    Args:
        ledgers: the stores, by the step's `ledger`.
        log: what all servers say.
    """

    def __init__(self, ledgers: Mapping[str, Stores], log: Path) -> None:
        self._ledgers = ledgers
        self._servers = Servers(ledgers, log)
        self._numbers = itertools.count(1)
        for stores in ledgers.values():
            crowd.coupon(stores.mariadb, EXHAUSTED, limit=LAST_LIMIT, used=LAST_LIMIT)

    def end(self) -> None:
        """Ends the servers that are up."""
        self._servers.end()

    def why(self, failure: BaseException) -> str:
        """What happened, with what a program said last; without its arguments, among which is an API key."""
        words = repr(failure)
        if isinstance(failure, subprocess.SubprocessError):
            command = getattr(failure, "cmd", None) or ["a program"]
            program = " ".join(command[:3]) if isinstance(command, list) else str(command)
            status = getattr(failure, "returncode", "no status in time")
            stderr = getattr(failure, "stderr", None) or ""
            text = stderr.decode(errors="replace") if isinstance(stderr, bytes) else stderr
            words = f"{program} ended with {status}: {' '.join(text.split())[-STDERR_CHARACTERS:] or 'it said nothing'}"
        for stores in self._ledgers.values():
            words = words.replace(stores.key, "KEY")
        return words

    def measure(self, step: Step) -> Record:
        """A step's record; see docs/benchmarks.md for what is in it."""
        number = next(self._numbers)
        stores = self._ledgers[step.ledger]
        code = code_of(step)
        if step.load == "last":
            code = f"LAST-{number}"
            crowd.coupon(stores.mariadb, code, limit=LAST_LIMIT, used=LAST_LIMIT - LAST_SEATS)
        serving = self._servers.serving(step, [CODE, code] if step.load == "last" else [CODE])
        target = Target(serving.port, stores, code, f"r{number:05d}")
        if step.load == "replays":
            # The same word every time: the orders of the first requests come again.
            target = target._replace(run=f"replays-{step.strategy}")
        first_requests(step, target)
        ledger_rows = stores.rows(ROWS)[0][0] if step.ledger == "empty" else None
        begun_at = datetime.now(UTC)
        before = used(serving, stores)
        found = LOADS[step.load](step, target)
        after = used(serving, stores)
        if step.section not in UNCOUNTED:
            self._servers.end()  # What is under way ends before anybody counts.
        return {
            "number": number,
            "ledger_rows": ledger_rows,
            "at": begun_at.isoformat(timespec="seconds"),
            **asdict(step),
            **found,
            "cpu_s": {name: round(after[name] - before[name], 3) for name in before},
            **counted(step, target, Tally.of(found)),
        }


def first_requests(step: Step, target: Target) -> None:
    """Before anything is measured; the same load where that makes a difference, on the hot coupon otherwise."""
    seconds = FIRST_WITHOUT_REDIS_S if step.strategy == WITHOUT_REDIS else FIRST_S
    # The word does not begin as the measurement's own: these orders are not counted among its rows.
    first = f"first-{target.run}"
    short = replace(step, users=min(step.users, FIRST_USERS), seconds=seconds)
    if step.load in ("zipf", "replays", "exhausted", "shop"):
        run = target.run if step.load == "replays" else first
        LOADS[step.load](short, target._replace(run=run))
    else:
        wrk(target.port, target.stores.key, first, connections=short.users, seconds=seconds)


def used(serving: Serving, stores: Stores) -> dict[str, float]:
    """CPU seconds that each part has used so far; `load`: the generators that have ended."""
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return {
        "service": used_s(serving.pid),
        "redis": used_s(stores.redis.pid),
        "mariadb": used_s(stores.mariadb.pid),
        "load": children.ru_utime + children.ru_stime,
    }


def counted(step: Step, target: Target, tally: Tally) -> Record:
    """What the ledger says of a load.

    `rows`: redemptions of this load. Those of requests whose answer nobody waited for are among them, so `durable`
    are the answers 201 that have a row, and no more.
    """
    ((rows,),) = target.stores.rows(MADE, f"o-{target.run}-%")
    durable = min(tally.made, rows) if KINDS[step.strategy].durable else 0
    found = {"rows": rows, "durable": durable, "durable_per_s": durable / tally.seconds}
    if step.load in ("zipf", *CODES) or step.section in UNCOUNTED:
        return found
    sold = recount(step.strategy, [target.code], places(target.stores))
    too_few = sold.sold_too_few
    if step.load == "last":
        # Ten times as many wanted them as there were.
        given = sold.live if KINDS[step.strategy].durable else sold.counted or 0
        too_few = max(sold.limit - given, 0)
    return {**found, "sold_too_many": sold.sold_too_many, "sold_too_few": too_few, "uncounted": sold.uncounted}


def places(stores: Stores) -> Places:
    """Where the rivals' counters are."""
    return Places(stores.mariadb.migration_url, stores.redis.operator_url)
