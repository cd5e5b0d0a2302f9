"""Redis loses its keys: it is seen, stored, and mended, against real stores."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis.asyncio
from pydantic import SecretStr
from structlog.testing import capture_logs

from deploy.local import Redis
from reconciler import reseeding
from reconciler.cache import AGAIN, FULL, STOPPED, Cache
from service.config import Settings
from service.counters import MARKER, Counters
from service.errors import CounterUnavailable, LedgerUnavailable
from service.ledger import Ledger
from service.reconciling import Cause, Mode, Run, RunStatus
from tests.faults import Proxy, holding
from tests.ledger import given

BY = "host:1"
CODES = ("A", "B", "C")


@pytest.fixture
async def cache(ledger: Ledger, counters: Counters) -> Cache:
    """What is watched, seen once before, beside a ledger with some coupons."""
    for code in CODES:
        await given.coupon(ledger, code)
    watched = Cache(ledger, counters, BY)
    server = (await counters.mark()).run_id
    await counters.set_mark(server)
    await counters.set_mark(server, reseeded=True)
    assert not await watched.watch_once()
    return watched


@pytest.fixture
def own_redis() -> Iterator[Redis]:
    """A Redis for one test, which may stop it."""
    with tempfile.TemporaryDirectory(prefix="usher-redis-") as folder, Redis(Path(folder)) as server:
        yield server


async def runs(ledger: Ledger) -> list[Run]:
    """All that are stored, the newest first."""
    return await ledger.runs.find(limit=10, deadline=given.soon())


async def endings(ledger: Ledger) -> list[tuple[RunStatus, int, str | None]]:
    return [(run.status, run.coupons_checked, run.error) for run in await runs(ledger)]


async def loaded(raw: redis.asyncio.Redis) -> int:
    """How many coupons have counters."""
    return len(await raw.keys("*:counter"))


async def test_flushed(cache: Cache, ledger: Ledger, raw: redis.asyncio.Redis) -> None:
    """It is seen once, stored as a run with its cause, and all counters are made again."""
    assert await cache.reseed_once() is None
    await raw.flushall()

    with capture_logs() as events:
        assert [True, False] == [await cache.watch_once(), await cache.watch_once()]
    assert [True] == [event["is_same_server"] for event in events]

    (run,) = await runs(ledger)
    assert (Mode.RESEED, None, RunStatus.RUNNING, Cause.CACHE_LOSS) == (run.mode, run.code, run.status, run.cause)
    assert (BY, BY, run.asked_at) == (run.asked_by, run.run_by, run.begun_at)

    report = await cache.reseed_once()

    assert report is not None
    assert (3, 3, True) == (report.coupons, report.loaded, report.complete)
    assert 3 == await loaded(raw)
    assert [(RunStatus.DONE, 3, None)] == await endings(ledger)
    assert await cache.reseed_once() is None


async def test_restarted(ledger: Ledger, settings: Settings, own_redis: Redis) -> None:
    """A restart is a loss, and being away is none by itself."""
    counters = await Counters.connect(settings.model_copy(update={"redis_url": SecretStr(own_redis.url)}))
    watched = Cache(ledger, counters, BY)
    try:
        assert [True, False] == [await watched.watch_once(), await watched.watch_once()]
        own_redis.kill()
        with pytest.raises(CounterUnavailable):
            await watched.watch_once()
        own_redis.start()
        with capture_logs() as events:
            assert [True, False] == [await watched.watch_once(), await watched.watch_once()]
    finally:
        await counters.close()
    assert [False] == [event["is_same_server"] for event in events if "is_same_server" in event]
    assert 2 == len(await runs(ledger))


async def test_away_for_a_while(ledger: Ledger, far_counters: Counters, redis_proxy: Proxy) -> None:
    """Redis that was cut off and has kept its keys has lost nothing."""
    watched = Cache(ledger, far_counters, BY)
    assert await watched.watch_once()
    redis_proxy.refuse()
    with pytest.raises(CounterUnavailable):
        await watched.watch_once()
    redis_proxy.heal()
    assert not await watched.watch_once()


@pytest.mark.parametrize("written", ["another server", "a text", "a list", "an empty field"])
async def test_another_mark(cache: Cache, counters: Counters, raw: redis.asyncio.Redis, written: str) -> None:
    """Another server's keys, after a failover, and whatever somebody has written there, are no keys to be relied on."""
    if written == "another server":
        await raw.hset(MARKER, "run_id", "0" * 40)
    elif written == "an empty field":
        await raw.hset(MARKER, "run_id", "")
    else:
        await raw.unlink(MARKER)
        await (raw.set(MARKER, "x") if written == "a text" else raw.lpush(MARKER, "x"))
    assert [True, False] == [await cache.watch_once(), await cache.watch_once()]
    mark = await counters.mark()
    assert mark.run_id == mark.noted


