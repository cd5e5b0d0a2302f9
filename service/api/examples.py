"""What answers look like: the examples of the OpenAPI document. A test holds them to the models of the answers."""

from typing import Any, Final

TIME: Final = "2026-11-22T10:15:30.123456Z"
ID: Final = "01a20424-7ee8-757b-ad93-e61419225a8e"
REDEMPTION: Final[dict[str, Any]] = {
    "id": ID,
    "code": "GOLD20",
    "customer_id": "ann",
    "order_id": "order-1",
    "status": "confirmed",
    "seat": 1,
    "expires_at": None,
    "created_at": TIME,
    "confirmed_at": TIME,
    "ended_at": None,
    "end_reason": None,
}
HOLD: Final = REDEMPTION | {"status": "reserved", "expires_at": "2026-11-22T10:25:30.123456Z", "confirmed_at": None}
CANCELLED: Final = REDEMPTION | {"status": "cancelled", "seat": None, "ended_at": TIME, "end_reason": "card_declined"}
COUPON: Final[dict[str, Any]] = {
    "code": "GOLD20",
    "max_redemptions": 20,
    "max_per_customer": 1,
    "starts_at": None,
    "ends_at": None,
    "status": "active",
    "metadata": {"campaign": "c-17"},
    "version": 1,
    "created_at": TIME,
    "updated_at": TIME,
}
USAGE: Final = {"reserved": 0, "confirmed": 2, "remaining": 18, "source": "ledger", "as_of": TIME}
TERMS: Final = {
    name: COUPON[name] for name in ("max_redemptions", "max_per_customer", "starts_at", "ends_at", "status", "metadata")
}
READY: Final = {"status": "ready", "stores": {"ledger": "up", "redis": "up"}}
AWAY: Final = {"status": "unavailable", "stores": {"ledger": "down", "redis": "up"}}
RUN: Final[dict[str, Any]] = {
    "id": "01a20424-8b2c-7d10-b0a4-3f9d1c55e7a2",
    "mode": "check",
    "code": None,
    "status": "done",
    "cause": "asked",
    "who": "office",
    "when": TIME,
    "run_by": "db-3:17",
    "begun_at": TIME,
    "ended_at": TIME,
    "coupons_checked": 412,
    "finding_count": 1,
    "error": None,
}
LEADER: Final = {"name": "db-3:17", "since": TIME}
FINDING: Final = {"code": "GOLD20", "kind": "leaked", "seat": 7, "before": "handed out", "after": "free"}
FOUND: Final = RUN | {"findings": [FINDING], "leader": LEADER}
NOT_BEGUN: Final = {"run_by": None, "begun_at": None, "ended_at": None, "coupons_checked": 0, "finding_count": 0}
QUEUED: Final = FOUND | NOT_BEGUN | {"status": "queued", "findings": []}
