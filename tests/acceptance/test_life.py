"""The life of a redemption as its caller sees it: reserve, confirm, extend, cancel, expire."""

import asyncio
from collections.abc import Mapping

import pytest
import redis.asyncio

from tests.acceptance.conftest import MakeCoupon
from tests.auditor import Auditor
from tests.driver import Answer, Client, Json, orders, tally
from tests.stores import Admin
from tests.waiting import until_async


async def reserve(
    client: Client,
    code: str,
    customer: str,
    order: str,
    *,
    hold_s: int = 600,
    headers: Mapping[str, str] | None = None,
) -> Answer:
    body = {"code": code, "customer_id": customer, "order_id": order, "hold_s": hold_s}
    return await client.send("POST", "/v1/redemptions", body=body, headers=headers)


async def act(client: Client, redemption_id: str, verb: str, **fields: Json) -> Answer:
    """confirm, extend or cancel."""
    return await client.send("POST", f"/v1/redemptions/{redemption_id}/{verb}", body=fields or None)


async def cancel_order(client: Client, code: str, order: str) -> Answer:
    return await client.send("POST", "/v1/redemptions/cancel", body={"code": code, "order_id": order, "reason": "declined"})


def overdue(admin: Admin, *answers: Answer) -> None:
    """The holds' time is over."""
    for answer in answers:
        admin.run(
            "UPDATE redemption SET expires_at = UTC_TIMESTAMP(6) - INTERVAL 1 SECOND WHERE id = UNHEX(%s)",
            answer.id.replace("-", ""),
        )


async def test_declined_card(client: Client, coupon: MakeCoupon, auditor: Auditor) -> None:
    """An order's own hold never counts against it, others are refused meanwhile and served after it."""
    code = await coupon(max_redemptions=1, max_per_customer=1)
    held = await reserve(client, code, "ann", "order-1")
    assert (201, "reserved") == (held.status, held.body["status"])

    again = [await reserve(client, code, "ann", "order-1"), await client.redeem(code, "ann", "order-1")]
    assert [(200, held.body), (200, held.body)] == [(one.status, one.body) for one in again]
    assert {"409 coupon_exhausted": 1} == tally([await client.redeem(code, "bob", "order-2")])
    assert {"409 customer_limit_reached": 1} == tally([await client.redeem(code, "ann", "order-3")])

    cancelled = await cancel_order(client, code, "order-1")
    assert (200, "cancelled", "declined") == (cancelled.status, cancelled.body["status"], cancelled.body["end_reason"])
    assert {"201": 1} == tally([await client.redeem(code, "bob", "order-2")])
    auditor.check(code)


async def test_confirm_and_cancel_again(client: Client, coupon: MakeCoupon) -> None:
    code = await coupon(max_redemptions=5)
    held = await reserve(client, code, "ann", "order-1")
    confirmed = [await act(client, held.id, "confirm") for _ in range(2)]
    assert [(200, "confirmed")] * 2 == [(one.status, one.body["status"]) for one in confirmed]
    assert confirmed[0].body == confirmed[1].body
    assert {"409 already_confirmed": 1} == tally([await act(client, held.id, "extend", hold_s=60)])
    cancelled = [await act(client, held.id, "cancel", reason=reason) for reason in ("first", "second")]
    assert cancelled[0].body == cancelled[1].body
    assert "first" == cancelled[0].body["end_reason"]
    assert {"409 already_cancelled": 1} == tally([await act(client, held.id, "confirm")])
    assert {"404 redemption_not_found": 1} == tally([await cancel_order(client, code, "order-1")])


