"""Coupons in the ledger."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any

from service.errors import (
    CouponExists,
    CouponNotFound,
    CustomerLimitLowered,
    LedgerContended,
    LedgerRefusedData,
    LimitKindFixed,
    LimitLowered,
    VersionMismatch,
    WindowEmpty,
)
from service.ledger import rows as of
from service.ledger.clock import Clock
from service.ledger.connections import Connection, Connections
from service.ledger.literals import Sql, ascii_text, ascii_texts, literal
from service.ledger.sql import Query
from service.model import Coupon, CouponStatus, LoadedCoupon, Usage

LOAD = Query("coupon_load")
GET = Query("coupon_get")
LOCK = Query("coupon_lock")
FIND = Query("coupon_find")
USAGE = Query("coupon_usage")
CREATE = Query("coupon_create")
CHANGE = Query("coupon_change")

CHANGES_MAX = 3
"""Attempts to change a coupon that others hold: each waits for its row up to two seconds."""
CHANGEABLE = frozenset({"max_redemptions", "max_per_customer", "starts_at", "ends_at", "status", "metadata"})


class Coupons:
    """The gateway to the table `coupon`."""

    def __init__(self, connections: Connections, clock: Clock) -> None:
        self._connections = connections
        self._clock = clock

    # --- Reading -----------------------------------------------------------------------------------------------

    async def load(self, codes: Sequence[str], deadline: float) -> dict[str, LoadedCoupon]:
        """The coupons with these codes, each with its highest seat, in one statement; unknown codes are absent.

        Whatever the coupon's status. Raises LedgerUnavailable.
        """
        askable = [code for code in codes if code.isascii()]
        if not askable:
            return {}
        found = await self._connections.fetch(LOAD(codes=ascii_texts(askable)), deadline)
        coupons = ((of.coupon(row[1:]), row[0]) for row in found)
        return {coupon.code: LoadedCoupon(coupon, int(seat_max)) for coupon, seat_max in coupons}

    async def get(self, code: str, deadline: float) -> Coupon | None:
        """The coupon with this code. Raises LedgerUnavailable."""
        if not code.isascii():
            return None
        found = await self._connections.fetch(GET(code=Sql(ascii_text(code))), deadline)
        return of.coupon(found[0]) if found else None

    async def usage(self, coupon: Coupon, deadline: float) -> Usage:
        """The coupon's live redemptions, counted. Raises LedgerUnavailable."""
        found = await self._connections.fetch(USAGE(coupon_id=coupon.id), deadline)
        ((reserved, confirmed, as_of),) = found
        limit = coupon.max_redemptions
        remaining = None if limit is None else max(0, limit - reserved - confirmed)
        return Usage(reserved, confirmed, remaining, as_of)

    async def find(
        self,
        *,
        status: CouponStatus | None = None,
        prefix: str = "",
        after_code: str = "",
        limit: int,
        deadline: float,
    ) -> list[Coupon]:
        """Coupons by ascending code, at most `limit`, with codes above `after_code`. Raises LedgerUnavailable."""
        if not (prefix + after_code).isascii():
            return []
        conditions = [f"c.code > {ascii_text(after_code)}"]
        if prefix:
            # A range, not LIKE: `_` is a letter of codes. `~` comes after all of these.
            conditions.append(f"c.code BETWEEN {ascii_text(prefix)} AND {ascii_text(prefix + '~')}")
        if status is not None:
            conditions.append(f"c.status = {literal(status.value)}")
        found = await self._connections.fetch(FIND(conditions=Sql(" AND ".join(conditions)), limit=limit), deadline)
        return [of.coupon(row) for row in found]

    # --- Writing -----------------------------------------------------------------------------------------------

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
        deadline: float,
    ) -> Coupon:
        """Creates a coupon, version 1.

        Raises CouponExists, WindowEmpty, LedgerRefusedData, LedgerUnavailable (LedgerReplyLost: perhaps created).
        """
        if not _is_window(starts_at, ends_at):
            raise WindowEmpty
        async with self._connections.use(deadline) as connection:
            now = self._clock.now()
            values = CREATE(
                code=code,
                max_redemptions=max_redemptions,
                max_per_customer=max_per_customer,
                starts_at=starts_at,
                ends_at=ends_at,
                status=status.value,
                metadata=_json(metadata),
                now=now,
            )
            try:
                coupon_id = await connection.insert(values, deadline)
            except LedgerRefusedData as error:
                if await connection.fetch(GET(code=Sql(ascii_text(code))), deadline):
                    raise CouponExists from error
                raise
        return Coupon(
            coupon_id,
            code,
            max_redemptions,
            max_per_customer,
            starts_at,
            ends_at,
            status,
            dict(metadata),
            version=1,
            created_at=now,
            updated_at=now,
        )

    async def change(self, code: str, changes: Mapping[str, Any], *, if_version: int | None = None, deadline: float) -> Coupon:
        """Replaces the fields named in `changes` and raises the version by one; returns the coupon as it is now.

        `changes`: any of max_redemptions, max_per_customer, starts_at, ends_at, status, metadata, with the types of `Coupon`.
        When this returns, no redemption is admitted by the old values any more: the row is locked exclusively, and the record
        statement locks it in share mode.

        Raises CouponNotFound, VersionMismatch, LimitKindFixed, CustomerLimitLowered, LimitLowered, WindowEmpty,
        LedgerContended (others held the row), LedgerRefusedData, LedgerUnavailable (LedgerReplyLost: perhaps changed).
        """
        assert changes.keys() <= CHANGEABLE, "these fields of a coupon never change"
        if not code.isascii():
            raise CouponNotFound
        for attempts_left in reversed(range(CHANGES_MAX)):
            try:
                async with self._connections.use(deadline) as connection, connection.transaction(deadline):
                    return await self._change(connection, code, changes, if_version=if_version, deadline=deadline)
            except LedgerContended:
                if not attempts_left:
                    raise
        raise AssertionError("unreachable")

    async def _change(
        self, connection: Connection, code: str, changes: Mapping[str, Any], *, if_version: int | None, deadline: float
    ) -> Coupon:
        """Within a transaction."""
        found = await connection.fetch(LOCK(code=Sql(ascii_text(code))), deadline)
        if not found:
            raise CouponNotFound
        old = of.coupon(found[0])
        if if_version is not None and if_version != old.version:
            raise VersionMismatch
        new = replace(old, **changes, version=old.version + 1, updated_at=self._clock.now())
        _check(old, new)
        await connection.run(
            CHANGE(
                id=new.id,
                max_redemptions=new.max_redemptions,
                max_per_customer=new.max_per_customer,
                starts_at=new.starts_at,
                ends_at=new.ends_at,
                status=new.status.value,
                metadata=_json(new.metadata),
                version=new.version,
                updated_at=new.updated_at,
            ),
            deadline,
        )
        return new


def _check(old: Coupon, new: Coupon) -> None:
    """Raises what speaks against a change."""
    if (old.max_redemptions is None) != (new.max_redemptions is None):
        raise LimitKindFixed
    if _is_lower(new.max_redemptions, old.max_redemptions):
        raise LimitLowered
    if _is_lower(new.max_per_customer, old.max_per_customer):
        raise CustomerLimitLowered
    if not _is_window(new.starts_at, new.ends_at):
        raise WindowEmpty


def _is_lower(new: int | None, old: int | None) -> bool:
    """None is no limit: nothing is higher."""
    return new is not None and (old is None or new < old)


def _is_window(starts_at: datetime | None, ends_at: datetime | None) -> bool:
    return starts_at is None or ends_at is None or starts_at < ends_at


def _json(metadata: Mapping[str, Any]) -> str:
    return json.dumps(metadata, ensure_ascii=False, allow_nan=False)
