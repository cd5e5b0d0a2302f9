"""What is measured, in which order: steps, made from what was asked for. Nothing here measures."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from bench.strategies import KINDS

Item = TypeVar("Item")

SECTIONS = ("trial", "strategies", "last", "loads", "open", "rates", "flush", "ledgers")
LOADS = ("hot", "exhausted", "zipf", "replays", "shop")
PARTNERS = ("usher", "empty")
"""Who is measured where one worker is compared with the empty handler."""
EMPTY_AFTER = 3
"""The empty handler comes again after so many others: a machine is not equally fast for a quarter of an hour."""
UNCHECKED = ("empty", "floor")
"""They have no limit, so a last seat means nothing to them."""
CLIENTS = 1_000
"""At once for the last hundred seats, and in flight at most in the open loop."""
TRIAL_S = 2
FLUSH_S = 9
SHARES = (0.25, 0.5, 0.75)
"""Of Usher's highest rate, at which the open loop compares it with the empty handler."""
SETTLED_S = {
    "trial": 2.5,
    "strategies": 4.0,
    "last": 4.5,
    "loads": 1.6,
    "open": 2.0,
    "rates": 4.0,
    "flush": 4.0,
    "ledgers": 1.6,
}
"""What a step takes besides its own time: starting, first requests, counting."""


FAST = ("usher", "usher-without-redis", "queue-batch")
FAST_PER_S, SLOW_PER_S = 12_000, 4_000
"""Redemptions: what to have memory for."""
EMPTY_MAX_S = 20.0
"""The empty handler's turns do not grow beyond this: they are there to be compared with."""


@dataclass(frozen=True)
class Step:
    """One measurement.

    Attributes:
        section: the part of the plan, which decides which servers stay up beside each other.
        load: one of LOADS, `open`, `last` or `flush`.
        strategy: whose turn it is.
        users: connections, each with a request in flight; for `open`, so many at most.
        seconds: how long.
        workers: processes that serve.
        turn: which of the rounds.
        pool: connections of a worker to MariaDB; None: the best that the trial found.
        rate: requests a second, for `open`.
        share: or this share of the highest rate that was measured for Usher.
        ledger: `full` or `empty`.
    """

    section: str
    load: str
    strategy: str
    users: int
    seconds: float
    workers: int = 1
    turn: int = 0
    pool: int | None = None
    rate: float | None = None
    share: float | None = None
    ledger: str = "full"

    @property
    def rows(self) -> int:
        """Roughly, how many redemptions it adds to the ledger."""
        rate = self.rate or (FAST_PER_S if self.strategy in FAST else 0 if self.strategy == "empty" else SLOW_PER_S)
        return int(rate * self.seconds)

    @property
    def takes_s(self) -> float:
        """Roughly, with all that belongs to it."""
        return self.seconds + SETTLED_S[self.section]

    def __str__(self) -> str:
        """For people."""
        at = f" at {self.share:.0%} of the highest rate" if self.share else f" at {self.rate:,.0f}/s" if self.rate else ""
        return f"{self.strategy}, {self.load}, {self.users:,} users{at}"


@dataclass(frozen=True)
class Wanted:
    """What was asked for.

    Attributes:
        duration: seconds for each figure, in all rounds together.
        rates: requests a second at which all strategies meet the open loop.
    """

    strategies: Sequence[str] = tuple(KINDS)
    users: Sequence[int] = (10, 100, 1_000)
    sections: Sequence[str] = SECTIONS
    loads: Sequence[str] = LOADS
    duration: float = 15.0
    rounds: int = 3
    workers: int = 2
    rates: Sequence[float] = (500.0,)

    @property
    def each_s(self) -> float:
        """Of one measurement; wrk knows whole seconds."""
        return max(round(self.duration / self.rounds), 1)

    def seconds_of(self, name: str) -> float:
        """Of one measurement of this strategy."""
        return min(self.each_s, EMPTY_MAX_S) if name == "empty" else self.each_s


