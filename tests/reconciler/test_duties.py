"""What the leader does besides ending holds: wishes, repairs by the clock, what a lost cache needs, and tidying up."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from datetime import timedelta
from typing import Any

import pytest
import redis.asyncio
import uuid_utils
from structlog.testing import capture_logs

from reconciler import carrying
from reconciler.duties import RESEED, Duties, Parts
from reconciler.metrics import Metrics
from reconciler.stores import Stores
from service.config import Settings
from service.counters import Counters, key
from service.ledger import Ledger
from service.model import Coupon, LoadedCoupon
from service.reconciling import Cause, Kind, Mode, Run, RunStatus
from tests.faults import Proxy, holding
from tests.ledger import given
from tests.stores import Admin
from tests.waiting import until

SEATS = 5


class Leading:
    """Duties of a reconciler that leads, and what is around them."""

    def __init__(self, ledger: Ledger, counters: Counters, name: str) -> None:
        self.ledger = ledger
        self.leadership = ledger.leadership(name)
        self.metrics = Metrics(lambda: self.leadership.leads, ledger.now)
        self.stop = asyncio.Event()
        parts = Parts(ledger, counters, self.leadership)
        self.duties = Duties(parts, stores=Stores(), metrics=self.metrics, stop=self.stop)
        self.hastened: list[str] = []
        self.duties.hasten = self.hastened.append

    async def wish(self, mode: Mode, code: str | None = None) -> Run:
        now = self.ledger.now()
        run = Run(uuid_utils.uuid7().bytes, mode, code, RunStatus.QUEUED, Cause.ASKED, "ann", now)
        return await self.ledger.runs.queue(run, given.soon())

    async def get(self, run: Run) -> Run:
        found = await self.ledger.runs.get(run.id, given.soon())
        assert found is not None
        return found

    def counted(self, name: str) -> float:
        """A metric, by its name and its labels."""
        lines = self.metrics.exposed().decode().splitlines()
        return next(float(line.rpartition(" ")[2]) for line in lines if line.startswith(f"{name} "))


Lead = Callable[[Ledger, Counters], Awaitable[Leading]]


@pytest.fixture
async def lead() -> AsyncIterator[Lead]:
    """Makes one that leads, with these gateways."""
    made: list[Leading] = []

    async def make(ledger: Ledger, counters: Counters) -> Leading:
        made.append(Leading(ledger, counters, f"host:{len(made) + 1}"))
        while not made[-1].leadership.leads:
            await made[-1].leadership.seek()
        return made[-1]

    yield make
    for one in made:
        await one.leadership.give_back()


@pytest.fixture
async def leading(ledger: Ledger, counters: Counters, lead: Lead) -> Leading:
    return await lead(ledger, counters)


@pytest.fixture
async def coupon(ledger: Ledger, counters: Counters) -> Coupon:
    """One with SEATS of its 20 uses live, and a counter that says so."""
    made = await given.coupon(ledger, max_redemptions=20)
    await given.endings(ledger, *(given.row(ledger, made, seat=seat) for seat in range(1, SEATS + 1)))
    await counters.load([LoadedCoupon(made, SEATS)])
    return made


async def leak(raw: redis.asyncio.Redis, coupon: Coupon) -> None:
    """A seat that was handed out and recorded by nobody."""
    await raw.hincrby(key(coupon.code, "counter"), "next", 1)


def rows(admin: Admin) -> list[Mapping[str, Any]]:
    """The runs that are stored, the oldest first."""
    return list(admin.run("SELECT * FROM reconcile_run ORDER BY id"))


async def test_wishes_are_fulfilled(leading: Leading, coupon: Coupon, raw: redis.asyncio.Redis) -> None:
    """One after the other, as they came; each shows what it found, by whom it was done, and since when."""
    await leak(raw, coupon)
    wishes = [await leading.wish(Mode.CHECK), await leading.wish(Mode.REPAIR, coupon.code), await leading.wish(Mode.RESEED)]
    await leading.duties.fulfil()
    check, repair, reseed = [await leading.get(wish) for wish in wishes]
    assert [(RunStatus.DONE, 1)] * 2 + [(RunStatus.DONE, 0)] == [
        (run.status, run.finding_count) for run in (check, repair, reseed)
    ]
    assert {"host:1"} == {run.run_by for run in (check, repair, reseed)}
    begun = [run.begun_at for run in (check, repair, reseed) if run.begun_at is not None]
    assert 3 == len(begun)
    assert begun == sorted(begun)
    (found,) = await leading.ledger.runs.findings(check.id, limit=10, deadline=given.soon())
    assert ("GOLD20", Kind.LEAKED, 6, "handed out", "free") == (found.code, found.kind, found.seat, found.before, found.after)
    assert {"6"} == await raw.smembers(key(coupon.code, "free"))
    counted = {name: leading.counted(f"usher_reconcile_{name}") for name in (
        'runs_total{mode="check",status="done"}', 'runs_total{mode="reseed",status="done"}', 'findings_total{kind="leaked"}',
    )}  # fmt: skip
    assert [1, 1, 2] == list(counted.values())


async def test_a_wish_for_a_coupon_that_is_not_there(leading: Leading) -> None:
    wish = await leading.wish(Mode.REPAIR, "NOBODY")
    await leading.duties.fulfil()
    run = await leading.get(wish)
    assert (RunStatus.FAILED, "there is no coupon with this code") == (run.status, run.error)
    assert 1 == leading.counted('usher_reconcile_runs_total{mode="repair",status="failed"}')


async def test_a_wish_while_redis_is_away(lead: Lead, ledger: Ledger, far_counters: Counters, redis_proxy: Proxy) -> None:
    """It has failed, and says why; the reconciler goes on."""
    leading = await lead(ledger, far_counters)
    await given.coupon(ledger, max_redemptions=20)
    redis_proxy.refuse()
    redis_proxy.cut()
    wish = await leading.wish(Mode.CHECK)
    with capture_logs() as logged:
        await leading.duties.fulfil()
    run = await leading.get(wish)
    assert RunStatus.FAILED is run.status
    assert run.error is not None
    assert run.error.startswith("Redis could not be used: ")
    assert ["a run has failed"] == [event["event"] for event in logged if event["log_level"] == "warning"]


async def test_seats_that_a_counter_has_not_looked_for_yet(
    leading: Leading, coupon: Coupon, counters: Counters, raw: redis.asyncio.Redis, admin: Admin
) -> None:
    """A coupon that is changed after uses were given back would keep the check from ever being clean. Who asks is told."""
    (second,) = given.ids(admin, "seat = 2")
    given.cancel(admin, second)
    changed = await given.changed(leading.ledger, coupon.code, max_redemptions=30)
    await counters.load([LoadedCoupon(changed, SEATS)])
    asked = await leading.wish(Mode.CHECK)
    await leading.duties.fulfil()
    assert 1 == (await leading.get(asked)).finding_count
    assert "usher_seconds_since_clean_check" not in leading.metrics.exposed().decode()
    await leading.duties.repair()
    assert {"2"} == await raw.smembers(key(coupon.code, "free"))
    assert [("asked", 1), ("schedule", 0)] == [(run["cause"], run["finding_count"]) for run in rows(admin)]
    assert leading.counted("usher_seconds_since_clean_check") < 60
    # It has looked now: what is lost from here on is leaked.
    await raw.srem(key(coupon.code, "free"), 2)
    await leading.duties.repair()
    assert ["leaked", "leaked"] == admin.column("SELECT kind FROM reconcile_finding")


async def test_repair_by_the_clock(leading: Leading, coupon: Coupon, raw: redis.asyncio.Redis, admin: Admin) -> None:
    """Stored with its cause; one that found nothing is the last clean check, and hardly worth a word."""
    await leak(raw, coupon)
    await given.coupon(leading.ledger, "UNUSED", max_redemptions=5)
    await leading.duties.repair()
    assert "usher_seconds_since_clean_check" not in leading.metrics.exposed().decode()
    with capture_logs() as logged:
        await leading.duties.repair()
    assert leading.counted("usher_seconds_since_clean_check") < 60
    assert ["debug"] == [event["log_level"] for event in logged]
    assert [("repair", "schedule", "done", "host:1", 1), ("repair", "schedule", "done", "host:1", 0)] == [
        (row["mode"], row["cause"], row["status"], row["run_by"], row["finding_count"]) for row in rows(admin)
    ]
    # A counter that is missing is no news, every five minutes.
    assert ["leaked"] == admin.column("SELECT kind FROM reconcile_finding")
    assert 0 < leading.counted('usher_reconcile_findings_total{kind="missing"}')


async def test_what_another_has_left_running(leading: Leading, admin: Admin) -> None:
    """Whoever takes over says, once, that it has failed; what this one does meanwhile stays."""
    now = leading.ledger.now() - timedelta(seconds=1)
    left = Run(
        uuid_utils.uuid7().bytes, Mode.CHECK, None, RunStatus.RUNNING, Cause.ASKED, "ann", now, run_by="host:0", begun_at=now
    )
    await leading.ledger.runs.begin(left, given.soon())
    with capture_logs() as logged:
        await leading.duties.fulfil()
        await leading.duties.fulfil()
    run = await leading.get(left)
    assert (RunStatus.FAILED, "the reconciler that ran it has ended") == (run.status, run.error)
    assert ["runs of a reconciler that has ended were closed"] == [event["event"] for event in logged]
    admin.run("UPDATE reconcile_run SET status = 'running', ended_at = NULL")
    await leading.duties.fulfil()
    assert RunStatus.RUNNING is (await leading.get(left)).status


async def test_who_does_not_lead_any_more_begins_nothing(
    leading: Leading, lead: Lead, counters: Counters, admin: Admin
) -> None:
    """It was stopped, say, and has not asked yet: the table names another one."""
    wish = await leading.wish(Mode.CHECK)
    admin.kill(admin.value("SELECT session_id FROM leader"))
    await lead(leading.ledger, counters)
    for duty in (leading.duties.fulfil, leading.duties.repair, leading.duties.watch):
        await duty()
    assert [wish.id] == [row["id"] for row in rows(admin)]
    assert RunStatus.QUEUED is (await leading.get(wish)).status


async def test_a_leader_that_is_one_no_longer_ends_its_run(
    lead: Lead,
    ledger: Ledger,
    far_counters: Counters,
    redis_proxy: Proxy,
    coupon: Coupon,
    admin: Admin,
    raw: redis.asyncio.Redis,
) -> None:
    """Between two steps, and mends nothing more."""
    leading = await lead(ledger, far_counters)
    await leak(raw, coupon)
    wish = await leading.wish(Mode.REPAIR)
    held = redis_proxy.hold(holding(b"EVALSHA"), times=1)
    running = asyncio.create_task(leading.duties.fulfil())
    await until(lambda: held.hits == 1, what="it compares")
    admin.kill(admin.value("SELECT session_id FROM leader"))
    assert not await leading.leadership.is_leading()
    held.release()
    await running
    run = await leading.get(wish)
    assert (RunStatus.FAILED, carrying.STOPPED) == (run.status, run.error)
    assert set() == await raw.smembers(key(coupon.code, "free"))


async def test_sigterm_ends_a_run_between_two_steps(
    lead: Lead, ledger: Ledger, far_counters: Counters, redis_proxy: Proxy, coupon: Coupon
) -> None:
    leading = await lead(ledger, far_counters)
    wishes = [await leading.wish(Mode.CHECK), await leading.wish(Mode.REPAIR)]
    held = redis_proxy.hold(holding(b"EVALSHA"), times=1)
    running = asyncio.create_task(leading.duties.fulfil())
    await until(lambda: held.hits == 1, what="it compares")
    leading.stop.set()
    held.release()
    await running
    assert [RunStatus.FAILED, RunStatus.QUEUED] == [(await leading.get(wish)).status for wish in wishes]


async def test_an_end_that_cannot_be_stored_is_stored_later(
    lead: Lead,
    far_ledger: Ledger,
    ledger: Ledger,
    counters: Counters,
    mariadb_proxy: Proxy,
    coupon: Coupon,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A run does not stay one that runs because the ledger was away in the wrong moment."""
    monkeypatch.setattr(carrying, "STORE_DEADLINE_S", 0.5)
    monkeypatch.setattr(carrying, "END_PAUSE_S", 0.05)
    leading = await lead(far_ledger, counters)
    wish = await leading.wish(Mode.CHECK)
    lost = mariadb_proxy.lose_reply(holding(b"status = 'done'"), times=6)
    await leading.duties.fulfil()
    assert 6 == lost.hits
    found = await ledger.runs.get(wish.id, given.soon())
    assert found is not None
    assert RunStatus.DONE is found.status
    mariadb_proxy.heal()


