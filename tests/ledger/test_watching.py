"""What the metrics say of the ledger."""

from datetime import timedelta

import pytest

from service.ledger import Ledger, watching
from tests.ledger import given
from tests.stores import Admin


async def test_overdue_holds(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that are over and not ended, and no more than it matters."""
    coupon = await given.coupon(ledger, max_redemptions=100)
    assert 0 == await ledger.watching.holds_overdue(given.soon())
    times = [*[ledger.now() - timedelta(seconds=1)] * 5, ledger.now() + timedelta(hours=1), None]
    rows = [given.row(ledger, coupon, seat=seat, expires_at=at) for seat, at in enumerate(times, 1)]
    await given.endings(ledger, *rows)
    assert 5 == await ledger.watching.holds_overdue(given.soon())
    monkeypatch.setattr(watching, "OVERDUE_MAX", 3)
    assert 3 == await ledger.watching.holds_overdue(given.soon())


async def test_coupons_over(ledger: Ledger, admin: Admin) -> None:
    """Those with a live redemption above the limit; the others are full, or have no limit."""
    for code, limit in (("OVER", 5), ("FULL", 5), ("FREE", None)):
        coupon = await given.coupon(ledger, code, max_redemptions=limit)
        seats = range(1, 6) if limit else [None] * 5
        await given.endings(ledger, *(given.row(ledger, coupon, seat=seat) for seat in seats))
    assert 0 == await ledger.watching.coupons_over(given.soon())
    admin.run("UPDATE coupon SET max_redemptions = 3, version = 2 WHERE code = 'OVER'")
    assert 1 == await ledger.watching.coupons_over(given.soon())


async def test_the_last_clean_check(ledger: Ledger, admin: Admin) -> None:
    """Of all coupons, and by check or repair, done, and without findings; notes do not count."""
    assert await ledger.watching.clean_check(given.soon()) is None
    runs = [
        # Minute, mode, code, status, kinds.
        (1, "check", None, "done", []),
        (2, "repair", None, "done", ["missing"]),
        (3, "check", None, "done", ["missing", "leaked"]),
        (4, "check", None, "failed", []),
        (5, "reseed", None, "done", []),
        (6, "check", "GOLD20", "done", []),
    ]
    for minute, mode, code, status, kinds in runs:
        ended_at = f"2026-11-28 10:{minute:02d}:00"
        admin.run(
            "INSERT INTO reconcile_run (id, mode, code, status, cause, asked_by, asked_at, begun_at, ended_at, "
            "coupons_checked, finding_count) VALUES (%s, %s, %s, %s, 'asked', 'ann', %s, %s, %s, 1, 0)",
            bytes([minute] * 16), mode, code, status, ended_at, ended_at, ended_at,
        )  # fmt: skip
        for number, kind in enumerate(kinds):
            admin.run(
                "INSERT INTO reconcile_finding (run_id, number, code, kind) VALUES (%s, %s, 'GOLD20', %s)",
                bytes([minute] * 16), number, kind,
            )  # fmt: skip
    found = await ledger.watching.clean_check(given.soon())
    assert found is not None
    assert "2026-11-28T10:02:00+00:00" == found.isoformat()
