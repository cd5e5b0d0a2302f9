"""What a load counted: answers by status and code, latencies, and what that says of successes, refusals and errors."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Self

PERCENTILES = {"p50": 50.0, "p95": 95.0, "p99": 99.0, "p99.9": 99.9}
CODES = ("deadlock", "lock_wait", "pool", "time_out")
"""How rivals fail, by the `code` of their problem."""
KINDS = (*CODES, "refused", "oversold", "other")
"""Of errors. `refused`: of a coupon that has uses left; `oversold`: a use of one that has none left."""
GOOD = range(200, 300)
CREATED = 201
EXHAUSTED = "409 coupon_exhausted"
SOLD_OUT = "exhausted"
"""The load on a coupon without a use left."""
REFUSING = (SOLD_OUT, "last")
"""The loads that a part of their requests is refused in."""


@dataclass(frozen=True)
class Tally:
    """Answers of one load.

    Attributes:
        seconds: how long it took.
        answers: how many of each, by `status code`: "201 ", "409 coupon_exhausted", "503 deadlock".
        latency_ms: `p50`, `p95`, `p99`, `p99.9` and `max`.
        broken: connections that could not be made or were lost.
        unanswered: requests that had no answer in time.
        under_way: requests whose answer was not there yet when a closed loop ended: no errors.
        late: how often wrk saw a request pass its time-out, answered later or not: no errors, each may count twice.
        load: which; it decides whether a refusal is an error.
    """

    seconds: float
    answers: Mapping[str, int]
    latency_ms: Mapping[str, float]
    broken: int = 0
    unanswered: int = 0
    under_way: int = 0
    late: int = 0
    load: str = ""

    @classmethod
    def of(cls, document: Mapping[str, Any]) -> Self:
        """Of a document that has its fields and perhaps more, such as a record."""
        return cls(**{field.name: document[field.name] for field in fields(cls) if field.name in document})

    @property
    def replies(self) -> int:
        """Answers of any kind."""
        return sum(self.answers.values())

    @property
    def good(self) -> int:
        """Answers 2xx, but for uses of a coupon that has none left."""
        return sum(times for what, times in self.answers.items() if self._is_good(what))

    @property
    def others(self) -> int:
        """Answers but 2xx."""
        return self.replies - self.good

    @property
    def made(self) -> int:
        """Answers 201: a redemption was made, and did not exist before."""
        return sum(times for what, times in self.answers.items() if status(what) == CREATED)

    @property
    def refused(self) -> int:
        """Answers 409 that say that the coupon is exhausted, where it is."""
        return self.answers.get(EXHAUSTED, 0) if self.load in REFUSING else 0

    @property
    def errors(self) -> dict[str, int]:
        """What was neither good nor refused, by kind; kinds that did not occur are left out."""
        found: Counter[str] = Counter()
        for what, times in self.answers.items():
            if not self._is_good(what) and not (what == EXHAUSTED and self.load in REFUSING):
                found[kind(what)] += times
        found["other"] += self.broken
        found["time_out"] += self.unanswered
        return {kind: times for kind, times in found.items() if times}

    @property
    def error_rate(self) -> float:
        """Errors of all that was asked."""
        errors = sum(self.errors.values())
        return errors / max(self.good + self.refused + errors, 1)

    @property
    def rate(self) -> float:
        """Answers 2xx a second."""
        return self.good / self.seconds

    def document(self) -> dict[str, Any]:
        """For JSON; the load is the record's."""
        return {name: value for name, value in asdict(self).items() if name != "load"}

    def _is_good(self, what: str) -> bool:
        return status(what) in GOOD and not (self.load == SOLD_OUT and status(what) == CREATED)


def kind(what: str) -> str:
    """Of an error, of KINDS."""
    if what == EXHAUSTED:
        return "refused"
    if status(what) in GOOD:
        return "oversold"
    code = what.partition(" ")[2]
    return code if code in CODES else "other"


def status(what: str) -> int:
    """The status in "503 deadlock"."""
    return int(what.partition(" ")[0])