@pytest.mark.parametrize("limits", [{"max_redemptions": 1}, {"max_per_customer": 1}, {}])
async def test_expired(client: Client, coupon: MakeCoupon, admin: Admin, limits: dict[str, int]) -> None:
    """A hold past its time is expired in every answer before anybody has written so, and its order gets a new one at once."""
    code = await coupon(**limits)
    held = await reserve(client, code, "ann", "order-1")
    overdue(admin, held)
    read = await client.get(f"/v1/redemptions/{held.id}")
    assert ("expired", None, read.body["expires_at"]) == (read.body["status"], read.body["seat"], read.body["ended_at"])
    assert 0 == (await client.get(f"/v1/coupons/{code}")).body["usage"]["reserved"]
    listed = await client.get("/v1/redemptions", code=code)
    assert [read.body] == listed.body["items"]
    for status in ("reserved", "expired"):
        items = (await client.get("/v1/redemptions", code=code, status=status)).body["items"]
        assert ([read.body] if status == "expired" else []) == items

    anew = await reserve(client, code, "ann", "order-1")
    assert 201 == anew.status
    assert held.id != anew.id
    assert {"409 reservation_expired": 2} == tally(
        [await act(client, held.id, "confirm"), await act(client, held.id, "extend", hold_s=5)]
    )
    cancelled = await act(client, held.id, "cancel")
    assert (200, "expired") == (cancelled.status, cancelled.body["status"])


@pytest.mark.parametrize("other", [("bob", "order-2"), ("ann", "order-3")])
async def test_an_expired_hold_makes_room(
    client: Client, coupon: MakeCoupon, admin: Admin, auditor: Auditor, other: tuple[str, str]
) -> None:
    """Without a sweep: another order, of the same customer or not, gets its use."""
    code = await coupon(max_redemptions=1, max_per_customer=1)
    overdue(admin, await reserve(client, code, "ann", "order-1"))

    async def is_served() -> bool:
        return (await client.redeem(code, *other)).status in (200, 201)

    await until_async(is_served, what="the expired hold's use is had")
    auditor.check(code)


async def test_an_expired_hold_makes_room_for_its_own_order_at_once(
    client: Client, coupon: MakeCoupon, admin: Admin, auditor: Auditor
) -> None:
    """Also where somebody has just been told that the coupon is exhausted, after a search that is not repeated so soon."""
    code = await coupon(max_redemptions=1)
    held = await reserve(client, code, "ann", "order-1")
    assert {"409 coupon_exhausted": 1} == tally([await client.redeem(code, "bob", "order-2")])
    overdue(admin, held)
    assert {"201": 1} == tally([await reserve(client, code, "ann", "order-1")])
    auditor.check(code)


async def test_cancel_makes_room_at_once(client: Client, coupon: MakeCoupon, auditor: Auditor) -> None:
    """The very next request has the use, a hundred times in turn."""
    code = await coupon(max_redemptions=1, max_per_customer=1)
    for number in range(100):
        answer = await client.redeem(code, "ann", f"order-{number}")
        assert 201 == answer.status, (number, answer)
        assert 200 == (await act(client, answer.id, "cancel")).status
    auditor.check(code)


async def test_three_per_customer(client: Client, coupon: MakeCoupon, auditor: Auditor) -> None:
    """Cancels in any order: always exactly three."""
    code = await coupon(max_per_customer=3)
    live: list[Answer] = []
    for number in range(60):
        answer = await client.redeem(code, "ann", f"order-{number}")
        assert 201 == answer.status, (number, answer)
        live.append(answer)
        if len(live) == 3:
            assert {"409 customer_limit_reached": 1} == tally([await client.redeem(code, "ann", f"late-{number}")])
            assert 200 == (await act(client, live.pop(number % 3).id, "cancel")).status
    auditor.check(code)


async def test_races(client: Client, coupon: MakeCoupon, auditor: Auditor) -> None:
    """Confirm and cancel of the same holds at once: cancelled in the end, and all uses can be had again."""
    code = await coupon(max_redemptions=50)
    held = await asyncio.gather(*(reserve(client, code, *order) for order in orders(50)))
    verbs = ("confirm", "cancel", "extend", "confirm", "cancel")
    answers = await asyncio.gather(
        *(act(client, one.id, verb, **({"hold_s": 60} if verb == "extend" else {})) for verb in verbs for one in held)
    )
    assert set() == set(tally(answers)) - {"200", "409 already_cancelled", "409 already_confirmed"}
    assert {"201": 50} == tally(await client.redeem_all(code, orders(50, "next")))
    auditor.check(code)


