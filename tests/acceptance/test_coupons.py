"""The contract of `/v1/coupons`."""

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta

import pytest

from tests.acceptance.conftest import MakeCoupon, StartUsher
from tests.auditor import Auditor
from tests.driver import Answer, Client, Json, orders, repeating, tally
from tests.stores import Admin
from tests.usher_process import Usher
from tests.waiting import until, until_async

FIELDS = {
    "code", "max_redemptions", "max_per_customer", "starts_at", "ends_at", "status", "metadata", "version", "created_at",
    "updated_at",
}  # fmt: skip
LATER = "2099-12-31T23:59:59.999999Z"
BORDER_S = 0.5
"""From the change of a coupon to the beginning or the end of its window."""
CLOCKS_DIFFER = timedelta(milliseconds=20)
"""The service estimates the ledger's clock."""
ROUNDS = 5
"""How often the other process redeems ten before something changes, and how often it tries afterwards."""


@pytest.fixture(scope="module")
def other_usher(start_usher: StartUsher) -> Usher:
    return start_usher()


@pytest.fixture
async def other(other_usher: Usher, api_key: str) -> AsyncIterator[Client]:
    """A client of another process."""
    async with Client(other_usher.url, key=api_key) as connected:
        yield connected


def check_problem(answer: Answer, status: int, code: str) -> None:
    assert (status, code) == (answer.status, answer.code)
    assert "application/problem+json" == answer.headers["Content-Type"].partition(";")[0]
    assert {"type", "title", "status", "detail", "code", "request_id"} <= set(answer.body)
    assert f"https://usher.invalid/problems/{code}" == answer.body["type"]


async def test_create(client: Client) -> None:
    """All fields come back as they were given, with a version, times, Location and ETag."""
    given = {
        "code": "SUMMER-26",
        "max_redemptions": 2_000_000_000,
        "max_per_customer": 1_000,
        "starts_at": "2026-11-22T10:15:30.123456Z",
        "ends_at": LATER,
        "status": "paused",
        "metadata": {"campaign": "été", "nested": {"a": [1, 2.5, None, True]}, "": ""},
    }

    answer = await client.send("POST", "/v1/coupons", body=given)

    assert (201, "/v1/coupons/SUMMER-26", '"1"') == (answer.status, answer.headers["Location"], answer.headers["ETag"])
    assert FIELDS == set(answer.body)
    assert given == {name: answer.body[name] for name in given}
    assert (1, answer.body["created_at"]) == (answer.body["version"], answer.body["updated_at"])
    assert abs(datetime.now(UTC) - datetime.fromisoformat(answer.body["created_at"])) < timedelta(minutes=1)


async def test_create_with_a_code_only(client: Client) -> None:
    """Unlimited, open, active."""
    answer = await client.create_coupon("BARE")
    empty = {"max_redemptions": None, "max_per_customer": None, "starts_at": None, "ends_at": None}
    assert 201 == answer.status
    assert {**empty, "status": "active", "metadata": {}} == {name: answer.body[name] for name in (*empty, "status", "metadata")}


@pytest.mark.parametrize(
    ("sent", "code"), [("  spring ", "SPRING"), ("a", "A"), ("0", "0"), ("x_-y", "X_-Y"), ("L" * 64, "L" * 64), ("\tt ", "T")]
)
async def test_codes_are_trimmed_and_folded(client: Client, sent: str, code: str) -> None:
    """In a new coupon, in a redemption, in a path and in a filter."""
    assert (201, code) == ((made := await client.create_coupon(sent)).status, made.body["code"])
    assert 409 == (await client.create_coupon(code)).status
    redeemed = await client.redeem(sent, "c", "o")
    assert (201, code) == (redeemed.status, redeemed.body["code"])
    assert code == (await client.get(f"/v1/coupons/{code.lower()}")).body["code"]
    assert [redeemed.id] == [item["id"] for item in (await client.get("/v1/redemptions", code=sent)).body["items"]]


async def test_times_are_told_in_utc(client: Client) -> None:
    answer = await client.create_coupon("ZONES", starts_at="2026-11-22T12:00:00+02:00", ends_at="2026-11-22t10:00:00.5z")
    assert ("2026-11-22T10:00:00.000000Z", "2026-11-22T10:00:00.500000Z") == (answer.body["starts_at"], answer.body["ends_at"])


