"""The reconciler's runs in the ledger: wishes that wait, what runs, what was found, and which reconciler leads.

Everything that is written here can be written again: ids are the caller's, a status only moves on, and what is there stays.
So a statement whose reply was lost, or that met another one, is sent again here.
"""

import json
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from service.errors import LedgerContended, LedgerReplyLost, LedgerUnavailable, Overloaded
from service.ledger.clock import Clock
from service.ledger.connections import Connections, Row
from service.ledger.literals import ID_BYTES, Sql, ascii_text, binary, tuples
from service.ledger.sql import Query
from service.reconciling import Cause, Finding, Kind, Leader, Mode, Run, RunStatus

INSERT: Final = Query("run_insert")
QUEUED: Final = Query("run_queued")
TAKE: Final = Query("run_take")
NOTED: Final = Query("run_noted")
END: Final = Query("run_end")
GET: Final = Query("run_get")
FIND: Final = Query("run_find")
CLOSE_ORPHANS: Final = Query("run_close_orphans")
ENDED: Final = Query("run_ended")
DELETE: Final = Query("run_delete")
NOTE: Final = Query("finding_note")
FINDINGS: Final = Query("finding_find")
DELETE_FINDINGS: Final = Query("finding_delete")
LEADER: Final = Query("leader_get")

QUEUED_MAX: Final = 100
"""Wishes that wait. With so many nobody fulfils them, or somebody asks for each coupon by itself, where one run does all."""
ATTEMPTS: Final = 3
"""Of a statement, which takes a millisecond."""
BATCH_MAX: Final = 1_000
"""Findings in one statement: with the longest customers' names, a megabyte."""
ERROR_MAX_CHARS: Final = 255
"""What the column holds."""
COUNT_MAX: Final = 2**32 - 1
"""What the column holds: leaked seats are counted one by one, and a coupon has up to two thousand million."""
COMMAND_MAX: Final = timedelta(days=1)
"""How long a run of the command line may take, which no reconciler carries out; one that was killed says nothing."""
ORPHANED: Final = "the reconciler that ran it has ended"
EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
MILLISECOND: Final = timedelta(milliseconds=1)


