"""Codes that do not exist cost next to nothing, one that comes into being is found at once, and nobody guesses for long."""

import asyncio
import itertools
import json
import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import redis.asyncio

from tests.acceptance.conftest import MakeCoupon, StartUsher, Stores
from tests.auditor import Auditor
from tests.driver import Answer, Client, orders, tally
from tests.faults import Proxy, holding
from tests.stores import Admin
from tests.usher_process import Usher, run_usher
from tests.waiting import stalls, until, until_async

GUESSES = 20_000
STATEMENTS_MAX = 2_000
"""Some hundred, and those of the seconds that a busy machine takes for the guesses."""
KEYS_MAX = 10
SENDERS = 400
"""A guess waits for its load and for its note, so few who guess one after the other would take long."""
REPEATED_SENDS = 500
ROUNDS = 5
MANY_GUESSES = 100_000
MANY_STATEMENTS_MAX = 10_000
"""Some fifty a second: on a busy machine the guesses take minutes."""
REDIS_MAX_BYTES = 1_000_000
GUESSES_MAX = 20
MINUTE_S = 60
SEEN_ELSEWHERE_S = 2.0
"""Other processes hear within a second or so who is limited."""

NOT_FOUND = "404 coupon_not_found"
LIMITED = "429 too_many_attempts"
HEADERS = {"content-type", "retry-after", "x-request-id", "server", "content-length", "date"}

numbers = itertools.count(1)


@pytest.fixture(scope="module")
def usher(start_usher: StartUsher) -> Usher:
    return start_usher()


@pytest.fixture(scope="module")
def other_usher(start_usher: StartUsher) -> Usher:
    return start_usher()


async def storm(usher: Usher, api_key: str, customers: Sequence[str], count: int) -> Counter[str]:
    """So many random codes of these customers in turn, SENDERS at a time; how many answers of each kind there were."""
    name = f"STORM-{next(numbers)}"

    async def send(part: int) -> Counter[str]:
        found = Counter[str]()
        for number in range(part, count, SENDERS):
            customer = customers[number % len(customers)]
            found.update(tally([await client.redeem(f"{name}-{number}", customer, f"o-{number}")]))
        return found

    async with Client(usher.url, key=api_key, connections=SENDERS) as client:
        return sum(await asyncio.gather(*map(send, range(SENDERS))), Counter[str]())


async def test_20000_guesses_cost_some_hundred_statements(
    usher: Usher,
    api_key: str,
    client: Client,
    coupon: MakeCoupon,
    admin: Admin,
    auditor: Auditor,
    redis_client: "redis.asyncio.Redis",
) -> None:
    """Each guess is told 404; the ledger is asked for many at once, Redis remembers none, and a good code works."""
    code = await coupon(max_redemptions=100)
    before, keys_before = admin.status("Questions"), await redis_client.dbsize()

    sending = asyncio.create_task(storm(usher, api_key, [f"customer-{number}" for number in range(GUESSES)], GUESSES))
    good = await client.redeem_all(code, orders(100))
    found = await sending

    statements = admin.status("Questions") - before
    assert {NOT_FOUND: GUESSES} == found
    assert {"201": 100} == tally(good)
    assert statements < STATEMENTS_MAX
    assert await redis_client.dbsize() - keys_before < KEYS_MAX
    auditor.check(code, good)


async def test_one_guess_repeated_costs_nothing(client: Client, admin: Admin) -> None:
    """Those who name the same unknown code wait for one answer of the ledger."""
    assert 404 == (await client.redeem("NOTHING-HERE", "c", "o")).status
    before = admin.status("Questions")

    answers = await client.redeem_all("NOTHING-HERE", orders(REPEATED_SENDS))

    assert {"404 coupon_not_found": REPEATED_SENDS} == tally(answers)
    assert admin.status("Questions") - before < REPEATED_SENDS / 4


