from collections.abc import AsyncIterator, Callable, Iterator

import pytest
from pydantic import SecretStr

from deploy.local import MariaDB
from service.config import Settings
from service.ledger import Ledger
from tests.faults import Proxy
from tests.stores import Admin


@pytest.fixture
async def ledger(database_url: str) -> AsyncIterator[Ledger]:
    """A ledger with the current schema and nothing in it."""
    opened = await Ledger.connect(Settings(database_url=SecretStr(database_url)))
    yield opened
    await opened.close()


@pytest.fixture
def proxy(mariadb_server: MariaDB, faults: Callable[[int], Proxy]) -> Proxy:
    """Stands between `far` and the server."""
    return faults(mariadb_server.port)


@pytest.fixture
async def far(database_url: str, proxy: Proxy) -> AsyncIterator[Ledger]:
    """The same ledger as `ledger`, behind `proxy`, with one writer."""
    opened = await Ledger.connect(Settings(database_url=SecretStr(proxy.url(database_url)), record_connections=1))
    yield opened
    proxy.heal()
    await opened.close()


@pytest.fixture
def other(mariadb_server: MariaDB) -> Iterator[Admin]:
    """Somebody else's session, for transactions that stay open beside `admin`."""
    with Admin(mariadb_server) as connection:
        yield connection
