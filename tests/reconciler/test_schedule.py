"""When the jobs run, who runs them, and what is told of it."""

import asyncio
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta, tzinfo
from functools import partial
from types import SimpleNamespace
from typing import Any, Self

import apscheduler.schedulers.base
import pytest
from structlog.testing import capture_logs

from reconciler import jobs, periodic
from reconciler.duties import Duties, Parts
from reconciler.metrics import Metrics
from reconciler.periodic import Job, Runner, Timetable
from reconciler.schedule import Candidate
from reconciler.stores import Stores
from service.config import Settings
from service.errors import CounterUnavailable, LedgerUnavailable
from service.ledger import Ledger
from tests.stores import Admin
from tests.waiting import until

DONE = jobs.Report(ended=1, left_out=0, releases_lost=0, redis_error=None, complete=True)
NOTHING = jobs.Report(ended=0, left_out=0, releases_lost=0, redis_error=None, complete=True)
NO_REDIS = jobs.Report(ended=1, left_out=0, releases_lost=1, redis_error="nothing answers there", complete=True)
NO_LEDGER = LedgerUnavailable("no connection")
NOBODY: Any = SimpleNamespace()


class Always:
    """Leads, whatever happens; stands for a `Leadership`."""

    leads = True
    term = 1
    name = "host:1"

    async def is_leading(self) -> bool:
        return self.leads


def expiry(stop: asyncio.Event | None = None, leadership: Any = None, stores: Stores | None = None) -> Runner:  # noqa: ANN401  (stands for one)
    """The runner of the job that ends holds."""
    stores = stores or Stores()
    who: Any = leadership or Always()
    metrics = Metrics(lambda: True, lambda: datetime.now(UTC))
    duties = Duties(Parts(NOBODY, NOBODY, who), stores=stores, metrics=metrics, stop=stop or asyncio.Event())
    (job,) = (job for job in duties.jobs(Settings()) if job.name == "expire")
    return Runner(job, stores)


def scripted(monkeypatch: pytest.MonkeyPatch, runs: Sequence[jobs.Report | Exception]) -> None:
    """The job's runs, one after the other."""
    left = iter(runs)

    async def expire_once(*_: object) -> jobs.Report:
        run = next(left)
        if isinstance(run, Exception):
            raise run
        return run

    monkeypatch.setattr(jobs, "expire_once", expire_once)


@pytest.mark.parametrize(
    ("runs", "events"),
    [
        ([DONE, NOTHING], []),
        (
            [NO_LEDGER, NO_LEDGER, NOTHING, DONE, NO_LEDGER],
            ["warning the ledger is away", "info the ledger is back", "warning the ledger is away"],
        ),
        ([NO_REDIS, NOTHING, NO_REDIS, DONE, DONE], ["warning Redis is away", "info Redis is back"]),
        ([CounterUnavailable("no answer in time"), DONE], ["warning Redis is away", "info Redis is back"]),
        ([ValueError("defect"), DONE], ["error run failed"]),
    ],
)
async def test_what_is_told(
    monkeypatch: pytest.MonkeyPatch, runs: Sequence[jobs.Report | Exception], events: list[str]
) -> None:
    """A store that goes is one event, however many runs fail, and one when it is back; a defect ends nothing but its run."""
    scripted(monkeypatch, runs)
    runner = expiry()
    with capture_logs() as logged:
        for _ in runs:
            await runner.run()
    assert events == [f"{event['log_level']} {event['event']}" for event in logged if event["log_level"] != "debug"]


async def test_a_run_that_ends_late_brings_no_news(monkeypatch: pytest.MonkeyPatch) -> None:
    """It had asked before the ledger went, and it fails after the ledger is back: neither says how it is now."""
    stores = Stores()
    answers: list[asyncio.Future[None]] = []

    async def expire_once(*_: object) -> jobs.Report:
        answers.append(asyncio.get_running_loop().create_future())
        await answers[-1]
        return DONE

    monkeypatch.setattr(jobs, "expire_once", expire_once)

    async def begin() -> tuple["asyncio.Task[None]", "asyncio.Future[None]"]:
        """A run beside the others, and the answer that it waits for."""
        count = len(answers)
        run = asyncio.create_task(expiry(stores=stores).run())
        await until(lambda: len(answers) > count, what="it has asked")
        return run, answers[-1]

    with capture_logs() as logged:
        early, well = await begin()
        gone, failure = await begin()
        failure.set_exception(NO_LEDGER)
        await gone
        well.set_result(None)
        await early
        late, late_failure = await begin()
        back, well = await begin()
        well.set_result(None)
        await back
        late_failure.set_exception(NO_LEDGER)
        await late
    told = [event["event"] for event in logged if event["log_level"] != "debug"]
    assert ["the ledger is away", "the ledger is back"] == told


