"""A check, a repair or a reseed from its beginning to its end: carried out, and stored with what it finds."""

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

import structlog

from reconciler.compare import Progress, always, compare_once, never, unseen
from reconciler.reseeding import reseed_once
from service.counters import Counters
from service.errors import CounterUnavailable, LedgerContended, LedgerUnavailable, UsherError
from service.ledger import Ledger
from service.reconciling import Cause, Finding, Kind, Mode, Run, RunStatus

STORE_DEADLINE_S: Final = 10.0
"""For what is stored of a run: the ledger may be busy with the run itself."""
END_PAUSE_S: Final = 1.0
"""Before it is tried again to store that a run has ended."""

NO_COUPON: Final = "there is no coupon with this code"
STOPPED: Final = "it was stopped before it was done"
FULL: Final = "Redis' memory is nearly full: the busiest coupons have their counters, the others get theirs on demand"

log = structlog.get_logger(__name__)


def ignored(_: Sequence[Finding]) -> None:
    """Nobody listens."""


@dataclass(frozen=True, slots=True)
class Following:
    """Who follows a run. `told`: of findings, as they become certain. `progress`: how far it is.

    `is_stopping`, `may_mend` and `tells_unsearched`: see `compare_once`. `keeps_notes`: also a note is stored.
    `is_patient`: it is tried to store the end until it is stored, or somebody asks to stop.
    """

    told: Callable[[Sequence[Finding]], None] = ignored
    progress: Progress = unseen
    is_stopping: Callable[[], bool] = never
    may_mend: Callable[[], Awaitable[bool]] = always
    keeps_notes: bool = True
    tells_unsearched: bool = True
    is_patient: bool = False


@dataclass(frozen=True, slots=True)
class Result:
    """How a run has ended, DONE or FAILED.

    `error`: why it failed; `cause`: the store's error, if it was one. `coupons_checked`: those held against a counter, or those
    that a reseed has looked at, which made `loaded` counters. `counts`: findings by kind, without notes; `missing`: the notes.
    `unlisted`: leaked seats that were counted and not told one by one. `not_mended`: findings that are as they were. `notice`:
    what to know of a run that is DONE all the same. `took_s`: from its beginning.
    """

    status: RunStatus = RunStatus.DONE
    error: str | None = None
    cause: UsherError | None = None
    coupons_checked: int = 0
    counts: Mapping[Kind, int] = field(default_factory=dict)
    missing: int = 0
    unlisted: int = 0
    not_mended: int = 0
    loaded: int = 0
    notice: str | None = None
    took_s: float = 0.0

    @property
    def finding_count(self) -> int:
        """Findings of all kinds, without the notes."""
        return sum(self.counts.values())


