"""Many do things with the same redemptions at once, and answers get lost: the limits hold, and every use can be had again."""

import asyncio
import itertools
import random
from collections.abc import AsyncIterator, Iterator, Mapping

import aiohttp
import pytest
import redis.asyncio

from tests.acceptance.conftest import PATIENT, MakeCoupon, StartReconciler, StartUsher, Stores
from tests.auditor import Auditor
from tests.driver import Answer, Client, Json, assert_none_failed, orders, repeating, tally
from tests.faults import Predicate, Proxy, holding
from tests.journal import Journal, journal
from tests.stores import Admin
from tests.usher_process import Usher
from tests.waiting import until

TIMES = 20
"""How often a request is sent whose answer was lost."""
WAVES = (1, 4, 1, 9, 5)
"""And how many of them at once."""
FLUSH_EVERY_S = 0.02
FLUSHES_MIN = 3


@pytest.fixture(scope="module")
def proxy(stores: Stores) -> Iterator[Proxy]:
    """In front of the ledger."""
    with Proxy(stores.mariadb.port) as made:
        yield made


@pytest.fixture(scope="module")
def usher(start_usher: StartUsher, stores: Stores, proxy: Proxy) -> Usher:
    return start_usher(workers=2, settings=PATIENT, database_url=proxy.url(stores.mariadb.url))


@pytest.fixture(scope="module")
def other_usher(start_usher: StartUsher) -> Usher:
    """Another service with one worker."""
    return start_usher()


@pytest.fixture(scope="module")
def entries(usher: Usher, stores: Stores) -> Iterator[Journal]:
    with Admin(stores.mariadb) as admin, journal(admin) as written:
        yield written


@pytest.fixture
async def lossy(usher: Usher, api_key: str) -> AsyncIterator[tuple[Client, Proxy]]:
    """A client, and the proxy through which it reaches the service."""
    with Proxy(usher.port) as between:
        async with Client(f"http://127.0.0.1:{between.port}", key=api_key) as connected:
            yield connected, between


async def reserve(client: Client, code: str, customer: str, order: str, *, key: str | None = None) -> Answer:
    body = {"code": code, "customer_id": customer, "order_id": order, "hold_s": 600}
    return await client.send("POST", "/v1/redemptions", body=body, headers={"Idempotency-Key": key} if key else None)


async def act(client: Client, redemption_id: str, verb: str, **fields: Json) -> Answer:
    """confirm, extend or cancel."""
    return await client.send("POST", f"/v1/redemptions/{redemption_id}/{verb}", body=fields or None)


def told(answer: Answer) -> str:
    """Its kind, as `tally` names it."""
    (kind,) = tally([answer])
    return kind


async def cancel_order(client: Client, code: str, order: str) -> Answer:
    return await client.send("POST", "/v1/redemptions/cancel", body={"code": code, "order_id": order})


def make_overdue(admin: Admin, redemption_ids: list[str]) -> None:
    """The holds' time is over."""
    for one in redemption_ids:
        statement = "UPDATE redemption SET expires_at = UTC_TIMESTAMP(6) - INTERVAL 1 SECOND WHERE id = UNHEX(%s)"
        admin.run(statement, one.replace("-", ""))


# --- Lost answers -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("body", [{}, {"hold_s": 600}], ids=["redeemed", "reserved"])
@pytest.mark.parametrize("headers", [{}, {"Idempotency-Key": "key-1"}], ids=["", "with a key"])
async def test_lost_answer_to_a_redemption(
    client: Client,
    lossy: tuple[Client, Proxy],
    coupon: MakeCoupon,
    auditor: Auditor,
    body: Mapping[str, Json],
    headers: Mapping[str, str],
) -> None:
    """The answer gets lost on its way to the client; sent twenty times more, some at once, it is one redemption."""
    code = await coupon(max_redemptions=2, max_per_customer=2)
    request = {"code": code, "customer_id": "ann", "order_id": "order-lost", **body}
    through, between = lossy
    loss = between.lose_reply(holding(b"order-lost"))
    with pytest.raises((aiohttp.ClientError, ConnectionError)):
        await through.send("POST", "/v1/redemptions", body=request, headers=headers)
    (row,) = auditor.live(code)

    answers = await again(client, "/v1/redemptions", request, headers)

    assert (1, {"200": TIMES}) == (loss.hits, tally(answers))
    assert {row["id"]} == {answer.id for answer in answers}
    assert [answers[0].body] * TIMES == [answer.body for answer in answers]
    assert 1 == len(auditor.rows(code))
    assert 2 == len(await auditor.fill(client, code))


