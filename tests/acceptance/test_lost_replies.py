"""A request reaches a store and its reply does not come back, or it comes to the store long after everybody gave up."""

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
import redis.asyncio

from tests.acceptance.conftest import PATIENT, MakeCoupon, StartUsher, Stores
from tests.auditor import Auditor
from tests.driver import Answer, Client, orders, tally
from tests.faults import Proxy, holding
from tests.usher_process import Usher
from tests.waiting import until, until_async

DEADLINE_MS = 2_000
SETTINGS = {"USHER_REQUEST_DEADLINE_MS": str(DEADLINE_MS), "USHER_REDIS_TIMEOUT_MS": "600"}

IS_INSERT = holding(b"insert into redemption")
IS_ABANDON = holding(b"insert into redemption", b"end_reason")


def is_record(request: bytes) -> bool:
    """A statement that would record redemptions, and not one that rules them out."""
    return IS_INSERT(request) and not IS_ABANDON(request)


@dataclass(frozen=True)
class Proxies:
    redis: Proxy
    mariadb: Proxy


@pytest.fixture(scope="module")
def all_proxies(stores: Stores) -> Iterator[Proxies]:
    with Proxy(stores.redis.port) as redis_proxy, Proxy(stores.mariadb.port) as mariadb_proxy:
        yield Proxies(redis_proxy, mariadb_proxy)


@pytest.fixture(scope="module")
def usher(all_proxies: Proxies, start_usher: StartUsher, stores: Stores) -> Usher:
    return start_usher(
        database_url=all_proxies.mariadb.url(stores.mariadb.url),
        redis_url=all_proxies.redis.url(stores.redis.url),
        settings=SETTINGS,
    )


@pytest.fixture(scope="module")
def patient_usher(start_usher: StartUsher, stores: Stores, all_proxies: Proxies) -> Usher:
    """Behind the same proxies, with time for many requests whose replies are lost; batches are small, so there are many."""
    return start_usher(
        database_url=all_proxies.mariadb.url(stores.mariadb.url),
        redis_url=all_proxies.redis.url(stores.redis.url),
        settings={**PATIENT, "USHER_RECORD_BATCH_MAX_ROWS": "16"},
    )


@pytest.fixture(scope="module")
def other_usher(start_usher: StartUsher) -> Usher:
    """A second service, which reaches both stores without a proxy."""
    return start_usher(settings=SETTINGS)


@pytest.fixture
def proxies(all_proxies: Proxies) -> Iterator[Proxies]:
    """Both proxies pass everything on, before the test and after it."""
    yield all_proxies
    all_proxies.redis.heal()
    all_proxies.mariadb.heal()


async def made(client: Client, coupon: MakeCoupon, **fields: int) -> str:
    """A coupon whose counter is loaded and one of whose uses is taken, so that the next request goes the shortest way.

    Redis is asked again, whatever the test before has done to it; the first request may have found a connection of then dead.
    """

    async def is_asked() -> bool:
        return bool((await client.get("/readyz")).body["status"] == "ready")

    await until_async(is_asked, what="Redis is asked")
    code = await coupon("LOST", **fields)
    assert (await redeem_until_served(client, code, "first", "first")).status in (200, 201)
    await until_async(is_asked, what="Redis is asked")
    return code


async def redeem_until_served(client: Client, code: str, customer: str, order: str) -> Answer:
    """What a checkout does that is told 503: it asks again with the same order."""
    for _ in range(40):
        answer = await client.redeem(code, customer, order)
        if answer.status != 503:
            return answer
        await asyncio.sleep(0.1)
    raise AssertionError("still 503 long after the fault")


