"""`POST /v1/validations` refuses exactly when redeeming would, and nobody notices that somebody has asked."""

import asyncio
import itertools
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import redis.asyncio

from tests.acceptance.conftest import MakeCoupon, Stores
from tests.auditor import Auditor
from tests.driver import Answer, Client, Json, orders, tally
from tests.stores import Admin
from tests.waiting import until_async

Redis = redis.asyncio.Redis

LATER = "2099-12-31T23:59:59Z"
VALIDATIONS = 1_000
STATEMENTS_MAX = 400
"""They come one by one over a hundred connections; those that come together are asked together."""
BORDER_S = 0.5
"""From the change of a coupon to the beginning or the end of its window."""
numbers = itertools.count(1)


async def validate(client: Client, code: str, customer: str | None = None) -> Answer:
    body = {"code": code} if customer is None else {"code": code, "customer_id": customer}
    return await client.send("POST", "/v1/validations", body=body)


def said(answer: Answer) -> str:
    """A validation's word, or a redemption's, as one text: `valid`, a refusal's code, or another problem's."""
    if answer.status == 200 and "valid" in answer.body:
        return str(answer.body.get("reason", "valid"))
    return "valid" if answer.status == 201 else answer.code


async def agreed(client: Client, code: str, customer: str) -> str:
    """What a validation says, and then a redemption as well."""
    word = said(await validate(client, code, customer))
    assert word == said(await client.redeem(code, customer, f"order-{next(numbers)}"))
    return word


async def hold(client: Client, code: str, customer: str) -> Answer:
    body = {"code": code, "customer_id": customer, "order_id": f"hold-{next(numbers)}", "hold_s": 600}
    return await client.send("POST", "/v1/redemptions", body=body)


def overdue(admin: Admin, held: Answer) -> None:
    """The hold's time is over, and nobody has written so."""
    admin.run(
        "UPDATE redemption SET expires_at = UTC_TIMESTAMP(6) - INTERVAL 1 SECOND WHERE id = UNHEX(%s)",
        held.id.replace("-", ""),
    )


def key(code: str, part: str) -> str:
    return f"usher:1:{{{code}}}:{part}"


# --- Each refusal ----------------------------------------------------------------------------------------------------


async def test_valid(client: Client, coupon: MakeCoupon) -> None:
    """With what is left; without a limit that is null. There is no reason."""
    limited, unlimited = await coupon(max_redemptions=5), await coupon()
    assert {"valid": True, "remaining": 5} == (await validate(client, limited)).body
    assert {"valid": True, "remaining": None} == (await validate(client, unlimited, "ann")).body
    await client.redeem_all(limited, orders(3))
    assert {"valid": True, "remaining": 2} == (await validate(client, f" {limited.lower()}", "ann")).body


@pytest.mark.parametrize(
    ("fields", "reason", "remaining"),
    [
        ({"status": "archived"}, "coupon_not_found", 0),
        ({"status": "paused", "starts_at": LATER}, "coupon_paused", 7),
        ({"starts_at": LATER}, "coupon_not_started", 7),
        ({"ends_at": "2020-01-01T00:00:00Z"}, "coupon_ended", 7),
        ({"ends_at": "2020-01-01T00:00:00Z", "max_redemptions": None}, "coupon_ended", None),
    ],
    ids=str,
)
async def test_status_and_window(
    client: Client, coupon: MakeCoupon, fields: dict[str, Json], reason: str, remaining: int | None
) -> None:
    code = await coupon(**{"max_redemptions": 7, **fields})
    for customer in (None, "ann"):
        assert {"valid": False, "reason": reason, "remaining": remaining} == (await validate(client, code, customer)).body
    assert reason == await agreed(client, code, "ann")


async def test_unknown_code(client: Client) -> None:
    assert {"valid": False, "reason": "coupon_not_found", "remaining": 0} == (await validate(client, "NO-SUCH")).body
    assert "coupon_not_found" == await agreed(client, "NO-SUCH", "ann")


async def test_a_change_counts_at_once(client: Client, coupon: MakeCoupon) -> None:
    code = await coupon(max_redemptions=2)
    assert "valid" == await agreed(client, code, "ann")
    for change, word in (
        ({"status": "paused"}, "coupon_paused"),
        ({"status": "active"}, "valid"),
        ({"ends_at": "2020-01-01T00:00:00Z"}, "coupon_ended"),
        ({"ends_at": None}, "coupon_exhausted"),
        ({"max_redemptions": 3}, "valid"),
        ({"max_redemptions": 2}, "coupon_exhausted"),
        ({"status": "archived"}, "coupon_not_found"),
    ):
        await client.change_coupon(code, **change)
        assert word == await agreed(client, code, "bob"), change