async def test_old_runs_are_deleted(leading: Leading, admin: Admin, monkeypatch: pytest.MonkeyPatch) -> None:
    """With what they have found, in pieces; those that are younger stay."""
    monkeypatch.setattr("reconciler.duties.PRUNE_ROWS", 2)
    for days in (40, 35, 31, 1):
        at = leading.ledger.now() - timedelta(days=days)
        run_id = int(at.timestamp() * 1_000).to_bytes(6, "big").ljust(16, b"\1")
        run = Run(run_id, Mode.CHECK, None, RunStatus.RUNNING, Cause.ASKED, "ann", at, begun_at=at)
        await leading.ledger.runs.begin(run, given.soon())
        admin.run("UPDATE reconcile_run SET status = 'done', ended_at = %s WHERE id = %s", at.replace(tzinfo=None), run_id)
        admin.run("INSERT INTO reconcile_finding (run_id, number, code, kind) VALUES (%s, 0, 'GOLD20', 'leaked')", run_id)
    await leading.duties.prune(30)
    assert 1 == len(rows(admin))
    assert 1 == admin.value("SELECT COUNT(*) FROM reconcile_finding")


async def test_a_lost_cache(leading: Leading, coupon: Coupon, raw: redis.asyncio.Redis, admin: Admin) -> None:
    """It is seen, counted, and the counters are loaded without waiting for their turn."""
    await leading.duties.watch()
    await leading.duties.reseed()
    before = leading.counted("usher_cache_losses_total")
    leading.hastened.clear()
    await leading.duties.watch()
    assert ([], before) == (leading.hastened, leading.counted("usher_cache_losses_total"))
    await raw.flushall()
    await leading.duties.watch()
    assert ([RESEED], before + 1) == (leading.hastened, leading.counted("usher_cache_losses_total"))
    await leading.duties.reseed()
    assert str(SEATS) == await raw.hget(key(coupon.code, "counter"), "next")
    last = rows(admin)[-1]
    assert ("reseed", "cache_loss", "done") == (last["mode"], last["cause"], last["status"])