async def test_create_twice(client: Client, coupon: MakeCoupon) -> None:
    """The second is told 409 `coupon_exists`, and the first is as it was."""
    code = await coupon(max_redemptions=5)
    check_problem(await client.create_coupon(code, max_redemptions=6), 409, "coupon_exists")
    assert 5 == (await client.get(f"/v1/coupons/{code}")).body["max_redemptions"]


async def test_create_at_once(client: Client, other: Client) -> None:
    """Of 20 who create one code, one does."""
    answers = await asyncio.gather(*((client, other)[n % 2].create_coupon("AT-ONCE", max_redemptions=n + 1) for n in range(20)))
    assert {"201": 1, "409 coupon_exists": 19} == tally(answers)


async def test_usage(client: Client, coupon: MakeCoupon) -> None:
    """Exact and counted in the ledger; `remaining` is null without a limit."""
    code, unlimited = await coupon(max_redemptions=5), await coupon()
    await client.redeem_all(code, orders(7))
    await client.redeem_all(unlimited, orders(3))

    usage = (await client.get(f"/v1/coupons/{code}")).body["usage"]
    of_unlimited = (await client.get(f"/v1/coupons/{unlimited}")).body["usage"]

    assert {"reserved": 0, "confirmed": 5, "remaining": 0, "source": "ledger"} == {
        k: v for k, v in usage.items() if k != "as_of"
    }
    assert (3, None) == (of_unlimited["confirmed"], of_unlimited["remaining"])
    assert abs(datetime.now(UTC) - datetime.fromisoformat(usage["as_of"])) < timedelta(minutes=1)


async def test_unknown_coupon(client: Client) -> None:
    check_problem(await client.get("/v1/coupons/NO-SUCH"), 404, "coupon_not_found")
    check_problem(await client.send("PATCH", "/v1/coupons/NO-SUCH", body={"status": "paused"}), 404, "coupon_not_found")
    check_problem(await client.redeem("NO-SUCH", "c", "o"), 404, "coupon_not_found")


async def test_change(client: Client, coupon: MakeCoupon) -> None:
    """A field replaces the old one whole, null clears it, the rest stays, and the version rises."""
    code = await coupon(max_redemptions=5, max_per_customer=2, ends_at=LATER, metadata={"a": 1, "b": 2})

    changed = await client.change_coupon(code, max_redemptions=6, ends_at=None, metadata={"c": 3})

    expected = {
        "max_redemptions": 6,
        "max_per_customer": 2,
        "ends_at": None,
        "metadata": {"c": 3},
        "version": 2,
        "status": "active",
    }
    assert expected == {name: changed.body[name] for name in expected}
    assert '"2"' == changed.headers["ETag"]
    read = await client.get(f"/v1/coupons/{code}")
    assert (changed.body, '"2"') == ({name: read.body[name] for name in FIELDS}, read.headers["ETag"])
    assert read.body["updated_at"] > read.body["created_at"]


async def test_if_match(client: Client, coupon: MakeCoupon) -> None:
    """A change that names another version is refused with 412 and changes nothing; of many that name the same, one is made."""
    code = await coupon(max_redemptions=5)

    async def change(tag: str, **fields: Json) -> Answer:
        return await client.send("PATCH", f"/v1/coupons/{code}", body=fields, headers={"If-Match": tag})

    check_problem(await change('"2"', max_redemptions=9), 412, "version_mismatch")
    check_problem(await change('"nonsense"', max_redemptions=9), 412, "version_mismatch")
    assert 5 == (await client.get(f"/v1/coupons/{code}")).body["max_redemptions"]
    answers = await asyncio.gather(*(change('"1"', max_redemptions=10 + n) for n in range(10)))
    assert {"200": 1, "412 version_mismatch": 9} == tally(answers)
    assert 200 == (await change("*", status="paused")).status
    assert 3 == (await client.get(f"/v1/coupons/{code}")).body["version"]


