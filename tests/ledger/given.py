"""What the ledger's tests begin with: coupons, rows to be recorded, and what became of them."""

import asyncio
import itertools
from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import Any

import uuid_utils

from service.ledger import Ledger
from service.ledger.coupon_changes import Change
from service.model import Coupon, CouponStatus, NewRedemption, Record, RecordEnding
from tests.stores import Admin

DEADLINE_S = 10.0
HOLD_S = 600
BY = "tests"
"""Who makes and changes the coupons."""
names = itertools.count(1)


def soon(seconds: float = DEADLINE_S) -> float:
    """A deadline, by the loop's clock."""
    return asyncio.get_running_loop().time() + seconds


async def coupon(
    ledger: Ledger,
    code: str = "GOLD20",
    *,
    max_redemptions: int | None = 20,
    max_per_customer: int | None = None,
    starts_at: datetime | None = None,
    ends_at: datetime | None = None,
    status: CouponStatus = CouponStatus.ACTIVE,
    metadata: dict[str, Any] | None = None,
) -> Coupon:
    """A coupon in the ledger."""
    return await ledger.coupon_changes.create(
        code,
        max_redemptions=max_redemptions,
        max_per_customer=max_per_customer,
        starts_at=starts_at,
        ends_at=ends_at,
        status=status,
        metadata=metadata or {},
        by=BY,
        deadline=soon(),
    )


async def changed(ledger: Ledger, code: str, if_version: int | None = None, **fields: Any) -> Coupon:  # noqa: ANN401 - any field
    """The coupon after a change of these fields."""
    return await ledger.coupon_changes.change(Change(code, fields, BY, if_version), soon())


def row(ledger: Ledger, of: Coupon, **given: object) -> NewRedemption:
    """A claimed redemption, of a customer and an order of its own unless given. `deadline_s`: from now."""
    number = next(names)
    deadline_s = given.pop("deadline_s", DEADLINE_S)
    assert isinstance(deadline_s, float | int)
    values: dict[str, Any] = {
        "id": uuid_utils.uuid7().bytes,
        "coupon_id": of.id,
        "code": of.code,
        "customer_id": f"customer-{number}",
        "order_id": f"order-{number}",
        "seat": None,
        "customer_seat": None,
        "api_key_id": 1,
        "created_at": ledger.now(),
        "deadline": soon(deadline_s),
    }
    return NewRedemption(**{**values, **given})


async def records(ledger: Ledger, rows: Iterable[NewRedemption]) -> list[Record]:
    """The rows' endings, those that come later, too."""
    answers = await ledger.redemptions.record(list(rows))
    return [answer if isinstance(answer, Record) else await answer for answer in answers]


async def endings(ledger: Ledger, *rows: NewRedemption) -> list[RecordEnding]:
    """How the rows end."""
    return [record.ending for record in await records(ledger, rows)]


def ids(admin: Admin, where: str = "1") -> list[bytes]:
    """The ids that are in the ledger."""
    return [found["id"] for found in admin.run(f"SELECT id FROM redemption WHERE {where} ORDER BY id")]


async def hold(ledger: Ledger, of: Coupon, *, hold_s: float = HOLD_S, **values: object) -> NewRedemption:
    """A hold that is recorded."""
    new = row(ledger, of, expires_at=ledger.now() + timedelta(seconds=hold_s), **values)
    assert [RecordEnding.RECORDED] == await endings(ledger, new)
    return new


def overdue(admin: Admin, *ids: bytes) -> None:
    """The holds' time is over."""
    for one in ids:
        admin.run("UPDATE redemption SET expires_at = UTC_TIMESTAMP(6) - INTERVAL 1 HOUR WHERE id = %s", one)


def insert(admin: Admin, new: NewRedemption) -> None:
    """Writes a row as Usher would, past Usher; in the transaction that `admin` has begun, if any."""
    admin.run(
        "INSERT INTO redemption (id, coupon_id, customer_id, order_id, status, seat, customer_seat, live_order_id, "
        "api_key_id, created_at, confirmed_at) "
        "VALUES (%s, %s, %s, %s, 'confirmed', %s, %s, %s, 1, UTC_TIMESTAMP(6), UTC_TIMESTAMP(6))",
        new.id,
        new.coupon_id,
        new.customer_id,
        new.order_id,
        new.seat,
        new.customer_seat,
        new.order_id,
    )


def cancel(admin: Admin, redemption_id: bytes, reason: str = "changed_mind") -> None:
    """Ends a redemption, past Usher."""
    admin.run(
        "UPDATE redemption SET status = 'cancelled', was_seat = seat, seat = NULL, customer_seat = NULL, "
        "live_order_id = NULL, ended_at = UTC_TIMESTAMP(6), end_reason = %s WHERE id = %s",
        reason,
        redemption_id,
    )