# --- Borders ---------------------------------------------------------------------------------------------------------


async def test_last_seat(client: Client, coupon: MakeCoupon) -> None:
    code = await coupon(max_redemptions=3)
    words = [await agreed(client, code, f"customer-{number}") for number in range(5)]
    assert ["valid"] * 3 + ["coupon_exhausted"] * 2 == words
    assert {"valid": False, "reason": "coupon_exhausted", "remaining": 0} == (await validate(client, code)).body


async def test_last_seat_of_the_customer(client: Client, coupon: MakeCoupon) -> None:
    """Of a limited coupon and of an unlimited one; the customer's limit is told before the coupon's."""
    for limit in (2, 9, None):
        code = await coupon(max_redemptions=limit, max_per_customer=2)
        assert ["valid", "valid", "customer_limit_reached"] == [await agreed(client, code, "ann") for _ in range(3)]
        nobody = {2: "coupon_exhausted"}.get(limit or 0, "valid")
        assert nobody == said(await validate(client, code)) == await agreed(client, code, "bob")


async def test_cancelled(client: Client, coupon: MakeCoupon) -> None:
    """The use is there again, for everybody."""
    code = await coupon(max_redemptions=1, max_per_customer=1)
    held = await hold(client, code, "ann")
    assert ["customer_limit_reached", "coupon_exhausted"] == [await agreed(client, code, who) for who in ("ann", "bob")]
    await client.send("POST", f"/v1/redemptions/{held.id}/cancel")
    assert ["valid", "valid"] == [said(await validate(client, code, who)) for who in ("ann", "bob")]
    assert ["valid", "coupon_exhausted"] == [await agreed(client, code, who) for who in ("bob", "carl")]


@pytest.mark.parametrize("customer", ["ann", "bob"])
@pytest.mark.parametrize(
    "limits", [{"max_redemptions": 1}, {"max_per_customer": 1}, {"max_redemptions": 1, "max_per_customer": 1}]
)
async def test_expired_hold(client: Client, coupon: MakeCoupon, admin: Admin, customer: str, limits: dict[str, int]) -> None:
    """It does not count, swept or not, against its own customer or another one."""
    code = await coupon(**limits)
    overdue(admin, await hold(client, code, "ann"))
    assert "valid" == await agreed(client, code, customer)


async def test_expired_hold_of_an_exhausted_coupon(client: Client, coupon: MakeCoupon, admin: Admin) -> None:
    """A search of a moment ago has found none: to others that holds for a second, to its customer it never does."""
    code = await coupon(max_redemptions=1, max_per_customer=1)
    held = await hold(client, code, "ann")
    assert "coupon_exhausted" == await agreed(client, code, "bob")
    overdue(admin, held)
    assert "valid" == await agreed(client, code, "ann")


async def passes(client: Client, coupon: MakeCoupon, border: str, word: str) -> list[str]:
    """What redemptions are told until they are told this: each what a validation was told just before it, or just after it."""
    code = await coupon(**{border: LATER})
    seen = [await agreed(client, code, "c")]
    await client.change_coupon(code, **{border: (datetime.now(UTC) + timedelta(seconds=BORDER_S)).isoformat()})

    async def is_passed() -> bool:
        before = said(await validate(client, code))
        redeemed = said(await client.redeem(code, "c", f"window-{len(seen)}"))
        after = said(await validate(client, code))
        assert redeemed in (before, after)
        seen.append(redeemed)
        return redeemed == word

    await until_async(is_passed, what=f"{border} is passed")
    return seen


async def test_window_opens_and_closes_by_itself(client: Client, coupon: MakeCoupon) -> None:
    """By the same clock as redeeming."""
    seen = await asyncio.gather(passes(client, coupon, "starts_at", "valid"), passes(client, coupon, "ends_at", "coupon_ended"))
    assert ["coupon_not_started", "valid"] == [told[0] for told in seen]


async def test_over(client: Client, coupon: MakeCoupon) -> None:
    """More than the limit are live: exhausted until enough of them have ended."""
    code = await coupon(max_redemptions=6)
    held = [await hold(client, code, f"customer-{number}") for number in range(6)]
    await client.change_coupon(code, max_redemptions=4)
    for number, word in enumerate(["coupon_exhausted"] * 3 + ["valid", "valid"]):
        assert word == said(answer := await validate(client, code)), number
        assert answer.body["remaining"] == max(0, number - 2)
        await client.send("POST", f"/v1/redemptions/{held[number].id}/cancel")
    assert ["valid"] * 3 + ["coupon_exhausted"] == [await agreed(client, code, f"late-{number}") for number in range(4)]


