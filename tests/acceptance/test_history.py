"""A coupon's history: who made each of its versions, when, and what it was before and after."""

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest

from tests.acceptance.conftest import PATIENT, MakeCoupon, StartUsher, Stores
from tests.driver import Client, Json, tally
from tests.faults import Proxy, holding
from tests.stores import Admin
from tests.waiting import until

TERMS = ("max_redemptions", "max_per_customer", "starts_at", "ends_at", "status", "metadata")


def terms(body: Json) -> Json:
    """Of a coupon, what can change."""
    return {name: body[name] for name in TERMS}


async def history(client: Client, code: str, **query: str | int) -> list[Json]:
    """All entries, page by page."""
    items: list[Json] = []
    token = None
    for _ in range(100):
        page = await client.get(f"/v1/coupons/{code}/history", **query, **({"page_token": token} if token else {}))
        assert (200, {"items", "next_page_token"}) == (page.status, set(page.body))
        items += page.body["items"]
        token = page.body["next_page_token"]
        if token is None:
            return items
    raise AssertionError("the pages have no end")


def key_of(admin: Admin, name: str, scope: str) -> dict[str, str]:
    """A key's header."""
    return {"Authorization": f"Bearer {admin.make_key(name, scope)}"}


async def test_versions(client: Client, admin: Admin) -> None:
    """The newest first, each with the key that made it; what one is after, the next one was before."""
    office = key_of(admin, "office", "admin")
    fields = {"max_redemptions": 5, "ends_at": "2099-12-31T23:59:59Z", "metadata": {"a": "été"}}
    made = await client.create_coupon("STORIED", **fields)
    changes: list[Json] = [
        {"status": "paused"},
        {"max_redemptions": 3, "max_per_customer": None},
        {"metadata": {}, "ends_at": None},
    ]
    path = "/v1/coupons/STORIED"
    answers = [made, *[await client.send("PATCH", path, body=change, headers=office) for change in changes]]

    items = await history(client, "storied")

    assert [4, 3, 2, 1] == [item["version"] for item in items]
    assert ["office"] * 3 == [item["who"] for item in items[:3]]
    assert items[3]["who"].startswith("tests-")
    assert [terms(one.body) for one in reversed(answers)] == [item["after"] for item in items]
    assert [terms(one.body) for one in reversed(answers[:-1])] + [None] == [item["before"] for item in items]
    assert [one.body["updated_at"] for one in reversed(answers)] == [item["when"] for item in items]
    assert abs(datetime.now(UTC) - datetime.fromisoformat(items[0]["when"])) < timedelta(minutes=1)
    assert {"version", "who", "when", "before", "after"} == set(items[0])


async def test_what_was_not_changed_is_not_there(client: Client, coupon: MakeCoupon) -> None:
    """Refused changes leave nothing; of many at once each version has its entry."""
    code = await coupon(max_redemptions=5, max_per_customer=3)
    for body in ({"max_redemptions": None}, {"max_per_customer": 1}, {"starts_at": "x"}, {}):
        assert (await client.send("PATCH", f"/v1/coupons/{code}", body=body)).status in (400, 422)
    assert [1] == [item["version"] for item in await history(client, code)]
    answers = await asyncio.gather(*(client.change_coupon(code, metadata={"n": number}) for number in range(10)))
    assert {"200": 10} == tally(answers)
    items = await history(client, code)
    assert list(range(11, 0, -1)) == [item["version"] for item in items]
    assert [item["after"] for item in items[1:]] == [item["before"] for item in items[:-1]]
    by_version = {one.body["version"]: one.body["metadata"] for one in answers}
    assert by_version == {item["version"]: item["after"]["metadata"] for item in items[:-1]}


