"""What the commands show: how far a run is, on a terminal; and what it has found, as JSON, a table, or lines for programs."""

import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TaskID, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.text import Text

from reconciler.carrying import Result
from service import printing
from service.reconciling import Finding, Kind, Mode, Run, RunStatus

SHOWN_MAX: Final = 100
"""Findings in a table; with more of them, somebody reads the JSON."""
COLUMNS: Final = ("code", "kind", "seat", "customer_id", "before", "after")


class Findings:
    """What a run has told of: `kept` is what is shown, `told` how much of that kind there was.

    As JSON it is all; else it is the first SHOWN_MAX, and of all coupons those without notes, which may be many.
    """

    def __init__(self, *, as_json: bool, with_notes: bool) -> None:
        self._as_json = as_json
        self._with_notes = as_json or with_notes
        self.kept: list[Finding] = []
        self.told = 0

    def add(self, findings: Sequence[Finding]) -> None:
        """Told one after the other."""
        wanted = [one for one in findings if self._with_notes or one.kind is not Kind.MISSING]
        self.told += len(wanted)
        self.kept += wanted if self._as_json else wanted[: SHOWN_MAX - len(self.kept)]


class Distance:
    """How far a run is. Shown as a bar where standard error is a terminal."""

    def __init__(self) -> None:
        self._done = 0.0
        self._total = 0
        self._bar: tuple[Progress, TaskID] | None = None

    @property
    def percent(self) -> float:
        """Of the whole way; 0 as long as nobody knows how long that is."""
        return 100 * self._done / self._total if self._total else 0.0

    def went_on(self, done: float, total: int) -> None:
        """It is so far now, of so far."""
        self._done, self._total = done, total
        if self._bar is not None:
            bar, task = self._bar
            bar.update(task, completed=done, total=total)

    @contextmanager
    def shown(self, title: str) -> Iterator[None]:
        """A bar with rate and time left meanwhile; it goes when the run has ended."""
        console = Console(stderr=True)
        if not console.is_terminal:
            yield
            return
        columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), _Rate(), TimeRemainingColumn())
        with Progress(*columns, console=console, transient=True) as bar:
            self._bar = bar, bar.add_task(title, total=None)
            try:
                yield
            finally:
                self._bar = None


class _Rate(ProgressColumn):
    """Coupons a second."""

    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text("" if speed is None else f"{speed:,.0f} coupons/s")


def show(run: Run, result: Result, findings: Findings, *, as_json: bool) -> None:
    """What a run has found: as JSON, else as a table or lines, and a sentence that sums it up."""
    if as_json:
        printing.show_json(document(run, result, findings.kept))
        return
    rows = [{**dict.fromkeys(COLUMNS), **_view(finding)} for finding in findings.kept]
    if rows:
        printing.show_rows("findings", rows, COLUMNS, as_json=False)
    lines = []
    if findings.told > len(rows):
        lines.append(f"and {findings.told - len(rows):,} more: --json shows all")
    if result.unlisted:
        lines.append(f"and {result.unlisted:,} leaked seats that were counted and not listed")
    printing.show(None, lines=[*lines, summary(run, result)], as_json=False)


def document(run: Run, result: Result, findings: Sequence[Finding]) -> dict[str, Any]:
    """The run as `--json` prints it."""
    shown: dict[str, Any] = {
        "run_id": str(uuid.UUID(bytes=run.id)),
        "mode": run.mode,
        "coupons_checked": result.coupons_checked,
        "took_s": round(result.took_s, 3),
        "findings": [_view(finding) for finding in findings],
    }
    if run.mode is Mode.RESEED:
        shown["loaded"] = result.loaded
    if run.mode is Mode.REPAIR:
        shown["not_mended"] = result.not_mended
    if result.unlisted:
        shown["unlisted"] = result.unlisted
    if result.status is RunStatus.FAILED:
        shown["error"] = result.error
    return shown


def _view(finding: Finding) -> dict[str, Any]:
    """A finding; `seat` and `customer_id` only where it has them."""
    view: dict[str, Any] = {"code": finding.code, "kind": finding.kind.value}
    if finding.seat is not None:
        view["seat"] = finding.seat
    if finding.customer_id is not None:
        view["customer_id"] = finding.customer_id
    return {**view, "before": finding.before, "after": finding.after}


def summary(run: Run, result: Result) -> str:
    """One line: what was done and how it came out."""
    coupons, took = _counted(result.coupons_checked, "coupon"), f"in {result.took_s:,.1f} s"
    begun = "" if result.status is RunStatus.DONE else "not done: "
    if result.cause is not None:  # A store failed, and took along how many coupons it had been.
        found = "" if run.mode is Mode.RESEED else f"; {_found(result)} until then"
        return f"{begun}broken off after {result.took_s:,.1f} s{found}"
    if run.mode is Mode.RESEED:
        return f"{begun}{coupons} looked at, {_counted(result.loaded, 'counter')} loaded {took}"
    mended = ""
    if run.mode is Mode.REPAIR and result.finding_count:
        mended = f", {result.finding_count - result.not_mended:,} mended"
    notes = f"; {_counted(result.missing, 'coupon')} without a counter, which is no fault" if result.missing else ""
    return f"{begun}{coupons} compared {took}: {_found(result)}{mended}{notes}"


def _found(result: Result) -> str:
    kinds = ", ".join(f"{count:,} {kind}" for kind, count in sorted(result.counts.items()))
    return f"{result.finding_count:,} found ({kinds})" if result.finding_count else "nothing found"


def _counted(count: int, what: str) -> str:
    return f"{count:,} {what}" if count == 1 else f"{count:,} {what}s"
