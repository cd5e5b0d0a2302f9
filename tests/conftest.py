"""Fixtures for all tests: private stores of the real kind, one of each for every test process.

A store that cannot be had fails the tests that need it; nothing is skipped.
"""

import asyncio
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import hypothesis
import pytest
from pydantic import SecretStr

from deploy import ports
from deploy.local import MARIADB_FOR_TESTS, PORTS, MariaDB, Redis
from service.config import Settings
from service.ledger import migrations
from tests.faults import Proxy
from tests.stores import Admin, empty, flush

# What an example shows does not depend on how long it took: the machine may have stood still meanwhile.
hypothesis.settings.register_profile("usher", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow])
hypothesis.settings.load_profile("usher")


@pytest.fixture(scope="session", autouse=True)
def _no_settings_from_outside() -> None:
    """What the person at the keyboard has set for `usher` is not for the tests."""
    for name in [name for name in os.environ if name.startswith("USHER_")]:
        del os.environ[name]


@pytest.fixture(scope="session", autouse=True)
def _ports_of_this_process() -> None:
    """Each test process has ports of its own: between a port's choice and its use, and in a restart, there may be seconds."""
    place, count = os.environ.get("PYTEST_XDIST_WORKER", "gw0"), os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1")
    ports.PORTS = PORTS[int(place.removeprefix("gw")) :: int(count)]


@pytest.fixture(scope="session")
def redis_server() -> Iterator[Redis]:
    """A Redis of this test process' own, running."""
    with tempfile.TemporaryDirectory(prefix="usher-redis-") as folder, Redis(Path(folder)) as server:
        yield server


@pytest.fixture(scope="session")
def mariadb_server() -> Iterator[MariaDB]:
    """A MariaDB of this test process' own, running; its database is empty."""
    with (
        tempfile.TemporaryDirectory(prefix="usher-mariadb-") as folder,
        MariaDB(Path(folder), settings=MARIADB_FOR_TESTS) as server,
    ):
        yield server


@pytest.fixture(scope="session")
def _migrated(mariadb_server: MariaDB) -> None:
    """The schema, made once; tests get it with its tables emptied."""
    # Not `asyncio.run`: it would leave this thread without the event loop that other fixtures have put there.
    loop = asyncio.new_event_loop()
    try:
        loop.run_until_complete(migrations.run(SecretStr(mariadb_server.migration_url)))
    finally:
        loop.close()


@pytest.fixture
def admin(mariadb_server: MariaDB) -> Iterator[Admin]:
    """The ledger as its administrator sees it: any statement, past Usher."""
    with Admin(mariadb_server) as connection:
        yield connection


@pytest.fixture
def redis_url(redis_server: Redis) -> str:
    """The URL of an empty Redis, for the service's account."""
    flush(redis_server)
    return redis_server.url


@pytest.fixture
def operator_url(redis_server: Redis, redis_url: str) -> str:
    """The URL of the same Redis for the account that may do everything."""
    assert redis_url == redis_server.url
    return redis_server.operator_url


@pytest.fixture
def database_url(mariadb_server: MariaDB, _migrated: None) -> str:
    """The URL of a ledger with the current schema and nothing in it, for the service's account."""
    empty(mariadb_server)
    return mariadb_server.url


@pytest.fixture
def migration_url(mariadb_server: MariaDB, database_url: str) -> str:
    """The URL of the same ledger for the account that may change the schema."""
    assert database_url == mariadb_server.url
    return mariadb_server.migration_url


@pytest.fixture
def _bare(mariadb_server: MariaDB) -> Iterator[None]:
    """The database `usher_bare` without any table, with the same rights as in Usher's; gone after the test."""
    with Admin(mariadb_server) as admin:
        admin.run("CREATE OR REPLACE DATABASE usher_bare CHARACTER SET utf8mb4")
        for user in (mariadb_server.user, mariadb_server.migration_user):
            for grant in admin.column(f"SHOW GRANTS FOR '{user}'@'127.0.0.1'"):
                if "ON `usher`." in grant:
                    # CREATE lets a right be granted on a table that is not there yet.
                    right = grant.replace("GRANT DELETE ON", "GRANT CREATE, DELETE ON")
                    admin.run(right.replace("ON `usher`.", "ON `usher_bare`."))
        try:
            yield
        finally:
            admin.run("DROP DATABASE usher_bare")
            for user in (mariadb_server.user, mariadb_server.migration_user):
                for grant in admin.column(f"SHOW GRANTS FOR '{user}'@'127.0.0.1'"):
                    if "ON `usher_bare`." in grant:  # Rights outlive what they were given on.
                        admin.run(grant.replace("GRANT ", "REVOKE ", 1).replace(" TO ", " FROM ", 1))


@pytest.fixture
def bare_database_url(mariadb_server: MariaDB, _bare: None) -> str:
    """The URL of a database without any table, for the service's account."""
    return mariadb_server.url.removesuffix(mariadb_server.database) + "usher_bare"


@pytest.fixture
def bare_migration_url(mariadb_server: MariaDB, _bare: None) -> str:
    """The URL of a database without any table, for the account that may change the schema."""
    return mariadb_server.migration_url.removesuffix(mariadb_server.database) + "usher_bare"


@pytest.fixture
def settings(database_url: str, migration_url: str, redis_url: str) -> Settings:
    """Usher's settings for these stores, all else as by default."""
    return Settings(
        database_url=SecretStr(database_url),
        migration_database_url=SecretStr(migration_url),
        redis_url=SecretStr(redis_url),
    )


@pytest.fixture
def faults() -> Iterator[Callable[[int], Proxy]]:
    """Makes proxies: `faults(redis_server.port)` stands in front of that port until the test is over."""
    with ExitStack() as proxies:
        yield lambda port: proxies.enter_context(Proxy(port))