class Runs:
    """The gateway to `reconcile_run`, `reconcile_finding` and `leader`. Each method raises LedgerUnavailable."""

    def __init__(self, reading: Connections, writing: Connections, clock: Clock) -> None:
        self._reading = reading
        self._writing = writing
        self._clock = clock

    # --- Wishes ------------------------------------------------------------------------------------------------

    async def queue(self, run: Run, deadline: float) -> Run:
        """Stores a wish, and returns it; or the one that waits already for the same mode and code, which is as good.

        Two that come together may both be stored: one of them then finds nothing to do. Raises Overloaded when too many wait.
        """
        assert run.status is RunStatus.QUEUED, "a wish is queued"
        queued = [_run(row) for row in await self._fetch(QUEUED(limit=QUEUED_MAX), deadline)]
        for one in queued:
            if (one.mode, one.code) == (run.mode, run.code):
                return one
        if len(queued) >= QUEUED_MAX:
            raise Overloaded
        await self._insert(run, deadline)
        return run

    async def take(self, run_by: str, deadline: float) -> Run | None:
        """The oldest wish, running from now on by this reconciler; None: none waits. Of several who take it one gets it."""
        while queued := await self._fetch(QUEUED(limit=1), deadline):
            wish, now = _run(queued[0]), self._clock.now()
            await self._write(TAKE(id=wish.id, run_by=run_by, begun_at=now), deadline)
            # Not by the number of rows: a reply may have been lost.
            taken = await self.get(wish.id, deadline)
            if taken is not None and (taken.status, taken.run_by, taken.begun_at) == (RunStatus.RUNNING, run_by, now):
                return taken
        return None

    # --- Runs --------------------------------------------------------------------------------------------------

    async def begin(self, run: Run, deadline: float) -> None:
        """Stores a run that nobody had wished for: it is running. `run_by` is None for one of the command line."""
        assert run.status is RunStatus.RUNNING, "a run that begins is running"
        await self._insert(run, deadline)

    async def note(self, run_id: bytes, first_number: int, findings: Sequence[Finding], deadline: float) -> None:
        """Stores what a run has found, numbered from `first_number` on; the first finding of a run has number 0."""
        for at in range(0, len(findings), BATCH_MAX):
            batch = enumerate(findings[at : at + BATCH_MAX], first_number + at)
            rows = tuples((run_id, number, *_columns(finding)) for number, finding in batch)
            await self._write(NOTE(rows=rows), deadline)
        if findings:
            await self._write(NOTED(id=run_id, finding_count=first_number + len(findings)), deadline)

    async def end(
        self,
        run_id: bytes,
        *,
        status: RunStatus,
        coupons_checked: int,
        finding_count: int,
        error: str | None = None,
        deadline: float,
    ) -> None:
        """The run is DONE or has FAILED, for which `error` gives the reason. One that has ended already stays as it is."""
        assert status in {RunStatus.DONE, RunStatus.FAILED}, "an end is one of these"
        statement = END(
            id=run_id,
            status=status.value,
            ended_at=self._clock.now(),
            coupons_checked=coupons_checked,
            finding_count=min(finding_count, COUNT_MAX),
            error=None if error is None else error[:ERROR_MAX_CHARS],
        )
        await self._write(statement, deadline)

    async def close_orphans(self, leader: Leader, deadline: float) -> int:
        """Ends as failed what other reconcilers, or this one before it led, have left running; how many those are.

        For who leads, when it has taken over and before its first run. Runs of the command line are left alone for a day.
        """
        now = self._clock.now()
        statement = CLOSE_ORPHANS(
            ended_at=now, error=ORPHANED, name=leader.name, since=leader.since, commands_since=now - COMMAND_MAX
        )
        return await self._write(statement, deadline)

    async def prune(self, older_than: datetime, *, limit: int, deadline: float) -> int:
        """Deletes runs that had ended before a moment, with what they have found, the oldest first.

        At most `limit` rows; returns how many. As long as it is `limit`, there may be more. Raises LedgerRefusedAccess where
        the account lacks the right: `accounts.sql` is to be run again.
        """
        left = limit
        ended = ENDED(below_id=_id_at(older_than), ended_before=older_than, limit=limit)
        for (run_id,) in await self._fetch(ended, deadline):
            left -= await self._write(DELETE_FINDINGS(run_id=run_id, limit=left), deadline)
            if left <= 0:
                break
            left -= await self._write(DELETE(id=run_id), deadline)
            if left <= 0:
                break
        return limit - left

    # --- Reading -----------------------------------------------------------------------------------------------

    async def get(self, run_id: bytes, deadline: float) -> Run | None:
        """The run with this id."""
        found = await self._fetch(GET(id=run_id), deadline)
        return _run(found[0]) if found else None

    async def findings(self, run_id: bytes, *, after_number: int = -1, limit: int, deadline: float) -> list[Finding]:
        """What the run has found, in its order, at most `limit`; only what is numbered above `after_number`."""
        found = await self._reading.fetch(FINDINGS(run_id=run_id, after_number=after_number, limit=limit), deadline)
        return [
            Finding(code, Kind(kind), _value(before), _value(after), seat, customer_id)
            for code, kind, before, after, seat, customer_id in found
        ]

    async def find(self, *, before_id: bytes | None = None, limit: int, deadline: float) -> list[Run]:
        """Runs, newest first, at most `limit`; only those before an id."""
        conditions = "TRUE" if before_id is None else f"n.id < {binary(before_id)}"
        return [_run(row) for row in await self._reading.fetch(FIND(conditions=Sql(conditions), limit=limit), deadline)]

    async def leader(self, deadline: float) -> Leader | None:
        """The reconciler that leads, by the server's word; None: none does."""
        found = await self._reading.fetch(LEADER(), deadline)
        return Leader(*found[0]) if found else None

    # --- Statements --------------------------------------------------------------------------------------------

    async def _insert(self, run: Run, deadline: float) -> None:
        statement = INSERT(
            id=run.id,
            mode=run.mode.value,
            code=None if run.code is None else Sql(ascii_text(run.code)),
            status=run.status.value,
            cause=run.cause.value,
            asked_by=run.asked_by,
            asked_at=run.asked_at,
            run_by=run.run_by,
            begun_at=run.begun_at,
        )
        await self._write(statement, deadline)

    async def _fetch(self, statement: str, deadline: float) -> tuple[Row, ...]:
        """Reads where it is written: a wish waits for no search."""
        return await self._writing.fetch(statement, deadline)

    async def _write(self, statement: str, deadline: float) -> int:
        """The number of rows that it has changed; after a lost reply, those that were left to be changed."""
        attempt = 0
        while True:
            attempt += 1
            try:
                async with self._writing.use(deadline) as connection:
                    return await connection.run(statement, deadline)
            except LedgerReplyLost:
                if attempt == ATTEMPTS:
                    raise
            except LedgerContended as error:
                if attempt == ATTEMPTS:
                    raise LedgerUnavailable("others held the run's row") from error


def _columns(finding: Finding) -> tuple[object, ...]:
    """In the order of `finding_note.sql`, after the number."""
    return (
        Sql(ascii_text(finding.code)),
        finding.kind.value,
        finding.seat,
        finding.customer_id,
        _json(finding.before),
        _json(finding.after),
    )


def _run(row: Row) -> Run:
    """From `run_columns.sql`."""
    run_id, mode, code, status, cause, *rest = row
    return Run(run_id, Mode(mode), code, RunStatus(status), Cause(cause), *rest)


def _json(value: Any) -> str | None:  # noqa: ANN401  (any JSON)
    return None if value is None else json.dumps(value, ensure_ascii=False, allow_nan=False)


def _value(text: str | None) -> Any:  # noqa: ANN401  (any JSON)
    return None if text is None else json.loads(text)


def _id_at(moment: datetime) -> bytes:
    """The lowest UUIDv7 of a moment: its milliseconds since 1970 come first."""
    return ((moment - EPOCH) // MILLISECOND).to_bytes(6).ljust(ID_BYTES, b"\0")
