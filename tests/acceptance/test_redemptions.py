"""The contract of `/v1/redemptions`."""

import uuid
from datetime import UTC, datetime, timedelta

import pytest

from tests.acceptance.conftest import MakeCoupon
from tests.acceptance.test_coupons import check_problem
from tests.auditor import Auditor
from tests.driver import Answer, Client, orders, tally

FIELDS = {
    "id", "code", "customer_id", "order_id", "status", "seat", "expires_at", "created_at", "confirmed_at", "ended_at",
    "end_reason",
}  # fmt: skip


async def test_redeem(client: Client, coupon: MakeCoupon, auditor: Auditor) -> None:
    """201 with the redemption, confirmed, on a seat, under a UUIDv7; the ledger says the same."""
    code = await coupon(max_redemptions=5)

    answer = await client.redeem(code, "customer", "order")

    assert 201 == answer.status
    assert "Idempotent-Replayed" not in answer.headers
    assert FIELDS == set(answer.body)
    assert 7 == uuid.UUID(answer.id).version
    expected = {"code": code, "customer_id": "customer", "order_id": "order", "status": "confirmed", "seat": 1}
    empty = dict.fromkeys(["expires_at", "ended_at", "end_reason"])
    assert {**expected, **empty} == {name: answer.body[name] for name in (*expected, *empty)}
    assert answer.body["created_at"] == answer.body["confirmed_at"]
    assert abs(datetime.now(UTC) - datetime.fromisoformat(answer.body["created_at"])) < timedelta(minutes=1)
    (row,) = auditor.check(code, [answer])
    assert ("customer", "order", "confirmed", 1) == tuple(row[n] for n in ("customer_id", "order_id", "status", "seat"))


async def test_replay_says_the_same(client: Client, coupon: MakeCoupon) -> None:
    """The same order again: 200, the same document to the last digit, and `Idempotent-Replayed`."""
    code = await coupon(max_redemptions=5, max_per_customer=1)
    first = await client.redeem(code, "customer", "order")
    again = await client.redeem(code, "customer", "order")
    read = await client.get(f"/v1/redemptions/{first.id}")

    assert (200, "true") == (again.status, again.headers["Idempotent-Replayed"])
    assert first.body == again.body == read.body
    assert 200 == read.status


async def test_unlimited_coupon(client: Client, coupon: MakeCoupon, auditor: Auditor) -> None:
    """Without limits everybody redeems, on no seat, each order once."""
    code = await coupon()
    answers = await client.redeem_all(code, [*orders(200), *orders(200)])
    assert {"201": 200, "200": 200} == tally(answers)
    assert {None} == {answer.body["seat"] for answer in answers}
    assert 200 == len(auditor.check(code, answers))


async def test_order_of_another_customer(client: Client, coupon: MakeCoupon) -> None:
    """An order that has redeemed for one customer is not another's: 422, and nothing changes."""
    code = await coupon(max_redemptions=5)
    first = await client.redeem(code, "one", "order")
    check_problem(await client.redeem(code, "two", "order"), 422, "order_mismatch")
    assert first.body == (await client.redeem(code, "one", "order")).body


async def test_one_order_may_use_several_coupons(client: Client, coupon: MakeCoupon) -> None:
    """Idempotency is per coupon and order."""
    codes = [await coupon(max_redemptions=5) for _ in range(3)]
    answers = [await client.redeem(code, "customer", "order") for code in codes]
    assert {"201": 3} == tally(answers)
    assert 3 == len({answer.id for answer in answers})


async def test_names_are_neither_trimmed_nor_folded(client: Client, coupon: MakeCoupon, auditor: Auditor) -> None:
    """`a`, `A`, `a ` and their like are different customers and orders; one per customer means one each."""
    code = await coupon(max_redemptions=50, max_per_customer=1)
    names = ["a", "A", "a ", " a", "á", "a\u0301", "\uff41", "ss", "ß", "1", "01", "1.0", "a\u00a0"]

    answers = [await client.redeem(code, name, name) for name in names]
    again = [await client.redeem(code, name, f"{name}+") for name in names]

    assert {"201": len(names)} == tally(answers)
    assert {"409 customer_limit_reached": len(names)} == tally(again)
    assert names == [answer.body["customer_id"] for answer in answers] == [answer.body["order_id"] for answer in answers]
    auditor.check(code, answers)
    for name, answer in zip(names, answers, strict=True):
        assert [answer.id] == await ids(client, code=code, order_id=name)
        assert [answer.id] == await ids(client, code=code, customer_id=name)


async def test_precedence_of_refusals(client: Client, coupon: MakeCoupon) -> None:
    """Archived before paused before the window before the customer's limit before the coupon's."""
    code = await coupon(max_redemptions=1, max_per_customer=1)
    assert 201 == (await client.redeem(code, "customer", "order")).status
    check_problem(await client.redeem(code, "customer", "another"), 409, "customer_limit_reached")
    check_problem(await client.redeem(code, "somebody", "another"), 409, "coupon_exhausted")
    await client.change_coupon(code, ends_at="2020-01-01T00:00:00Z")
    check_problem(await client.redeem(code, "customer", "another"), 422, "coupon_ended")
    await client.change_coupon(code, starts_at="2098-01-01T00:00:00Z", ends_at="2099-01-01T00:00:00Z")
    check_problem(await client.redeem(code, "customer", "another"), 422, "coupon_not_started")
    await client.change_coupon(code, status="paused")
    check_problem(await client.redeem(code, "customer", "another"), 422, "coupon_paused")
    await client.change_coupon(code, status="archived")
    check_problem(await client.redeem(code, "customer", "another"), 404, "coupon_not_found")


