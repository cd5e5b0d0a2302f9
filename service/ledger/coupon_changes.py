"""Coupons made and changed, each version with its entry in the history, in the same transaction.

When a change has been committed, no redemption is admitted by the old values any more: it holds the coupon's row exclusively,
and the record statement locks it in share mode.

A limit that changes runs the *move*: live redemptions on seats above it go to free seats below it, as many as there are. What
remains above is what the coupon is over by (see `transitions`). A large move goes in pieces, each a transaction of its own;
meanwhile the coupon is busy, by a lease that ends by itself should this process die between two pieces. Pieces leave the limit
as it is: the last one changes it.
"""

import asyncio
import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any, Final

from service.errors import (
    CouponBusy,
    CouponExists,
    CouponNotFound,
    CustomerLimitLowered,
    LedgerContended,
    LedgerRefusedData,
    LedgerReplyLost,
    LimitKindFixed,
    UsherError,
    VersionMismatch,
    WindowEmpty,
)
from service.ledger import rows as of
from service.ledger.clock import Clock
from service.ledger.connections import Connection, Connections, Row
from service.ledger.deadlines import is_over
from service.ledger.literals import Sql, ascii_text, tuples
from service.ledger.seats import Seats
from service.ledger.sql import Query
from service.model import Coupon, CouponStatus

GET = Query("coupon_get")
LOCK = Query("coupon_lock")
CREATE = Query("coupon_create")
CHANGE = Query("coupon_change")
BUSY = Query("coupon_busy")
NOTE = Query("coupon_history_note")
OVER_LIST = Query("over_list")
OVER_MOVE = Query("over_move")

ATTEMPTS_MAX: Final = 3
"""Attempts to change a coupon that others hold: each waits for its row up to two seconds, and none beyond the deadline."""
CHANGEABLE: Final = frozenset({"max_redemptions", "max_per_customer", "starts_at", "ends_at", "status", "metadata"})
PIECE_MAX_MOVES: Final = 10_000
"""Moves in one transaction: some tenths of a second, during which the coupon's redemptions wait."""
PIECE_PAUSE_S: Final = 0.02
"""Between two pieces: those who wait for the coupon, to end a redemption, get their turn."""
PIECE_S_MAX: Final = 0.5
"""No piece is begun with less time left: a large move that takes longer goes on with the next attempt to change the limit."""
BUSY_LEASE_S: Final = 10
"""Renewed with every piece of a move; a coupon whose mover has died is free after it."""

END_LEASE_DEADLINE_S: Final = 0.2
"""The caller has its error already, and waits: less than a request has left when its time with the ledger is over."""


@dataclass(frozen=True, slots=True)
class Change:
    """What is to be changed: `fields`, any of CHANGEABLE with the types of `Coupon`, by whom, and of which version only."""

    code: str
    fields: Mapping[str, Any]
    by: str
    if_version: int | None = None