IN_LEDGER: dict[str, Predicate] = {
    "write": holding(b"update (", b"was_seat"),
    "commit": lambda request: request.endswith(b"\x03COMMIT"),
}


@pytest.mark.parametrize("verb", ["confirm", "cancel"])
@pytest.mark.parametrize("where", ["client", *IN_LEDGER])
async def test_lost_answer_to_a_transition(
    client: Client,
    lossy: tuple[Client, Proxy],
    proxy: Proxy,
    coupon: MakeCoupon,
    auditor: Auditor,
    verb: str,
    where: str,
) -> None:
    """Wherever the answer got lost, and however often it is asked again: done once, and what was freed can be had."""
    code = await coupon(max_redemptions=1, max_per_customer=1)
    held = await reserve(client, code, "ann", "order-1")
    # From now on, for a second, the counter is believed when it says that nothing is free: it has to hear of what is freed.
    assert {"409 coupon_exhausted": 1} == tally([await client.redeem(code, "bob", "order-2")])
    path = f"/v1/redemptions/{held.id}/{verb}"
    if where == "client":
        through, between = lossy
        loss = between.lose_reply(holding(path.encode()))
        with pytest.raises((aiohttp.ClientError, ConnectionError)):
            await through.send("POST", path)
    else:
        loss = proxy.lose_reply(IN_LEDGER[where])
        assert {"200": 1} == tally([await client.send("POST", path)])
        proxy.heal()

    answers = await again(client, path)

    assert (1, {"200": TIMES}) == (loss.hits, tally(answers))
    assert [answers[0].body] * TIMES == [answer.body for answer in answers]
    assert {"confirm": "confirmed", "cancel": "cancelled"}[verb] == answers[0].body["status"]
    following = await client.redeem_all(code, [("bob", "order-2"), ("ann", "order-3")])
    refused = {"409 coupon_exhausted": 1, "409 customer_limit_reached": 1}
    assert ({"201": 1, "409 coupon_exhausted": 1} if verb == "cancel" else refused) == tally(following)
    assert 1 == len(auditor.check(code, following))


async def again(
    client: Client, path: str, body: Mapping[str, Json] | None = None, headers: Mapping[str, str] | None = None
) -> list[Answer]:
    """The same request TIMES times, in waves."""
    assert sum(WAVES) == TIMES
    answers: list[Answer] = []
    for wave in WAVES:
        sent = (client.send("POST", path, body=body, headers=headers) for _ in range(wave))
        answers += await asyncio.gather(*sent)
    return answers


# --- Changed limits ---------------------------------------------------------------------------------------------------


