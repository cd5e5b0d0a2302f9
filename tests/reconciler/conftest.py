from collections.abc import AsyncIterator, Callable, Iterator

import pytest
import redis.asyncio
from pydantic import SecretStr

from deploy.local import MariaDB, Redis
from service.config import Settings
from service.counters import Counters
from service.ledger import Ledger
from service.model import Coupon, LoadedCoupon
from tests.faults import Proxy
from tests.ledger import given
from tests.reconciler.comparisons import redeemed
from tests.stores import Admin


@pytest.fixture
async def ledger(settings: Settings) -> AsyncIterator[Ledger]:
    """A ledger with the current schema and nothing in it."""
    opened = await Ledger.connect(settings)
    yield opened
    await opened.close()


@pytest.fixture
async def counters(settings: Settings) -> AsyncIterator[Counters]:
    """The gateway to an empty Redis."""
    gateway = await Counters.connect(settings)
    yield gateway
    await gateway.close()


@pytest.fixture
async def coupon(ledger: Ledger, counters: Counters) -> Coupon:
    """GOLD20 with 20 uses and one per customer, of which 10 have been redeemed; its counter says so. Modules have others."""
    made = await given.coupon(ledger, max_redemptions=20, max_per_customer=1)
    await counters.load([LoadedCoupon(made, 0)])
    await redeemed(ledger, counters, made, 10)
    return made


@pytest.fixture
async def raw(operator_url: str) -> AsyncIterator[redis.asyncio.Redis]:
    """The same Redis as its operator sees it; answers are text."""
    client = redis.asyncio.Redis.from_url(operator_url, decode_responses=True)
    yield client
    await client.aclose()


@pytest.fixture
def mariadb_proxy(mariadb_server: MariaDB, faults: Callable[[int], Proxy]) -> Proxy:
    """Stands between `far_ledger` and the server."""
    return faults(mariadb_server.port)


@pytest.fixture
async def far_ledger(settings: Settings, mariadb_proxy: Proxy) -> AsyncIterator[Ledger]:
    """The same ledger as `ledger`, behind `mariadb_proxy`."""
    url = mariadb_proxy.url(settings.database_url.get_secret_value())
    opened = await Ledger.connect(settings.model_copy(update={"database_url": SecretStr(url)}))
    yield opened
    mariadb_proxy.heal()
    await opened.close()


@pytest.fixture
def redis_proxy(redis_server: Redis, faults: Callable[[int], Proxy]) -> Proxy:
    """Stands between `far_counters` and Redis."""
    return faults(redis_server.port)


@pytest.fixture
async def far_counters(settings: Settings, redis_proxy: Proxy) -> AsyncIterator[Counters]:
    """The same Redis as that of `counters`, behind `redis_proxy`, and patient with what that holds back."""
    url = redis_proxy.url(settings.redis_url.get_secret_value())
    patient = {"redis_timeout_ms": 10_000, "request_deadline_ms": 60_000}
    gateway = await Counters.connect(settings.model_copy(update={"redis_url": SecretStr(url), **patient}))
    yield gateway
    redis_proxy.heal()
    await gateway.close()


@pytest.fixture
def other(mariadb_server: MariaDB) -> Iterator[Admin]:
    """Somebody else's session, for transactions that stay open beside a run."""
    with Admin(mariadb_server) as connection:
        yield connection
