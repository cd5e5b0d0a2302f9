"""The report of a run: what is printed, `report.md` in its folder, and the plots: `python -m bench.report [FOLDER]`.

With `--into docs/benchmarks.md` the tables replace those that stand between the page's two marks.
"""

import argparse
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from statistics import mean, median
from typing import Any

from bench import results
from bench.figures import Figure, chosen, done, done_per_s, every, figures, nearest, replies_per_s, tally
from bench.gaps import longest, of_flush
from bench.plan import SECTIONS
from bench.strategies import KINDS
from bench.tally import KINDS as ERRORS
from bench.tally import PERCENTILES

REPORT = "report.md"
BEGIN = "<!-- Made by `python -m bench.report`: begin -->"
END = "<!-- Made by `python -m bench.report`: end -->"

Record = Mapping[str, Any]
Cells = Sequence[str]
PARTS = ("service", "redis", "mariadb")
HOT_HEADS = (
    "strategy", "pool", "durable/s", "/ empty", "replies/s", "p50", "p95", "p99", "p99.9", "errors",
    "under way at the end", "CPU s per 1,000: service", "Redis", "MariaDB", "wrk's CPU",
)  # fmt: skip
FULL = 0.9
"""Of a processor, which wrk has one of: with more the load measures itself."""


def main() -> None:
    """Writes the report of a folder anew."""
    asked = argparse.ArgumentParser(prog="python -m bench.report", description=__doc__)
    asked.add_argument("folder", type=Path, nargs="?", help="the newest unless given")
    asked.add_argument("--into", type=Path, help="a page with the two marks")
    asked.add_argument("--no-plots", dest="plots", action="store_false")
    options = asked.parse_args()
    folder = options.folder or results.newest()
    text = write(folder)
    if options.into:
        page = options.into.read_text()
        before, _, rest = page.partition(BEGIN)
        _, found, after = rest.partition(END)
        assert found, f"{options.into} lacks the marks {BEGIN} and {END}"
        options.into.write_text(f"{before}{BEGIN}\n\n{text}\n{END}{after}")
    else:
        print(text, flush=True)
    if options.plots:
        plots(folder)


def write(folder: Path) -> str:
    """Writes the report; returns the text."""
    run = results.read(folder)
    text = markdown(run)
    (folder / REPORT).write_text(text)
    return text


def plots(folder: Path) -> None:
    """Draws them; a sentence on standard error where that cannot be done."""
    try:
        # The plots' library comes with `make bench` alone.
        from bench.plots import draw  # noqa: PLC0415
    except ImportError:
        print("no plots: their library, matplotlib, is not here; `make bench` gets it", file=sys.stderr)
        return
    try:
        draw(folder, results.read(folder).records)
    except Exception as failure:  # noqa: BLE001 - the tables are there, and an hour's run does not end with a traceback
        print(f"not all plots could be drawn: {failure!r}", file=sys.stderr)


def markdown(run: results.Run) -> str:
    """The whole report."""
    records, rows = run.records, int(run.about["rows"])
    parts = [
        facts(run),
        *(part for users in every(records, "users") for part in hot(chosen(records, section="strategies", users=users), users)),
        *last(chosen(records, section="last")),
        *loads(chosen(records, section="loads")),
        *open_loop([one for one in records if one["load"] == "open"]),
        *flush(chosen(records, section="flush")),
        *ledgers(chosen(records, section="ledgers"), rows),
        *trial(chosen(records, section="trial")),
        *reached(figures(records, rows, run.failed), is_whole=len(run.about["wanted"]["sections"]) == len(SECTIONS)),
    ]
    return "\n\n".join(parts) + "\n"


def facts(run: results.Run) -> str:
    """Machine and options."""
    wanted = run.about["wanted"]
    lines = [
        *run.about["machine"].items(),
        ("begun", f"{run.about['begun_at'].replace('+00:00', '')} UTC"),
        ("ledger", f"{run.about['rows']:,} redemptions"),
        ("each figure", f"{wanted['duration']:g} s in {wanted['rounds']} turn{'' if wanted['rounds'] == 1 else 's'}"),
        ("sections", ", ".join(wanted["sections"])),
        ("workers", f"{wanted['workers']} where strategies are compared, else 1"),
        ("pool of a rival's worker", f"the best of the trial, else {run.about.get('pool') or 'its default'}"),
        *(
            ("not measured", f"{one['section']}: {one['strategy']}, {one['load']}, {one['users']:,} users")
            for one in run.failed
        ),
    ]
    return table("The run", ("what", "which"), lines)


def reached(found: Iterable[Figure], *, is_whole: bool) -> Iterator[str]:
    """The figures to reach; of a run in parts, those that it measured."""
    lines = [
        (one.name, one.asked, "" if one.measured is None else f"{one.measured:.3g}", one.reached)
        for one in found
        if is_whole or one.measured is not None
    ]
    if lines:
        yield table("Figures", ("figure", "asked for", "measured", "reached"), lines)