async def test_lowered_under_load(client: Client, coupon: MakeCoupon, auditor: Auditor, admin: Admin, entries: Journal) -> None:
    """60 of 100, lowered to 50 while many redeem and cancel: ten endings admit nobody, the eleventh one, 55 another five."""
    code = await coupon(max_redemptions=100)
    held = [answer.id for answer in await asyncio.gather(*(reserve(client, code, *order) for order in orders(60)))]
    stale, fresh = [(await client.change_coupon(code, metadata={"n": n})).headers["ETag"] for n in range(2)]
    is_lowered = False
    before: list[Answer] = []
    after: list[Answer] = []
    numbers = itertools.count()

    async def lower(etag: str) -> str:
        return told(await client.send("PATCH", f"/v1/coupons/{code}", body={"max_redemptions": 50}, headers={"If-Match": etag}))

    async def ask() -> None:
        """What was asked for before the change was answered is given back; what was asked for later is kept."""
        answers, gives_back = (after, False) if is_lowered else (before, True)
        made = await client.redeem_all(code, [("ann", f"new-{next(numbers)}") for _ in range(8)])
        if gives_back:
            made += await asyncio.gather(*(act(client, one.id, "cancel") for one in made if one.status == 201))
        answers.extend(made)

    async with repeating(ask, every_s=0.001), repeating(ask, every_s=0.001), repeating(ask, every_s=0.001) as asked:
        await until(lambda: asked.times > 3, what="many ask")
        assert "412 version_mismatch" == await lower(stale)
        times, admitted = asked.times, tally(before)["201"]
        await until(lambda: asked.times > times + 3, what="they ask on")
        assert tally(before)["201"] > admitted + 8
        assert "200" == await lower(fresh)
        is_lowered = True
        times = asked.times
        await until(lambda: asked.times > times + 3, what="some ask who come too late")
        await until(lambda: len(held) == len(auditor.live(code)), what="all others have given back what they had")

        cancels = [act(client, one, "cancel") for one in held[:4]] + [
            cancel_order(client, code, f"order-o-{n}") for n in (4, 5)
        ]
        assert {"200": 6} == tally(await asyncio.gather(*cancels))
        make_overdue(admin, held[6:10])
        await until(lambda: 50 == len(auditor.live(code)), what="the holds whose time is over are ended by those who ask")
        await asyncio.sleep(1.5)
        assert {"409 coupon_exhausted"} == set(tally(after))
        assert {"200": 1} == tally([await act(client, held[10], "cancel")])
        await until(lambda: tally(after)["201"] == 1, what="somebody has got the eleventh")
        await client.change_coupon(code, max_redemptions=55)
        await until(lambda: tally(after)["201"] == 6, what="five others are admitted")
        await asyncio.sleep(0.2)

    assert {"201", "409 coupon_exhausted"} == set(tally(after))
    assert {"200", "201"} <= set(tally(before)) <= {"200", "201", "409 coupon_exhausted"}
    assert 55 == len(auditor.check(code, after))
    happened = entries.check(code)
    assert (5, 55) == (happened["limited"], happened["admitted"] - happened["ended"])


@pytest.mark.parametrize("first", [0, 1])
async def test_seat_that_was_handed_on(
    client: Client, other_usher: Usher, api_key: str, coupon: MakeCoupon, auditor: Auditor, first: int
) -> None:
    """Of two above a limit, the first that is cancelled hands its seat on; cancelled as well, that use is had at once.

    `first`: in which process the first of them was made.
    """
    async with Client(other_usher.url, key=api_key) as other:
        code = await coupon(max_redemptions=2)
        made = [await (client, other)[first].redeem(code, "ann", "order-1"), await client.redeem(code, "bob", "order-2")]
        await client.change_coupon(code, max_redemptions=1)
        assert {"200": 2} == tally([await act(client, one.id, "cancel") for one in made])
        assert {"201": 1} == tally([await client.redeem(code, "cid", "order-3")])
    auditor.check(code)