async def test_coupon_created_after_it_was_guessed(client: Client, other_usher: Usher, api_key: str, auditor: Auditor) -> None:
    """Created by one process: also another one, which has just denied it, redeems it at once, and knows its live orders."""
    codes = [f"JUST-GUESSED-{number}" for number in range(ROUNDS)]
    async with Client(other_usher.url, key=api_key) as other:
        for code in codes:
            question = {"code": code, "customer_id": "a"}
            early = await asyncio.gather(*(one.redeem(code, "early", "early") for one in (client, other)))
            assert {"404 coupon_not_found": 2} == tally(early)
            assert "coupon_not_found" == (await other.send("POST", "/v1/validations", body=question)).body["reason"]
            assert 201 == (await client.create_coupon(code, max_redemptions=5)).status
            assert (await other.send("POST", "/v1/validations", body=question)).body["valid"]
            redeemed = await client.redeem(code, "a", "order-a")
            again = [await one.redeem(code, "a", "order-a") for one in (other, client, other)]
            assert ["201", "200", "200", "200"] == [str(answer.status) for answer in (redeemed, *again)]
            assert 201 == (await other.redeem(code, "b", "order-b")).status
    assert [2] * ROUNDS == [len(auditor.check(code)) for code in codes]


async def test_a_send_that_joins_one_from_before_the_coupon_was_created(
    client: Client, start_usher: StartUsher, stores: Stores, faults: Callable[[int], Proxy], api_key: str
) -> None:
    """The earlier one has found no coupon and waits to be counted; the later one is of an order that has been redeemed."""
    proxy = faults(stores.mariadb.port)
    server = start_usher(database_url=proxy.url(stores.mariadb.url))
    async with Client(server.url, key=api_key) as other:
        counting = proxy.hold(holding(b"insert into guess"))
        early = asyncio.create_task(other.redeem("JOINED", "a", "order-a"))
        await until(lambda: counting.hits == 1, what="the earlier one is counted")
        assert 201 == (await client.create_coupon("JOINED", max_redemptions=5)).status
        assert 201 == (await client.redeem("JOINED", "a", "order-a")).status
        again = asyncio.create_task(other.redeem("JOINED", "a", "order-a"))
        await asyncio.sleep(0.3)
        counting.release()
        assert 404 == (await early).status
        assert 200 == (await again).status


async def test_coupon_created_by_a_command_after_it_was_guessed(client: Client, stores: Stores) -> None:
    """No process is told of it."""
    assert 404 == (await client.redeem("BY-COMMAND", "early", "early")).status
    made = await asyncio.to_thread(
        run_usher, "coupon", "create", "BY-COMMAND", database_url=stores.mariadb.url, redis_url=stores.redis.url
    )
    assert 0 == made.status, made.errors
    assert 201 == (await client.redeem("BY-COMMAND", "a", "order-a")).status


# --- Guessing is limited -----------------------------------------------------------------------------------------


def somebody() -> str:
    """A customer whom no other test has."""
    return f"guesser-{next(numbers)}"


async def guess(client: Client, customer: str, count: int = GUESSES_MAX) -> list[Answer]:
    """Names so many unknown codes, one after the other."""
    return [await client.redeem(f"GUESS-{next(numbers)}", customer, f"o-{next(numbers)}") for _ in range(count)]


async def guess_at_once(client: Client, customer: str, count: int = GUESSES_MAX) -> list[Answer]:
    """Names so many unknown codes in parallel."""
    return await asyncio.gather(
        *(client.redeem(f"GUESS-{next(numbers)}", customer, f"o-{next(numbers)}") for _ in range(count))
    )


def check_limited(answer: Answer) -> None:
    """429 with the time that it takes, and nothing that could depend on the code."""
    assert (429, "too_many_attempts") == (answer.status, answer.code)
    assert 1 <= int(answer.headers["Retry-After"]) <= MINUTE_S
    assert HEADERS == {name.lower() for name in answer.headers}
    assert {"type", "title", "status", "detail", "code", "request_id"} == set(answer.body)