async def test_a_run_is_not_begun_beside_another_and_not_cut_off(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """One that takes long lets others fall out, without a word; whoever stops waits for its end."""
    begun, ended = 0, 0
    go_on = asyncio.Event()

    async def expire_once(_ledger: object, _counters: object, is_stopping: Callable[[], bool]) -> jobs.Report:
        nonlocal begun, ended
        begun += 1
        await go_on.wait()
        assert is_stopping()
        ended += 1
        return NOTHING

    monkeypatch.setattr(jobs, "expire_once", expire_once)
    stop = asyncio.Event()
    timetable = Timetable([often(expiry(stop))])
    with capture_logs() as logged:
        async with timetable.kept():
            await until(lambda: begun == 1, what="a run is begun")
            await asyncio.sleep(0.2)
            stop.set()
            asyncio.get_running_loop().call_later(0.1, go_on.set)
            await timetable.drain()
            assert (1, 1) == (begun, ended)
    assert [] == logged
    assert [] == caplog.messages


async def test_what_is_cut_off_at_the_end_is_no_news(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """Nobody could wait for it any longer; that was told."""
    cut_off = False

    async def expire_once(*_: object) -> jobs.Report:
        nonlocal cut_off
        try:
            await asyncio.Event().wait()
        finally:
            cut_off = True
        return NOTHING

    monkeypatch.setattr(jobs, "expire_once", expire_once)
    runner = expiry()
    async with Timetable([runner]).kept():
        await until(runner._turn.locked, what="a run is begun")
    await until(lambda: cut_off, what="it is cut off")
    await asyncio.sleep(0)
    assert [] == caplog.messages


async def test_runs_come_again_and_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also after one that failed; and none comes after the end."""
    begun = 0

    async def expire_once(*_: object) -> jobs.Report:
        nonlocal begun
        begun += 1
        raise LedgerUnavailable

    monkeypatch.setattr(jobs, "expire_once", expire_once)
    async with Timetable([often(expiry())]).kept():
        await until(lambda: begun >= 3, what="three runs")
    await asyncio.sleep(0.1)
    after = begun
    await asyncio.sleep(0.1)
    assert after == begun


async def test_the_clock_is_put_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """By an hour: no job waits for that hour to be over, the one that seeks to lead least of all."""
    back = timedelta()

    class Clock(datetime):
        @classmethod
        def now(cls, tz: tzinfo | None = None) -> Self:
            return super().now(tz) - back

    for module in (periodic, apscheduler.schedulers.base):
        monkeypatch.setattr(module, "datetime", Clock)
    monkeypatch.setattr(periodic, "CLOCK_INTERVAL_S", 0.05, raising=False)
    done = 0

    async def work() -> None:
        nonlocal done
        done += 1

    async with Timetable([Runner(Job("work", 0.02, work), Stores())]).kept():
        await until(lambda: done >= 3, what="it runs")
        back = timedelta(hours=1)
        before = done
        await until(lambda: done >= before + 3, what="it goes on", timeout_s=5)


def often(runner: Runner) -> Runner:
    """The same, every 20 ms."""
    job = runner.job
    return Runner(Job(job.name, 0.02, job.work, may_run=job.may_run), Stores())


async def test_a_long_job_delays_no_other() -> None:
    done = 0
    go_on = asyncio.Event()

    async def long() -> None:
        await go_on.wait()

    async def short() -> None:
        nonlocal done
        done += 1

    timetable = Timetable([Runner(Job("long", 0.02, long), Stores()), Runner(Job("short", 0.02, short), Stores())])
    async with timetable.kept():
        await until(lambda: done >= 5, what="the short one has run")
        go_on.set()
        await timetable.drain()


async def test_a_job_is_the_leader_s(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who leads is asked before each run, and between two batches; nobody begins one when it is to stop."""
    asked: list[Callable[[], bool]] = []

    async def expire_once(_ledger: object, _counters: object, is_stopping: Callable[[], bool]) -> jobs.Report:
        asked.append(is_stopping)
        return NOTHING

    monkeypatch.setattr(jobs, "expire_once", expire_once)
    leadership, stop = Always(), asyncio.Event()
    runner = expiry(stop, leadership)
    await runner.run()
    (is_stopping,) = asked
    assert not is_stopping()
    leadership.leads = False
    assert is_stopping()
    await runner.run()
    assert 1 == len(asked)
    leadership.leads = True
    stop.set()
    await runner.run()
    assert 1 == len(asked)


async def test_who_takes_over_begins_at_once() -> None:
    """With what is to be done soon; what has its time keeps it."""
    done: list[str] = []

    def job(name: str, *, soon: bool) -> Runner:
        async def work() -> None:
            done.append(name)

        return Runner(Job(name, 60.0, work, soon=soon), Stores())

    timetable = Timetable([job("expire", soon=True), job("repair", soon=False)])
    async with timetable.kept():
        await until(lambda: done == ["expire"], what="once at the start")
        timetable.hasten_all()
        await until(lambda: done == ["expire", "expire"], what="and once more")
    assert "repair" not in done


async def test_leading_is_told(ledger: Ledger, admin: Admin) -> None:
    """When it begins and when it ends, once each; the one that begins to lead is told."""
    taken_over: list[int] = []
    parts = [ledger.leadership(f"host:{number}") for number in range(2)]
    first, second = (Candidate(part, partial(taken_over.append, number)) for number, part in enumerate(parts))
    with capture_logs() as logged:
        for candidate in (first, second, first, second):
            await candidate.seek()
        assert [0] == taken_over
        admin.kill(admin.value("SELECT session_id FROM leader"))
        while not parts[1].leads:
            await second.seek()
        with suppress(LedgerUnavailable):
            await first.seek()
        await second.seek()
    assert [0, 1] == taken_over
    told = ["this reconciler leads", "this reconciler leads", "this reconciler leads no longer"]
    assert told == [event["event"] for event in logged]
    for part in parts:
        await part.give_back()
