"""Somebody edits a counter by hand. The ledger knows better, and nobody notices."""

import asyncio
import itertools
from collections.abc import Awaitable, Callable

import pytest
import redis.asyncio

from tests.acceptance.conftest import PATIENT, MakeCoupon, StartUsher
from tests.auditor import Auditor
from tests.driver import Client, assert_none_failed, orders, repeating, tally
from tests.usher_process import Usher

Redis = redis.asyncio.Redis
Edit = Callable[[Redis, str], Awaitable[None]]

PARTS = ("counter", "free", "pending", "customers")
BILLION = 1_000_000_000
EDIT_EVERY_S = 0.01
EDITS_MIN = 3
"""Under load an edit that was made less often than this has shown nothing."""
NOT_SEATS = (
    "abc", "", " ", "1.5", "-1", "+1", "01", " 3", "3 ", "1e3", "0x10", "nan", "inf", "٣", "3\n", "\x00", "None", "4294967297",
    "99999999999999999999", "9007199254740993",
)  # fmt: skip


NOT_CLAIMS = ("", "abc", "1", "0 0 0", "-1 -1 -1", "1 2 3 4", "nan nan nan", "1e3 1 1")


@pytest.fixture(scope="module")
def usher(start_usher: StartUsher) -> Usher:
    return start_usher(workers=2, settings=PATIENT)


def key(code: str, part: str) -> str:
    return f"usher:1:{{{code}}}:{part}"


def set_field(field: str, value: object) -> Edit:
    async def edit(client: Redis, code: str) -> None:
        if await client.type(key(code, "counter")) == b"hash":
            await client.hset(key(code, "counter"), field, str(value))

    return edit


def fill_free(*members: object) -> Edit:
    async def edit(client: Redis, code: str) -> None:
        if await client.type(key(code, "free")) in (b"set", b"none"):
            await client.sadd(key(code, "free"), *(str(member) for member in members))

    return edit


def replace_free(*members: object) -> Edit:
    async def edit(client: Redis, code: str) -> None:
        async with client.pipeline(transaction=True) as pipe:
            pipe.delete(key(code, "free"))
            pipe.sadd(key(code, "free"), *(str(member) for member in members))
            await pipe.execute()

    return edit


def fill_hash(part: str, names: list[str], *values: object) -> Edit:
    items = [text for pair in zip(names, itertools.cycle(values), strict=False) for text in map(str, pair)]

    async def edit(client: Redis, code: str) -> None:
        if await client.type(key(code, part)) in (b"hash", b"none"):
            await client.hset(key(code, part), items=items)

    return edit


def delete(*parts: str) -> Edit:
    async def edit(client: Redis, code: str) -> None:
        await client.delete(*(key(code, part) for part in parts))

    return edit


def retype(*parts: str) -> Edit:
    """A string where a hash or a set should be, a list where a string would do as well."""

    async def edit(client: Redis, code: str) -> None:
        async with client.pipeline(transaction=True) as pipe:
            for number, part in enumerate(parts):
                pipe.delete(key(code, part))
                if number % 2:
                    pipe.rpush(key(code, part), "1", "2")
                else:
                    pipe.set(key(code, part), "7")
            await pipe.execute()

    return edit


def both(*edits: Edit) -> Edit:
    async def edit(client: Redis, code: str) -> None:
        for one in edits:
            await one(client, code)

    return edit


KNOWN = [order for _, order in orders(10, "old")]
TO_COME = [order for _, order in orders(200, "new")]
CUSTOMERS = [customer for customer, _ in [*orders(10, "old"), *orders(200, "new")]]

EDITS: dict[str, Edit] = {
    "next is 0": set_field("next", 0),
    "next is 3": set_field("next", 3),
    "next is negative": set_field("next", -5),
    "next is the limit": set_field("next", 23),
    "next is huge": set_field("next", BILLION),
    "next is no number": set_field("next", "abc"),
    "next is nan": set_field("next", "nan"),
    "limits are huge": both(set_field("max_redemptions", BILLION), set_field("max_per_customer", BILLION)),
    "limits are a little higher": both(set_field("max_redemptions", 40), set_field("max_per_customer", 3)),
    "limits are lower": set_field("max_redemptions", 5),
    "limits are none": both(set_field("max_redemptions", 0), set_field("max_per_customer", 0)),
    "limits are empty": both(set_field("max_redemptions", ""), set_field("max_per_customer", "")),
    "limits are no numbers": both(set_field("max_redemptions", "many"), set_field("max_per_customer", "[]")),
    "limits are huge and next is 0": both(set_field("max_redemptions", BILLION), set_field("next", 0)),
    "status is paused": set_field("status", "paused"),
    "status is archived": set_field("status", "archived"),
    "status is unknown": set_field("status", "on fire"),
    "not yet started": set_field("starts_at", 9_999_999_999_999),
    "long ended": set_field("ends_at", 1),
    "version is another": set_field("version", 999),
    "searched in the future": both(set_field("searched", 9_999_999_999_999), set_field("next", 23)),
    "coupon id is another": set_field("coupon_id", 1),
    "coupon id is no number": set_field("coupon_id", "x"),
    "free has 0": fill_free(0),
    "free has taken seats": fill_free(*range(1, 11)),
    "free has all seats": fill_free(*range(1, 24)),
    "free has seats above the limit": fill_free(*range(24, 60), BILLION, 2_000_000_000, 4_294_967_296),
    "free has what are no seats": fill_free(*NOT_SEATS),
    "free has nothing but what are no seats": replace_free(0, *NOT_SEATS, BILLION),
    "free has ten thousand members": fill_free(*range(0, 30_000, 3)),
    "pending of orders to come on taken seats": fill_hash("pending", TO_COME, "1 1 9999999999999", "2 1 1"),
    "pending of orders to come on other seats": fill_hash("pending", TO_COME, "23 1 9999999999999", "99 1 9999999999999"),
    "pending is no claim": fill_hash("pending", [*KNOWN, *TO_COME], *NOT_CLAIMS),
    "customers have many": fill_hash("customers", CUSTOMERS, 999, BILLION),
    "customers have none": fill_hash("customers", CUSTOMERS, 0),
    "customers have no numbers": fill_hash("customers", CUSTOMERS, "abc", "", "-5", "1.5", "1e9", "nan"),
    "counter is gone": delete("counter"),
    "free is gone": delete("free"),
    "pending is gone": delete("pending"),
    "customers are gone": delete("customers"),
    "all but the counter is gone": delete("free", "pending", "customers"),
    "all is gone": delete(*PARTS),
    "counter is of a wrong type": retype("counter"),
    "free is of a wrong type": retype("free"),
    "pending is of a wrong type": retype("pending"),
    "customers are of a wrong type": retype("customers"),
    "all are of wrong types": retype(*PARTS),
}  # fmt: skip