async def test_twenty_guesses_and_no_more(client: Client, coupon: MakeCoupon, auditor: Auditor) -> None:
    """The twenty-first code is 429 whether it exists or not, and nothing is redeemed; the answers look the same."""
    code, customer = await coupon(max_redemptions=5), somebody()
    assert 201 == (await client.redeem(code, "known", "known")).status

    assert {NOT_FOUND: GUESSES_MAX} == tally(await guess(client, customer))

    begun_at = time.monotonic()
    (wrong,) = await guess(client, customer, 1)
    good = await client.redeem(code, customer, "order")
    took_s = time.monotonic() - begun_at
    for answer in (wrong, good):
        check_limited(answer)
    assert set(wrong.headers) == set(good.headers)
    assert abs(int(wrong.headers["Retry-After"]) - int(good.headers["Retry-After"])) <= 1 + took_s
    assert MINUTE_S - 20 < int(wrong.headers["Retry-After"])
    assert ["known"] == [row["customer_id"] for row in auditor.live(code)]


async def test_one_typing_error_for_ever(client: Client) -> None:
    """The same code, however often and from wherever: 404."""
    customer = somebody()
    answers = [await client.redeem("TYPO", customer, f"o-{number}") for number in range(GUESSES_MAX)]
    answers += await client.redeem_all("TYPO", [(customer, f"p-{number}") for number in range(GUESSES_MAX)])
    assert {NOT_FOUND: 2 * GUESSES_MAX} == tally(answers)


async def test_others_are_not_limited(client: Client, usher: Usher, admin: Admin, coupon: MakeCoupon) -> None:
    """Another customer of the key, and this customer of another key, go on."""
    code, customer = await coupon(), somebody()
    key = admin.make_key(customer, "redeem")
    await guess_at_once(client, customer)
    check_limited(await client.redeem(code, customer, "a"))

    assert 201 == (await client.redeem(code, somebody(), "b")).status
    async with Client(usher.url, key=key) as other_key:
        assert 201 == (await other_key.redeem(code, customer, "c")).status
        assert {NOT_FOUND: GUESSES_MAX} == tally(await guess_at_once(other_key, customer))
        check_limited(await other_key.redeem(code, customer, "d"))


async def test_40_guesses_in_parallel(client: Client, coupon: MakeCoupon, auditor: Auditor) -> None:
    """Exactly twenty are told 404; a good code behind them is not redeemed before they are counted."""
    customer, good, known = somebody(), await coupon("HIT"), await coupon("HIT")
    assert 201 == (await client.redeem(known, "known", "known")).status
    guesses = [client.redeem(f"GUESS-{next(numbers)}", customer, f"o-{next(numbers)}") for _ in range(40)]

    answers = await asyncio.gather(*guesses, client.redeem(good, customer, "hit"), client.redeem(known, customer, "hit"))

    assert {NOT_FOUND: GUESSES_MAX, LIMITED: 22} == tally(answers)
    assert [] == auditor.live(good)
    assert ["known"] == [row["customer_id"] for row in auditor.live(known)]


async def test_archived_coupons_are_unknown(client: Client, coupon: MakeCoupon) -> None:
    """Redeeming tells no difference, so neither does counting."""
    customer = somebody()
    codes = [await coupon(status="archived") for _ in range(GUESSES_MAX)]
    assert {NOT_FOUND: GUESSES_MAX} == tally(await asyncio.gather(*(client.redeem(code, customer, "o") for code in codes)))
    check_limited(await client.redeem(codes[0], customer, "o"))


async def test_a_limited_customer_keeps_what_they_have(client: Client, coupon: MakeCoupon) -> None:
    """A live order is never told no: its redemption is replayed. Another's order, and an ended one, are 429."""
    code, customer = await coupon(max_redemptions=5), somebody()
    first = await client.redeem(code, customer, "first")
    assert 201 == (await client.redeem(code, "else", "elses")).status
    await guess_at_once(client, customer)

    replays = await client.redeem_all(code, [(customer, "first")] * 20)
    assert {"200": 20} == tally(replays)
    assert {first.id} == {replay.id for replay in replays}
    assert {"true"} == {replay.headers["Idempotent-Replayed"] for replay in replays}
    for order in ("elses", "second"):
        check_limited(await client.redeem(code, customer, order))
    await client.change_coupon(code, status="archived")
    assert 200 == (await client.redeem(code, customer, "first")).status