async def test_busy(client: Client, coupon: MakeCoupon, admin: Admin) -> None:
    """While a large move goes on nobody can say; what is refused in any case still is."""
    code = await coupon(max_redemptions=5)
    admin.run("UPDATE coupon SET busy_until = UTC_TIMESTAMP(6) + INTERVAL 1 HOUR WHERE code = %s", code)
    answer = await validate(client, code)
    assert (503, "busy", "1") == (answer.status, answer.code, answer.headers["Retry-After"])
    assert "busy" == await agreed(client, code, "ann")
    admin.run("UPDATE coupon SET status = 'paused' WHERE code = %s", code)
    assert "coupon_paused" == said(await validate(client, code))


# --- Whatever Redis says ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("used", [3, 5])
async def test_after_flushall(client: Client, coupon: MakeCoupon, redis_client: Redis, used: int) -> None:
    code = await coupon(max_redemptions=5)
    await client.redeem_all(code, orders(used))
    await redis_client.flushall()
    remaining = 5 - used
    assert remaining == (await validate(client, code)).body["remaining"]
    assert ("valid" if remaining else "coupon_exhausted") == await agreed(client, code, "ann")


EDITS: dict[str, list[tuple[Any, ...]]] = {
    "next is 0": [("HSET", "counter", "next", 0)],
    "next is the limit": [("HSET", "counter", "next", 6, "searched", 0)],
    "a limit that is too high": [("HSET", "counter", "max_redemptions", 50)],
    "a limit that is too low": [("HSET", "counter", "max_redemptions", 1, "next", 1)],
    "another version": [("HSET", "counter", "version", 1_000)],
    "another coupon": [("HSET", "counter", "coupon_id", 999_999_999)],
    "free seats that are taken": [("HSET", "counter", "next", 6), ("SADD", "free", 1, 2, 3)],
    "free seats that are none": [("SADD", "free", "junk", "", "-1", "007")],
    "more free seats than there are": [("SADD", "free", *range(1, 1_000))],
    "paused": [("HSET", "counter", "status", "paused")],
    "ended": [("HSET", "counter", "ends_at", 1)],
    "customers have had theirs": [("HSET", "customers", "ann", 2)],
    "a counter of another type": [("DEL", "counter"), ("SET", "counter", "7")],
    "free seats of another type": [("DEL", "free"), ("SET", "free", "7")],
}


@pytest.mark.parametrize("used", [3, 6])
@pytest.mark.parametrize("edit", EDITS)
async def test_edited_counter(
    client: Client, coupon: MakeCoupon, redis_client: Redis, auditor: Auditor, edit: str, used: int
) -> None:
    """The ledger knows better, for a validation as for a redemption."""
    code = await coupon(max_redemptions=6, max_per_customer=2)
    await client.redeem_all(code, orders(used))
    for command, part, *rest in EDITS[edit]:
        await redis_client.execute_command(command, key(code, part), *rest)  # type: ignore[no-untyped-call]

    answer = await validate(client, code, "ann")

    assert ("valid" if used < 6 else "coupon_exhausted") == said(answer) == await agreed(client, code, "ann")
    assert (answer.body["remaining"] > 0) == (used < 6)
    auditor.check(code)


async def test_edited_again_and_again(client: Client, coupon: MakeCoupon, redis_client: Redis) -> None:
    """Somebody resets a counter all the time: the ledger answers by itself."""
    code = await coupon(max_redemptions=3)
    await client.redeem_all(code, orders(2))
    done = asyncio.Event()

    async def reset() -> None:
        while not done.is_set():
            await redis_client.hset(key(code, "counter"), mapping={"next": "0", "version": "1"})
            await asyncio.sleep(0)

    resetting = asyncio.create_task(reset())
    words = {said(one) for one in await asyncio.gather(*(validate(client, code) for _ in range(20)))}
    await client.redeem(code, "ann", "last")
    words_then = {said(one) for one in await asyncio.gather(*(validate(client, code) for _ in range(20)))}
    done.set()
    await resetting
    assert ({"valid"}, {"coupon_exhausted"}) == (words, words_then)


# --- Nothing is touched ----------------------------------------------------------------------------------------------


