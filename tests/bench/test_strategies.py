import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from uuid import uuid4

import aiohttp
import aiomysql
import pytest
from aiohttp import web

from bench.front import STRATEGIES, add
from bench.strategies import KINDS
from bench.strategies.model import Failed, Failure, Order, Row, Sold, Stores, Strategy, new_row
from bench.strategies.naive import Naive
from bench.strategies.preparation import COUNTING_ON_LEDGER, Places, Recount, prepare, recount
from bench.strategies.queue_batch import QueueBatch
from bench.strategies.sessions import Pool, Session
from service.api import views
from tests.stores import Admin
from tests.waiting import until

LIMIT = 20
SENDS = 200
POOL = 4
WORKERS = 2
SHORT_S = 0.2
LONG_S = 60.0

EXACT = [name for name in STRATEGIES if KINDS[name].exact]
DURABLE = [name for name in STRATEGIES if KINDS[name].durable]


@pytest.fixture
def places(migration_url: str, operator_url: str, admin: Admin) -> Places:
    """The stores, with one coupon of which nothing is used."""
    admin.run(
        "INSERT INTO coupon (code, max_redemptions, status, metadata, version, created_at, updated_at) "
        "VALUES ('HOT', %s, 'active', '{}', 1, UTC_TIMESTAMP(6), UTC_TIMESTAMP(6))",
        LIMIT,
    )
    return Places(migration_url, operator_url)


@pytest.fixture
def stores(database_url: str, operator_url: str, places: Places) -> Stores:
    """As a worker comes to them."""
    return Stores(database_url, operator_url, POOL)


@asynccontextmanager
async def serving(*strategies: Strategy) -> AsyncIterator[list[aiohttp.ClientSession]]:
    """A client for each of them, served by a front of its own, as by workers."""
    runners, clients = [], []
    for strategy in strategies:
        app = web.Application()
        add(app, strategy)
        runners.append(web.AppRunner(app))
        await runners[-1].setup()
        await web.TCPSite(runners[-1], "127.0.0.1", 0).start()
        host, port = runners[-1].addresses[0]
        clients.append(aiohttp.ClientSession(f"http://{host}:{port}", connector=aiohttp.TCPConnector(limit=0)))
    try:
        yield clients
    finally:
        for client, runner in zip(clients, runners, strict=True):
            await client.close()
            await runner.cleanup()


async def send(client: aiohttp.ClientSession, order: str, *, code: str = "HOT", customer: str = "ann's \\") -> tuple[int, str]:
    """Status and body of the answer."""
    async with client.post("/v1/redemptions", json={"code": code, "customer_id": customer, "order_id": order}) as answer:
        return answer.status, await answer.text()


def statuses(answers: Iterable[tuple[int, str]]) -> dict[int, int]:
    return dict(Counter(status for status, _ in answers))


def waiting(admin: Admin) -> int:
    """How many wait for a row's lock."""
    return admin.status("Innodb_row_lock_current_waits")


@pytest.mark.parametrize("name", EXACT)
async def test_an_exact_way_sells_exactly_the_limit(name: str, stores: Stores, places: Places) -> None:
    prepare(name, ["HOT"], places)
    async with serving(*[STRATEGIES[name](stores) for _ in range(WORKERS)]) as clients:
        answers = await asyncio.gather(*[send(clients[n % WORKERS], f"order-{n}") for n in range(SENDS)])
    assert {201: LIMIT, 409: SENDS - LIMIT} == statuses(answers)
    live = LIMIT if KINDS[name].durable else 0
    assert Recount(LIMIT, live, LIMIT, sold_too_many=0, sold_too_few=0, uncounted=0) == recount(name, ["HOT"], places)


@pytest.mark.parametrize("name", STRATEGIES)
async def test_answers_have_the_form_of_ushers(name: str, stores: Stores, places: Places, admin: Admin) -> None:
    admin.run("UPDATE coupon SET max_redemptions = 1")
    prepare(name, ["HOT"], places)
    async with serving(STRATEGIES[name](stores)) as (client,):
        status, text = await send(client, "order-1")
        sold = views.Redemption.model_validate_json(text)
        assert (201, "HOT", "ann's \\", "order-1", "confirmed") == (
            status, sold.code, sold.customer_id, sold.order_id, sold.status,
        )  # fmt: skip
        if KINDS[name].exact:
            status, text = await send(client, "order-2")
            assert (409, "coupon_exhausted") == (status, views.Problem.model_validate_json(text).code)
        status, text = await send(client, "order-3", code="NONE")
        assert (404, "coupon_not_found") == (status, views.Problem.model_validate_json(text).code)
    if KINDS[name].durable:
        (row,) = admin.run("SELECT LOWER(HEX(id)) AS id, customer_id, status, created_at, confirmed_at FROM redemption")
        assert [sold.id.replace("-", ""), sold.customer_id, "confirmed", sold.created_at.replace(tzinfo=None)] == [
            row["id"], row["customer_id"], row["status"], row["created_at"],
        ]  # fmt: skip
        assert row["created_at"] == row["confirmed_at"]


