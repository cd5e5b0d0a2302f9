"""Notices that Redis has lost its keys, and loads them again; the service meanwhile loads what it is asked for.

FLUSHALL takes the mark along; a restart or a failover brings another server's id. That Redis is away is no loss by itself:
when it is back, its mark says whether it has kept what it had.
"""

import asyncio
from collections.abc import Callable
from typing import Final

import structlog
import uuid_utils

from reconciler.reseeding import Progress, Report, never, reseed_once, silent
from service.counters import Counters
from service.errors import CounterUnavailable, LedgerUnavailable
from service.ledger import Ledger
from service.reconciling import Cause, Mode, Run, RunStatus

STORE_DEADLINE_S: Final = 5.0
"""For a row of a run."""
AGAIN: Final = "Redis lost its keys again meanwhile"
STOPPED: Final = "it was stopped"
FULL: Final = "Redis' memory is nearly full: the coupons that are left are loaded when they are asked for"

log = structlog.get_logger(__name__)


class Cache:
    """The keys that Redis holds, as far as the reconciler `by` watches over them."""

    def __init__(self, ledger: Ledger, counters: Counters, by: str) -> None:
        self._ledger = ledger
        self._counters = counters
        self._by = by
        self._lost: Run | None = None
        self._noted = ""
        self._server = ""
        self._is_loading = False

    async def watch_once(self) -> bool:
        """Whether Redis has lost its keys since the last look, which may have been somebody else's; at the very first, it has.

        A loss is stored as a run, which `reseed_once` carries out, and marked as seen. So is one that somebody else had seen
        and did not come to the end of, who was killed, say; that is no further loss. Every second, beside a reseed, too.
        Raises CounterUnavailable and LedgerUnavailable; the loss is then seen again by the next look.
        """
        mark = await self._counters.mark()
        is_lost = mark.noted != mark.run_id
        if not is_lost and (mark.reseeded == mark.run_id or self._is_lost() or self._is_loading):
            self._server = mark.run_id
            return False
        before, now = self._lost, self._ledger.now()
        run = Run(
            id=uuid_utils.uuid7().bytes, mode=Mode.RESEED, code=None, status=RunStatus.RUNNING, cause=Cause.CACHE_LOSS,
            asked_by=self._by, asked_at=now, run_by=self._by, begun_at=now,
        )  # fmt: skip
        await self._ledger.runs.begin(run, self._soon())
        self._lost, self._noted = run, mark.run_id
        if is_lost:
            await self._counters.set_mark(mark.run_id)
            # A Redis that was restarted empty has no mark either: only the look before tells it from one that was flushed.
            log.warning("Redis has lost its keys", is_same_server=mark.run_id == self._server)
        self._server = mark.run_id
        if before is not None:  # It has not begun.
            await self._end(before, RunStatus.FAILED, error=AGAIN)
        return is_lost

    async def reseed_once(self, is_stopping: Callable[[], bool] = never, progress: Progress = silent) -> Report | None:
        """Loads counters after the loss that was seen last, the busiest first; None where there was none since.

        A further loss ends it, and the next call begins again. `is_stopping` is asked before each page. Raises
        CounterUnavailable and LedgerUnavailable; the next call then begins again, with the same run.
        """
        run, self._lost = self._lost, None
        if run is None:
            return None
        self._is_loading = True
        try:
            report = await reseed_once(
                self._ledger,
                self._counters,
                is_stopping=lambda: self._is_lost() or is_stopping(),
                progress=progress,
            )
            is_done = report.complete or report.is_full
            if is_done and not self._is_lost():
                await self._counters.set_mark(self._noted, reseeded=True)
            reason = FULL if report.is_full else None if is_done else AGAIN if self._is_lost() else STOPPED
            await self._end(run, RunStatus.DONE if is_done else RunStatus.FAILED, coupons=report.coupons, error=reason)
        except (CounterUnavailable, LedgerUnavailable):
            if self._is_lost():
                await self._end(run, RunStatus.FAILED, error=AGAIN)
            else:
                self._lost = run
            raise
        finally:
            self._is_loading = False
        log.info("counters reseeded", coupons=report.coupons, loaded=report.loaded, complete=report.complete)
        return report

    def _is_lost(self) -> bool:
        """Whether a loss was seen that nothing has been done about yet."""
        return self._lost is not None

    async def _end(self, run: Run, status: RunStatus, *, coupons: int = 0, error: str | None = None) -> None:
        await self._ledger.runs.end(
            run.id, status=status, coupons_checked=coupons, finding_count=0, error=error, deadline=self._soon()
        )

    @staticmethod
    def _soon() -> float:
        return asyncio.get_running_loop().time() + STORE_DEADLINE_S
