"""Rows of the ledger as the records of the domain."""

import json
from datetime import UTC, datetime
from typing import Any

from service.ledger.connections import Row
from service.model import Coupon, CouponStatus, Redemption, RedemptionStatus


def coupon(row: Row) -> Coupon:
    """From `coupon_columns.sql`."""
    (
        coupon_id,
        code,
        max_redemptions,
        max_per_customer,
        starts_at,
        ends_at,
        status,
        metadata,
        version,
        created_at,
        updated_at,
    ) = row
    return Coupon(
        coupon_id,
        code,
        max_redemptions,
        max_per_customer,
        starts_at,
        ends_at,
        CouponStatus(status),
        _metadata(metadata),
        version,
        created_at,
        updated_at,
    )


def coupon_of_json(text: str) -> Coupon:
    """From a JSON array of `coupon_columns.sql`."""
    row = json.loads(text)
    for place in (4, 5, 9, 10):
        row[place] = _instant(row[place])
    return coupon(row)


def redemption(row: Row) -> Redemption:
    """From `redemption_columns.sql`."""
    redemption_id, coupon_id, code, customer_id, order_id, status, *rest = row
    seat, expires_at, created_at, confirmed_at, ended_at, end_reason = rest
    return Redemption(
        redemption_id,
        coupon_id,
        code,
        customer_id,
        order_id,
        RedemptionStatus(status),
        seat,
        expires_at,
        created_at,
        confirmed_at,
        ended_at,
        end_reason,
    )


def redemption_of_json(text: str) -> Redemption:
    """From a JSON array of `redemption_columns.sql`, the id in hexadecimal."""
    row = json.loads(text)
    row[0] = bytes.fromhex(row[0])
    for place in (7, 8, 9, 10):
        row[place] = _instant(row[place])
    return redemption(row)


def _instant(text: str | None) -> datetime | None:
    return None if text is None else datetime.fromisoformat(text).replace(tzinfo=UTC)


def _metadata(value: str | dict[str, Any]) -> dict[str, Any]:
    """A JSON column is text by itself, and an object inside of a JSON array."""
    loaded: dict[str, Any] = json.loads(value) if isinstance(value, str) else value
    return loaded
