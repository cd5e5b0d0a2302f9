"""Coupons and redemptions as JSON, and the answers that carry them."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final

import orjson
from aiohttp import web

from service.api.decoding import format_time
from service.model import Coupon, Redemption, Usage

JSON: Final = "application/json"


def answer(body: Mapping[str, Any], *, status: int = 200, headers: Mapping[str, str] | None = None) -> web.Response:
    """A JSON answer, without `X-Request-Id`."""
    return web.Response(body=orjson.dumps(body, option=orjson.OPT_UTC_Z), status=status, headers=headers, content_type=JSON)


def redemption_id(raw: bytes) -> str:
    """The UUID text of 16 bytes."""
    digits = raw.hex()
    return f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}"


def redemption_view(redemption: Redemption) -> dict[str, Any]:
    """A redemption as the contract shows it, to be written by `answer`."""
    return {
        "id": redemption_id(redemption.id),
        "code": redemption.code,
        "customer_id": redemption.customer_id,
        "order_id": redemption.order_id,
        "status": redemption.status,
        "seat": redemption.seat,
        "expires_at": _time(redemption.expires_at),
        "created_at": _time(redemption.created_at),
        "confirmed_at": _time(redemption.confirmed_at),
        "ended_at": _time(redemption.ended_at),
        "end_reason": redemption.end_reason,
    }


def _time(moment: datetime | None) -> datetime | str | None:
    """A time that orjson writes as `format_time` does, only faster; it leaves out a fraction of zero."""
    return moment if moment is None or moment.microsecond else format_time(moment)


def coupon_view(coupon: Coupon, usage: Usage | None = None) -> dict[str, Any]:
    """A coupon as the contract shows it, with its usage where it was counted."""
    view: dict[str, Any] = {
        "code": coupon.code,
        "max_redemptions": coupon.max_redemptions,
        "max_per_customer": coupon.max_per_customer,
        "starts_at": format_time(coupon.starts_at) if coupon.starts_at else None,
        "ends_at": format_time(coupon.ends_at) if coupon.ends_at else None,
        "status": coupon.status,
        "metadata": coupon.metadata,
        "version": coupon.version,
        "created_at": format_time(coupon.created_at),
        "updated_at": format_time(coupon.updated_at),
    }
    if usage:
        view["usage"] = {
            "reserved": usage.reserved,
            "confirmed": usage.confirmed,
            "remaining": usage.remaining,
            "source": "ledger",
            "as_of": format_time(usage.as_of),
        }
    return view


def etag(coupon: Coupon) -> str:
    """A coupon's entity tag: its version."""
    return f'"{coupon.version}"'
