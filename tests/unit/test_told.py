"""Events that come in crowds: how many are told of, and when."""

import asyncio

import pytest

from service import told
from service.told import Told


async def test_the_first_is_told_at_once_and_the_others_together(monkeypatch: pytest.MonkeyPatch) -> None:
    """None is left out of the numbers, as soon as there is another one."""
    events = Told()
    assert [3, 0, 0] == [events.due(3), events.due(), events.due(5)]
    monkeypatch.setattr(told, "EVENT_INTERVAL_S", 0.01)
    await asyncio.sleep(0.02)
    assert 7 == events.due()
