"""The record statement, and what to do when it is not the normal case.

Normally: one statement, affected rows = rows sent, every row RECORDED. All else is told apart here, row by row, and nothing
is said that is not certain: a row is *in doubt* while a statement with it may still land.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Sequence
from datetime import datetime
from typing import Any

import structlog

from service.errors import LedgerContended, LedgerRefusedData, LedgerReplyLost, LedgerUnavailable
from service.ledger import rows as of
from service.ledger.connections import Connection, Connections, Row
from service.ledger.literals import ID_BYTES, Sql, ascii_text, binaries, instant, text, tuples
from service.ledger.sql import Query
from service.model import NewRedemption, Record, RecordEnding, Redemption

RECORD = Query("record")
LANDED = Query("record_landed")
DIAGNOSE = Query("record_diagnose")
GET_MANY = Query("redemption_get_many")
KNOWN_ID = 4
"""The place of `known_id` in a row of `record_diagnose.sql`."""

CONTENDED_BEFORE_HALVES = 3
"""A batch that met deadlocks so often is cut in halves: what collides with others then stops as few rows as may be."""
AGAIN_PAUSE_S = 0.003
"""Before the next try, so that the other side of a deadlock gets through."""
AWAY_PAUSES_S = (0.003, 0.03, 0.1)
"""Between attempts to reach a ledger that is away: a connection may fail whose server has just been replaced. After these, rows
that are not in doubt end, so that their clients hear of it soon; those in doubt go on with the last pause."""
LOCKED_PAUSE_MIN_S = 0.002
LOCKED_PAUSE_MAX_S = 0.064
"""A coupon is locked for the time of a change: some milliseconds; longer when the pieces of a large one follow one another."""
LOCKED_TIME_LEFT_MIN_S = 0.1
"""With less time left, a row is not tried again: its deadline would leave it in doubt, and now it is certainly not recorded."""
LOCKED_BATCH_MAX_ROWS = 256
"""Rows that wait for the same coupon are tried again together, so many in one statement."""

RECORDED = Record(RecordEnding.RECORDED)
NOT_RECORDED = Record(RecordEnding.NOT_RECORDED)
UNKNOWN = Record(RecordEnding.UNKNOWN)

log = structlog.get_logger(__name__)

Abandon = Callable[[Sequence[NewRedemption], float], Awaitable[list[bool | None]]]


CONTENDED, REPLY_LOST, AWAY, LOCKED = RETRY_CAUSES = ("contended", "reply_lost", "away", "locked")
"""Why a record statement is sent again: a deadlock or a lock wait, no reply, no connection, a locked coupon."""


class Pending:
    """A row on its way to its ending.

    `in_flight`: a statement with it has been sent, its answer is awaited. `lost`: the answer to an earlier one never came.
    Either way the row is in doubt. This is made for every row that is recorded: it does nothing that can be done later.
    """

    __slots__ = ("ending", "future", "in_flight", "lost", "new")

    def __init__(self, new: NewRedemption) -> None:
        self.new = new
        self.in_flight = False
        self.lost = False
        self.ending: Record | None = None
        self.future: asyncio.Future[Record] | None = None

    def end(self, ending: Record) -> None:
        """The first ending counts; later ones were not told to anybody."""
        if self.ending is None:
            self.ending = ending
            if self.future is not None and not self.future.done():
                self.future.set_result(ending)

    def expire(self) -> None:
        """The row's deadline has passed."""
        self.end(UNKNOWN if self.in_flight or self.lost else NOT_RECORDED)

    def answer(self) -> Record | asyncio.Future[Record]:
        """The ending; or a future of it, which gets a result at the row's deadline at the latest."""
        loop = asyncio.get_running_loop()
        if self.ending is None and self.new.deadline <= loop.time():
            self.expire()
        if self.ending is not None:
            return self.ending
        self.future = loop.create_future()
        timer = loop.call_at(self.new.deadline, self.expire)
        self.future.add_done_callback(lambda _: timer.cancel())
        return self.future