async def test_pages(client: Client, coupon: MakeCoupon) -> None:
    """Each entry once, also while more come; a token is good for its own coupon."""
    code, other = await coupon(), await coupon()
    for number in range(12):
        await client.change_coupon(code, metadata={"n": number})
    assert list(range(13, 0, -1)) == [item["version"] for item in await history(client, code, page_size=5)]
    assert list(range(13, 0, -1)) == [item["version"] for item in await history(client, code, page_size=13)]

    first = (await client.get(f"/v1/coupons/{code}/history", page_size=2)).body
    await client.change_coupon(code, status="paused")
    second = (await client.get(f"/v1/coupons/{code}/history", page_token=first["next_page_token"])).body
    assert [13, 12, *range(11, 0, -1)] == [item["version"] for page in (first, second) for item in page["items"]]
    for path in (f"/v1/coupons/{other}/history", "/v1/coupons"):
        wrong = await client.get(path, page_token=first["next_page_token"])
        assert (400, "?page_token") == (wrong.status, wrong.body["errors"][0]["pointer"])


async def test_nothing_to_show(client: Client, coupon: MakeCoupon, admin: Admin) -> None:
    """No coupon is 404; a coupon that is older than histories has an empty one, until it is changed."""
    assert {"404 coupon_not_found": 1} == tally([await client.get("/v1/coupons/NO-SUCH/history")])
    assert {"400 invalid_request": 2} == tally(
        [await client.get("/v1/coupons/-/history"), await client.get("/v1/coupons/A/history", status="active")]
    )
    code = await coupon(max_redemptions=5, status="archived")
    admin.run("DELETE h FROM coupon_history h JOIN coupon c ON c.id = h.coupon_id WHERE c.code = %s", code)
    assert [] == await history(client, code)
    await client.change_coupon(code, max_redemptions=6)
    (item,) = await history(client, code)
    assert (2, 5, 6) == (item["version"], item["before"]["max_redemptions"], item["after"]["max_redemptions"])


@pytest.mark.parametrize(("scope", "status"), [("read", 200), ("admin", 200), ("redeem", 403)])
async def test_scope(client: Client, coupon: MakeCoupon, admin: Admin, scope: str, status: int) -> None:
    path = f"/v1/coupons/{await coupon()}/history"
    assert status == (await client.send("GET", path, headers=key_of(admin, f"h-{scope}", scope))).status


async def test_a_large_move_is_one_version(
    client: Client,
    api_key: str,
    admin: Admin,
    stores: Stores,
    start_usher: StartUsher,
    faults: Callable[[int], Proxy],
) -> None:
    """However many pieces it goes in; between two of them, nothing else is changed."""
    proxy = faults(stores.mariadb.port)
    mover = start_usher(database_url=proxy.url(stores.mariadb.url), settings=PATIENT)
    await client.create_coupon("MOVED", max_redemptions=30_000)
    coupon_id = admin.value("SELECT id FROM coupon WHERE code = 'MOVED'")
    name = "LPAD(seq, 9, '0')"
    admin.run(
        "INSERT INTO redemption (id, coupon_id, customer_id, order_id, status, seat, live_order_id, api_key_id, created_at, "
        f"confirmed_at) SELECT UNHEX(LPAD(HEX(seq), 32, '0')), {coupon_id}, {name}, {name}, 'confirmed', seq, {name}, 1, "
        "UTC_TIMESTAMP(6), UTC_TIMESTAMP(6) FROM seq_15001_to_30000"
    )
    held = proxy.hold(holding(b"for update"), skip=1)
    async with Client(mover.url, key=api_key) as elsewhere:
        lowering = asyncio.create_task(elsewhere.send("PATCH", "/v1/coupons/MOVED", body={"max_redemptions": 15_000}))
        await until(lambda: held.hits == 1, what="the second piece begins")
        late = await client.send("PATCH", "/v1/coupons/MOVED", body={"metadata": {"late": True}})
        held.release()
        lowered = await lowering
    mover.stop()

    assert (503, "busy", "1") == (late.status, late.code, late.headers["Retry-After"])
    assert (200, 15_000) == (lowered.status, lowered.body["max_redemptions"])
    assert 15_000 == admin.value("SELECT MAX(seat) FROM redemption WHERE coupon_id = %s", coupon_id)
    assert {"409 coupon_exhausted": 1} == tally([await client.redeem("MOVED", "ann", "order")])
    items = await history(client, "MOVED")
    (entry,) = [
        item for item in items if item["after"]["max_redemptions"] != (item["before"] or item["after"])["max_redemptions"]
    ]
    assert (30_000, 15_000) == (entry["before"]["max_redemptions"], entry["after"]["max_redemptions"])
