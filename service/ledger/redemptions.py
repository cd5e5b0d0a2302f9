"""Redemptions in the ledger: recorded, abandoned, looked up, read."""

import asyncio
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime

import structlog

from service.errors import LedgerContended, LedgerRefusedData, LedgerUnavailable
from service.ledger import rows as of
from service.ledger.clock import Clock
from service.ledger.connections import Connection, Connections, Row
from service.ledger.literals import ID_BYTES, Sql, ascii_text, binaries, integer, literal, text, tuples
from service.ledger.recording import Recorder
from service.ledger.sql import Query
from service.model import (
    FoundKey,
    LookUp,
    NewRedemption,
    Record,
    Redemption,
    RedemptionStatus,
    Refusal,
    Standing,
)
from service.transition import Overdue

LANDED = Query("record_landed")
ABANDON = Query("abandon")
ABANDON_AT_ONCE = Query("abandon_at_once")
LOOK_UP = Query("look_up")
GET = Query("redemption_get")
GET_MANY = Query("redemption_get_many")
LIVE = Query("redemption_live")
RECORDED = Query("orders_recorded")
OVERDUE = Query("overdue")
OVERDUE_OF_COUPON = Query("overdue_of_coupon")
KEY_LOCK = Query("found_key_lock")
KEY_REMEMBER = Query("found_key_remember")
KEY_READ = Query("found_key_read")
FIND = Query("redemption_find")
FIND_BRANCH = Query("redemption_find_branch")
FIND_BY_CODE = Query("redemption_find_by_code")

STATUS_CONDITIONS: dict[RedemptionStatus, list[list[str]]] = {
    RedemptionStatus.RESERVED: [["status = 'reserved'", "expires_at > UTC_TIMESTAMP(6)"]],
    RedemptionStatus.CONFIRMED: [["status = 'confirmed'"]],
    RedemptionStatus.CANCELLED: [["status = 'cancelled'"]],
    RedemptionStatus.EXPIRED: [["status = 'expired'"], ["status = 'reserved'", "expires_at <= UTC_TIMESTAMP(6)"]],
}
"""Which rows have a status, in one or more branches: a hold past its time is expired, whether that has been written or not."""
BEFORE_ALL = Overdue(bytes(ID_BYTES), datetime(1970, 1, 1, tzinfo=UTC))
NOWHERE = Standing(coupon=None, live=None, refusal=None, customer_seats=())

log = structlog.get_logger(__name__)