async def test_a_limited_customers_key_is_remembered(client: Client, coupon: MakeCoupon) -> None:
    """It has found the order's redemption, and stands for it from then on, whatever becomes of it."""
    code, customer = await coupon(max_redemptions=5), somebody()
    made = await client.redeem(code, customer, "first")
    await guess_at_once(client, customer)
    body = {"code": code, "customer_id": customer, "order_id": "first"}

    async def send() -> Answer:
        return await client.send("POST", "/v1/redemptions", body=body, headers={"Idempotency-Key": "key"})

    assert (200, made.id) == ((found := await send()).status, found.id)
    assert 200 == (await client.send("POST", f"/v1/redemptions/{made.id}/cancel")).status
    assert (200, made.id, "cancelled") == ((found := await send()).status, found.id, found.body["status"])


async def test_redis_forgets(client: Client, coupon: MakeCoupon, redis_client: "redis.asyncio.Redis") -> None:
    """FLUSHALL changes nothing, in the middle of guessing and after it."""
    code, customer = await coupon(), somebody()
    assert {NOT_FOUND: 10} == tally(await guess(client, customer, 10))
    await redis_client.flushall()
    assert {NOT_FOUND: 10, LIMITED: 1} == tally(await guess(client, customer, 11))
    await redis_client.flushall()
    check_limited(await client.redeem(code, customer, "o"))


async def test_everything_is_started_again(start_usher: StartUsher, stores: Stores, api_key: str) -> None:
    """Neither a restart of Redis nor one of the service gives a customer more than twenty codes."""
    server, customer = start_usher(), somebody()
    async with Client(server.url, key=api_key) as client:
        assert {NOT_FOUND: 15} == tally(await guess_at_once(client, customer, 15))
        code = f"RESTART-{customer.upper()}"
        assert 201 == (await client.create_coupon(code)).status
    stores.redis.stop()
    stores.redis.start()
    server.stop()
    server.start()
    async with Client(server.url, key=api_key) as client:
        assert {NOT_FOUND: 5, LIMITED: 5} == tally(await guess_at_once(client, customer, 10))
    server.kill()
    server.start()
    async with Client(server.url, key=api_key) as client:
        check_limited(await client.redeem(code, customer, "o"))


async def test_two_processes(usher: Usher, other_usher: Usher, api_key: str, coupon: MakeCoupon) -> None:
    """Who alternates has twenty codes in all; one who is limited by one process is so by the other within a second or so."""
    code, customer = await coupon(), somebody()
    async with Client(usher.url, other_usher.url, key=api_key) as both:
        assert {NOT_FOUND: GUESSES_MAX, LIMITED: 4} == tally(await guess(both, customer, 24))

    customer = somebody()
    async with Client(usher.url, key=api_key) as one, Client(other_usher.url, key=api_key) as other:
        await guess_at_once(one, customer)
        attempts: list[Answer] = []

        async def is_limited() -> bool:
            attempts.append(await other.redeem(code, customer, f"o-{next(numbers)}"))
            return attempts[-1].status != 201

        began_at = time.monotonic()
        async with stalls() as stood_still:
            await until_async(is_limited, what="the other process has heard of it")
        assert time.monotonic() - began_at < SEEN_ELSEWHERE_S + stood_still.total_s
        check_limited(attempts[-1])


async def test_two_workers(start_usher: StartUsher, api_key: str) -> None:
    """200 guesses of each of ten customers over both workers: twenty for each."""
    server = start_usher(workers=2)
    customers = [somebody() for _ in range(10)]
    async with Client(server.url, key=api_key) as client:
        answers = await asyncio.gather(*(guess_at_once(client, customer, 200) for customer in customers))
    assert [{NOT_FOUND: GUESSES_MAX, LIMITED: 180}] * 10 == [tally(of_one) for of_one in answers]


