"""The same order or redemption through two doors at once: what one caller has been told holds for the other one."""

import asyncio
from collections.abc import AsyncIterator, Iterator

import pytest
import redis.asyncio

from tests.acceptance.conftest import MakeCoupon, StartUsher, Stores
from tests.acceptance.test_life_races import act, cancel_order, make_overdue, reserve
from tests.auditor import Auditor
from tests.driver import Answer, Client, tally
from tests.faults import Hold, Proxy, holding
from tests.stores import Admin
from tests.usher_process import Usher
from tests.waiting import until

SETTINGS = {"USHER_REQUEST_DEADLINE_MS": "3000", "USHER_REDIS_TIMEOUT_MS": "2000"}
"""An outcome is unknown after the first; what is held back on its way to Redis is waited for until the second."""


@pytest.fixture(scope="module")
def ledger_proxy(stores: Stores) -> Iterator[Proxy]:
    with Proxy(stores.mariadb.port) as made:
        yield made


@pytest.fixture(scope="module")
def redis_proxy(stores: Stores) -> Iterator[Proxy]:
    with Proxy(stores.redis.port) as made:
        yield made


@pytest.fixture(scope="module")
def usher(start_usher: StartUsher, stores: Stores, ledger_proxy: Proxy, redis_proxy: Proxy) -> Usher:
    return start_usher(
        settings=SETTINGS,
        database_url=ledger_proxy.url(stores.mariadb.url),
        redis_url=redis_proxy.url(stores.redis.url),
    )


@pytest.fixture(autouse=True)
def healed(ledger_proxy: Proxy, redis_proxy: Proxy) -> Iterator[None]:
    yield
    ledger_proxy.heal()
    redis_proxy.heal()


@pytest.fixture(scope="module")
def other_usher(start_usher: StartUsher) -> Usher:
    return start_usher()


@pytest.fixture
async def other(other_usher: Usher, api_key: str) -> AsyncIterator[Client]:
    """A client of another process."""
    async with Client(other_usher.url, key=api_key) as connected:
        yield connected


@pytest.fixture(scope="module")
def other_key(stores: Stores) -> str:
    with Admin(stores.mariadb) as admin:
        return admin.make_key("other", "redeem")


async def redeem(client: Client, code: str, customer: str, order: str, key: str) -> Answer:
    body = {"code": code, "customer_id": customer, "order_id": order}
    return await client.send("POST", "/v1/redemptions", body=body, headers={"Idempotency-Key": key})


async def hit(held: Hold) -> None:
    await until(lambda: held.hits > 0, what="it is on its way")


# --- Cancelled twice --------------------------------------------------------------------------------------------------


async def cancelled_twice(client: Client, second: Client, redis_proxy: Proxy, code: str) -> list[Answer]:
    """Cancelled, and again through `second` while the first one's release is on its way to Redis."""
    made = await client.redeem(code, "ann", "order-1")
    assert {"409 coupon_exhausted": 1} == tally([await second.redeem(code, "bob", "order-2")])
    release = redis_proxy.hold(holding(b"evalsha", b"order-1"))
    first = asyncio.create_task(act(client, made.id, "cancel"))
    await hit(release)
    again = asyncio.create_task(act(second, made.id, "cancel"))
    await asyncio.sleep(0.1)
    if second is client:
        assert not again.done(), "answered before the use is free"
        release.release()
    answers = [await again, await second.redeem(code, "cid", "order-3")]
    release.release()
    return [*answers, await first]


async def test_cancelled_again_in_the_same_process(
    client: Client, coupon: MakeCoupon, redis_proxy: Proxy, auditor: Auditor
) -> None:
    """The second answer waits for the first one's release: after either of them the use is had."""
    code = await coupon(max_redemptions=1)
    assert {"200": 2, "201": 1} == tally(await cancelled_twice(client, client, redis_proxy, code))
    auditor.check(code)


async def test_cancelled_again_in_another_process(
    client: Client, other: Client, coupon: MakeCoupon, redis_proxy: Proxy, auditor: Auditor
) -> None:
    """Whose release that was may have died: the use is had all the same."""
    code = await coupon(max_redemptions=1)
    assert {"200": 2, "201": 1} == tally(await cancelled_twice(client, other, redis_proxy, code))
    auditor.check(code)


async def test_cancelled_by_many_at_once(client: Client, other: Client, coupon: MakeCoupon, auditor: Auditor) -> None:
    """By id and by order, through both processes: after each round the use can be had, and nobody is told to try again."""
    code = await coupon(max_redemptions=1)
    for number in range(25):
        made = await reserve(client, code, "ann", f"order-{number}")
        assert 201 == made.status
        doors = [act(client, made.id, "cancel"), act(other, made.id, "cancel"), cancel_order(client, code, f"order-{number}")]
        doors += [cancel_order(other, code, f"order-{number}"), act(client, made.id, "confirm")]
        answers = await asyncio.gather(*doors)
        assert set(tally(answers)) <= {"200", "404 redemption_not_found", "409 already_cancelled"}
        assert {200} == {answer.status for answer in answers[:2]}
    auditor.check(code)