async def test_flushed_in_the_middle(
    client: Client, coupon: MakeCoupon, auditor: Auditor, redis_client: "redis.asyncio.Redis"
) -> None:
    """FLUSHALL between the calls changes nothing for the client, and the freed use can be had."""
    code = await coupon(max_redemptions=1)
    held = await reserve(client, code, "ann", "order-1")
    await redis_client.flushall()
    assert 200 == (await act(client, held.id, "confirm")).status
    await redis_client.flushall()
    assert {"409 coupon_exhausted": 1} == tally([await client.redeem(code, "bob", "order-2")])
    await redis_client.flushall()
    assert 200 == (await act(client, held.id, "cancel")).status
    assert {"201": 1} == tally([await client.redeem(code, "bob", "order-2")])
    auditor.check(code)


async def test_idempotency_key(client: Client, coupon: MakeCoupon, redis_client: "redis.asyncio.Redis") -> None:
    """A key stands for the redemption that it made or found, for ever; and for no other customer or order."""
    code = await coupon(max_redemptions=3)
    key = {"Idempotency-Key": "key-1"}
    made = await reserve(client, code, "ann", "order-1", headers=key)
    assert 201 == made.status
    found = await reserve(client, code, "ann", "order-1", headers={"Idempotency-Key": "key-2"})
    assert (200, made.id) == (found.status, found.id)
    cancelled = await act(client, made.id, "cancel")
    await redis_client.flushall()
    for name in ("key-1", "key-2"):
        again = await reserve(client, code, "ann", "order-1", headers={"Idempotency-Key": name})
        assert (200, cancelled.body, "true") == (again.status, again.body, again.headers["Idempotent-Replayed"])
        for customer, order in (("bob", "order-1"), ("ann", "order-2")):
            other = await reserve(client, code, customer, order, headers={"Idempotency-Key": name})
            assert {"422 idempotency_key_reused": 1} == tally([other])
    assert {"201": 1} == tally([await client.redeem(code, "ann", "order-1")])


async def test_idempotency_key_in_parallel(client: Client, coupon: MakeCoupon, auditor: Auditor) -> None:
    """One key, twenty orders at once: one redemption; one order, twenty keys at once: one redemption."""
    code = await coupon(max_redemptions=100)
    one_key = await asyncio.gather(
        *(reserve(client, code, "ann", f"order-{n}", headers={"Idempotency-Key": "same"}) for n in range(20))
    )
    assert {"201": 1, "422 idempotency_key_reused": 19} == tally(one_key)
    one_order = await asyncio.gather(
        *(reserve(client, code, "bob", "order", headers={"Idempotency-Key": f"key-{n}"}) for n in range(20))
    )
    assert {"201": 1, "200": 19} == tally(one_order)
    assert 2 == len(auditor.check(code))


async def test_lowered_and_raised(client: Client, coupon: MakeCoupon) -> None:
    """60 of 100, lowered to 50: the next ten cancels admit nobody, the eleventh does."""
    code = await coupon(max_redemptions=100)
    held = await client.redeem_all(code, orders(60))
    stale = await client.send("PATCH", f"/v1/coupons/{code}", body={"max_redemptions": 50}, headers={"If-Match": '"9"'})
    assert {"412 version_mismatch": 1} == tally([stale])
    fresh = await client.send("PATCH", f"/v1/coupons/{code}", body={"max_redemptions": 50}, headers={"If-Match": '"1"'})
    assert 200 == fresh.status
    for number, one in enumerate(held[:10]):
        assert 200 == (await act(client, one.id, "cancel")).status
        assert {"409 coupon_exhausted": 1} == tally([await client.redeem(code, "x", f"x-{number}")]), number
    assert 200 == (await act(client, held[10].id, "cancel")).status
    assert {"201": 1} == tally([await client.redeem(code, "x", "x-11")])
    assert {"409 coupon_exhausted": 1} == tally([await client.redeem(code, "x", "x-12")])
    await client.change_coupon(code, max_redemptions=55)
    assert {"201": 5, "409 coupon_exhausted": 3} == tally(await client.redeem_all(code, orders(8, "y")))