async def test_nothing_is_touched(client: Client, coupon: MakeCoupon, redis_client: Redis, auditor: Auditor) -> None:
    """No row, no claim, no count; the counter is as it was."""
    code = await coupon(max_redemptions=5, max_per_customer=1)
    await client.redeem(code, "ann", "order")
    coupon_row, rows = auditor.coupon(code), auditor.rows(code)
    parts = {part: await redis_client.dump(key(code, part)) for part in ("counter", "free", "pending", "customers")}

    for customer in (None, "ann", "bob"):
        await validate(client, code, customer)

    assert (coupon_row, rows) == (auditor.coupon(code), auditor.rows(code))
    assert parts == {part: await redis_client.dump(key(code, part)) for part in parts}


async def test_a_thousand_cost_few_statements(client: Client, coupon: MakeCoupon, admin: Admin) -> None:
    code = await coupon(max_redemptions=500, max_per_customer=1)
    before = admin.status("Com_select")
    answers = await asyncio.gather(*(validate(client, code, f"customer-{number}") for number in range(VALIDATIONS)))
    statements = admin.status("Com_select") - before
    assert {(200, True, 500)} == {(one.status, one.body["valid"], one.body["remaining"]) for one in answers}
    assert statements <= STATEMENTS_MAX


async def test_beside_redemptions(client: Client, coupon: MakeCoupon, auditor: Auditor) -> None:
    """A hundred redeem the last uses while others ask: nobody is told a reason that is none, and no use is lost."""
    code = await coupon(max_redemptions=60)
    asked, redeemed = await asyncio.gather(
        asyncio.gather(*(validate(client, code) for _ in range(300))), client.redeem_all(code, orders(100))
    )
    assert {"201": 60, "409 coupon_exhausted": 40} == tally(redeemed)
    assert {"valid", "coupon_exhausted"} >= {said(one) for one in asked}
    assert "coupon_exhausted" == said(await validate(client, code))
    assert 60 == len(auditor.check(code))


# --- Who may ask what ------------------------------------------------------------------------------------------------


async def test_guessing(client: Client, coupon: MakeCoupon) -> None:
    """Who guesses here may not redeem, and the other way round; without a customer nobody is limited."""
    code = await coupon()
    first, second = ([f"{name}-{number}" for number in range(20)] for name in ("FIRST", "SECOND"))
    guesses = await asyncio.gather(*(validate(client, guess, "guesser") for guess in first))
    assert {"coupon_not_found"} == {said(guess) for guess in guesses}
    limited = await validate(client, code, "guesser")
    assert (429, "too_many_attempts") == (limited.status, limited.code)
    assert 1 <= int(limited.headers["Retry-After"]) <= 60
    assert "too_many_attempts" == await agreed(client, code, "guesser")
    assert "too_many_attempts" == said(await validate(client, "ONE-MORE", "guesser"))

    redeemed = await asyncio.gather(*(client.redeem(guess, "other", f"o-{guess}") for guess in second))
    assert {"404 coupon_not_found": 20} == tally(redeemed)
    assert "too_many_attempts" == said(await validate(client, code, "other"))
    of_nobody = await asyncio.gather(*(validate(client, guess) for guess in (*first, *second, "ONE-MORE")))
    assert {"coupon_not_found"} == {said(one) for one in of_nobody}
    assert "valid" == said(await validate(client, code))


@pytest.mark.parametrize(("scope", "status"), [("redeem", 200), ("admin", 200), ("read", 403)])
async def test_scope(client: Client, coupon: MakeCoupon, admin: Admin, scope: str, status: int) -> None:
    code = await coupon()
    headers = {"Authorization": f"Bearer {admin.make_key(f'v-{scope}', scope)}"}
    assert status == (await client.send("POST", "/v1/validations", body={"code": code}, headers=headers)).status


@pytest.mark.parametrize(
    ("body", "pointers"),
    [
        ({}, ["/code"]),
        ({"code": "GOLD 20", "customer_id": ""}, ["/code", "/customer_id"]),
        ({"code": "GOLD20", "order_id": "o"}, ["/order_id"]),
    ],
    ids=str,
)
async def test_invalid_requests(client: Client, body: Json, pointers: list[str]) -> None:
    answer = await client.send("POST", "/v1/validations", body=body)
    assert (400, pointers) == (answer.status, [fault["pointer"] for fault in answer.body["errors"]])


async def test_redis_away(client: Client, coupon: MakeCoupon, stores: Stores) -> None:
    """As for redeeming: nobody notices, whatever the coupon."""
    limited, unlimited = await coupon(max_redemptions=5), await coupon()
    stores.redis.stop()
    try:
        assert ["valid", "valid"] == [await agreed(client, code, "ann") for code in (limited, unlimited)]
    finally:
        stores.redis.start()
    assert ["valid", "valid"] == [await agreed(client, code, "ann") for code in (limited, unlimited)]
