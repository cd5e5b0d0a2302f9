"""Who was admitted above a limit is told of, and who was there before it was lowered is not."""

import pytest
import redis.asyncio

from service.counters import PARTS, Counters, key
from service.ledger import Ledger, walk
from service.model import Coupon, LoadedCoupon
from service.reconciling import Finding, Kind
from tests.ledger import given
from tests.reconciler.comparisons import check, compared
from tests.stores import Admin

CODE = "GOLD20"
COUNTER, FREE, _, _ = (key(CODE, part) for part in PARTS)

Raw = redis.asyncio.Redis


@pytest.mark.parametrize("share", [0.0, 10.0**6], ids=["by_the_key", "by_rows"])
async def test_oversold_is_told_and_not_mended(
    ledger: Ledger, counters: Counters, coupon: Coupon, admin: Admin, raw: Raw, monkeypatch: pytest.MonkeyPatch, share: float
) -> None:
    """A row above the limit in force when it was made, and a customer with too many: people must look."""
    first = admin.value("SELECT customer_id FROM redemption WHERE seat = 1")
    given.insert(admin, given.row(ledger, coupon, seat=21, customer_seat=1))
    given.insert(admin, given.row(ledger, coupon, customer_id=first, seat=11, customer_seat=2))
    await raw.hset(COUNTER, "next", 20)
    await raw.sadd(FREE, *range(12, 21))

    admin.run("ANALYZE TABLE redemption")
    monkeypatch.setattr(walk, "KEY_SHARE", share)
    wanted = [
        Finding(CODE, Kind.OVERSOLD, 21, 20, seat=21),
        Finding(CODE, Kind.OVERSOLD, 2, 1, customer_id=first),
    ]
    assert wanted == await check(ledger, counters)
    assert wanted == await check(ledger, counters, code=CODE)
    told, report = await compared(ledger, counters, mend=True)
    assert (wanted, 2, True) == (told, report.not_mended, report.complete)


async def test_oversold_by_a_row_older_than_its_coupon(
    ledger: Ledger, counters: Counters, coupon: Coupon, admin: Admin
) -> None:
    """No limit but the first can have been in force: who has written such a row has not gone by the ledger's clock."""
    given.insert(admin, given.row(ledger, coupon, seat=21, customer_seat=1))
    admin.run("UPDATE redemption SET created_at = '2020-01-01' WHERE seat = 21")
    assert [Finding(CODE, Kind.OVERSOLD, 21, 20, seat=21)] == await check(ledger, counters)


async def test_who_was_admitted_before_the_limit_was_lowered_is_not_oversold(
    ledger: Ledger, counters: Counters, coupon: Coupon
) -> None:
    """The coupon is over: that is what lowering means."""
    lowered = await given.changed(ledger, coupon.code, max_redemptions=5)
    await counters.load([LoadedCoupon(lowered, 10)])
    assert [] == await check(ledger, counters)
