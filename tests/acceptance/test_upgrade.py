"""A new version replaces the old one under load: the schema first, then one process after the other, and no request fails."""

import asyncio
import itertools
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import aiohttp
import pytest
from pydantic import SecretStr

from deploy.local import MARIADB_FOR_TESTS, MariaDB, Redis
from service.ledger import migrations, sql
from service.ledger.sql import Migration
from tests.acceptance.conftest import StartUsher, Stores
from tests.auditor import Auditor
from tests.driver import Answer, Client, tally
from tests.stores import Admin, flush
from tests.usher_process import Usher, run_usher
from tests.waiting import until

CODE = "UPGRADE"
LIMIT = 1_000_000
LOADERS = 8
PAUSE_S = 0.01
"""Between two requests of a loader: load all the time, and room for the processes that start."""
LOOK_EVERY_S = 0.1
SOME_MORE = 100
"""Redemptions through a process, after which it has been seen to work."""

ONLINE = "ALGORITHM = INPLACE, LOCK = NONE"
NEWER = (
    "CREATE TABLE IF NOT EXISTS newer (id INT NOT NULL, PRIMARY KEY (id))",
    "ALTER TABLE redemption ADD COLUMN IF NOT EXISTS newer INT NOT NULL DEFAULT 7, ALGORITHM = INSTANT, LOCK = NONE",
    f"ALTER TABLE redemption ADD INDEX IF NOT EXISTS redemption_newer (newer, created_at), {ONLINE}",
    "ALTER TABLE coupon ADD COLUMN IF NOT EXISTS newer VARCHAR(20) NULL, ALGORITHM = INSTANT, LOCK = NONE",
)
"""What a newer version might add to the schema."""


@pytest.fixture(scope="module")
def mariadb(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MariaDB]:
    """One of this module's own: its schema becomes another one."""
    with MariaDB(tmp_path_factory.mktemp("mariadb"), settings=MARIADB_FOR_TESTS) as server:
        yield server


@pytest.fixture(scope="module")
def stores(mariadb: MariaDB, redis_server: Redis) -> Stores:
    run_usher("migrate", migration_url=mariadb.migration_url).check()
    flush(redis_server)
    return Stores(mariadb, redis_server)


@pytest.fixture
def admin(mariadb: MariaDB) -> Iterator[Admin]:
    with Admin(mariadb) as connection:
        yield connection


class Balancer:
    """Sends redemptions to those servers that say they are ready, in turn; to the next one when a connection breaks.

    Sending an order again is safe: it has one live redemption. An answer is an answer, whatever it says.
    """

    def __init__(self, clients: dict[Usher, Client]) -> None:
        self._clients = clients
        self._turn = itertools.cycle(clients)
        self._ready: set[Usher] = set()
        self.answers: list[Answer] = []
        self.answered_by: Counter[Usher] = Counter()
        self.broken: Counter[str] = Counter()

    async def look(self) -> None:
        """Asks each server whether it is ready."""
        for server, client in self._clients.items():
            try:
                answer = await client.send_once("GET", "/readyz", data=None)
            except aiohttp.ClientError:
                self._ready.discard(server)
            else:
                (self._ready.add if answer.status == 200 else self._ready.discard)(server)

    async def redeem(self, number: int) -> None:
        """One redemption, answered by somebody."""
        while True:
            server = next(self._turn)
            if server not in self._ready:
                assert self._ready, "nobody is ready"
                continue
            try:
                answer = await self._clients[server].redeem(CODE, f"customer-{number}", f"order-{number}")
            except aiohttp.ClientError as error:
                self.broken[type(error).__name__] += 1
                self._ready.discard(server)
            else:
                self.answers.append(answer)
                self.answered_by[server] += 1
                return

    @asynccontextmanager
    async def loaded(self) -> AsyncIterator[None]:
        """Redemptions all the time, until the body of the `with` has ended."""
        await self.look()
        numbers = itertools.count()
        ended = asyncio.Event()

        async def looking() -> None:
            while not ended.is_set():
                await self.look()
                await asyncio.sleep(LOOK_EVERY_S)

        async def loading() -> None:
            while not ended.is_set():
                await self.redeem(next(numbers))
                await asyncio.sleep(PAUSE_S)

        async with asyncio.TaskGroup() as tasks:
            for work in (looking, *[loading] * LOADERS):
                tasks.create_task(work())
            try:
                yield
            finally:
                ended.set()

    async def some_more(self, server: Usher) -> None:
        """Returns when this server has answered some more."""
        enough = self.answered_by[server] + SOME_MORE
        await until(lambda: self.answered_by[server] >= enough, what="a server that is ready is given traffic")


@pytest.fixture
async def balancer(start_usher: StartUsher, api_key: str) -> AsyncIterator[Balancer]:
    """In front of two servers, one of them with two workers."""
    one, two = start_usher(), start_usher(workers=2)
    async with Client(one.url, key=api_key) as first, Client(two.url, key=api_key) as second:
        yield Balancer({one: first, two: second})


async def migrate_to_newer(stores: Stores, monkeypatch: pytest.MonkeyPatch) -> None:
    """`usher migrate` of a newer version."""
    known = sql.migrations()
    newer = Migration(len(known) + 1, "newer", "1" * 64, NEWER)
    with monkeypatch.context() as version:
        version.setattr(migrations, "migrations", lambda: [*known, newer])
        assert [f"{newer.number:04d}_newer"] == await migrations.run(SecretStr(stores.mariadb.migration_url))


async def test_rolling_upgrade(
    balancer: Balancer, stores: Stores, auditor: Auditor, admin: Admin, api_key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Under load all the time, no request fails; the version that knows less of the schema serves, restarts and is ready."""
    run_usher("coupon", "create", CODE, "--max-redemptions", str(LIMIT), database_url=stores.mariadb.url).check()
    async with balancer.loaded():
        for server in balancer._clients:
            await balancer.some_more(server)
        await migrate_to_newer(stores, monkeypatch)
        assert [200, 200] == [server.readiness() for server in balancer._clients]
        for server in balancer._clients:
            await balancer.some_more(server)
        for server in balancer._clients:
            server.terminate()
            assert 0 == await asyncio.to_thread(server.wait)
            await asyncio.to_thread(server.start)
            await balancer.some_more(server)

    assert {"201", "200"} >= set(tally(balancer.answers))
    assert len(balancer.answers) == len(auditor.check(CODE, balancer.answers))
    assert 7 == admin.value("SELECT MIN(newer) FROM redemption")
    # The older version's own migrations: there is nothing left to do, and nothing to complain of.
    run_usher("migrate", migration_url=stores.mariadb.migration_url).check()