class CouponChanges:
    """The gateway for writing coupons."""

    def __init__(self, connections: Connections, seats: Seats, clock: Clock) -> None:
        self._connections = connections
        self._seats = seats
        self._clock = clock

    async def create(
        self,
        code: str,
        *,
        max_redemptions: int | None,
        max_per_customer: int | None,
        starts_at: datetime | None,
        ends_at: datetime | None,
        status: CouponStatus = CouponStatus.ACTIVE,
        metadata: Mapping[str, Any],
        by: str,
        deadline: float,
    ) -> Coupon:
        """Creates a coupon, version 1. `by`: who does it, for the history.

        Raises CouponExists, WindowEmpty, LedgerRefusedData, LedgerUnavailable (LedgerReplyLost: perhaps created).
        """
        if not _is_window(starts_at, ends_at):
            raise WindowEmpty
        now = self._clock.now()
        new = Coupon(
            0, code, max_redemptions, max_per_customer, starts_at, ends_at, status, dict(metadata), 1, now, now
        )  # fmt: skip
        async with self._connections.use(deadline) as connection:
            try:
                async with connection.transaction(deadline):
                    new = replace(new, id=await connection.insert(CREATE(**_columns(new), code=code, now=now), deadline))
                    await connection.run(_note(None, new, by), deadline)
            except LedgerRefusedData as error:
                if await connection.fetch(GET(code=Sql(ascii_text(code))), deadline):
                    raise CouponExists from error
                raise
        return new

    async def change(self, change: Change, deadline: float) -> Coupon:
        """Replaces the fields and raises the version by one; the coupon as it is now.

        Raises CouponNotFound, VersionMismatch, LimitKindFixed, CustomerLimitLowered, WindowEmpty, CouponBusy (another large
        change is under way, or this one took too long: what it has moved stays moved), LedgerContended (others held the row),
        LedgerRefusedData, LedgerUnavailable (LedgerReplyLost: perhaps changed).
        """
        assert change.fields.keys() <= CHANGEABLE, "these fields of a coupon never change"
        if not change.code.isascii():
            raise CouponNotFound
        attempts_left, mover = ATTEMPTS_MAX, False
        while True:
            try:
                async with self._connections.use(deadline) as connection, connection.transaction(deadline):
                    changed = await self._change(connection, change, mover=mover, deadline=deadline)
                if changed is not None:
                    return changed
                mover = True
                await asyncio.sleep(PIECE_PAUSE_S)
                if asyncio.get_running_loop().time() > deadline - PIECE_S_MAX:
                    raise CouponBusy
            except LedgerContended:
                attempts_left -= 1
                if not attempts_left or is_over(deadline):
                    await self._end_lease(change.code, mover=mover)
                    raise
            except UsherError:
                await self._end_lease(change.code, mover=mover)
                raise

    async def _end_lease(self, code: str, *, mover: bool) -> None:
        """After a move that did not come to its end: the coupon need not be busy any longer. The lease also ends by itself."""
        if mover:
            deadline = asyncio.get_running_loop().time() + END_LEASE_DEADLINE_S
            with suppress(UsherError):
                async with self._connections.use(deadline) as connection:
                    await connection.run(BUSY(code=Sql(ascii_text(code)), busy_until=None), deadline)

    async def _change(self, connection: Connection, change: Change, *, mover: bool, deadline: float) -> Coupon | None:
        """Within a transaction: the change; or a piece of its move, then None. `mover`: the coupon is busy with this change."""
        found = await self._lock(connection, change.code, deadline)
        if not found:
            raise CouponNotFound
        *row, is_busy = found[0]
        old = of.coupon(tuple(row))
        if is_busy and not mover:
            raise CouponBusy
        if change.if_version is not None and change.if_version != old.version:
            raise VersionMismatch
        new = replace(old, **change.fields, version=old.version + 1, updated_at=self._clock.now())
        _check(old, new)
        if new.max_redemptions != old.max_redemptions and not await self._move(connection, new, deadline):
            busy_until = self._clock.now() + timedelta(seconds=BUSY_LEASE_S)
            await connection.run(BUSY(code=Sql(ascii_text(old.code)), busy_until=busy_until), deadline)
            return None
        await connection.run(CHANGE(**_columns(new), id=new.id, version=new.version, updated_at=new.updated_at), deadline)
        await connection.run(_note(old, new, change.by), deadline)
        return new

    async def _lock(self, connection: Connection, code: str, deadline: float) -> tuple[Row, ...]:
        """The coupon's row, which nobody else gets until the end of the transaction.

        The server has just begun the transaction, so it is there: when the time ends here, others hold the row. Nothing is
        committed then, and the connection is closed.
        """
        try:
            return await connection.fetch(LOCK(code=Sql(ascii_text(code))), deadline)
        except LedgerReplyLost as error:
            if not is_over(deadline):
                raise
            raise LedgerContended from error

    async def _move(self, connection: Connection, coupon: Coupon, deadline: float) -> bool:
        """Moves redemptions from above the limit to free seats below it; False: a piece of the move, and there is more."""
        limit = coupon.max_redemptions
        assert limit is not None, "only limited coupons have seats"
        over = OVER_LIST(coupon_id=coupon.id, max_redemptions=limit, limit=PIECE_MAX_MOVES + 1)
        above = await connection.fetch(over, deadline)
        if not above:
            return True
        # Read by another session: what it sees is all there is, since nobody else may write while the coupon is locked.
        free = await self._seats.free_seats(
            coupon.id, limit, limit=min(len(above), PIECE_MAX_MOVES), deadline=deadline, start=1
        )
        moves = [(one, coupon.id, old_seat, seat) for (one, old_seat), seat in zip(above, free.seats, strict=False)]
        if moves:
            await connection.run(OVER_MOVE(moves=tuples(moves)), deadline)
        return len(moves) < PIECE_MAX_MOVES or len(above) <= PIECE_MAX_MOVES


def _columns(coupon: Coupon) -> dict[str, object]:
    """The changeable columns."""
    return {
        "max_redemptions": coupon.max_redemptions,
        "max_per_customer": coupon.max_per_customer,
        "starts_at": coupon.starts_at,
        "ends_at": coupon.ends_at,
        "status": coupon.status.value,
        "metadata": _json(coupon.metadata),
    }


def _note(old: Coupon | None, new: Coupon, by: str) -> str:
    """The entry in the history."""
    return NOTE(
        coupon_id=new.id,
        version=new.version,
        changed_at=new.updated_at,
        changed_by=by,
        before=None if old is None else _json(_fields(old)),
        after=_json(_fields(new)),
    )


def _fields(coupon: Coupon) -> dict[str, Any]:
    """What can change of a coupon, as JSON; times in RFC 3339, in UTC."""
    return {
        "max_redemptions": coupon.max_redemptions,
        "max_per_customer": coupon.max_per_customer,
        "starts_at": _time(coupon.starts_at),
        "ends_at": _time(coupon.ends_at),
        "status": coupon.status.value,
        "metadata": coupon.metadata,
    }


def _time(moment: datetime | None) -> str | None:
    return None if moment is None else moment.replace(tzinfo=None).isoformat(timespec="microseconds") + "Z"


def _check(old: Coupon, new: Coupon) -> None:
    """Raises what speaks against a change."""
    if (old.max_redemptions is None) != (new.max_redemptions is None):
        raise LimitKindFixed
    if _is_lower(new.max_per_customer, old.max_per_customer):
        raise CustomerLimitLowered
    if not _is_window(new.starts_at, new.ends_at):
        raise WindowEmpty


def _is_lower(new: int | None, old: int | None) -> bool:
    """None is no limit: nothing is higher."""
    return new is not None and (old is None or new < old)


def _is_window(starts_at: datetime | None, ends_at: datetime | None) -> bool:
    return starts_at is None or ends_at is None or starts_at < ends_at


def _json(value: Mapping[str, Any]) -> str:
    return json.dumps(value, ensure_ascii=False, allow_nan=False)
