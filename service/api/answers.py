"""Coupons, redemptions and runs as JSON, and the answers that carry them."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

import orjson
from aiohttp import web

from service.api.decoding import format_time
from service.api.written import NO_HEADERS, Answered, response
from service.model import Coupon, CouponVersion, Redemption, Usage
from service.reconciling import Finding, Leader, Run


def answered(body: Mapping[str, Any], *, status: int = 200, headers: Mapping[str, str] = NO_HEADERS) -> Answered:
    """A JSON answer."""
    return Answered(status, orjson.dumps(body, option=orjson.OPT_UTC_Z), headers)


def answer(body: Mapping[str, Any], *, status: int = 200, headers: Mapping[str, str] | None = None) -> web.Response:
    """The same as the library's response, without `X-Request-Id`."""
    return response(answered(body, status=status, headers=headers or NO_HEADERS))


def id_text(raw: bytes) -> str:
    """The UUID text of 16 bytes."""
    digits = raw.hex()
    return f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}"


def redemption_view(redemption: Redemption) -> dict[str, Any]:
    """A redemption as the contract shows it, to be written by `answer`."""
    return {
        "id": id_text(redemption.id),
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


def version_view(version: CouponVersion) -> dict[str, Any]:
    """An entry of a coupon's history as the contract shows it."""
    return {
        "version": version.version,
        "who": version.changed_by,
        "when": format_time(version.changed_at),
        "before": version.before,
        "after": version.after,
    }


def run_view(run: Run) -> dict[str, Any]:
    """A run of the reconciler as the contract shows it, without what it has found."""
    return {
        "id": id_text(run.id),
        "mode": run.mode,
        "code": run.code,
        "status": run.status,
        "cause": run.cause,
        "who": run.asked_by,
        "when": format_time(run.asked_at),
        "run_by": run.run_by,
        "begun_at": format_time(run.begun_at) if run.begun_at else None,
        "ended_at": format_time(run.ended_at) if run.ended_at else None,
        "coupons_checked": run.coupons_checked,
        "finding_count": run.finding_count,
        "error": run.error,
    }


def full_run_view(run: Run, findings: Sequence[Finding], leader: Leader | None) -> dict[str, Any]:
    """A run with what it has found, and who leads: without a leader nobody fulfils a wish."""
    return {
        **run_view(run),
        "findings": [_finding_view(finding) for finding in findings],
        "leader": None if leader is None else {"name": leader.name, "since": format_time(leader.since)},
    }


def _finding_view(finding: Finding) -> dict[str, Any]:
    view: dict[str, Any] = {"code": finding.code, "kind": finding.kind}
    if finding.seat is not None:
        view["seat"] = finding.seat
    if finding.customer_id is not None:
        view["customer_id"] = finding.customer_id
    return view | {"before": finding.before, "after": finding.after}


def etag(coupon: Coupon) -> dict[str, str]:
    """The header with a coupon's entity tag: its version."""
    return {"ETag": f'"{coupon.version}"'}
