"""Whether the reconciler lives, leads and counts, as those see it who watch over it."""

import asyncio
import socket
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from datetime import timedelta

import aiohttp
import pytest
from prometheus_client.parser import text_string_to_metric_families
from structlog.testing import capture_logs

from deploy.local import free_port
from reconciler.metrics import Metrics
from reconciler.port import Port, Readiness
from service.config import Settings
from service.counters import Counters
from service.errors import AddressUnavailable
from service.ledger import Ledger
from service.reconciling import Kind, Mode, RunStatus
from tests.faults import Proxy
from tests.stores import Admin
from tests.waiting import until_async

UP = {"ledger": "up", "redis": "up"}


class Watched:
    """A port, and what is behind it."""

    def __init__(self, ledger: Ledger, counters: Counters) -> None:
        self.stop = asyncio.Event()
        self.leadership = ledger.leadership("host:1")
        self.metrics = Metrics(lambda: self.leadership.leads, ledger.now)
        self.port = Port(Readiness(ledger, counters, self.leadership, self.stop), self.metrics)
        self.url = ""

    @asynccontextmanager
    async def open(self, settings: Settings) -> AsyncIterator[None]:
        with capture_logs() as logged:
            async with self.port.open(settings.model_copy(update={"reconciler_listen_port": 0})):
                self.url = next(one["address"] for one in logged if one["event"] == "listening")
                yield
        await self.leadership.give_back()

    async def get(self, path: str) -> tuple[int, str]:
        async with aiohttp.ClientSession() as session, session.get(self.url + path) as answer:
            return answer.status, await answer.text()

    async def readyz(self) -> tuple[int, object]:
        async with aiohttp.ClientSession() as session, session.get(self.url + "/readyz") as answer:
            return answer.status, await answer.json()

    async def values(self) -> Mapping[str, float]:
        """All metrics, each by its name with its labels' values."""
        families = text_string_to_metric_families((await self.get("/metrics"))[1])
        return {" ".join([one.name, *one.labels.values()]): one.value for family in families for one in family.samples}


@pytest.fixture
async def watched(settings: Settings, ledger: Ledger, counters: Counters) -> AsyncIterator[Watched]:
    one = Watched(ledger, counters)
    async with one.open(settings):
        yield one


async def test_leading_and_standing_by(watched: Watched, ledger: Ledger) -> None:
    assert (200, '{"status":"alive"}') == await watched.get("/livez")
    assert (200, {"status": "standby", "stores": UP}) == await watched.readyz()
    await watched.leadership.seek()
    assert (200, {"status": "leading", "stores": UP}) == await watched.readyz()
    watched.stop.set()
    assert (503, {"status": "stopping", "stores": UP}) == await watched.readyz()
    assert (200, '{"status":"alive"}') == await watched.get("/livez")


async def test_stores_that_are_away(
    settings: Settings, far_ledger: Ledger, far_counters: Counters, mariadb_proxy: Proxy, redis_proxy: Proxy
) -> None:
    """Without Redis it is ready, since holds expire all the same; without the ledger it is not."""
    watched = Watched(far_ledger, far_counters)

    async def says(*expected: object) -> bool:
        return expected == await watched.readyz()

    async with watched.open(settings):
        assert (200, {"status": "standby", "stores": UP}) == await watched.readyz()
        redis_proxy.refuse()
        redis_proxy.cut()
        away = {"status": "standby", "stores": {"ledger": "up", "redis": "down"}}
        await until_async(lambda: says(200, away), what="Redis is away")
        mariadb_proxy.refuse()
        mariadb_proxy.cut()
        both = {"status": "unavailable", "stores": {"ledger": "down", "redis": "down"}}
        await until_async(lambda: says(503, both), what="both are away")
        assert (200, '{"status":"alive"}') == await watched.get("/livez")
        mariadb_proxy.heal()
        redis_proxy.heal()
        await until_async(lambda: says(200, {"status": "standby", "stores": UP}), what="both are back")


async def test_another_schema(watched: Watched, admin: Admin) -> None:
    admin.run("UPDATE schema_migration SET checksum = REVERSE(checksum) WHERE version = 1")
    try:
        expected = {"status": "unavailable", "stores": {"ledger": "schema_not_current", "redis": "up"}}
        assert (503, expected) == await watched.readyz()
    finally:
        admin.run("UPDATE schema_migration SET checksum = REVERSE(checksum) WHERE version = 1")


async def test_metrics(watched: Watched, ledger: Ledger) -> None:
    """All that can be counted is there from the start; what the leader sees is told by the leader alone."""
    before = await watched.values()
    assert 0 == before["usher_reconciler_leading"]
    assert {f"usher_reconcile_runs_total {mode} {status}" for mode in Mode for status in ("done", "failed")} <= set(before)
    assert {f"usher_reconcile_findings_total {kind}" for kind in Kind} <= set(before)
    assert "usher_holds_overdue" not in before
    metrics = watched.metrics
    metrics.seen.holds_overdue, metrics.seen.coupons_over = 7, 2
    metrics.seen.clean_at = ledger.now() - timedelta(seconds=90)
    metrics.run_ended(Mode.REPAIR, RunStatus.DONE)
    metrics.found(Kind.LEAKED, 3)
    metrics.holds_expired.inc(5)
    assert "usher_holds_overdue" not in await watched.values()
    await watched.leadership.seek()
    after = await watched.values()
    assert (1, 7, 2) == tuple(after[f"usher_{name}"] for name in ("reconciler_leading", "holds_overdue", "coupons_over"))
    assert 90 <= after["usher_seconds_since_clean_check"] < 120
    assert (1, 0) == tuple(after[f"usher_reconcile_runs_total repair {status}"] for status in ("done", "failed"))
    assert (3, 5) == (after["usher_reconcile_findings_total leaked"], after["usher_holds_expired_total"])
    assert 0 == after["usher_cache_losses_total"]


async def test_a_port_that_is_in_use(settings: Settings, ledger: Ledger, counters: Counters) -> None:
    """Somebody's choice is not passed over; one that nobody has chosen is done without, and that is told."""
    watched = Watched(ledger, counters)
    with socket.create_server(("127.0.0.1", free_port())) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(AddressUnavailable, match=f"port {port} on 127.0.0.1 is in use; .*USHER_RECONCILER_LISTEN_PORT"):
            async with watched.port.open(Settings(reconciler_listen_port=port)):
                pass
        unchosen = Settings.model_construct(**{**Settings().model_dump(), "reconciler_listen_port": port}, _fields_set=set())
        with capture_logs() as logged:
            async with watched.port.open(unchosen):
                pass
    assert ["no port to be watched by; USHER_RECONCILER_LISTEN_PORT chooses another"] == [one["event"] for one in logged]
    await watched.leadership.give_back()