async def test_figures(leading: Leading, coupon: Coupon, admin: Admin) -> None:
    """What the metrics say of the ledger."""
    admin.run("UPDATE redemption SET status = 'reserved', expires_at = '2026-01-01' WHERE seat <= 3")
    admin.run("UPDATE coupon SET max_redemptions = 2, version = 2")
    await leading.duties.count()
    await leading.duties.look_over()
    assert (3, 1) == (leading.counted("usher_holds_overdue"), leading.counted("usher_coupons_over"))


async def test_figures_that_take_too_long(
    lead: Lead, far_ledger: Ledger, counters: Counters, mariadb_proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are not told; that the ledger is away is not said for that."""
    leading = await lead(far_ledger, counters)
    await leading.duties.count()
    assert 0 == leading.counted("usher_holds_overdue")
    monkeypatch.setattr("reconciler.duties.QUESTION_DEADLINE_S", 0.2)
    held = mariadb_proxy.hold(holding(b"redemption_expiry"))
    await leading.duties.count()
    assert "usher_holds_overdue" not in leading.metrics.exposed().decode()
    held.release()


@pytest.mark.parametrize(("interval_s", "names"), [(0, set()), (300, {"repair"})])
def test_no_repair_by_the_clock(interval_s: int, names: set[str], leading: Leading) -> None:
    """0 turns it off."""
    jobs = {job.name: job for job in leading.duties.jobs(Settings(repair_interval_s=interval_s))}
    assert names == {"repair"} & set(jobs)
    assert {"expire", "watch", RESEED, "fulfil wishes", "prune"} <= set(jobs)