# --- The claim's reply ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("silent", [False, True], ids=["connection cut", "no answer"])
async def test_claim_whose_reply_is_lost_runs_once(
    client: Client,
    coupon: MakeCoupon,
    auditor: Auditor,
    proxies: Proxies,
    redis_client: "redis.asyncio.Redis",
    silent: bool,
) -> None:
    """Redis hands out one seat, once, and nobody asks it again: the request goes on by the ledger."""
    code = await made(client, coupon, max_redemptions=10, max_per_customer=1)
    claims = proxies.redis.count(holding(b"order-lost"))
    proxies.redis.lose_reply(holding(b"order-lost"), silent=silent)

    served = await client.redeem(code, "customer", "order-lost")
    assert (201, 1) == (served.status, claims.hits)
    assert b"2" == await redis_client.hget(f"usher:1:{{{code}}}:counter", "next")
    again = await client.redeem(code, "customer", "order-lost")

    assert (200, served.id) == (again.status, again.id)
    auditor.check(code, [served, again])
    assert 10 == len(await auditor.fill(client, code))


async def test_many_claims_whose_replies_are_lost(
    client: Client, coupon: MakeCoupon, auditor: Auditor, proxies: Proxies
) -> None:
    """Every third reply of Redis is lost under 300 requests: all are answered, nobody gets two seats, and none is lost."""
    code = await made(client, coupon, max_redemptions=50, max_per_customer=1)
    seen = 0

    def every_third(request: bytes) -> bool:
        nonlocal seen
        seen += b"order-o-" in request
        return b"order-o-" in request and seen % 3 == 0

    proxies.redis.lose_reply(every_third, times=None)
    answers: list[Answer] = []
    for part in range(0, 300, 20):
        answers += await client.redeem_all(code, orders(300)[part : part + 20])
    proxies.redis.heal()

    assert set(tally(answers)) <= {"201", "409 coupon_exhausted"}
    auditor.check(code, answers)
    assert 50 == len(await auditor.fill(client, code))


# --- The record's reply ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("times", [1, 3])
async def test_record_whose_reply_is_lost_gives_one_row(
    client: Client, coupon: MakeCoupon, auditor: Auditor, proxies: Proxies, times: int
) -> None:
    """The ledger has committed, nobody has heard: asked again under the same id, it says so. 201, one row."""
    code = await made(client, coupon, max_redemptions=3, max_per_customer=1)
    losses = proxies.mariadb.lose_reply(is_record, times=times)

    answer = await client.redeem(code, "customer", "order")

    assert (201, times) == (answer.status, losses.hits)
    rows = [row for row in auditor.rows(code) if row["order_id"] == "order"]
    assert [(answer.id, answer.body["seat"], "confirmed")] == [(row["id"], row["seat"], row["status"]) for row in rows]
    assert 3 == len(await auditor.fill(client, code))


async def test_records_whose_replies_are_lost_under_load(
    client: Client, patient_usher: Usher, api_key: str, coupon: MakeCoupon, auditor: Auditor, proxies: Proxies
) -> None:
    """Every other reply to a record is lost while 400 customers want 150 uses: none sees it, none gets two rows."""
    code = await made(client, coupon, max_redemptions=151, max_per_customer=1)
    seen = 0

    def every_other(request: bytes) -> bool:
        nonlocal seen
        seen += is_record(request)
        return is_record(request) and seen % 2 == 0

    losses = proxies.mariadb.lose_reply(every_other, times=None)
    async with Client(patient_usher.url, key=api_key) as crowd:
        answers = await crowd.redeem_all(code, orders(400))
    proxies.mariadb.heal()

    assert losses.hits >= 2
    assert {"201": 150, "409 coupon_exhausted": 250} == tally(answers)
    assert 151 == len(auditor.check(code, answers))


async def test_record_whose_reply_never_comes(client: Client, coupon: MakeCoupon, auditor: Auditor, proxies: Proxies) -> None:
    """No reply and no reset, for as long as the request lives: whatever it is told, asking again finds the one row."""
    code = await made(client, coupon, max_redemptions=3, max_per_customer=1)
    losses = proxies.mariadb.lose_reply(IS_INSERT, times=None, silent=True)

    answer = await client.redeem(code, "customer", "order")
    proxies.mariadb.heal()

    assert losses.hits >= 1
    assert f"{answer.status} {answer.code}".strip() in ("201", "503 outcome_unknown")
    again = await redeem_until_served(client, code, "customer", "order")
    assert ("200", "true") == (str(again.status), again.headers["Idempotent-Replayed"])
    assert 1 == len([row for row in auditor.rows(code) if row["order_id"] == "order"])
    assert 3 == len(await auditor.fill(client, code))


