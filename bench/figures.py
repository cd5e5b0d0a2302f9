"""The figures that Usher is to reach, from the records of a run. All are ratios of what was measured in turns, in one run."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from statistics import mean, median
from typing import Any, NamedTuple

from bench.strategies import KINDS
from bench.tally import Tally

Record = Mapping[str, Any]
FULL_LEDGER = 10_000_000
HALF = 0.5
SELLING = ("hot", "zipf", "open", "last", "flush")
"""The loads whose requests are to make a redemption each."""


class Figure(NamedTuple):
    """A figure: its name, what is asked for, and what was measured (None: it was not)."""

    name: str
    at_least: float | None
    at_most: float | None
    measured: float | None

    @property
    def asked(self) -> str:
        """For a table."""
        return f"at least {self.at_least:g}" if self.at_least is not None else f"at most {self.at_most:g}"

    @property
    def reached(self) -> str:
        """For a table."""
        if self.measured is None:
            return "not measured"
        above = self.at_least is None or self.measured >= self.at_least
        below = self.at_most is None or self.measured <= self.at_most
        return "yes" if above and below else "no"


def figures(records: Sequence[Record], rows: int, failed: Sequence[Record] = ()) -> list[Figure]:
    """All of them; `rows`: how many redemptions the full ledger had; `failed`: steps that could not be measured."""
    hot = [one for one in records if one["section"] == "strategies" and one["users"] == 1_000]  # noqa: PLR2004
    loads = [one for one in records if one["section"] == "loads"]
    at_100 = [one for one in loads if one["users"] == 100]  # noqa: PLR2004
    ledgers = [one for one in records if one["section"] == "ledgers"]
    half = [one for one in records if one["section"] == "open" and one["share"] == HALF]
    usher, empty = chosen(at_100, strategy="usher", load="hot"), chosen(at_100, strategy="empty")

    def against(rival: str) -> float | None:
        return ratio_by_empty(hot, "usher", rival)

    return [
        Figure("Usher / conditional UPDATE, 1,000 users, two workers", 12, None, against("conditional-update")),
        Figure("the same, each statement a round trip", 12, None, against("conditional-update-by-statement")),
        Figure("Usher / row lock, likewise", 18, None, against("row-lock")),
        Figure("the same, each statement a round trip", 18, None, against("row-lock-by-statement")),
        Figure("Usher / the usual design, likewise", 5, None, against("redis-insert")),
        Figure("Usher / empty handler, 100 users, one worker", 0.65, None, ratio(usher, empty, done_per_s)),
        Figure("service CPU per redemption / per empty request", None, 1.5, ratio(usher, empty, service_s)),
        Figure(
            "exhausted coupon, refusals/s / empty handler", 0.7, None,
            ratio(chosen(at_100, load="exhausted"), empty, replies_per_s),
        ),
        Figure(
            f"ledger with {rows:,} rows / empty ledger" + ("" if rows >= FULL_LEDGER else f" (asked for {FULL_LEDGER:,})"),
            0.9, None, ratio(chosen(ledgers, ledger="full"), chosen(ledgers, ledger="empty"), made_per_s),
        ),
        Figure(
            "10,000 coupons by Zipf / one hot coupon", 0.8, None,
            ratio(chosen(at_100, load="zipf"), chosen(at_100, strategy="usher", load="hot"), made_per_s),
        ),
        Figure("errors at 1,000 users, all loads", None, 0, errors_at_1000(records, failed)),
        Figure(
            "p99 at half of the highest rate, open loop / p99 of the empty handler", None, 3,
            ratio(chosen(half, strategy="usher"), chosen(half, strategy="empty"), p99_ms),
        ),
    ]  # fmt: skip


def chosen(records: Iterable[Record], **wanted: object) -> list[Record]:
    """Those whose fields are these."""
    return [one for one in records if all(one[name] == value for name, value in wanted.items())]


def every(records: Iterable[Record], field: str) -> list[Any]:
    """The values of a field, each once, as they come."""
    return list(dict.fromkeys(one[field] for one in records))


def ratio(above: Sequence[Record], below: Sequence[Record], of: Callable[[Record], float]) -> float | None:
    """The median over the turns of the ratios within each; each record's other is the nearest before and after it."""
    found = [of(one) / beside for one in above if (beside := nearest(one, below, of))]
    return median(found) if found else None


def ratio_by_empty(records: Sequence[Record], above: str, below: str) -> float | None:
    """The median over the turns of how many redemptions one strategy makes for each of another.

    The two may be minutes apart, so each is first divided by the empty handler that was measured just before and after it.
    """
    empty = chosen(records, strategy="empty")

    def shares(name: str) -> dict[int, float]:
        own = chosen(records, strategy=name)
        return {one["turn"]: done_per_s(one) / beside for one in own if (beside := nearest(one, empty, done_per_s))}

    others = shares(below)
    found = [share / other for turn, share in shares(above).items() if (other := others.get(turn))]
    return median(found) if found else None


def nearest(one: Record, others: Sequence[Record], of: Callable[[Record], float]) -> float | None:
    """The mean of what was measured of others just before and just after this one, in the same turn; None where nothing was."""
    same = [other for other in others if other["turn"] == one["turn"]]
    before = [other for other in same if other["number"] < one["number"]][-1:]
    after = [other for other in same if other["number"] > one["number"]][:1]
    return mean(of(other) for other in before + after) if before or after else None


def errors_at_1000(records: Iterable[Record], failed: Iterable[Record]) -> float | None:
    """Usher's errors in all loads of 1,000 users, the last hundred seats included; None, not 0, where one was not measured."""
    found = chosen(records, strategy="usher", users=1_000)
    errors = float(sum(sum(tally(one).errors.values()) for one in found))
    is_whole = bool(found) and not chosen(failed, strategy="usher", users=1_000)
    return errors if errors or is_whole else None


def tally(record: Record) -> Tally:
    """The answers of a record."""
    return Tally.of(record)


def made_per_s(record: Record) -> float:
    """Durable redemptions a second."""
    return float(record["durable_per_s"])


def replies_per_s(record: Record) -> float:
    """Answers a second that are no errors."""
    found = tally(record)
    return (found.good + found.refused) / found.seconds


def done(record: Record) -> int:
    """Durable redemptions; where there are none to be, answers that are no errors."""
    if KINDS[record["strategy"]].durable and record["load"] in SELLING:
        return int(record["durable"])
    found = tally(record)
    return found.good + found.refused


def done_per_s(record: Record) -> float:
    """The same, a second."""
    return done(record) / tally(record).seconds


def service_s(record: Record) -> float:
    """CPU seconds of the service for each of them."""
    return float(record["cpu_s"]["service"]) / max(done(record), 1)


def p99_ms(record: Record) -> float:
    """As the load saw it."""
    return float(record["latency_ms"]["p99"])
