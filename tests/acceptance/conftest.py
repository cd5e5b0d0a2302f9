"""A running Usher for each module, with stores that were emptied before; the tests of a module use coupons of their own."""

import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Generator, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest
import redis.asyncio

from deploy.local import MariaDB, Redis
from tests.auditor import Auditor
from tests.driver import Client, Json
from tests.reconciler_process import Reconciler
from tests.stores import Admin, empty, flush, mark_seen
from tests.usher_process import Usher, environment

StartUsher = Callable[..., Usher]
StartReconciler = Callable[..., Reconciler]
MakeCoupon = Callable[..., Awaitable[str]]


LOG_LINES_SHOWN = 30
PATIENT = {"USHER_REQUEST_DEADLINE_MS": "20000", "USHER_REDIS_TIMEOUT_MS": "4000", "USHER_STOP_DEADLINE_MS": "30000"}
"""For storms: they show that every request ends well, and not how many of them a busy machine carries out in 5 s."""


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """A test that fails shows what its servers logged last."""
    report = yield
    if report.failed:
        fixtures = getattr(item, "funcargs", {}).values()
        used = [one for fixture in fixtures for one in (fixture if isinstance(fixture, list) else [fixture])]
        servers = [one for one in used if isinstance(one, Usher)]
        for server in dict.fromkeys(servers):
            report.sections.append((f"usher on port {server.port}", "\n".join(server.output.splitlines()[-LOG_LINES_SHOWN:])))
    return report


@dataclass(frozen=True)
class Stores:
    """The stores of this test process, emptied when the module began."""

    mariadb: MariaDB
    redis: Redis


@pytest.fixture(scope="module")
def stores(mariadb_server: MariaDB, redis_server: Redis, _migrated: None) -> Stores:
    empty(mariadb_server)
    flush(redis_server)
    return Stores(mariadb_server, redis_server)


@pytest.fixture(scope="module")
def api_key(stores: Stores) -> str:
    """A key that may do everything."""
    with Admin(stores.mariadb) as admin:
        return admin.make_key(f"tests-{secrets.token_hex(4)}", "admin")


@pytest.fixture(scope="module")
def start_usher(stores: Stores, tmp_path_factory: pytest.TempPathFactory) -> Iterator[StartUsher]:
    """Starts servers; they are stopped after the module."""
    with ExitStack() as servers:

        def start(
            *,
            workers: int = 1,
            database_url: str = "",
            redis_url: str = "",
            settings: Mapping[str, str] | None = None,
        ) -> Usher:
            variables = environment(
                database_url=database_url or stores.mariadb.url,
                redis_url=redis_url or stores.redis.url,
                settings=settings,
            )
            log = tmp_path_factory.mktemp("usher") / "log"
            return servers.enter_context(Usher(log, variables, workers=workers))

        yield start


@pytest.fixture(scope="module")
def usher(start_usher: StartUsher) -> Usher:
    """One server with one worker; modules that need another one have a fixture of this name."""
    return start_usher()


@pytest.fixture
def start_reconciler(stores: Stores, tmp_path: Path) -> Iterator[StartReconciler]:
    """Starts reconcilers beside a Redis that has lost nothing; those that run are stopped after the test."""
    with ExitStack() as running:

        def start(*, database_url: str = "", redis_url: str = "", settings: Mapping[str, str] | None = None) -> Reconciler:
            variables = environment(
                database_url=database_url or stores.mariadb.url,
                redis_url=redis_url or stores.redis.url,
                settings={"USHER_EXPIRE_INTERVAL_MS": "200", "USHER_RECONCILER_LISTEN_PORT": "0", **(settings or {})},
            )
            mark_seen(stores.redis)
            started = Reconciler(tmp_path / f"log-{len(list(tmp_path.iterdir()))}", variables)
            running.callback(started.kept.stop)
            return started

        yield start


@pytest.fixture
async def client(usher: Usher, api_key: str) -> AsyncIterator[Client]:
    async with Client(usher.url, key=api_key) as connected:
        yield connected


@pytest.fixture
async def redis_client(stores: Stores) -> AsyncIterator["redis.asyncio.Redis"]:
    """Redis past Usher, as its operator; replies are bytes."""
    connected = redis.asyncio.Redis.from_url(stores.redis.operator_url, socket_timeout=30, socket_connect_timeout=30)
    yield connected
    await connected.aclose()


@pytest.fixture
def auditor(admin: Admin) -> Auditor:
    return Auditor(admin)


@pytest.fixture
def coupon(client: Client) -> MakeCoupon:
    """Makes a coupon whose code no other test has; returns the code."""

    async def make(name: str = "GOLD20", **fields: Json) -> str:
        code = f"{name}-{secrets.token_hex(4).upper()}"
        answer = await client.create_coupon(code, **fields)
        assert 201 == answer.status, answer
        return code

    return make