async def test_order_sent_elsewhere_while_it_is_being_recorded(
    client: Client, other_usher: Usher, api_key: str, coupon: MakeCoupon, auditor: Auditor, proxies: Proxies
) -> None:
    """The last use is claimed and not yet recorded: another process that gets the same order does not say "exhausted"."""
    code = await made(client, coupon, max_redemptions=2)
    async with Client(other_usher.url, key=api_key) as other:
        assert 200 == (await other.redeem(code, "first", "first")).status
        held = proxies.mariadb.hold(is_record)
        here = asyncio.create_task(client.redeem(code, "customer", "order"))
        await until(lambda: held.hits > 0, what="the record is on its way")

        there = await other.redeem(code, "customer", "order")
        held.release()
        answers = [await here, there]

    assert {"201": 1, "200": 1} == tally(answers)
    assert answers[0].id == answers[1].id
    assert 2 == len(auditor.check(code, answers))


# --- Zombies --------------------------------------------------------------------------------------------------------


async def unknown_outcome(client: Client, code: str) -> None:
    answer = await client.redeem(code, "customer", "order")
    assert ("503 outcome_unknown", "1") == (f"{answer.status} {answer.code}", answer.headers["Retry-After"])


async def test_zombie_that_lands_before_it_is_ruled_out(
    client: Client, coupon: MakeCoupon, auditor: Auditor, proxies: Proxies
) -> None:
    """The INSERT lands after the client was told that the outcome is unknown: the redemption exists already."""
    code = await made(client, coupon, max_redemptions=3, max_per_customer=1)
    records = proxies.mariadb.hold(is_record)
    abandons = proxies.mariadb.hold(IS_ABANDON)
    await unknown_outcome(client, code)

    records.release()
    await until(lambda: records.landed == records.hits > 0, what="the zombies have landed")
    (row,) = [row for row in auditor.rows(code) if row["order_id"] == "order"]
    abandons.release()

    again = await redeem_until_served(client, code, "customer", "order")
    assert ("confirmed", 200, row["id"]) == (row["status"], again.status, again.id)
    await until_settled(auditor, code, "order", "confirmed")
    assert 3 == len(await auditor.fill(client, code))


async def test_zombie_that_lands_after_it_was_ruled_out(
    client: Client, coupon: MakeCoupon, auditor: Auditor, proxies: Proxies
) -> None:
    """The INSERT lands when its id has been written off: it never will be, and the order's next redemption is another."""
    code = await made(client, coupon, max_redemptions=3, max_per_customer=1)
    records = proxies.mariadb.hold(is_record)
    answer = await client.redeem(code, "customer", "order")
    assert f"{answer.status} {answer.code}" in ("503 outcome_unknown", "503 unavailable")
    await until_settled(auditor, code, "order", "cancelled")

    records.release()
    await until(lambda: records.landed == records.hits > 0, what="the zombies have landed")

    (written_off,) = [row for row in auditor.rows(code) if row["order_id"] == "order"]
    assert ("cancelled", "abandoned", None) == tuple(written_off[name] for name in ("status", "end_reason", "seat"))
    again = await redeem_until_served(client, code, "customer", "order")
    assert 201 == again.status
    assert written_off["id"] != again.id
    auditor.check(code, [again])
    assert 3 == len(await auditor.fill(client, code))