async def test_not_stored(
    far_ledger: Ledger, ledger: Ledger, counters: Counters, mariadb_proxy: Proxy, raw: redis.asyncio.Redis
) -> None:
    """While the ledger is away nothing could be loaded: the next look sees the loss again."""
    watched = Cache(far_ledger, counters, BY)
    await given.coupon(ledger)
    mariadb_proxy.refuse()
    with pytest.raises(LedgerUnavailable):
        await watched.watch_once()
    mariadb_proxy.heal()
    assert await watched.watch_once()
    await watched.reseed_once()
    assert [(RunStatus.DONE, 1, None)] == await endings(ledger)
    assert 1 == await loaded(raw)


async def test_lost_again(cache: Cache, ledger: Ledger, raw: redis.asyncio.Redis, monkeypatch: pytest.MonkeyPatch) -> None:
    """A second loss ends what is loaded after the first, and it begins again."""
    monkeypatch.setattr(reseeding, "PAGE_COUPONS", 1)
    await raw.flushall()
    await cache.watch_once()
    seen: list[bool] = []

    original = reseeding._Run.load

    async def load(self: reseeding._Run, seeds: object) -> None:
        await original(self, seeds)  # type: ignore[arg-type]
        if not seen:
            await raw.flushall()
            seen.append(await cache.watch_once())

    monkeypatch.setattr(reseeding._Run, "load", load)
    reports = [await cache.reseed_once(), await cache.reseed_once(), await cache.reseed_once()]

    assert [True] == seen
    assert [(1, False), (3, True), None] == [report and (report.coupons, report.complete) for report in reports]
    assert [(RunStatus.DONE, 3, None), (RunStatus.FAILED, 1, AGAIN)] == await endings(ledger)
    assert 3 == await loaded(raw)


async def test_lost_again_before_anything_was_loaded(cache: Cache, ledger: Ledger, raw: redis.asyncio.Redis) -> None:
    for _ in range(2):
        await raw.flushall()
        assert await cache.watch_once()
    await cache.reseed_once()
    assert [(RunStatus.DONE, 3, None), (RunStatus.FAILED, 0, AGAIN)] == await endings(ledger)


async def test_stopped(cache: Cache, ledger: Ledger, raw: redis.asyncio.Redis) -> None:
    await raw.flushall()
    await cache.watch_once()
    await cache.reseed_once(lambda: True)
    assert [(RunStatus.FAILED, 0, STOPPED)] == await endings(ledger)


@pytest.mark.parametrize("is_killed", [True, False])
async def test_who_takes_over_goes_on(
    is_killed: bool, cache: Cache, ledger: Ledger, counters: Counters, raw: redis.asyncio.Redis
) -> None:
    """A leader sees the loss, and is killed, or told to stop, before the counters are there: the next one loads them, once."""
    await raw.flushall()
    await cache.watch_once()
    if not is_killed:
        await cache.reseed_once(lambda: True)
    others = [Cache(ledger, counters, f"host:{number}") for number in (2, 3)]
    reports = []
    for other in others:
        assert not await other.watch_once(), "it is no further loss"
        reports.append(await other.reseed_once())
    assert [3, None] == [report and report.loaded for report in reports]
    assert 2 == len(await runs(ledger))


async def test_full(cache: Cache, ledger: Ledger, raw: redis.asyncio.Redis, monkeypatch: pytest.MonkeyPatch) -> None:
    """What does not fit is loaded when it is asked for: the run has done its work, and says so."""
    monkeypatch.setattr(reseeding, "PAGE_COUPONS", 1)
    monkeypatch.setattr(reseeding, "MEMORY_SHARE_MAX", 0.001)
    await raw.flushall()
    await cache.watch_once()
    await cache.reseed_once()
    assert [(RunStatus.DONE, 1, FULL)] == await endings(ledger)


async def test_away_while_it_is_loaded(ledger: Ledger, far_counters: Counters, redis_proxy: Proxy) -> None:
    """The run goes on when Redis is back."""
    await given.coupon(ledger)
    watched = Cache(ledger, far_counters, BY)
    await watched.watch_once()
    lost = redis_proxy.lose_reply(holding(b"EVALSHA"))
    with pytest.raises(CounterUnavailable):
        await watched.reseed_once()
    assert 1 == lost.hits
    assert [RunStatus.RUNNING] == [run.status for run in await runs(ledger)]
    assert not await watched.watch_once()
    await watched.reseed_once()
    assert [(RunStatus.DONE, 1, None)] == await endings(ledger)