def hot(records: Sequence[Record], users: int) -> Iterator[str]:
    """One hot coupon, a line for each strategy."""
    if not records:
        return
    empty = chosen(records, strategy="empty")
    lines = [line(name, chosen(records, strategy=name), empty) for name in KINDS if chosen(records, strategy=name)]
    workers = records[0]["workers"]
    yield table(f"One hot coupon, {users:,} users, workers: {workers}", HOT_HEADS, lines)
    yield from kinds(records, f"Errors of {users:,} users")


def line(name: str, records: Sequence[Record], empty: Sequence[Record]) -> Cells:
    """A strategy's medians over the turns."""
    relative = [
        done_per_s(one) / beside for one in records if name != "empty" and (beside := nearest(one, empty, replies_per_s))
    ]
    pool = records[0]["pool"]
    return (
        name,
        f"{pool or 'default'}" if len(KINDS[name].pools) > 1 else "",
        "" if name == "empty" else f"{over(records, lambda one: one['durable_per_s']):,.0f}",
        f"{median(relative):.3f}" if relative else "",
        f"{over(records, lambda one: tally(one).replies / tally(one).seconds):,.0f}",
        *latencies(records),
        share_of_errors(records),
        under_way(records),
        *cpu(records),
        load_cpu(records),
    )


def under_way(records: Sequence[Record]) -> str:
    """Requests without an answer when the closed loop ended, at most."""
    return f"{max(tally(one).under_way for one in records):,}"


def load_cpu(records: Sequence[Record]) -> str:
    """Of a processor, what the load itself used, at most; marked where that is nearly all."""
    used = max(float(one["cpu_s"].get("load", 0)) / tally(one).seconds for one in records)
    return f"{used:.2f}" + (" full" if used >= FULL else "")


def latencies(records: Sequence[Record]) -> list[str]:
    """Milliseconds."""
    return [f"{over(records, lambda one, name=name: one['latency_ms'][name]):,.1f}" for name in PERCENTILES]  # type: ignore[misc]


def cpu(records: Sequence[Record]) -> list[str]:
    """CPU seconds of each part per 1,000 durable redemptions, or answers where nothing is to be durable."""

    def per_1000(one: Record, part: str) -> float:
        return float(one["cpu_s"][part]) / max(done(one), 1) * 1_000

    return [f"{over(records, lambda one, part=part: per_1000(one, part)):.3f}" for part in PARTS]  # type: ignore[misc]


def share_of_errors(records: Sequence[Record]) -> str:
    """Of all turns together."""
    found = [tally(one) for one in records]
    errors = sum(sum(one.errors.values()) for one in found)
    asked = sum(one.good + one.refused for one in found) + errors
    return f"{errors / asked:.2%}" if errors else "0"


def kinds(records: Sequence[Record], title: str) -> Iterator[str]:
    """Errors by kind, and where counter and rows differ afterwards, of those who had any; all turns together."""
    lines = []
    for name in KINDS:
        own = chosen(records, strategy=name)
        errors = [tally(one).errors for one in own]
        total = [sum(found.get(kind, 0) for found in errors) for kind in ERRORS]
        total += [sum(int(one.get(what, 0)) for one in own) for what in ("sold_too_few", "uncounted")]
        if any(total):
            lines.append((name, *(f"{times:,}" for times in total)))
    if lines:
        yield table(title, ("strategy", *ERRORS, "counted without a row", "rows uncounted"), lines)


def last(records: Sequence[Record]) -> Iterator[str]:
    """The last hundred seats: the worst of the turns, and the means of what was answered."""
    lines = []
    for name in [name for name in KINDS if chosen(records, strategy=name)]:
        own = chosen(records, strategy=name)
        counts = [tally(one) for one in own]
        worst = [max(int(one[what]) for one in own) for what in ("sold_too_many", "sold_too_few")]
        means = [
            mean(one.made for one in counts),
            mean(int(one["durable"]) for one in own),
            mean(one.refused for one in counts),
            mean(sum(one.errors.values()) for one in counts),
        ]
        slowest_ms = median(one.latency_ms["max"] for one in counts)
        lines.append((name, *(f"{count:,.0f}" for count in (*worst, *means, slowest_ms))))
    heads = ("strategy", "sold too many", "sold too few", "201", "of those durable", "refused", "errors", "the last answer, ms")
    if lines:
        yield table("The last hundred seats, 1,000 clients at once", heads, lines)
    yield from kinds(records, "Errors of the last hundred seats")


