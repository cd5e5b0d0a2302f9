"""The client against a server that says what the test wants, and against the real service."""

from collections.abc import AsyncIterator

import pytest

from tests.acceptance.conftest import api_key, auditor, client, coupon, start_usher, stores, usher
from tests.client.scripted import Scripted

__all__ = ["api_key", "auditor", "client", "coupon", "start_usher", "stores", "usher"]
"""Fixtures; pytest finds them here."""


@pytest.fixture
async def scripted() -> AsyncIterator[Scripted]:
    async with Scripted() as server:
        yield server