class Carrier:
    """Carries out runs that are stored as RUNNING."""

    def __init__(self, ledger: Ledger, counters: Counters) -> None:
        self._ledger = ledger
        self._counters = counters

    async def carry_out(self, run: Run, following: Following, *, force: bool = False) -> Result:
        """Carries out a run, stores what it finds and how it ends; what fails is in the result.

        `force`: a reseed makes all counters anew.
        """
        begun_at = time.monotonic()
        notes = _Notes(self._ledger, run, following)
        try:
            result = await self._result(run, following, notes, force=force)
        except (LedgerUnavailable, LedgerContended, CounterUnavailable) as error:
            store = "Redis" if isinstance(error, CounterUnavailable) else "the ledger"
            counts = dict(notes.counts)
            missing = counts.pop(Kind.MISSING, 0)
            reason = f"{store} could not be used: {error}"
            result = Result(RunStatus.FAILED, reason, error, counts=counts, missing=missing, not_mended=sum(counts.values()))
        result = replace(result, took_s=time.monotonic() - begun_at)
        await self._end(run, result, notes.stored + result.unlisted, following)
        return result

    async def _result(self, run: Run, following: Following, notes: "_Notes", *, force: bool) -> Result:
        """What the run comes to. Raises what the gateways raise."""
        if run.code is not None and await self._ledger.coupons.get(run.code, _soon()) is None:
            return Result(RunStatus.FAILED, NO_COUPON)
        if run.mode is Mode.RESEED:
            return await self._reseed(run, following, force=force)
        report = await compare_once(
            self._ledger,
            self._counters,
            notes.found,
            code=run.code,
            mend=run.mode is Mode.REPAIR,
            tells_unsearched=following.tells_unsearched,
            may_mend=following.may_mend,
            is_stopping=following.is_stopping,
            progress=following.progress,
        )
        return Result(
            RunStatus.DONE if report.complete else RunStatus.FAILED,
            None if report.complete else STOPPED,
            coupons_checked=report.coupons_checked,
            counts=report.counts,
            missing=report.missing,
            unlisted=report.unlisted,
            not_mended=report.not_mended,
        )

    async def _reseed(self, run: Run, following: Following, *, force: bool) -> Result:
        report = await reseed_once(
            self._ledger,
            self._counters,
            code=run.code,
            force=force,
            is_stopping=following.is_stopping,
            progress=following.progress,
        )
        done = report.complete or report.is_full
        return Result(
            RunStatus.DONE if done else RunStatus.FAILED,
            None if done else STOPPED,
            coupons_checked=report.coupons,
            loaded=report.loaded,
            notice=FULL if report.is_full else None,
        )

    async def _end(self, run: Run, result: Result, finding_count: int, following: Following) -> None:
        """Stores the end. One that could not be stored is found by whoever leads next: an orphan."""
        while True:
            try:
                await self._ledger.runs.end(
                    run.id,
                    status=result.status,
                    coupons_checked=result.coupons_checked,
                    finding_count=finding_count,
                    error=result.error,
                    deadline=_soon(),
                )
            except LedgerUnavailable as error:
                if not following.is_patient or following.is_stopping():
                    log.warning("the end of a run was not stored", run=run.id.hex(), error=str(error))
                    return
                await asyncio.sleep(END_PAUSE_S)
            else:
                return


class _Notes:
    """Stores what a run finds, in its order, before it is mended. `counts`: what was told until now, by kind."""

    def __init__(self, ledger: Ledger, run: Run, following: Following) -> None:
        self._ledger = ledger
        self._run = run
        self._following = following
        self.counts: Counter[Kind] = Counter()
        self.stored = 0

    async def found(self, findings: Sequence[Finding]) -> None:
        """Raises LedgerUnavailable: what cannot be stored is not mended either."""
        keeps_notes = self._following.keeps_notes
        kept = [one for one in findings if keeps_notes or one.kind is not Kind.MISSING]
        await self._ledger.runs.note(self._run.id, self.stored, kept, _soon())
        self.stored += len(kept)
        self.counts.update(one.kind for one in findings)
        self._following.told(findings)


def tell(run: Run, result: Result) -> None:
    """What the log says of a run: hardly anything of one that was scheduled and found nothing."""
    run_id, mode, cause, took_s = run.id.hex(), run.mode.value, run.cause.value, round(result.took_s, 3)
    coupons, found = result.coupons_checked, result.finding_count
    if oversold := result.counts.get(Kind.OVERSOLD):
        log.error("oversold: more were admitted than a limit allowed", run=run_id, found=oversold)
    if result.status is RunStatus.FAILED:
        error = result.error
        log.warning(
            "a run has failed", run=run_id, mode=mode, cause=cause, error=error, coupons=coupons, found=found, took_s=took_s
        )
        return
    say = log.info if found or result.notice or run.cause is not Cause.SCHEDULE else log.debug
    reason = result.notice
    say("a run has ended", run=run_id, mode=mode, cause=cause, reason=reason, coupons=coupons, found=found, took_s=took_s)


def _soon() -> float:
    return asyncio.get_running_loop().time() + STORE_DEADLINE_S