@pytest.fixture
async def other_coupon(coupon: MakeCoupon) -> str:
    """A coupon that nobody redeems, and nobody should: the first in the ledger or not, its id is one."""
    return await coupon("SOMEBODY-ELSES", max_redemptions=1_000)


@pytest.mark.parametrize("edit", EDITS.values(), ids=EDITS.keys())
async def test_edited_at_rest(client: Client, coupon: MakeCoupon, auditor: Auditor, redis_client: Redis, edit: Edit) -> None:
    """After the edit each customer still gets one, 13 of 40 newcomers the rest, and nobody sees an error."""
    code = await coupon(max_redemptions=23, max_per_customer=1)
    old = await client.redeem_all(code, orders(10, "old"))
    await edit(redis_client, code)

    again, replayed, new = await asyncio.gather(
        client.redeem_all(code, [(customer, f"{order}-2") for customer, order in orders(10, "old")]),
        client.redeem_all(code, orders(10, "old")),
        client.redeem_all(code, orders(40, "new")),
    )

    assert {"201": 10} == tally(old)
    assert {"409 customer_limit_reached": 10} == tally(again)
    assert {"200": 10} == tally(replayed)
    assert [answer.id for answer in old] == [answer.id for answer in replayed]
    assert set(tally(new)) <= {"201", "409 coupon_exhausted"}
    auditor.check(code, [*old, *again, *replayed, *new])
    assert 23 == len(await auditor.fill(client, code))


@pytest.mark.parametrize("edit", EDITS.values(), ids=EDITS.keys())
async def test_edited_under_load(client: Client, coupon: MakeCoupon, auditor: Auditor, redis_client: Redis, edit: Edit) -> None:
    """The edit is made every 10 ms while 400 requests of 200 customers run for 23 uses."""
    code = await coupon(max_redemptions=23, max_per_customer=1)
    wanted = [*orders(200, "new"), *((customer, f"{order}-2") for customer, order in orders(200, "new"))]

    answers = []
    async with repeating(lambda: edit(redis_client, code), every_s=EDIT_EVERY_S) as edits:
        for wave in range(EDITS_MIN + 1):  # A machine that redeems faster than it edits has to wait for each edit.
            while edits.times <= wave:  # noqa: ASYNC110 - the count is all there is to look at
                await asyncio.sleep(0.001)
            answers += await client.redeem_all(code, wanted[wave :: EDITS_MIN + 1])

    assert edits.times >= EDITS_MIN
    assert_none_failed(answers)
    assert set(tally(answers)) <= {"201", "409 coupon_exhausted", "409 customer_limit_reached"}
    auditor.check(code, answers)
    assert 23 == len(await auditor.fill(client, code))


async def test_counter_with_another_coupons_id(
    client: Client, coupon: MakeCoupon, auditor: Auditor, redis_client: Redis, other_coupon: str
) -> None:
    """A counter that names another coupon's id takes nothing away from that one."""
    code = await coupon(max_redemptions=23)
    await client.redeem_all(code, orders(5, "old"))
    await redis_client.hset(key(code, "counter"), "coupon_id", str(auditor.coupon(other_coupon)["id"]))

    answers = await client.redeem_all(code, orders(30))

    assert {"201": 18, "409 coupon_exhausted": 12} == tally(answers)
    assert 23 == len(auditor.check(code, answers))
    assert [] == auditor.rows(other_coupon)


async def test_limits_of_the_counter_are_read_from_it(client: Client, coupon: MakeCoupon, redis_client: Redis) -> None:
    """The edits above meet what Usher uses: these fields are there, with the coupon's values."""
    code = await coupon(max_redemptions=23, max_per_customer=2)
    await client.redeem_all(code, orders(4))

    fields = {as_text(name): as_text(value) for name, value in (await redis_client.hgetall(key(code, "counter"))).items()}

    edited = {
        "next",
        "max_redemptions",
        "max_per_customer",
        "status",
        "starts_at",
        "ends_at",
        "version",
        "searched",
        "coupon_id",
    }
    assert edited <= set(fields)
    assert ["23", "2", "4"] == [fields[name] for name in ("max_redemptions", "max_per_customer", "next")]
    assert b"hash" == await redis_client.type(key(code, "customers"))


def as_text(reply: bytes | str) -> str:
    return reply.decode() if isinstance(reply, bytes) else reply
