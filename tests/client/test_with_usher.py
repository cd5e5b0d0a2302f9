"""The client and the real service on its real stores."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime, timedelta

import pytest

from tests.acceptance.conftest import MakeCoupon
from tests.auditor import Auditor
from tests.faults import Proxy, holding
from tests.usher_process import Usher as Server
from usher_client import (
    AlreadyCancelled,
    AlreadyConfirmed,
    CouponExhausted,
    CouponExists,
    CouponNotFound,
    CouponStatus,
    CustomerLimitReached,
    IdempotencyKeyReused,
    InvalidRequest,
    Patience,
    RedemptionNotFound,
    RedemptionStatus,
    Unauthorized,
    Unreachable,
    Usher,
    VersionMismatch,
)

PATIENT = Patience(deadline_s=60, try_timeout_s=20)
SEND_TIMES = 20


@pytest.fixture
async def shop(usher: Server, api_key: str) -> AsyncIterator[Usher]:
    async with Usher(usher.url + "/", f"{api_key}\n", patience=PATIENT) as connected:
        yield connected


@pytest.fixture
def proxy(usher: Server) -> Iterator[Proxy]:
    """In front of the service."""
    with Proxy(usher.port) as standing:
        yield standing


async def test_the_life_of_a_redemption(shop: Usher, coupon: MakeCoupon) -> None:
    code = await coupon(max_redemptions=1, max_per_customer=1)
    held = await shop.reserve(f" {code.lower()} ", customer_id="ann", order_id="order-1", hold_s=60)
    assert (RedemptionStatus.RESERVED, True, code) == (held.status, held.counts, held.code)
    assert held.expires_at is not None
    assert timedelta(seconds=60) == held.expires_at - held.created_at
    assert held == await shop.redeem(code, customer_id="ann", order_id="order-1")
    with pytest.raises(CouponExhausted):
        await shop.redeem(code, customer_id="bob", order_id="order-2")
    with pytest.raises(CustomerLimitReached):
        await shop.redeem(code, customer_id="ann", order_id="order-3")

    longer = await shop.extend(held.id, hold_s=3600)
    assert longer.expires_at is not None
    assert longer.expires_at > held.expires_at
    confirmed = await shop.confirm(held.id)
    assert (RedemptionStatus.CONFIRMED, True) == (confirmed.status, confirmed.counts)
    with pytest.raises(AlreadyConfirmed):
        await shop.extend(held.id)

    cancelled = await shop.cancel(held.id, reason="card_declined")
    assert (RedemptionStatus.CANCELLED, False, "card_declined") == (cancelled.status, cancelled.counts, cancelled.end_reason)
    assert cancelled == await shop.cancel(held.id) == await shop.get(held.id)
    with pytest.raises(AlreadyCancelled):
        await shop.confirm(held.id)
    with pytest.raises(RedemptionNotFound):
        await shop.cancel_order(code, order_id="order-1")
    again = await shop.redeem(code, customer_id="ann", order_id="order-1")
    assert again.id == (await shop.cancel_order(code, order_id="order-1", reason="gone")).id


async def test_idempotency_key(shop: Usher, coupon: MakeCoupon) -> None:
    """What it stands for may have ended: then it does not count."""
    code = await coupon(max_redemptions=2)
    key = f"key-{code}"
    made = await shop.redeem(code, customer_id="ann", order_id="order-1", idempotency_key=key)
    await shop.cancel(made.id)
    found = await shop.reserve(code, customer_id="ann", order_id="order-1", idempotency_key=key)
    assert (made.id, False) == (found.id, found.counts)
    with pytest.raises(IdempotencyKeyReused):
        await shop.redeem(code, customer_id="ann", order_id="order-2", idempotency_key=key)


async def test_lists(shop: Usher, coupon: MakeCoupon) -> None:
    """In pages, newest first, by names that no query must mangle."""
    code = await coupon()
    customer = "ann & bob?=+%2F#é/ ☂"
    made = [await shop.redeem(code, customer_id=customer, order_id=f"a/b+{number}") for number in range(7)]
    newest_first = made[::-1]
    assert newest_first == [one async for one in shop.list(code=code, customer_id=customer, page_size=3)]
    assert newest_first[:2] == [one async for one in shop.list(code=code, page_size=2) if one in newest_first[:2]]
    assert [made[3]] == [one async for one in shop.list(code=code, order_id="a/b+3", status="confirmed")]
    assert [] == [one async for one in shop.list(code=code, status="cancelled")]
    with pytest.raises(InvalidRequest):
        await anext(shop.list())


async def test_coupons(shop: Usher, api_key: str, usher: Server, coupon: MakeCoupon) -> None:
    prefix = (await coupon("SHELF")).upper()
    ends_at = datetime(2100, 1, 1, tzinfo=UTC)
    code = f"{prefix}-A"
    made = await shop.coupons.create(code, max_redemptions=3, ends_at=ends_at, metadata={"campaign": ["winter"]})
    assert (code, 3, None, ends_at, 1) == (made.code, made.max_redemptions, made.max_per_customer, made.ends_at, made.version)
    with pytest.raises(CouponExists):
        await shop.coupons.create(code)

    await shop.redeem(code, customer_id="ann", order_id="order-1")
    with pytest.raises(VersionMismatch):
        await shop.coupons.change(code, if_match=9, max_redemptions=2)
    changed = await shop.coupons.change(code, if_match=1, max_redemptions=2, ends_at=None, status=CouponStatus.PAUSED)
    assert (2, None, CouponStatus.PAUSED, {"campaign": ["winter"]}, 2) == (
        changed.max_redemptions,
        changed.ends_at,
        changed.status,
        changed.metadata,
        changed.version,
    )
    shown = await shop.coupons.get(code)
    assert shown.usage is not None
    assert (0, 1, 1) == (shown.usage.reserved, shown.usage.confirmed, shown.usage.remaining)
    await shop.coupons.create(f"{prefix}-B")
    assert [prefix, code, f"{prefix}-B"] == [one.code async for one in shop.coupons.list(prefix=prefix, page_size=2)]
    assert [changed] == [one async for one in shop.coupons.list(prefix=prefix, status="paused")]
    with pytest.raises(CouponNotFound):
        await shop.coupons.get(f"{prefix}-C")
    async with Usher(usher.url, "no-key") as stranger:
        with pytest.raises(Unauthorized):
            await stranger.coupons.get(code)


async def test_history(shop: Usher, coupon: MakeCoupon) -> None:
    code = await coupon(max_redemptions=3)
    for limit in (4, 5):
        await shop.coupons.change(code, max_redemptions=limit)
    changes = [one async for one in shop.coupons.history(code, page_size=2)]
    assert [(3, 5), (2, 4), (1, 3)] == [(one.version, one.after["max_redemptions"]) for one in changes]
    assert [{"max_redemptions": 4}, {"max_redemptions": 3}] == [
        {"max_redemptions": one.before["max_redemptions"]} for one in changes if one.before is not None
    ]
    assert all(one.when.tzinfo is not None and one.who for one in changes)


async def test_validations(shop: Usher, coupon: MakeCoupon) -> None:
    code = await coupon(max_redemptions=1)
    before = await shop.validate(code, customer_id="ann")
    assert (True, None, 1) == (before.valid, before.reason, before.remaining)
    await shop.redeem(code, customer_id="ann", order_id="order-1")
    after = await shop.validate(code)
    assert (False, "coupon_exhausted", 0) == (after.valid, after.reason, after.remaining)


# --- Answers that are lost on the way ------------------------------------------------------------------------------


async def test_a_lost_answer_then_twenty_times_at_once(
    shop: Usher, proxy: Proxy, api_key: str, coupon: MakeCoupon, auditor: Auditor
) -> None:
    """One redemption, and all are told of it; the client that lost the answer as well."""
    code = await coupon(max_redemptions=100)
    lost = proxy.lose_reply(holding(b"order-lost"), times=2)
    async with Usher(f"http://127.0.0.1:{proxy.port}", api_key, patience=PATIENT) as unlucky:
        first = await unlucky.redeem(code, customer_id="ann", order_id="order-lost")
        clients = [shop, unlucky] * (SEND_TIMES // 2)
        again = await asyncio.gather(*(one.redeem(code, customer_id="ann", order_id="order-lost") for one in clients))
    assert 2 == lost.hits
    assert [first] * SEND_TIMES == again
    assert 1 == len(auditor.check(code))


async def test_a_lost_answer_to_each_call(proxy: Proxy, api_key: str, coupon: MakeCoupon, auditor: Auditor) -> None:
    """Confirm, extend and cancel are the same when they are carried out twice, and cancel by order finds what it has done."""
    code = await coupon(max_redemptions=1)
    async with Usher(f"http://127.0.0.1:{proxy.port}", api_key, patience=PATIENT) as unlucky:

        def lose(what: bytes) -> None:
            proxy.rules.clear()
            proxy.lose_reply(holding(b"POST ", what))

        lose(b"hold_s")
        held = await unlucky.reserve(code, customer_id="ann", order_id="order-1")
        assert RedemptionStatus.RESERVED is held.status
        lose(b"/extend")
        assert (await unlucky.extend(held.id, hold_s=3600)).counts
        lose(b"/confirm")
        assert RedemptionStatus.CONFIRMED is (await unlucky.confirm(held.id)).status
        lose(b"/redemptions/cancel")
        cancelled = await unlucky.cancel_order(code, order_id="order-1", reason="gone")
        assert (held.id, RedemptionStatus.CANCELLED, "gone") == (cancelled.id, cancelled.status, cancelled.end_reason)
        lose(b"/cancel ")
        assert cancelled == await unlucky.cancel(held.id)
        assert 1 == proxy.rules[0].hits
    assert not auditor.check(code)


async def test_a_coupon_whose_answer_was_lost(shop: Usher, proxy: Proxy, api_key: str, coupon: MakeCoupon) -> None:
    """Is there; the client says that it does not know, and creates nothing twice."""
    code = f"{await coupon()}-LOST"
    lost = proxy.lose_reply(holding(b"POST /v1/coupons"), times=None)
    async with Usher(f"http://127.0.0.1:{proxy.port}", api_key) as unlucky:
        with pytest.raises(Unreachable) as raised:
            await unlucky.coupons.create(code)
    assert (1, 1, True) == (lost.hits, raised.value.tries, raised.value.answer_lost)
    assert 1 == (await shop.coupons.get(code)).version
