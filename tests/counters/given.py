"""What the tests of the counters begin with."""

from collections.abc import Sequence
from datetime import UTC, datetime

import redis.asyncio

from service.counters import ClaimBatch, Counters
from service.errors import CounterUnavailable
from service.model import Claim, ClaimAnswer, Coupon, CouponStatus, LoadedCoupon, Refusal, Search, Wish

CODE = "GOLD20"
LONG_AGO = datetime(2020, 1, 1, tzinfo=UTC)
FAR_OFF = datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC)
NOT_LOADED = Claim(ClaimAnswer.NOT_LOADED)


def loaded(
    max_redemptions: int | None = 5,
    max_per_customer: int | None = None,
    *,
    seat_max: int = 0,
    code: str = CODE,
    coupon_id: int = 77,
    version: int = 3,
    status: CouponStatus = CouponStatus.ACTIVE,
    starts_at: datetime | None = None,
    ends_at: datetime | None = None,
) -> LoadedCoupon:
    """A coupon as the ledger gives it."""
    coupon = Coupon(
        id=coupon_id,
        code=code,
        max_redemptions=max_redemptions,
        max_per_customer=max_per_customer,
        starts_at=starts_at,
        ends_at=ends_at,
        status=status,
        metadata={},
        version=version,
        created_at=LONG_AGO,
        updated_at=LONG_AGO,
    )
    return LoadedCoupon(coupon, seat_max)


async def now_ms(raw: "redis.asyncio.Redis") -> int:
    """Redis' clock."""
    seconds, micros = await raw.time()
    return int(seconds) * 1_000 + int(micros) // 1_000


def wishes(*orders: str) -> list[Wish]:
    """One plain wish per order, each of a customer of its own."""
    return [Wish(order, f"customer of {order}") for order in orders]


async def claim(
    counters: Counters, wanted: Sequence[Wish], settled: Sequence[tuple[str, int | None]] = (), code: str = CODE
) -> list[Claim]:
    """The claims of one batch; raises what is in their place."""
    (claims,) = await counters.claim([ClaimBatch(code, wanted, settled)])
    if isinstance(claims, CounterUnavailable):
        raise claims
    return claims


def claimed(seat: int | None, customer_seat: int | None = None) -> Claim:
    """A claim of the coupon above."""
    return Claim(ClaimAnswer.CLAIMED, 77, 3, seat, customer_seat)


def refused(refusal: Refusal, search: Search | None = None) -> Claim:
    """A refusal by the coupon above."""
    return Claim(ClaimAnswer.REFUSED, 77, 3, refusal=refusal, search=search)


def exhausted(search: Search) -> Claim:
    """Exhausted, by the coupon above."""
    return refused(Refusal.COUPON_EXHAUSTED, search)