def loads(records: Sequence[Record]) -> Iterator[str]:
    """Usher's loads, one worker."""
    lines = []
    for users in every(records, "users"):
        at = chosen(records, users=users)
        empty = chosen(at, strategy="empty")
        for load in every(at, "load"):
            own = chosen(at, strategy="usher", load=load)
            if own:
                lines.append(load_line(load, users, own, empty))
        if empty:
            lines.append(load_line("empty handler", users, empty, []))
    if lines:
        heads = (
            "load",
            "users",
            "replies/s",
            "/ empty",
            *PERCENTILES,
            "errors",
            "under way at the end",
            "CPU s per 1,000: service",
            "Redis",
            "MariaDB",
            "wrk's CPU",
        )
        yield table("Loads, one worker", heads, lines)


def load_line(title: str, users: int, records: Sequence[Record], empty: Sequence[Record]) -> Cells:
    """Medians over the turns. Where no redemptions are to be made, answers count: a refusal, a replay, a confirmation."""
    relative = [done_per_s(one) / beside for one in records if (beside := nearest(one, empty, replies_per_s))]
    return (
        title, f"{users:,}", f"{over(records, replies_per_s):,.0f}", f"{median(relative):.3f}" if relative else "",
        *latencies(records), share_of_errors(records), under_way(records), *cpu(records), load_cpu(records),
    )  # fmt: skip


def open_loop(records: Sequence[Record]) -> Iterator[str]:
    """Fixed rates."""
    lines = []
    for section in every(records, "section"):
        for rate in every(chosen(records, section=section), "rate"):
            at = chosen(records, section=section, rate=rate)
            for name in [name for name in KINDS if chosen(at, strategy=name)]:
                own = chosen(at, strategy=name)
                lines.append(
                    (
                        name, f"{rate:,.0f}", f"{own[0]['workers']}", *latencies(own), share_of_errors(own),
                        f"{max(one['open']['most_in_flight'] for one in own):,}",
                        f"{sum(one['open']['waited'] for one in own):,}",
                        f"{max(one['open']['sent_late_p99_ms'] for one in own):.1f}",
                        "yes" if all(one["open"]["kept_up"] for one in own) else "no",
                    )
                )  # fmt: skip
    if lines:
        heads = (
            "strategy",
            "asked/s",
            "workers",
            *PERCENTILES,
            "errors",
            "most in flight",
            "waited for a connection",
            "sent late, p99",
            "generator kept up",
        )
        yield table("Open loop, latency in ms from the intended time", heads, lines)


def flush(records: Sequence[Record]) -> Iterator[str]:
    """FLUSHALL under load."""
    lines = []
    for one in records:
        for at in one["line"]["flushed_ms"]:
            length_ms = longest(of_flush(one["line"]["gaps"], at))
            lines.append((one["strategy"], f"{one['users']}", f"{length_ms:.0f}" if length_ms else "less than 10"))
    if lines:
        yield table("FLUSHALL under load", ("strategy", "users", "longest time without a success, ms"), lines)


def ledgers(records: Sequence[Record], rows: int) -> Iterator[str]:
    """Full and empty."""
    lines = [
        (
            f"{rows:,} rows" if ledger == "full" else empty_ledger(own),
            f"{over(own, lambda one: one['durable_per_s']):,.0f}",
            *latencies(own),
        )
        for ledger in ("full", "empty")
        if (own := chosen(records, ledger=ledger))
    ]
    if lines:
        yield table("Usher on two ledgers, in turns, 100 users, one worker", ("ledger", "durable/s", *PERCENTILES), lines)


def empty_ledger(records: Sequence[Record]) -> str:
    """With the rows that earlier turns have left in it."""
    rows = [one.get("ledger_rows") or 0 for one in records]
    return f"empty at first; {', '.join(f'{count:,}' for count in rows)} rows when its turns began"


def trial(records: Sequence[Record]) -> Iterator[str]:
    """Rivals' pools."""
    pools = sorted(every(records, "pool"))
    lines = []
    for name in every(records, "strategy"):
        for users in every(records, "users"):
            own = chosen(records, strategy=name, users=users)
            rates = [over(chosen(own, pool=pool), done_per_s) if chosen(own, pool=pool) else 0 for pool in pools]
            lines.append((name, f"{users:,}", *(f"{rate:,.0f}" for rate in rates)))
    if lines:
        yield table("The trial of pools, redemptions/s", ("strategy", "users", *(f"{pool}" for pool in pools)), lines)


def over(records: Sequence[Record], of: Callable[[Record], float]) -> float:
    """The median over the turns."""
    return median(of(one) for one in records)


def table(title: str, heads: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    """In Markdown; what is beside names is aligned to the right."""
    rows = ["| " + " | ".join(cells) + " |" for cells in lines]
    return "\n".join([f"### {title}", "", f"| {' | '.join(heads)} |", "|---|" + "---:|" * (len(heads) - 1), *rows])


if __name__ == "__main__":
    main()