async def test_kind_of_limit_is_fixed(client: Client, coupon: MakeCoupon) -> None:
    """A limited coupon stays limited, an unlimited one unlimited; the limit per customer is not lowered."""
    limited, unlimited = await coupon(max_redemptions=5, max_per_customer=3), await coupon()

    async def change(code: str, **fields: Json) -> Answer:
        return await client.send("PATCH", f"/v1/coupons/{code}", body=fields)

    check_problem(await change(limited, max_redemptions=None), 422, "limit_kind_fixed")
    check_problem(await change(unlimited, max_redemptions=5), 422, "limit_kind_fixed")
    check_problem(await change(limited, max_per_customer=2), 422, "customer_limit_lowered")
    assert 1 == (await client.get(f"/v1/coupons/{limited}")).body["version"]


async def test_busy(client: Client, coupon: MakeCoupon, admin: Admin) -> None:
    """While a large change goes on there is no other: 503 `busy` with Retry-After, whatever is to be changed."""
    code = await coupon(max_redemptions=5)
    admin.run("UPDATE coupon SET busy_until = UTC_TIMESTAMP(6) + INTERVAL 1 HOUR WHERE code = %s", code)
    for body in ({"max_redemptions": 6}, {"status": "paused"}):
        answer = await client.send("PATCH", f"/v1/coupons/{code}", body=body)
        check_problem(answer, 503, "busy")
        assert "1" == answer.headers["Retry-After"]
    admin.run("UPDATE coupon SET busy_until = UTC_TIMESTAMP(6) WHERE code = %s", code)
    assert 2 == (await client.change_coupon(code, max_redemptions=6)).body["version"]


async def test_list(client: Client) -> None:
    """By code, filtered by status and beginning, page by page, each coupon once; a token is good for its own filters only."""
    for number in range(7):
        await client.create_coupon(f"LISTED-{number}", status="paused" if number % 2 else "active")

    async def read(**query: str | int) -> list[str]:
        codes, token = [], None
        for _ in range(10):
            page = await client.get("/v1/coupons", **query, **({"page_token": token} if token else {}))
            assert 200 == page.status
            assert {"items", "next_page_token"} == set(page.body)
            assert all(FIELDS == set(item) for item in page.body["items"])
            codes += [item["code"] for item in page.body["items"]]
            token = page.body["next_page_token"]
            if token is None:
                return codes
        raise AssertionError("the pages have no end")

    everything = [f"LISTED-{number}" for number in range(7)]
    assert everything == await read(prefix="LISTED-")
    assert everything == await read(prefix="listed-", page_size=3)
    assert everything[1::2] == await read(prefix="LISTED-", status="paused", page_size=1)
    assert [] == await read(prefix="LISTED-8")
    assert set(everything) <= set(await read(page_size=200))
    token = (await client.get("/v1/coupons", prefix="LISTED-", page_size=1)).body["next_page_token"]
    check_problem(await client.get("/v1/coupons", prefix="L", page_token=token), 400, "invalid_request")


# --- What a change means to those who redeem ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "refusal"),
    [
        ({"status": "paused"}, "422 coupon_paused"),
        ({"status": "archived"}, "404 coupon_not_found"),
        ({"starts_at": LATER}, "422 coupon_not_started"),
        ({"ends_at": "2020-01-01T00:00:00Z"}, "422 coupon_ended"),
    ],
    ids=str,
)
async def test_change_stops_redemptions_in_every_process(
    client: Client, other: Client, coupon: MakeCoupon, auditor: Auditor, change: dict[str, str], refusal: str
) -> None:
    """Once the change is answered nobody redeems any more, nor in the other process, which was redeeming all the while."""
    code = await coupon(max_redemptions=100_000)
    number = 0

    async def keep_redeeming() -> None:
        nonlocal number
        number += 10
        answers = await other.redeem_all(code, orders(10, f"busy-{number}"))
        assert set(tally(answers)) <= {"201", refusal}

    async with repeating(keep_redeeming, every_s=0) as redeemed:
        await until(lambda: redeemed.times >= ROUNDS, what="the other process redeems")
        await client.change_coupon(code, **change)
        late = await other.redeem_all(code, orders(50, "late"))
        later = await client.redeem_all(code, orders(50, "later"))
        live, times = len(auditor.live(code)), redeemed.times
        await until(lambda: redeemed.times >= times + ROUNDS, what="the other process tries on")

    assert {refusal: 50} == tally(late) == tally(later)
    assert live == len(auditor.check(code)) > 0
    undone = {"status": "active", "starts_at": None, "ends_at": None}
    await client.change_coupon(code, **{name: undone[name] for name in change})
    assert {"201": 50} == tally(await other.redeem_all(code, orders(50, "late")))