def plan(wanted: Wanted) -> list[Step]:
    """All steps, section by section."""
    made: Mapping[str, list[Step]] = {
        "trial": list(_trial(wanted)),
        "strategies": list(_strategies(wanted)),
        "last": list(_last(wanted)),
        "loads": list(_loads(wanted)),
        "open": list(_open(wanted)),
        "rates": list(_rates(wanted)),
        "flush": list(_flush(wanted)),
        "ledgers": list(_ledgers(wanted)),
    }
    return [step for section in SECTIONS if section in wanted.sections for step in made[section]]


def _trial(wanted: Wanted) -> Iterator[Step]:
    """Each rival with each size of its pool, where there is a choice; at each number of users, which each may want another.

    They begin with another size each: what has just begun may be slower.
    """
    for at, name in enumerate(name for name in wanted.strategies if len(KINDS[name].pools) > 1):
        pools = KINDS[name].pools
        first = at % len(pools)
        for pool in pools[first:] + pools[:first]:
            for users in wanted.users:
                yield Step("trial", "hot", name, users, TRIAL_S, workers=wanted.workers, pool=pool)


def _strategies(wanted: Wanted) -> Iterator[Step]:
    """All on one hot coupon, in turns, each round in another order; the empty handler in between."""
    names = [name for name in wanted.strategies if name != "empty"]
    for turn in range(wanted.rounds):
        for users in wanted.users:
            order = names[turn * EMPTY_AFTER :] + names[: turn * EMPTY_AFTER]
            for name in with_empty(order) if "empty" in wanted.strategies else order:
                yield Step("strategies", "hot", name, users, wanted.seconds_of(name), workers=wanted.workers, turn=turn)


def with_empty(names: Sequence[str]) -> list[str]:
    """The empty handler first, last, and after every third."""
    found = ["empty"]
    for begin in range(0, len(names), EMPTY_AFTER):
        found += [*names[begin : begin + EMPTY_AFTER], "empty"]
    return found


def _last(wanted: Wanted) -> Iterator[Step]:
    for turn in range(wanted.rounds):
        for name in wanted.strategies:
            if name not in UNCHECKED:
                yield Step("last", "last", name, CLIENTS, 1, workers=wanted.workers, turn=turn)


def _loads(wanted: Wanted) -> Iterator[Step]:
    """Usher's loads with one worker, the empty handler in between; the other way round in every second turn."""
    step = Step("loads", "hot", "usher", 0, wanted.each_s)
    for users in [users for users in (100, 1_000) if users in wanted.users]:
        for turn in range(wanted.rounds):
            steps = []
            for load in wanted.loads:
                if "empty" in wanted.strategies:
                    steps.append(replace(step, strategy="empty", users=users, turn=turn, seconds=wanted.seconds_of("empty")))
                if "usher" in wanted.strategies:
                    steps.append(replace(step, load=load, users=users, turn=turn))
            yield from there_and_back(steps, turn)


def there_and_back(items: Sequence[Item], turn: int) -> Sequence[Item]:
    """Who was always second would always meet what the first has left behind."""
    return items[::-1] if turn % 2 else items


def _open(wanted: Wanted) -> Iterator[Step]:
    step = Step("open", "open", "usher", CLIENTS, wanted.each_s)
    partners = [name for name in PARTNERS if name in wanted.strategies]
    for share in SHARES if "usher" in partners else ():
        for turn in range(wanted.rounds):
            for name in there_and_back(partners, turn):
                yield replace(step, strategy=name, turn=turn, share=share)


def _rates(wanted: Wanted) -> Iterator[Step]:
    for rate in wanted.rates:
        for name in wanted.strategies:
            yield Step("rates", "open", name, CLIENTS, wanted.each_s, workers=wanted.workers, rate=rate)


def _flush(wanted: Wanted) -> Iterator[Step]:
    if "usher" in wanted.strategies:
        yield Step("flush", "flush", "usher", 100, FLUSH_S)


def _ledgers(wanted: Wanted) -> Iterator[Step]:
    """Two Ushers, one before the full ledger and one before an empty one."""
    if "usher" in wanted.strategies:
        for turn in range(wanted.rounds):
            for ledger in there_and_back(("full", "empty"), turn):
                yield Step("ledgers", "hot", "usher", 100, wanted.each_s, turn=turn, ledger=ledger)
