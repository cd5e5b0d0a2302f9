"""What a process counts, in plain numbers: whoever counts pays for an addition, and knows nothing of metrics.

Names are those of docs/metrics.md without `usher_`. Labels are closed sets of words; no code, no customer, no order.
"""

from collections import Counter, deque
from collections.abc import Callable
from typing import Final

from service.model import Claim, ClaimAnswer, Ending, Record, RecordEnding, Redeemed, Refusal
from service.transition import TransitionEnding, Verb

OVERLOADED: Final = "overloaded"
"""Beside the endings of redemptions and transitions: the queue was full, and nothing was begun."""
BATCHES_MAX: Final = 10_000
"""Kept until somebody takes them, which is done some times a second."""
CAUSES: Final = {
    RecordEnding.KEY_KNOWN: "key_known",
    RecordEnding.ORDER_LIVE: "order_live",
    RecordEnding.COUPON_REFUSES: "coupon_refuses",
    RecordEnding.CUSTOMER_SEAT_TAKEN: "customer_seat_taken",
    RecordEnding.SEAT_TAKEN: "seat_taken",
}
NOT_LOADED: Final = "not_loaded"
COUNTER_REFUSED: Final = "counter_refused"
REDIS_FAILED: Final = "redis_failed"
NOT_RECORDED: Final = "not_recorded"
RETRY_CAUSES: Final = (*CAUSES.values(), NOT_LOADED, COUNTER_REFUSED, REDIS_FAILED, NOT_RECORDED)
"""Why a request tries again, by how the try before ended."""


class Batches:
    """Batches since the last look: how large they were, and how many seconds each took."""

    def __init__(self) -> None:
        self.sizes: deque[int] = deque(maxlen=BATCHES_MAX)
        self.seconds: deque[float] = deque(maxlen=BATCHES_MAX)

    def add(self, size: int, seconds: float) -> None:
        """One batch."""
        self.sizes.append(size)
        self.seconds.append(seconds)


class Counts:
    """Everything that has been counted and not yet been taken over by the metrics.

    `gauges`: what has a value at any moment, and how to ask for it; `totals`: the same for what only rises, by name and label.
    """

    def __init__(self) -> None:
        self.redemptions: Counter[Ending | str] = Counter()
        self.refusals: Counter[Refusal] = Counter()
        self.transitions: Counter[tuple[Verb, TransitionEnding | str]] = Counter()
        self.http_answers: Counter[int] = Counter()
        self.retries: Counter[str] = Counter()
        self.plain: Counter[str] = Counter()
        self.claims = Batches()
        self.records = Batches()
        self.gauges: dict[str, Callable[[], float]] = {}
        self.totals: dict[tuple[str, str], Callable[[], int]] = {}

    def redeemed(self, answer: Redeemed) -> None:
        """A request to redeem has its answer."""
        self.redemptions[answer.ending] += 1
        if answer.refusal is not None:
            self.refusals[answer.refusal] += 1

    def tried_again(self, ending: object) -> None:
        """A request tries again, after a try that ended so."""
        self.retries[_cause(ending)] += 1


def _cause(ending: object) -> str:
    if isinstance(ending, Claim):
        return COUNTER_REFUSED if ending.answer is ClaimAnswer.REFUSED else NOT_LOADED
    return CAUSES.get(ending.ending, NOT_RECORDED) if isinstance(ending, Record) else REDIS_FAILED