@pytest.mark.parametrize("flushed", [False, True], ids=["", "flushed"])
async def test_limits_change_while_all_is_under_way(
    client: Client,
    coupon: MakeCoupon,
    auditor: Auditor,
    admin: Admin,
    redis_client: "redis.asyncio.Redis",
    entries: Journal,
    start_reconciler: StartReconciler,
    flushed: bool,
) -> None:
    """All side by side: nobody is admitted at or above a limit in force, and no client hears of a deadlock."""
    code = await coupon(max_redemptions=100)
    answers = await client.redeem_all(code, orders(60))
    held, confirmed = [answer.id for answer in answers], list[str]()
    start_reconciler()
    numbers = itertools.count()

    async def buy() -> None:
        made = await asyncio.gather(*(reserve(client, code, "ann", f"new-{next(numbers)}") for _ in range(6)))
        answers.extend(made)
        held.extend(one.id for one in made if one.status == 201)

    async def end() -> None:
        random.shuffle(held)
        cancelled, kept, overdue = ([held.pop() for _ in range(min(most, len(held)))] for most in (3, 2, 1))
        make_overdue(admin, overdue)
        cancels = (act(client, one, "cancel") for one in (*cancelled, *confirmed))
        answers.extend(await asyncio.gather(*cancels, *(act(client, one, "confirm") for one in kept)))
        confirmed[:] = kept

    async def flush() -> None:
        if flushed:
            await redis_client.flushall()

    async with (
        repeating(buy, every_s=0.001) as bought,
        repeating(end, every_s=0.001),
        repeating(flush, every_s=FLUSH_EVERY_S) as flushes,
    ):
        for limit in (50, 55, 30, 40, 20, 21, 60, 10, 50):
            await client.change_coupon(code, max_redemptions=limit)
            before = bought.times, flushes.times
            await until(
                lambda before=before: bought.times > before[0] + 3 and flushes.times > before[1],  # type: ignore[misc]
                what="some have asked",
            )
        await until(lambda: tally(answers)["201"] > 100 and tally(answers)["200"] > 50, what="much has happened")
    assert_none_failed(answers)
    assert set(tally(answers)) <= {"200", "201", "409 coupon_exhausted"}
    happened = entries.check(code)
    assert (10, True, True) == (happened["limited"], happened["admitted"] > 100, happened["ended"] > 50)
    assert 50 == len(await auditor.fill(client, code))
    entries.check(code)


# --- Customers --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("flushed", [False, True], ids=["", "flushed"])
async def test_three_per_customer(
    client: Client, coupon: MakeCoupon, auditor: Auditor, redis_client: "redis.asyncio.Redis", entries: Journal, flushed: bool
) -> None:
    """Ten customers with three each cancel any of them at once and redeem anew at once: nobody is ever refused wrongly."""
    code = await coupon(max_redemptions=1_000, max_per_customer=3)
    wrong: list[Answer] = []

    async def shop(customer: str) -> None:
        live: list[str] = []
        for number in range(12):
            wanted = [(customer, f"{customer}-{number}-{n}") for n in range(3 - len(live))]
            made = await client.redeem_all(code, wanted)
            wrong.extend(answer for answer in made if answer.status != 201)
            live += [answer.id for answer in made if answer.status == 201]
            late = await client.redeem(code, customer, f"{customer}-late-{number}")
            wrong.extend([late] if late.code != "customer_limit_reached" else [])
            random.shuffle(live)
            given_up, live = live[: 1 + number % 3], live[1 + number % 3 :]
            if number < 11:
                ended = await asyncio.gather(*(act(client, one, "cancel") for one in given_up))
                wrong.extend(answer for answer in ended if answer.status != 200)

    async def flush() -> None:
        if flushed:
            await redis_client.flushall()

    async with repeating(flush, every_s=FLUSH_EVERY_S) as flushes:
        await asyncio.gather(*(shop(f"customer-{number}") for number in range(10)))

    assert flushes.times >= FLUSHES_MIN
    assert [] == wrong
    assert 30 == len(auditor.check(code))
    entries.check(code)


# --- Storms and crashes -----------------------------------------------------------------------------------------------


async def test_flushed_during_a_storm_of_cancels(
    client: Client, coupon: MakeCoupon, auditor: Auditor, redis_client: "redis.asyncio.Redis", entries: Journal
) -> None:
    """199 of 200 uses are cancelled at once under FLUSHALL; when that is answered, all of them can be had at once.

    The highest seat stays taken, so that a counter that was loaded anew has to search for each of the others.
    """
    code = await coupon(max_redemptions=200, max_per_customer=1)
    top = await client.redeem(code, "customer", "order")
    for number in range(4):
        made = await client.redeem_all(code, orders(199, f"{number}"))
        assert {"201": 199} == tally(made)
        top, *others = sorted([top, *made], key=lambda one: int(one.body["seat"]), reverse=True)
        async with repeating(redis_client.flushall, every_s=0.001) as flushes:
            cancelled = await asyncio.gather(*(act(client, one.id, "cancel") for one in others))
        assert {"200": 199} == tally(cancelled)
        assert flushes.times >= FLUSHES_MIN
    assert {"201": 199, "409 coupon_exhausted": 50} == tally(await client.redeem_all(code, orders(249, "last")))
    assert 200 == len(auditor.check(code))
    assert {"limited": 1, "admitted": 996, "ended": 796} == entries.check(code)