async def test_unknown_redemption(client: Client) -> None:
    check_problem(await client.get(f"/v1/redemptions/{uuid.uuid4()}"), 404, "redemption_not_found")


async def test_lists(client: Client, coupon: MakeCoupon) -> None:
    """Newest first, by code, customer, order and status and all of them together, page by page, each once."""
    code, other = await coupon(max_redemptions=50), await coupon(max_redemptions=50)
    made = [await client.redeem(code, f"lister-{n % 2}", f"{code}-{n}") for n in range(7)]
    elsewhere = await client.redeem(other, "lister-0", f"{code}-0")
    newest_first = [answer.id for answer in reversed(made)]

    assert newest_first == await ids(client, code=code)
    assert newest_first == await ids(client, code=code, page_size=3)
    assert newest_first[::2] == await ids(client, code=code, customer_id="lister-0", page_size=2)
    assert [elsewhere.id, made[0].id] == await ids(client, order_id=f"{code}-0", page_size=1)
    assert [made[0].id] == await ids(client, order_id=f"{code}-0", code=code)
    assert newest_first == await ids(client, code=code, status="confirmed", page_size=6)
    assert [] == await ids(client, code=code, status="cancelled")
    assert [] == await ids(client, code="NO-SUCH")


async def test_page_tokens_belong_to_their_filters(client: Client, coupon: MakeCoupon) -> None:
    code, other = await coupon(), await coupon()
    await client.redeem_all(code, orders(3))
    token = (await client.get("/v1/redemptions", code=code, page_size=1)).body["next_page_token"]
    assert 200 == (await client.get("/v1/redemptions", code=code, page_size=2, page_token=token)).status
    check_problem(await client.get("/v1/redemptions", code=other, page_token=token), 400, "invalid_request")
    check_problem(await client.get("/v1/coupons", page_token=token), 400, "invalid_request")


async def test_pages_of_50_and_up_to_200(client: Client, coupon: MakeCoupon) -> None:
    code = await coupon()
    await client.redeem_all(code, orders(210))
    assert [50, 200] == [len((await page(client, code=code, **size)).body["items"]) for size in ({}, {"page_size": 200})]
    assert 210 == len(set(await ids(client, code=code, page_size=60)))


async def page(client: Client, **query: str | int) -> Answer:
    answer = await client.get("/v1/redemptions", **query)
    assert 200 == answer.status
    assert {"items", "next_page_token"} == set(answer.body)
    assert all(FIELDS == set(item) for item in answer.body["items"])
    return answer


async def ids(client: Client, **query: str | int) -> list[str]:
    """All ids of a list, over its pages."""
    found: list[str] = []
    more: dict[str, str | int] = {}
    for _ in range(20):
        answer = await page(client, **query, **more)
        found += [item["id"] for item in answer.body["items"]]
        if answer.body["next_page_token"] is None:
            return found
        more = {"page_token": answer.body["next_page_token"]}
    raise AssertionError("the pages have no end")


@pytest.mark.parametrize("sent", ["abc-123", "A.b_c:d/e=@", "x" * 128])
async def test_request_id_of_the_caller(client: Client, coupon: MakeCoupon, sent: str) -> None:
    """A sane one comes back, with a success and in a problem."""
    code = await coupon()
    for answer in (
        await client.send("GET", f"/v1/coupons/{code}", headers={"X-Request-Id": sent}),
        await client.send("GET", "/v1/coupons/NO-SUCH", headers={"X-Request-Id": sent}),
        await client.send("GET", "/livez", headers={"X-Request-Id": sent}),
    ):
        assert sent == answer.headers["X-Request-Id"]
        assert sent == (answer.body or {}).get("request_id", sent)


@pytest.mark.parametrize("sent", ["", "x" * 129, "a b", "<script>", "é", "a\tb", '"'])
async def test_request_id_that_is_not_sane(client: Client, sent: str) -> None:
    """It is replaced by one of Usher's own."""
    answer = await client.send("GET", "/v1/coupons/NO-SUCH", headers={"X-Request-Id": sent})
    assert sent != answer.headers["X-Request-Id"] == answer.body["request_id"] != ""


async def test_request_ids_differ(client: Client) -> None:
    answers = [await client.get("/livez") for _ in range(20)]
    assert 20 == len({answer.headers["X-Request-Id"] for answer in answers})


async def test_routes_and_methods(client: Client) -> None:
    """Every answer of the HTTP layer is a problem document, too."""
    check_problem(await client.get("/nowhere"), 404, "route_not_found")
    check_problem(await client.get("/v1/redemptions/a/b/c"), 404, "route_not_found")
    check_problem(await client.send("DELETE", "/v1/coupons/GOLD20"), 405, "method_not_allowed")
    check_problem(await client.send("PUT", "/v1/redemptions", body={}), 405, "method_not_allowed")
    assert "POST" in (await client.send("PUT", "/v1/redemptions", body={})).headers["Allow"]
