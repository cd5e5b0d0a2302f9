"""Fixtures of the counters' tests: the gateway, and Redis from behind."""

import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import redis.asyncio
from pydantic import SecretStr

from deploy.local import Redis
from service.config import Settings
from service.counters import Counters


@pytest.fixture
def counter_settings(redis_url: str) -> Settings:
    """Settings with an empty Redis."""
    return Settings(redis_url=SecretStr(redis_url))


@pytest.fixture
async def counters(counter_settings: Settings) -> AsyncIterator[Counters]:
    """The gateway to an empty Redis."""
    gateway = await Counters.connect(counter_settings)
    yield gateway
    await gateway.close()


@pytest.fixture
async def raw(operator_url: str) -> AsyncIterator[redis.asyncio.Redis]:
    """The same Redis as its operator sees it; answers are text."""
    client = redis.asyncio.Redis.from_url(operator_url, decode_responses=True)
    yield client
    await client.aclose()


@pytest.fixture
def own_redis() -> Iterator[Redis]:
    """A Redis for one test, which may harm it."""
    with tempfile.TemporaryDirectory(prefix="usher-redis-") as folder, Redis(Path(folder)) as server:
        yield server
