"""The API over fakes, and a client of it."""

from collections.abc import AsyncIterator

import aiohttp
import pytest

from tests.api.fakes import KEY, Served, serving


@pytest.fixture
async def served() -> AsyncIterator[Served]:
    async with serving() as one:
        yield one


@pytest.fixture
async def client(served: Served) -> AsyncIterator[aiohttp.ClientSession]:
    """A client whose key may do everything."""
    async with aiohttp.ClientSession(served.url, headers={"Authorization": f"Bearer {KEY}"}) as session:
        yield session