PLANS = ("keep", "confirm", *["cancel"] * 4, *["regret"] * 4)
"""Most uses are given back, or a small coupon would be exhausted before anything has happened."""


class Buyer:
    """A client that reserves, confirms and cancels on and on.

    Attributes:
        possible: for each redemption that it has heard of, the statuses that it may have.
        failed: what it was told that no client should be told.
    """

    def __init__(self, client: Client, code: str, name: str, plans: Iterator[str]) -> None:
        self.possible: dict[str, set[str]] = {}
        self.failed: list[Answer] = []
        self._client = client
        self._code = code
        self._name = name
        self._plans = plans

    async def run(self, rounds: int) -> None:
        for number in range(rounds):
            try:
                await self._buy(f"{self._name}-{number}", next(self._plans))
            except (aiohttp.ClientError, ConnectionError):
                await asyncio.sleep(0.05)

    async def _buy(self, order: str, plan: str) -> None:
        held = await reserve(self._client, self._code, self._name, order)
        if held.status != 201:
            self.failed += [held] if held.code not in {"coupon_exhausted", "unavailable", "outcome_unknown"} else []
            return
        self.possible[held.id] = {"reserved"}
        if plan in ("confirm", "regret"):
            await self._act(held.id, "confirm", "confirmed")
        if plan in ("cancel", "regret"):
            await self._act(held.id, "cancel", "cancelled")

    async def _act(self, redemption_id: str, verb: str, becomes: str) -> None:
        self.possible[redemption_id].add(becomes)
        answer = await act(self._client, redemption_id, verb)
        if answer.status == 200:
            self.possible[redemption_id] = {answer.body["status"]}
        elif answer.status != 503:
            self.failed.append(answer)


def plans(uses_kept_max: int) -> Iterator[str]:
    """At random; when so many uses are kept, all others are given back, and the coupon is never exhausted for good."""
    kept = 0
    while True:
        plan = random.choice(PLANS if kept < uses_kept_max else PLANS[2:])
        kept += plan in PLANS[:2]
        yield plan


@pytest.mark.parametrize("limit", [20, 400])
async def test_killed_in_the_middle(
    start_usher: StartUsher,
    stores: Stores,
    proxy: Proxy,
    api_key: str,
    coupon: MakeCoupon,
    auditor: Auditor,
    entries: Journal,
    limit: int,
) -> None:
    """SIGKILL of everything while 30 reserve, confirm and cancel, some of it claimed and not recorded.

    What they heard is so, and exactly the limit can be had again.
    """
    settings = {"USHER_REQUEST_DEADLINE_MS": "2000"}
    server = start_usher(workers=2, settings=settings, database_url=proxy.url(stores.mariadb.url))
    code = await coupon(max_redemptions=limit)
    async with Client(server.url, key=api_key) as client:
        chosen = plans(limit // 2)
        buyers = [Buyer(client, code, f"buyer-{number}", chosen) for number in range(30)]
        running = [asyncio.create_task(buyer.run(60)) for buyer in buyers]
        await until(lambda: len(auditor.rows(code)) >= limit + 20, what="many have bought")
        records = proxy.hold(holding(b"insert into redemption"))
        await until(lambda: records.hits > 0, what="some have claimed")
        server.kill()
        proxy.cut()  # What is held back never arrives.
        proxy.heal()
        await asyncio.to_thread(server.start)
        await asyncio.gather(*running)

        assert [] == [answer for buyer in buyers for answer in buyer.failed]
        status = {row["id"]: row["status"] for row in auditor.rows(code)}
        possible = {one: statuses for buyer in buyers for one, statuses in buyer.possible.items()}
        assert {} == {one: statuses for one, statuses in possible.items() if status.get(one) not in statuses}
        assert limit == len(await auditor.fill(client, code))
        entries.check(code)
    server.stop()
