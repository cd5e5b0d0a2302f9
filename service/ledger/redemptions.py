"""Redemptions in the ledger: recorded, abandoned, looked up, read."""

import asyncio
from collections.abc import Sequence

import structlog

from service.errors import LedgerContended, LedgerRefusedData, LedgerUnavailable
from service.ledger import rows as of
from service.ledger.clock import Clock
from service.ledger.connections import Connection, Connections, Row
from service.ledger.literals import Sql, ascii_text, binaries, literal, text, tuples
from service.ledger.recording import Recorder
from service.ledger.sql import Query
from service.model import (
    Coupon,
    LookUp,
    NewRedemption,
    Record,
    Redemption,
    RedemptionStatus,
    Refusal,
    Standing,
)

LANDED = Query("record_landed")
ABANDON = Query("abandon")
ABANDON_AT_ONCE = Query("abandon_at_once")
LOOK_UP = Query("look_up")
GET = Query("redemption_get")
FIND = Query("redemption_find")
FIND_BRANCH = Query("redemption_find_branch")
FIND_BY_CODE = Query("redemption_find_by_code")

NOWHERE = Standing(coupon=None, live=None, refusal=None, customer_seats=())

log = structlog.get_logger(__name__)


class Redemptions:
    """The gateway to the table `redemption`. `writing` are connections for `record` alone."""

    def __init__(self, reading: Connections, writing: Connections, clock: Clock) -> None:
        self._connections = reading
        self._clock = clock
        self._recorder = Recorder(writing, self.abandon)

    async def finish(self) -> None:
        """Waits until all rows given to `record` have their endings: at the latest when their deadlines have passed."""
        await self._recorder.finish()

    async def record(self, rows: Sequence[NewRedemption]) -> list[Record | asyncio.Future[Record]]:
        """Records the rows, durably, in as few statements as the ledger allows: normally one.

        Returns one element for each row, in the order given: its ending, or a future of its ending. A future stands for a
        row whose coupon is locked just now, or that has time left when another one of the batch has none: this gateway goes on
        with it by itself, and it holds up neither the other rows nor the caller. The future always gets a result, never an
        exception, and may be cancelled or dropped.

        A row is never sent after its own deadline, and its ending is there some milliseconds after it at the latest.

        After any ending but UNKNOWN no statement with this id can land any more. For a row that was in doubt, that is so
        because its id was written as abandoned: another attempt with the same id (after SEAT_TAKEN, say) is NOT_RECORDED
        then, one with a new id is as good as any.

        Operational failures are endings (NOT_RECORDED, UNKNOWN): nothing is raised for them.
        """
        return await self._recorder.record(rows)

    # --- Abandoned ids -----------------------------------------------------------------------------------------

    async def abandon(self, rows: Sequence[NewRedemption], deadline: float) -> list[bool | None]:
        """Writes each id once as ended (cancelled, reason `abandoned`, on no seat): it can never be recorded later.

        True: a redemption with the id stands, it was recorded before. False: there is none and never will be. None: not
        known yet, ask again. A transaction that still holds an id is waited for, for two seconds; the primary key decides
        who was first. `deadline` in seconds of the loop's clock.
        """
        if not rows:
            return []
        unknown: set[bytes] = set()
        try:
            async with self._connections.use(deadline) as connection:
                try:
                    await connection.run(ABANDON(rows=self._tombstones(rows)), deadline)
                except (LedgerContended, LedgerRefusedData):
                    unknown = await self._abandon_one_by_one(rows, connection, deadline)
                return await self._abandoned(rows, unknown, connection, deadline)
        except (LedgerUnavailable, LedgerContended) as error:
            log.warning("not known yet whether abandoned rows stand", rows=len(rows), error=str(error))
            return [None] * len(rows)

    async def _abandon_one_by_one(self, rows: Sequence[NewRedemption], connection: Connection, deadline: float) -> set[bytes]:
        """Abandons those ids that no transaction holds, without waiting for the others; returns the others."""
        held = set()
        for row in rows:
            try:
                await connection.run(ABANDON_AT_ONCE(rows=self._tombstones([row])), deadline)
            except LedgerContended:
                held.add(row.id)
            except LedgerRefusedData as error:
                # The ledger would refuse the redemption for the same value, so there is none.
                refused = str(error)
                log.error("row refused by the ledger", redemption_id=row.id.hex(), error=refused)  # noqa: TRY400 - no stack
        return held

    @staticmethod
    async def _abandoned(
        rows: Sequence[NewRedemption], unknown: set[bytes], connection: Connection, deadline: float
    ) -> list[bool | None]:
        """What the ids are now."""
        ids = binaries(row.id for row in rows)
        tombstones: dict[bytes, int] = dict(await connection.fetch(LANDED(ids=ids), deadline))
        return [None if row.id in unknown else not tombstones.get(row.id, True) for row in rows]

    def _tombstones(self, rows: Sequence[NewRedemption]) -> Sql:
        """The values of `abandon.sql`."""
        now = self._clock.now()
        return tuples(
            (row.id, row.coupon_id, row.customer_id, row.order_id, "cancelled", row.api_key_id, now, now, "abandoned")
            for row in sorted(rows, key=lambda row: row.id)
        )

    # --- Reading -----------------------------------------------------------------------------------------------

    async def look_up(self, questions: Sequence[LookUp], deadline: float) -> list[Standing]:
        """What the ledger says of refused orders, at one moment, without a lock: one Standing for each question.

        Questions may repeat. Raises LedgerUnavailable.
        """
        standings = [NOWHERE] * len(questions)
        values = _questions(questions)
        if values:
            coupons: dict[str, Coupon] = {}
            found = await self._connections.fetch(LOOK_UP(questions=Sql(",".join(values))), deadline)
            # The row that brings a code's coupon need not come first.
            for n, coupon, *_ in found:
                if coupon is not None:
                    coupons[questions[n].code] = of.coupon_of_json(coupon)
            for row in found:
                standings[row[0]] = _standing(row, coupons[questions[row[0]].code])
        return standings

    async def get(self, redemption_id: bytes, deadline: float) -> Redemption | None:
        """The redemption with this id (16 bytes). Raises LedgerUnavailable."""
        found = await self._connections.fetch(GET(id=redemption_id), deadline)
        return of.redemption(found[0]) if found else None

    async def find(
        self,
        *,
        code: str | None = None,
        customer_id: str | None = None,
        order_id: str | None = None,
        status: RedemptionStatus | None = None,
        before_id: bytes | None = None,
        limit: int,
        deadline: float,
    ) -> list[Redemption]:
        """Redemptions to which all that is given applies, newest first (descending ids), at most `limit` of them.

        At least one of code, customer_id and order_id is given. `before_id`: only ids below it (the next page).
        Raises LedgerUnavailable.
        """
        narrow = {"customer_id": customer_id, "order_id": order_id}
        conditions = [f"{column} = {literal(value)}" for column, value in narrow.items() if value is not None]
        assert conditions or code is not None, "one of code, customer_id and order_id narrows the search"
        statuses: Sequence[RedemptionStatus | None] = [status]
        index = Sql("redemption_order" if order_id is not None else "redemption_customer_seat")
        if not conditions:
            # By coupon alone: its key is by status, and newest first within each.
            index = Sql("redemption_coupon_status")
            statuses = list(RedemptionStatus) if status is None else [status]
        if code is not None:
            if not code.isascii():
                return []
            conditions.append(FIND_BY_CODE(code=Sql(ascii_text(code))))
        if before_id is not None:
            conditions.append(f"id < {literal(before_id)}")
        branches = [
            FIND_BRANCH(index=index, conditions=Sql(" AND ".join(conditions + _status_condition(one))), limit=limit)
            for one in statuses
        ]
        found = await self._connections.fetch(FIND(branches=Sql(" UNION ALL ".join(branches)), limit=limit), deadline)
        return [of.redemption(row) for row in found]


def _status_condition(status: RedemptionStatus | None) -> list[str]:
    return [] if status is None else [f"status = {literal(status.value)}"]


def _questions(questions: Sequence[LookUp]) -> list[str]:
    """The values of `look_up.sql`. A code beyond ASCII is no coupon's, and has no literal in its column's character set."""
    seen: set[str] = set()
    values = []
    for n, question in enumerate(questions):
        code = question.code
        if code.isascii():
            first = code not in seen
            seen.add(code)
            values.append(f"({n},{first:d},{ascii_text(code)},{text(question.customer_id)},{text(question.order_id)})")
    return values


def _standing(row: Row, coupon: Coupon) -> Standing:
    """From a row of `look_up.sql`."""
    _, _, live, refusal, customer_seats = row
    return Standing(
        coupon=coupon,
        live=None if live is None else of.redemption_of_json(live),
        refusal=None if refusal is None else Refusal(refusal),
        customer_seats=() if customer_seats is None else tuple(map(int, customer_seats.split(","))),
    )