class Redemptions:
    """The gateway to the table `redemption`. `writing` are for `record` alone, `changing` for what locks coupons."""

    def __init__(self, reading: Connections, writing: Connections, changing: Connections, clock: Clock) -> None:
        self._connections = reading
        self._changing = changing
        self._clock = clock
        self._recorder = Recorder(writing, self.abandon)

    @property
    def record_retries(self) -> Mapping[str, int]:
        """How often a record statement was sent again, by cause."""
        return self._recorder.retries

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
        values = _questions(questions)
        if not values:
            return [NOWHERE] * len(questions)
        found = await self._connections.fetch(LOOK_UP(questions=Sql(",".join(values))), deadline)
        # The row that brings a code's coupon need not come first.
        coupons = {questions[row[0]].code: _of_coupon(row) for row in found if row[1] is not None}
        standings = [coupons.get(question.code, NOWHERE) for question in questions]
        known = await self._get_many({row[-1] for row in found if row[-1] is not None}, deadline)
        for row in found:
            standings[row[0]] = _of_order(row, standings[row[0]], known)
        return standings

    async def get(self, redemption_id: bytes, deadline: float) -> Redemption | None:
        """The redemption with this id (16 bytes). Raises LedgerUnavailable."""
        found = await self._connections.fetch(GET(id=redemption_id), deadline)
        return of.redemption(found[0]) if found else None

    async def _get_many(self, ids: Collection[bytes], deadline: float) -> dict[bytes, Redemption]:
        """Redemptions by id."""
        found = await self._connections.fetch(GET_MANY(ids=binaries(sorted(ids))), deadline) if ids else ()
        return {row[0]: of.redemption(row) for row in found}

    async def find_live(self, code: str, order_id: str, deadline: float) -> bytes | None:
        """The id of the order's live redemption, or of its hold whose time is over and which nobody has ended yet.

        Raises LedgerUnavailable; LedgerContended while it is just being recorded or ended.
        """
        if not code.isascii():
            return None
        found = await self._connections.fetch(LIVE(code=Sql(ascii_text(code)), order_id=order_id), deadline)
        return found[0][0] if found else None

    async def recorded(self, coupon_id: int, claims: Sequence[tuple[str, datetime]], deadline: float) -> set[str]:
        """The orders among these (order's id, when it claimed) that are live, or have been recorded since and ended.

        Raises LedgerUnavailable.
        """
        if not claims:
            return set()
        found = await self._connections.fetch(RECORDED(coupon_id=coupon_id, claims=tuples(claims)), deadline)
        return {row[0] for row in found}

    async def overdue(self, *, after: Overdue | None = None, limit: int, deadline: float) -> list[Overdue]:
        """Holds of all coupons whose time is over, the oldest first, those up to `after` left out. Raises LedgerUnavailable."""
        begin = after or BEFORE_ALL
        found = await self._connections.fetch(OVERDUE(id=begin.id, expires_at=begin.expires_at, limit=limit), deadline)
        return [Overdue(*row) for row in found]

    async def overdue_of(self, coupon_id: int, *, limit: int, deadline: float) -> list[bytes]:
        """The ids of a coupon's holds whose time is over, the oldest first. Raises LedgerUnavailable."""
        query = OVERDUE_OF_COUPON(coupon_id=coupon_id, limit=limit)
        return [row[0] for row in await self._connections.fetch(query, deadline)]

    async def remember(self, keys: Sequence[FoundKey], deadline: float) -> list[Redemption]:
        """Remembers, for ever, which redemptions idempotency keys have found; what each stands for now.

        A key that stands for a redemption already goes on doing so. The coupons are locked meanwhile, so that none of the keys
        makes a redemption at the same time. Raises LedgerUnavailable (LedgerReplyLost: perhaps done; it can be repeated),
        LedgerContended.
        """
        rows = tuples(
            (n, key.coupon_id, key.api_key_id, Sql(ascii_text(key.idempotency_key)), key.redemption_id)
            for n, key in enumerate(keys)
        )
        coupon_ids = Sql(",".join(map(integer, sorted({key.coupon_id for key in keys}))))
        async with self._changing.use(deadline) as connection, connection.transaction(deadline):
            await connection.fetch(KEY_LOCK(ids=coupon_ids), deadline)
            await connection.run(KEY_REMEMBER(rows=rows), deadline)
            ids: dict[int, bytes] = dict(await connection.fetch(KEY_READ(rows=rows), deadline))
        found = await self._get_many(set(ids.values()), deadline)
        return [found[ids[n]] for n in range(len(keys))]

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
        branches_by_status = [[]] if status is None else STATUS_CONDITIONS[status]
        index = Sql("redemption_order" if order_id is not None else "redemption_customer_seat")
        if not conditions:
            # By coupon alone: its key is by status, and newest first within each.
            index = Sql("redemption_coupon_status")
            if status is None:
                branches_by_status = [one for conditions_of in STATUS_CONDITIONS.values() for one in conditions_of]
        if code is not None:
            if not code.isascii():
                return []
            conditions.append(FIND_BY_CODE(code=Sql(ascii_text(code))))
        if before_id is not None:
            conditions.append(f"id < {literal(before_id)}")
        branches = [
            FIND_BRANCH(index=index, conditions=Sql(" AND ".join(conditions + by_status)), limit=limit)
            for by_status in branches_by_status
        ]
        found = await self._connections.fetch(FIND(branches=Sql(" UNION ALL ".join(branches)), limit=limit), deadline)
        return [of.redemption(row) for row in found]


def _questions(questions: Sequence[LookUp]) -> list[str]:
    """The values of `look_up.sql`. A code beyond ASCII is no coupon's, and has no literal in its column's character set."""
    seen: set[str] = set()
    values = []
    for n, question in enumerate(questions):
        code = question.code
        if code.isascii():
            first = code not in seen
            seen.add(code)
            key = "NULL" if question.idempotency_key is None else ascii_text(question.idempotency_key)
            values.append(
                f"({n},{first:d},{ascii_text(code)},{text(question.customer_id)},{text(question.order_id)},"
                f"{question.api_key_id:d},{key})"
            )
    return values


def _of_coupon(row: Row) -> Standing:
    """What a row of `look_up.sql` says of its coupon, and so of every order that has no row of its own."""
    _, coupon, _, refusal, is_busy, _, _ = row
    return Standing(
        coupon=of.coupon_of_json(coupon),
        live=None,
        refusal=None if refusal is None else Refusal(refusal),
        customer_seats=(),
        is_busy=bool(is_busy),
    )


def _of_order(row: Row, of_coupon: Standing, known: dict[bytes, Redemption]) -> Standing:
    """The same with what the row says of its order, customer and key; `known` by id."""
    _, _, live, _, _, customer_seats, known_id = row
    if live is None and customer_seats is None and known_id is None:
        return of_coupon
    seats = [] if customer_seats is None else [one.partition(":") for one in customer_seats.split(",")]
    return replace(
        of_coupon,
        live=None if live is None else of.redemption_of_json(live),
        customer_seats=tuple(int(seat) for seat, _, _ in seats),
        overdue=tuple(bytes.fromhex(overdue) for _, _, overdue in seats if overdue),
        known=None if known_id is None else known[known_id],
    )