class Recorder:
    """Records batches. `abandon` makes sure that rows in doubt never land (see `Redemptions.abandon`)."""

    def __init__(self, connections: Connections, abandon: Abandon) -> None:
        self._connections = connections
        self._abandon = abandon
        self._tasks: set[asyncio.Task[None]] = set()
        self._locked: dict[int, list[Pending]] = {}
        self.retries = dict.fromkeys(RETRY_CAUSES, 0)

    async def record(self, rows: Sequence[NewRedemption]) -> list[Record | asyncio.Future[Record]]:
        """See `Redemptions.record`."""
        batch = [Pending(new) for new in rows]
        if batch:
            task = self._start(self._run(batch))
            # Until the first deadline only. Rows that have time left go on then, each behind a future of its own, and so
            # their statement need not be cut short for those that have none.
            time_left_s = min([new.deadline for new in rows]) - asyncio.get_running_loop().time()
            await asyncio.wait((task,), timeout=max(0.0, time_left_s))
        return [row.ending or row.answer() for row in batch]

    async def finish(self) -> None:
        """Waits until all rows have their endings: at the latest when their deadlines have passed."""
        while self._tasks:
            await asyncio.wait(self._tasks)

    def _start(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Runs on, whoever waits for it or does not any more."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)
        return task

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("record failed", exc_info=error)

    # --- A batch -----------------------------------------------------------------------------------------------

    async def _run(self, batch: list[Pending]) -> None:
        """Works on the rows until each has its ending, or waits for its coupon's lock to go."""
        # First in, first out: a half that is stopped again and again must not keep the other one from its turn.
        groups = deque([batch])
        contended = away = 0
        while groups:
            group = _open(groups.popleft())
            try:
                await self._attempt(group)
            except LedgerContended:
                contended += 1
                self.retries[CONTENDED] += 1
                groups += _halves(group) if contended >= CONTENDED_BEFORE_HALVES else [group]
                await asyncio.sleep(AGAIN_PAUSE_S)
            except LedgerRefusedData as error:
                groups += _refused(group, error)
            except LedgerReplyLost:
                self.retries[REPLY_LOST] += 1
                groups.append(
                    group
                )  # The same ids again, on a new connection; the statement waits for a transaction with them.
                await asyncio.sleep(AGAIN_PAUSE_S)
            except LedgerUnavailable as error:
                away += 1
                self.retries[AWAY] += 1
                groups.append(await _after_failure(group, away, error))

    async def _attempt(self, group: list[Pending]) -> None:
        """One statement, and a diagnosis if not all rows landed."""
        if not group:
            return
        deadline = max([row.new.deadline for row in group])
        async with self._connections.use(deadline) as connection:
            group = _open(group)  # Waiting for a connection took time.
            if not group:
                return
            statement = _statement(group)
            for row in group:
                row.in_flight = True
            try:
                await self._send(statement, group, connection, deadline)
            except LedgerUnavailable as error:
                _answered(group, lost=isinstance(error, LedgerReplyLost))
                raise
            except (LedgerContended, LedgerRefusedData):
                _answered(group, lost=False)
                raise

    async def _send(self, statement: str, group: list[Pending], connection: Connection, deadline: float) -> None:
        """Raises LedgerReplyLost also when the statement was answered, but it cannot be found out which rows landed."""
        affected = await connection.run(statement, deadline)
        if affected == len(group):
            for row in group:
                row.end(RECORDED)
            return
        try:
            await self._explain(group, connection, deadline)
        except (LedgerUnavailable, LedgerContended, LedgerRefusedData) as error:
            raise LedgerReplyLost from error

    # --- Rows that did not land --------------------------------------------------------------------------------

    async def _explain(self, group: list[Pending], connection: Connection, deadline: float) -> None:
        """Which rows landed, and why the others did not. What nothing explains is tried again."""
        ids = binaries(row.new.id for row in group)
        abandoned: dict[bytes, int] = dict(await connection.fetch(LANDED(ids=ids), deadline))
        missing = []
        for row in group:
            if row.new.id not in abandoned:
                missing.append(row)
            else:  # Also a row that has been cancelled since: it was recorded.
                row.end(NOT_RECORDED if abandoned[row.new.id] else RECORDED)
        if missing:
            explained = await _diagnose(missing, connection, deadline)
            for row, ending in await self._certain(explained, deadline):
                if ending is not None:
                    row.end(ending)
                else:
                    self._try_later(row)

    async def _certain(
        self, explained: list[tuple[Pending, Record | None]], deadline: float
    ) -> list[tuple[Pending, Record | None]]:
        """The same, with rows in doubt ended for good: an earlier statement with them may have been delayed, not lost.

        Without this, a row that is refused now lands when its coupon, order or seat is free again, and is nobody's.
        """
        doubtful = [row for row, ending in explained if row.lost and ending is not None]
        if not doubtful:
            return explained
        stands = dict(zip(doubtful, await self._abandon([row.new for row in doubtful], deadline), strict=True))
        certain = {True: RECORDED, None: None}
        return [(row, certain.get(stands[row], ending) if row in stands else ending) for row, ending in explained]

    def _try_later(self, row: Pending) -> None:
        """Tries a row again when its coupon's lock is gone, apart from the others, which it must not hold up."""
        row.in_flight = False
        coupon_id = row.new.coupon_id
        if coupon_id in self._locked:
            self._locked[coupon_id].append(row)
        else:
            self._locked[coupon_id] = [row]
            self._start(self._run_locked(coupon_id))

    async def _run_locked(self, coupon_id: int) -> None:
        """All rows that wait for this coupon, in batches of it alone, until none waits."""
        pause_s = LOCKED_PAUSE_MIN_S
        try:
            while self._locked[coupon_id]:
                await asyncio.sleep(pause_s)
                worthwhile = asyncio.get_running_loop().time() + LOCKED_TIME_LEFT_MIN_S
                waiting = [row for row in self._locked[coupon_id] if row.new.deadline > worthwhile]
                self.retries[LOCKED] += 1
                batch, self._locked[coupon_id] = waiting[:LOCKED_BATCH_MAX_ROWS], waiting[LOCKED_BATCH_MAX_ROWS:]
                await self._run(batch)  # What is still locked comes back by `_try_later`.
                still_locked = any(row.ending is None for row in batch)
                pause_s = min(2 * pause_s, LOCKED_PAUSE_MAX_S) if still_locked else LOCKED_PAUSE_MIN_S
        finally:
            del self._locked[coupon_id]


async def _diagnose(rows: list[Pending], connection: Connection, deadline: float) -> list[tuple[Pending, Record | None]]:
    """Why each of these rows is not there; None where nothing explains it."""
    questions = tuples(
        (
            n,
            row.new.coupon_id,
            row.new.customer_id,
            row.new.order_id,
            row.new.seat,
            row.new.customer_seat,
            row.new.api_key_id,
            None if row.new.idempotency_key is None else Sql(ascii_text(row.new.idempotency_key)),
        )
        for n, row in enumerate(rows)
    )
    answers = await connection.fetch(DIAGNOSE(rows=questions), deadline)
    known_ids = {answer[KNOWN_ID] for answer in answers if answer[KNOWN_ID] is not None}
    found = await connection.fetch(GET_MANY(ids=binaries(sorted(known_ids))), deadline) if known_ids else ()
    known = {row[0]: of.redemption(row) for row in found}
    return [(rows[answer[0]], _ending(answer, known)) for answer in answers]


def _ending(answer: Row, known: dict[bytes, Redemption]) -> Record | None:
    """From a row of `record_diagnose.sql`: the first reason, in the order of RecordEnding. `known`: by id."""
    _, admits, customer_seat_taken, seat_taken, known_id, *live = answer
    if known_id is not None:
        return Record(RecordEnding.KEY_KNOWN, known[known_id])
    if live[0] is not None:
        return Record(RecordEnding.ORDER_LIVE, of.redemption(tuple(live)))
    if not admits:
        return Record(RecordEnding.COUPON_REFUSES)
    if customer_seat_taken:
        return Record(RecordEnding.CUSTOMER_SEAT_TAKEN)
    if seat_taken:
        return Record(RecordEnding.SEAT_TAKEN)
    # Its coupon was locked, or what was in its way has just gone.
    return None


async def _after_failure(group: list[Pending], failures: int, error: LedgerUnavailable) -> list[Pending]:
    """The rows that are worth another attempt: all of them a few times, then those in doubt, until their deadlines."""
    if failures > len(AWAY_PAUSES_S):
        log.warning("ledger unavailable", rows=len(group), error=str(error))
        for row in group:
            if not row.lost:
                row.end(NOT_RECORDED)
        group = _open(group)
    if group:
        await asyncio.sleep(AWAY_PAUSES_S[min(failures, len(AWAY_PAUSES_S)) - 1])
    return group


def _refused(group: list[Pending], error: LedgerRefusedData) -> list[list[Pending]]:
    """Halves, until the bad row is alone: that one is not recorded, and all others are."""
    if len(group) > 1:
        return _halves(group)
    # Without its values: they belong to a customer.
    log.error("row refused by the ledger", redemption_id=group[0].new.id.hex(), error=str(error))
    group[0].end(NOT_RECORDED)
    return []


def _open(rows: list[Pending]) -> list[Pending]:
    """The rows without an ending that have time left; those that have none end."""
    now = asyncio.get_running_loop().time()
    for row in rows:
        if row.new.deadline <= now:
            row.expire()
    return [row for row in rows if row.ending is None]


def _answered(rows: list[Pending], *, lost: bool) -> None:
    """The statement's answer came, or was lost."""
    for row in rows:
        row.in_flight = False
        row.lost = row.lost or lost


def _halves(rows: list[Pending]) -> list[list[Pending]]:
    middle = len(rows) // 2
    return [half for half in (rows[:middle], rows[middle:]) if half]


def _statement(rows: list[Pending]) -> str:
    """The record statement. A value that is not what its type says refuses the batch, as the ledger would."""
    try:
        # By coupon and seat: statements side by side take their locks in the same order.
        rows = sorted(rows, key=lambda row: (row.new.coupon_id, row.new.seat or 0))
        return RECORD(rows=Sql(",".join(_values(rows))))
    except (TypeError, ValueError, AttributeError) as error:
        raise LedgerRefusedData(f"not a row: {type(error).__name__}") from error


def _values(rows: list[Pending]) -> Iterator[str]:
    """The rows as SQL. `:d` takes integers only, so that nothing else gets in."""
    created_at: datetime | None = None
    created = ""
    for row in rows:
        new = row.new
        if new.created_at is not created_at:  # Rows that were claimed together share it.
            created_at, created = new.created_at, instant(new.created_at)
        if len(new.id) != ID_BYTES:
            raise ValueError("an id has 16 bytes")
        seat = "NULL" if new.seat is None else f"{new.seat:d}"
        customer_seat = "NULL" if new.customer_seat is None else f"{new.customer_seat:d}"
        expires = "NULL" if new.expires_at is None else instant(new.expires_at)
        idempotency_key = "NULL" if new.idempotency_key is None else ascii_text(new.idempotency_key)
        yield (
            f"(x'{new.id.hex()}',{new.coupon_id:d},{text(new.customer_id)},{text(new.order_id)},"
            f"{seat},{customer_seat},{new.api_key_id:d},{created},{expires},{idempotency_key})"
        )
