"""Readiness: what the stores' states mean, asked seldom and answered soon."""

import asyncio

import pytest
from structlog.testing import capture_logs

from service.api import readiness
from service.api.readiness import Readiness, Report, Stage, Store
from service.errors import CounterUnavailable, LedgerUnavailable, SchemaNotCurrent
from tests.api.fakes import FakeStore


@pytest.mark.parametrize(
    ("ledger", "redis", "report", "accepts"),
    [
        (None, None, Report(Stage.READY, Store.UP, Store.UP), True),
        (None, CounterUnavailable(), Report(Stage.DEGRADED, Store.UP, Store.DOWN), True),
        (LedgerUnavailable(), None, Report(Stage.UNAVAILABLE, Store.DOWN, Store.UP), False),
        (SchemaNotCurrent(), None, Report(Stage.UNAVAILABLE, Store.NOT_CURRENT, Store.UP), False),
        (LedgerUnavailable(), CounterUnavailable(), Report(Stage.UNAVAILABLE, Store.DOWN, Store.DOWN), False),
    ],
)
async def test_stages(ledger: Exception | None, redis: Exception | None, report: Report, accepts: bool) -> None:
    truth, counters = FakeStore(), FakeStore()
    truth.failure, counters.failure = ledger, redis
    found = await Readiness(truth, counters).report()
    assert (report, accepts) == (found, found.accepts_traffic)


async def test_draining() -> None:
    """Whatever the stores say."""
    one = Readiness(FakeStore(), FakeStore())
    one.draining = True
    found = await one.report()
    assert (Stage.DRAINING, False) == (found.stage, found.accepts_traffic)


async def test_stores_that_hang(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readiness, "PROBE_TIMEOUT_S", 0.02)
    truth, counters = FakeStore(), FakeStore()
    truth.hangs = counters.hangs = True
    async with asyncio.timeout(30):
        assert Report(Stage.UNAVAILABLE, Store.DOWN, Store.DOWN) == await Readiness(truth, counters).report()


async def test_many_who_ask_are_one_probe(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also one after the other, for a moment; then the stores are asked again."""
    monkeypatch.setattr(readiness, "PROBE_AGE_MAX_S", 60.0)
    truth = FakeStore()
    one = Readiness(truth, FakeStore())
    await asyncio.gather(*(one.report() for _ in range(100)))
    await one.report()
    assert 1 == truth.asked
    monkeypatch.setattr(readiness, "PROBE_AGE_MAX_S", 0.0)
    await one.report()
    assert 2 == truth.asked


async def test_a_store_that_goes_and_comes_is_logged_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not at the first probe: how it looked then was told at the start. A schema that is none counts as away."""
    monkeypatch.setattr(readiness, "PROBE_AGE_MAX_S", 0.0)
    truth, counters = FakeStore(), FakeStore()
    counters.failure = CounterUnavailable()
    one = Readiness(truth, counters)
    told = []
    for ledger, redis in (
        (None, CounterUnavailable()),
        (None, None),
        (LedgerUnavailable(), None),
        (SchemaNotCurrent(), None),
        (None, CounterUnavailable()),
        (None, CounterUnavailable()),
        (None, None),
    ):
        truth.failure, counters.failure = ledger, redis
        with capture_logs() as events:
            await one.report()
        told.append([(event["event"], event["log_level"]) for event in events])
    assert [
        [],
        [("Redis is back", "info")],
        [("the ledger is away", "warning")],
        [],
        [("the ledger is back", "info"), ("Redis is away", "warning")],
        [],
        [("Redis is back", "info")],
    ] == told
