"""Plots of a run, as SVG and PNG: throughput, p99 and errors by users, and successes around a flush of Redis."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import matplotlib as mpl
from matplotlib import pyplot as plt
from matplotlib.ticker import LogLocator, StrMethodFormatter

from bench.figures import chosen, every, tally
from bench.strategies import KINDS

Record = Mapping[str, Any]
SIZE = (9, 5.5)
FORMATS = ("svg", "png")
STEP_MS = 50
COLOURS = mpl.colormaps["tab20"]
STYLES: dict[str, dict[str, Any]] = {"usher": {"color": "black", "linewidth": 3}, "empty": {"color": "gray", "linestyle": "--"}}
MARKERS = "osv^D<>phX*Pd8H"


def draw(folder: Path, records: Sequence[Record]) -> None:
    """All plots for which there are records."""
    mpl.use("Agg")
    hot = chosen(records, section="strategies")
    if hot:
        by_users(hot, (folder / "throughput", "answers/s, durable where the strategy is", True), throughput)
        by_users(hot, (folder / "p99", "p99, ms", True), lambda one: float(one["latency_ms"]["p99"]))
        by_users(hot, (folder / "errors", "errors, % of what was asked", False), lambda one: tally(one).error_rate * 100)
    for one in chosen(records, section="flush"):
        flush(folder / "flush", one)


def throughput(record: Record) -> float:
    """Durable redemptions a second; answers where nothing is durable."""
    return float(record["durable_per_s"]) or tally(record).rate


def by_users(records: Sequence[Record], labels: tuple[Path, str, bool], of: Callable[[Record], float]) -> None:
    """A line for each strategy over the number of users; `labels`: file, vertical axis, whether that is logarithmic."""
    path, title, is_logarithmic = labels
    figure, axes = plt.subplots(figsize=SIZE)
    for at, name in enumerate(name for name in KINDS if chosen(records, strategy=name)):
        own = chosen(records, strategy=name)
        users = sorted(every(own, "users"))
        values = [median(of(one) for one in chosen(own, users=count)) for count in users]
        style = STYLES.get(name, {"color": COLOURS(at)})
        axes.plot(users, values, marker=MARKERS[at % len(MARKERS)], label=name, **style)
    axes.set_xscale("log")
    if is_logarithmic:
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.set_xticks(sorted(every(records, "users")))
    axes.minorticks_off()
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(StrMethodFormatter("{x:,g}"))
    axes.set_xlabel("virtual users on one coupon")
    axes.set_ylabel(title)
    axes.grid(visible=True, which="major", alpha=0.4)
    axes.legend(loc="center left", bbox_to_anchor=(1, 0.5), frameon=False)
    save(figure, path)


def flush(path: Path, record: Record) -> None:
    """Successes of each 50 ms."""
    successes = {int(at): int(times) for at, times in record["line"]["successes"]}
    begin, end = min(successes), max(successes)
    moments = range(begin, end + 1, STEP_MS)
    figure, axes = plt.subplots(figsize=SIZE)
    axes.step([(at - begin) / 1_000 for at in moments], [successes.get(at, 0) for at in moments], where="post")
    for at in record["line"]["flushed_ms"]:
        axes.axvline((at - begin) / 1_000, color="C3", linestyle="--", label="FLUSHALL")
    axes.set_ylim(bottom=0)
    axes.set_xlabel("seconds")
    axes.set_ylabel(f"redemptions in {STEP_MS} ms")
    axes.legend(*[part[:1] for part in axes.get_legend_handles_labels()])
    save(figure, path)


def save(figure: Any, path: Path) -> None:  # noqa: ANN401 - matplotlib's
    """In both formats."""
    for ending in FORMATS:
        figure.savefig(path.with_suffix(f".{ending}"), bbox_inches="tight", dpi=120)
    plt.close(figure)