@pytest.mark.parametrize("name", DURABLE)
async def test_an_order_that_comes_again_gets_its_redemption(name: str, stores: Stores, places: Places) -> None:
    prepare(name, ["HOT"], places)
    async with serving(STRATEGIES[name](stores)) as (client,):
        _, first = await send(client, "order-1")
        both = await asyncio.gather(*[send(client, "order-1") for _ in range(2)])
    assert [(200, first), (200, first)] == both
    found = recount(name, ["HOT"], places)
    assert (1, 0, 0) == (found.live, found.sold_too_few, found.uncounted)


@pytest.mark.parametrize("name", DURABLE)
async def test_a_redemption_that_cannot_be_written_is_not_counted(name: str, stores: Stores, places: Places) -> None:
    prepare(name, ["HOT"], places)
    async with serving(STRATEGIES[name](stores)) as (client,):
        status, text = await send(client, "order-1", customer="longer than the column" * 10)
        assert (503, "other") == (status, views.Problem.model_validate_json(text).code)
        assert 201 == (await send(client, "order-2"))[0]
    found = recount(name, ["HOT"], places)
    assert (1, 0, 0) == (found.live, found.sold_too_few, found.uncounted)


class BothRead(Naive):
    """Two requests of which neither writes before the other has read."""

    def __init__(self, stores: Stores) -> None:
        super().__init__(stores)
        self._both = asyncio.Barrier(2)

    async def read(self, session: Session, row: Row) -> tuple[int, int]:
        found = await super().read(session, row)
        await self._both.wait()
        return found


async def test_the_naive_way_sells_too_many(stores: Stores, places: Places, admin: Admin) -> None:
    admin.run("UPDATE coupon SET max_redemptions = 1")
    prepare("naive", ["HOT"], places)
    async with serving(BothRead(stores)) as (client,):
        answers = await asyncio.gather(send(client, "order-1"), send(client, "order-2"))
    assert {201: 2} == statuses(answers)
    assert Recount(1, 2, 1, sold_too_many=1, sold_too_few=0, uncounted=1) == recount("naive", ["HOT"], places)


async def test_the_floor_does_not_look_at_the_limit(stores: Stores, places: Places) -> None:
    prepare("floor", ["HOT"], places)
    async with serving(STRATEGIES["floor"](stores)) as (client,):
        answers = await asyncio.gather(*[send(client, f"order-{n}") for n in range(LIMIT + 2)])
    assert {201: LIMIT + 2} == statuses(answers)
    assert Recount(LIMIT, LIMIT + 2, None, sold_too_many=2, sold_too_few=0, uncounted=0) == recount("floor", ["HOT"], places)


@pytest.mark.parametrize("name", EXACT)
async def test_what_is_used_already_counts(name: str, stores: Stores, places: Places) -> None:
    used = 7
    prepare("floor", ["HOT"], places)
    async with serving(STRATEGIES["floor"](stores)) as (client,):
        await asyncio.gather(*[send(client, f"earlier-{n}") for n in range(used)])
    prepare(name, ["HOT"], places)
    async with serving(STRATEGIES[name](stores)) as (client,):
        answers = await asyncio.gather(*[send(client, f"order-{n}") for n in range(LIMIT)])
    assert {201: LIMIT - used, 409: used} == statuses(answers)


async def test_a_use_that_was_counted_and_not_sold_is_missing(stores: Stores, places: Places, admin: Admin) -> None:
    prepare("read-committed", ["HOT"], places)
    admin.run("UPDATE bench_counter SET used = used + 3")
    assert 3 == recount("read-committed", ["HOT"], places).sold_too_few


@pytest.mark.parametrize("name", [name for name in EXACT if name in COUNTING_ON_LEDGER])
async def test_who_comes_while_another_counts_waits_for_it(name: str, stores: Stores, places: Places, admin: Admin) -> None:
    prepare(name, ["HOT"], places)
    async with serving(STRATEGIES[name](stores)) as (client,):
        admin.run("BEGIN")
        admin.run("UPDATE bench_counter SET used = max_redemptions")
        sending = asyncio.create_task(send(client, "order-1"))
        await until(lambda: waiting(admin) == 1, what="it waits for the counter's row")
        admin.run("COMMIT")
        status, text = await sending
    assert (409, "coupon_exhausted") == (status, views.Problem.model_validate_json(text).code)