async def test_the_ledger_goes_away(
    start_usher: StartUsher, api_key: str, stores: Stores, faults: Callable[[int], Proxy]
) -> None:
    """In the middle: 503, and afterwards exactly what is left of the twenty."""
    proxy = faults(stores.mariadb.port)
    server, customer = start_usher(database_url=proxy.url(stores.mariadb.url)), somebody()
    async with Client(server.url, key=api_key) as client:
        codes = [f"GUESS-{next(numbers)}" for _ in range(30)]
        assert {NOT_FOUND: 8} == tally([await client.redeem(code, customer, "o") for code in codes[:8]])
        lost = proxy.lose_reply(holding(b"COMMIT"), times=1)
        assert {NOT_FOUND: 4} == tally([await client.redeem(code, customer, "o") for code in codes[8:12]])
        assert 1 == lost.hits
        proxy.refuse()
        away = await asyncio.gather(*(client.redeem(code, customer, "o") for code in codes[12:15]))
        assert {"503 unavailable": 3} == tally(away)
        proxy.heal()
        await asyncio.to_thread(server.wait_until_ready)
        answers = [await client.redeem(code, customer, "o") for code in codes]
    assert {NOT_FOUND: 20, LIMITED: 10} == tally(answers)
    assert [404] * 20 == [answer.status for answer in answers[:20]]


async def test_the_log_names_who_is_limited_once(start_usher: StartUsher, api_key: str) -> None:
    """One event, with a hash for the customer; a storm of customers is some events and a number."""
    server, customer = start_usher(), somebody()
    async with Client(server.url, key=api_key) as client:
        await guess_at_once(client, customer, 60)
        (event,) = events(server, "customer limited")
        assert "info" == event["level"]
        assert isinstance(event["api_key_id"], int)
        assert customer not in server.output
        await asyncio.gather(*(guess_at_once(client, somebody(), 25) for _ in range(60)))
        await until(
            lambda: (
                61
                == len(events(server, "customer limited"))
                + sum(event["customers"] for event in events(server, "more customers limited"))
            ),
            what="all have been told of",
        )


def events(server: Usher, name: str) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in server.output.splitlines() if line.startswith("{")]
    return [line for line in lines if line["event"] == name]


@pytest.mark.long
@pytest.mark.timeout(240)
async def test_after_a_minute(client: Client, coupon: MakeCoupon) -> None:
    """`Retry-After` is true: before it 429, whatever was tried meanwhile; after it another code, or a good one."""
    code, customer = await coupon(), somebody()
    await guess_at_once(client, customer)
    end = time.monotonic() + int((await client.redeem(code, customer, "o")).headers["Retry-After"])
    while time.monotonic() < end - 2:
        check_limited(await client.redeem(f"GUESS-{next(numbers)}", customer, "o"))
        await asyncio.sleep(1)
    await asyncio.sleep(end - time.monotonic())
    assert {NOT_FOUND: 1} == tally(await guess(client, customer, 1))
    assert 201 == (await client.redeem(code, customer, "o")).status


@pytest.mark.long
@pytest.mark.timeout(900)
@pytest.mark.parametrize("customers", [1, 1_000, MANY_GUESSES])
async def test_100000_guesses(
    usher: Usher, api_key: str, admin: Admin, redis_client: "redis.asyncio.Redis", customers: int
) -> None:
    """They cost the ledger some thousand statements and Redis next to nothing, and each customer gets twenty at most."""
    names = [somebody() for _ in range(customers)]
    before, used_before = admin.status("Questions"), (await redis_client.info("memory"))["used_memory"]

    found = await storm(usher, api_key, names, MANY_GUESSES)

    assert MANY_GUESSES == found[NOT_FOUND] + found[LIMITED]
    assert min(MANY_GUESSES, GUESSES_MAX * customers) <= found[NOT_FOUND]
    assert admin.status("Questions") - before < MANY_STATEMENTS_MAX
    assert (await redis_client.info("memory"))["used_memory"] - used_before < REDIS_MAX_BYTES