async def test_raised_limits_can_be_used_at_once(client: Client, other: Client, coupon: MakeCoupon, auditor: Auditor) -> None:
    """Once a raise is answered, both processes use it."""
    code = await coupon(max_redemptions=10, max_per_customer=1)
    assert {"201": 10, "409 coupon_exhausted": 10} == tally(await other.redeem_all(code, orders(20)))

    await client.change_coupon(code, max_redemptions=15)
    raised = await other.redeem_all(code, orders(20, "raised"))
    await client.change_coupon(code, max_redemptions=20, max_per_customer=2)
    customers = [customer for customer, _ in orders(20)]
    second = await other.redeem_all(code, [(customer, f"second-{customer}") for customer in customers])

    assert {"201": 5, "409 coupon_exhausted": 15} == tally(raised)
    assert {"201": 5, "409 coupon_exhausted": 15} == tally(second)
    assert 20 == len(auditor.check(code, [*raised, *second]))


async def test_lowered_limits_hold_at_once(client: Client, other: Client, coupon: MakeCoupon, auditor: Auditor) -> None:
    """Once a lowering is answered nobody is admitted above it, in any process; raised again, the same number is to be had."""
    code = await coupon(max_redemptions=500)
    number = 0

    async def keep_redeeming() -> None:
        nonlocal number
        number += 10
        answers = await other.redeem_all(code, orders(10, f"busy-{number}"))
        assert set(tally(answers)) <= {"201", "409 coupon_exhausted"}

    async with repeating(keep_redeeming, every_s=0.01) as redeemed:
        await until(lambda: redeemed.times >= ROUNDS, what="the other process redeems")
        live = len(auditor.live(code))
        await client.change_coupon(code, max_redemptions=max(1, live // 2))
        at_once = len(auditor.live(code))
        refused = [*await other.redeem_all(code, orders(20, "late")), *await client.redeem_all(code, orders(20, "later"))]
        times = redeemed.times
        await until(lambda: redeemed.times >= times + ROUNDS, what="the other process tries on")

    assert {"409 coupon_exhausted": 40} == tally(refused)
    assert at_once == len(auditor.live(code)) >= live > 0
    assert 0 == (await client.get(f"/v1/coupons/{code}")).body["usage"]["remaining"]
    await client.change_coupon(code, max_redemptions=at_once + 7)
    raised = [*await other.redeem_all(code, orders(5, "raised")), *await client.redeem_all(code, orders(5, "again"))]
    assert {"201": 7, "409 coupon_exhausted": 3} == tally(raised)
    assert at_once + 7 == len(auditor.check(code, raised))


async def passes(client: Client, coupon: MakeCoupon, border: str, words: list[str]) -> list[str]:
    """What a customer is told until this border is passed: the first word before it and the second after it, to the moment."""
    code = await coupon(max_redemptions=1_000_000, **{border: LATER})
    seen = [*tally([await client.redeem(code, "c", "early")])]
    at = datetime.now(UTC) + timedelta(seconds=BORDER_S)
    await client.change_coupon(code, **{border: at.isoformat()})

    async def is_passed() -> bool:
        before = datetime.now(UTC)
        (told,) = tally([await client.redeem(code, "c", f"order-{len(seen)}")])
        assert told in (words[before >= at + CLOCKS_DIFFER], words[datetime.now(UTC) >= at - CLOCKS_DIFFER])
        seen.append(told)
        return told == words[1]

    await until_async(is_passed, what=f"{border} is passed")
    return seen


async def test_window_opens_and_closes_by_itself(client: Client, coupon: MakeCoupon) -> None:
    """By the clock, without a change."""
    borders = {"starts_at": ["422 coupon_not_started", "201"], "ends_at": ["201", "422 coupon_ended"]}
    seen = await asyncio.gather(*(passes(client, coupon, border, words) for border, words in borders.items()))
    assert list(borders.values()) == [[told[0], told[-1]] for told in seen]