@pytest.mark.parametrize("name", ["conditional-update", "queue-single"])
async def test_who_waits_too_long_hears_for_what(
    name: str, stores: Stores, places: Places, admin: Admin, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepare(name, ["HOT"], places)
    async with serving(STRATEGIES[name](stores._replace(pool=1))) as (client,):
        admin.run("BEGIN")
        admin.run("SELECT * FROM bench_counter FOR UPDATE")
        monkeypatch.setattr("bench.front.DEADLINE_S", LONG_S)
        first = asyncio.create_task(send(client, "order-1"))
        await until(lambda: waiting(admin) == 1, what="the first one waits for the counter's row")
        monkeypatch.setattr("bench.front.DEADLINE_S", SHORT_S)
        _, text = await send(client, "order-2")
        assert "pool" == views.Problem.model_validate_json(text).code
        admin.run("ROLLBACK")
        assert 201 == (await first)[0]

        admin.run("BEGIN")
        admin.run("SELECT * FROM bench_counter FOR UPDATE")
        _, text = await send(client, "order-3")
        assert "time_out" == views.Problem.model_validate_json(text).code
        admin.run("ROLLBACK")
        monkeypatch.undo()
        assert 201 == (await send(client, "order-4"))[0]


async def test_a_batch_is_one_statement_where_enough_is_left_and_otherwise_has_what_is_left(
    stores: Stores, places: Places, admin: Admin, monkeypatch: pytest.MonkeyPatch
) -> None:
    admin.run(
        "INSERT INTO coupon (code, max_redemptions, status, metadata, version, created_at, updated_at) "
        "VALUES ('RARE', 1, 'active', '{}', 1, UTC_TIMESTAMP(6), UTC_TIMESTAMP(6))"
    )
    prepare("queue-batch", ["HOT", "RARE"], places)
    sent: list[str] = []
    query = aiomysql.Connection.query

    async def counted(connection: aiomysql.Connection, statement: str) -> int:
        sent.append(statement)
        affected: int = await query(connection, statement)
        return affected

    async with QueueBatch(stores) as batch, batch._pool.use() as session:
        ids = {code: await batch.coupon_id(session, code) or 0 for code in ("HOT", "RARE")}
        monkeypatch.setattr(aiomysql.Connection, "query", counted)

        async def sell(*codes: str) -> list[bool]:
            rows = [new_row(Order(code, "ann", str(uuid4())), ids[code]) for code in codes]
            sent.clear()
            return [isinstance(answer, Sold) for answer in await batch.sell_all(session, rows)]

        assert [True] * 3 == await sell("RARE", "HOT", "HOT")
        assert 1 == len(sent)
        assert [True, False, True] == await sell("HOT", "RARE", "HOT")
        assert Recount(LIMIT + 1, 5, 5, 0, 0, 0) == recount("queue-batch", ["HOT", "RARE"], places)
        assert [True] * 16 + [False] == await sell(*["HOT"] * 17)
    assert Recount(LIMIT + 1, LIMIT + 1, LIMIT + 1, 0, 0, 0) == recount("queue-batch", ["HOT", "RARE"], places)


async def test_the_usual_design_gives_back_once_what_an_order_that_is_there_has_counted(
    stores: Stores, places: Places, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepare("redis-insert", ["HOT"], places)
    async with serving(STRATEGIES["redis-insert"](stores)) as (client,):
        assert 201 == (await send(client, "order-1"))[0]
        # As if its redemption had ended between the INSERT that met it and the look.
        monkeypatch.setattr("bench.strategies.on_ledger.find_live", lambda _row: "SELECT 1, 2, 3 FROM DUAL WHERE FALSE")
        status, text = await send(client, "order-1")
    assert (503, "other") == (status, views.Problem.model_validate_json(text).code)
    found = recount("redis-insert", ["HOT"], places)
    assert (1, 1) == (found.live, found.counted)


@pytest.mark.parametrize(
    ("number", "failure"), [(1213, Failure.DEADLOCK), (1205, Failure.LOCK_WAIT), (1406, Failure.OTHER)], ids=str
)
async def test_failures_are_told_apart(number: int, failure: Failure, stores: Stores) -> None:
    pool = Pool(stores.database_url, 1, "READ COMMITTED")
    await pool.open()
    with pytest.raises(Failed, match=failure.value):
        async with pool.use() as session:
            await session.run(f"SIGNAL SQLSTATE '45000' SET MYSQL_ERRNO = {number}")
    pool.close()