async def test_zombie_that_lands_after_the_order_was_redeemed_anew(
    client: Client, coupon: MakeCoupon, auditor: Auditor, proxies: Proxies
) -> None:
    """The order was told 503, redeemed again, and only then does its first INSERT land: one live row, no use lost."""
    code = await made(client, coupon, max_redemptions=3, max_per_customer=2)
    records = proxies.mariadb.hold(is_record, times=1)
    passing = proxies.mariadb.hold(is_record, skip=1)
    answer = await client.redeem(code, "customer", "order")
    passing.release()
    again = answer if answer.status == 201 else await redeem_until_served(client, code, "customer", "order")
    assert again.status in (200, 201)

    records.release()
    await until(lambda: records.landed == 1, what="the zombie has landed")

    assert 1 == len([row for row in auditor.check(code, [answer, again]) if row["order_id"] == "order"])
    assert 3 == len(await auditor.fill(client, code))


async def test_many_zombies(client: Client, coupon: MakeCoupon, auditor: Auditor, proxies: Proxies) -> None:
    """100 customers, every record held back until all were told 503, then let go at once with all that rules them out."""
    code = await made(client, coupon, max_redemptions=60, max_per_customer=1)
    held = proxies.mariadb.hold(IS_INSERT)

    answers = await client.redeem_all(code, orders(100))
    assert set(tally(answers)) <= {"503 outcome_unknown", "503 unavailable", "409 coupon_exhausted"}
    held.release()
    again = await asyncio.gather(*(redeem_until_served(client, code, *order) for order in orders(100)))

    assert set(tally(again)) <= {"200", "201", "409 coupon_exhausted"}
    auditor.check(code, [*answers, *again])
    assert 60 == len(await auditor.fill(client, code))


async def until_settled(auditor: Auditor, code: str, order: str, status: str) -> None:
    """Until the order's only row has this status."""
    await until(
        lambda: [status] == [row["status"] for row in auditor.rows(code) if row["order_id"] == order],
        what=f"the order is {status}",
    )


# --- Connections ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("store", ["redis", "mariadb"])
async def test_all_connections_are_cut_under_load(
    client: Client, coupon: MakeCoupon, auditor: Auditor, proxies: Proxies, store: str
) -> None:
    """Every connection to a store is cut again and again: nothing is sold twice, and every 201 is true."""
    code = await made(client, coupon, max_redemptions=200, max_per_customer=1)
    proxy: Proxy = getattr(proxies, store)
    before = proxy.accepted
    answers: list[Answer] = []
    for part in range(0, 500, 100):
        sending = asyncio.create_task(client.redeem_all(code, orders(500)[part : part + 100]))
        await asyncio.sleep(0.02)
        proxy.cut()
        answers += await sending

    assert proxy.accepted > before
    unavailable = {"503 unavailable", "503 outcome_unknown"} if store == "mariadb" else set()
    assert set(tally(answers)) <= {"201", "409 coupon_exhausted"} | unavailable
    auditor.check(code, answers)
    assert 200 == len(await auditor.fill(client, code))


async def test_mariadb_that_refuses_connections(client: Client, coupon: MakeCoupon, auditor: Auditor, proxies: Proxies) -> None:
    """503 `unavailable` with Retry-After while nobody lets Usher in; afterwards all is well, without a restart."""
    code = await made(client, coupon, max_redemptions=5, max_per_customer=1)
    proxies.mariadb.refuse()

    refused = await client.redeem_all(code, orders(20))
    proxies.mariadb.accept()

    # What was being sent when the connection broke may have arrived; nobody can say while the ledger is away.
    assert set(tally(refused)) <= {"503 unavailable", "503 outcome_unknown"}
    assert {"1"} == {answer.headers["Retry-After"] for answer in refused}
    assert 201 == (await redeem_until_served(client, code, *orders(1)[0])).status
    assert 5 == len(await auditor.fill(client, code))


async def test_redis_that_refuses_connections(client: Client, coupon: MakeCoupon, auditor: Auditor, proxies: Proxies) -> None:
    """Nobody notices, while nobody lets Usher in nor afterwards."""
    code = await made(client, coupon, max_redemptions=15, max_per_customer=1)
    proxies.redis.refuse()

    during = await client.redeem_all(code, orders(10))
    proxies.redis.accept()

    assert {"201": 10} == tally(during)
    assert 201 == (await client.redeem(code, "late", "late")).status
    assert 15 == len(await auditor.fill(client, code))