# --- Idempotency keys -------------------------------------------------------------------------------------------------


async def test_the_same_text_is_another_key_of_another_api_key(
    client: Client, usher: Usher, other_key: str, coupon: MakeCoupon, ledger_proxy: Proxy, auditor: Auditor
) -> None:
    """One stands for what was cancelled; the other one's order, sent meanwhile, makes a new redemption, once."""
    code = await coupon(max_redemptions=5)
    gone = await redeem(client, code, "ann", "order-1", "key")
    await act(client, gone.id, "cancel")
    async with Client(usher.url, key=other_key) as stranger:
        look_up = ledger_proxy.hold(holding(b"straight_join", b"order-1"))
        known = asyncio.create_task(redeem(client, code, "ann", "order-1", "key"))
        await hit(look_up)
        new = asyncio.create_task(redeem(stranger, code, "ann", "order-1", "key"))
        await asyncio.sleep(0.1)
        look_up.release()
        assert (200, gone.id) == ((await known).status, (await known).id)
        assert 201 == (await new).status
        replayed = await redeem(stranger, code, "ann", "order-1", "key")
        assert (200, (await new).id) == (replayed.status, replayed.id)
    auditor.check(code)


async def test_many_keys_for_one_order(client: Client, coupon: MakeCoupon, auditor: Auditor) -> None:
    """Each of them stands for the order's one redemption, also when it has ended."""
    code = await coupon(max_redemptions=5)
    answers = await asyncio.gather(*(redeem(client, code, "ann", "order-1", f"key-{n}") for n in range(100)))
    assert {"201": 1, "200": 99} == tally(answers)
    (row,) = auditor.live(code)
    await act(client, answers[0].id, "cancel")
    again = await asyncio.gather(*(redeem(client, code, "ann", "order-1", f"key-{n}") for n in range(100)))
    assert {(200, row["id"], "cancelled")} == {(answer.status, answer.id, answer.body["status"]) for answer in again}


async def test_a_replay_by_key_keeps_the_seat(
    client: Client, other: Client, coupon: MakeCoupon, auditor: Auditor, redis_client: "redis.asyncio.Redis"
) -> None:
    """Sent again through another process, where its claim is not known to be settled: nothing is given back that is taken."""
    code = await coupon(max_redemptions=10, max_per_customer=3)
    for number in range(3):
        made = await redeem(client, code, "ann", f"order-{number}", f"key-{number}")
        assert made.id == (await redeem(other, code, "ann", f"order-{number}", f"key-{number}")).id
    assert set() == await redis_client.smembers(f"usher:1:{{{code}}}:free")
    assert 10 == len(await auditor.fill(client, code))


# --- Outcomes that are not known --------------------------------------------------------------------------------------


async def test_cancelled_by_order_while_nobody_knows(
    client: Client, coupon: MakeCoupon, ledger_proxy: Proxy, auditor: Auditor
) -> None:
    """After 503 `outcome_unknown`, cancel by order waits until it is known, and cancels what stands."""
    code = await coupon(max_redemptions=5)
    await client.redeem(code, "ann", "order-0")
    insert = ledger_proxy.hold(holding(b"insert into redemption", b"straight_join"))
    tombstone = ledger_proxy.hold(holding(b"insert into redemption", b"abandoned"))
    assert {"503 outcome_unknown": 1} == tally([await client.redeem(code, "ann", "order-1")])
    cancelling = asyncio.create_task(cancel_order(client, code, "order-1"))
    await asyncio.sleep(0.3)
    assert not cancelling.done()
    insert.release()
    await until(lambda: insert.landed == insert.hits > 0, what="the redemption is recorded after all")
    tombstone.release()
    assert {"200": 1} == tally([await cancelling])
    assert ["order-0"] == [row["order_id"] for row in auditor.live(code)]


async def test_overdue_holds_that_cannot_be_ended(
    client: Client, coupon: MakeCoupon, admin: Admin, ledger_proxy: Proxy, auditor: Auditor
) -> None:
    """The reply to their ending is lost: whoever needs a use gets one of theirs all the same."""
    code = await coupon(max_redemptions=3)
    held = [await reserve(client, code, "ann", f"order-{number}") for number in range(3)]
    make_overdue(admin, [one.id for one in held])
    lost = ledger_proxy.lose_reply(holding(b"update (", b"was_seat"))
    assert {"201": 1} == tally([await client.redeem(code, "bob", "order-9")])
    assert 1 == lost.hits
    auditor.check(code)
