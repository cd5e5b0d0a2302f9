"""Stored runs: wishes, who carries them out, what they find, and that old ones go."""

import asyncio
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import uuid_utils

from service.errors import LedgerUnavailable, Overloaded
from service.ledger import Ledger, runs
from service.reconciling import Cause, Finding, Kind, Leader, Mode, Run, RunStatus
from tests.faults import Proxy, holding
from tests.ledger.given import soon
from tests.stores import Admin
from tests.waiting import until, until_async

AT = datetime(2026, 11, 22, 10, 15, 30, 123456, tzinfo=UTC)
FINDINGS = [
    Finding("GOLD20", Kind.LEAKED, "handed out", "free", seat=7),
    Finding("GOLD20", Kind.GHOST, "free", "taken", seat=2_000_000_000),
    Finding("GOLD20", Kind.BEHIND, 3, 17),
    Finding("GOLD20", Kind.OUTDATED, {"version": 1, "ends_at": None}, {"version": 2, "ends_at": "2026-12-24T00:00:00Z"}),
    Finding("SILVER", Kind.CUSTOMER_COUNT, 2, 1, customer_id="été 'x\\"),
    Finding("SILVER", Kind.OVERSOLD, 21, 20, seat=21),
    Finding("BRONZE", Kind.MISSING, None, None),
]


def wish(mode: Mode = Mode.CHECK, code: str | None = None, **fields: Any) -> Run:  # noqa: ANN401
    """A wish of its own id."""
    new = Run(uuid_utils.uuid7().bytes, mode, code, RunStatus.QUEUED, Cause.ASKED, asked_by="office", asked_at=AT)
    return replace(new, **fields)


def running(run_by: str | None = "one:1", begun_at: datetime = AT, **fields: Any) -> Run:  # noqa: ANN401
    return wish(status=RunStatus.RUNNING, run_by=run_by, begun_at=begun_at, **fields)


async def ended(ledger: Ledger, *, found: int = 0, days_ago: int = 0) -> bytes:
    """The id of a run that ended so many days ago, with so many findings."""
    at = ledger.now() - timedelta(days=days_ago)
    id_at = int(at.timestamp() * 1000).to_bytes(6) + uuid_utils.uuid7().bytes[6:]
    new = running(id=id_at, asked_at=at, begun_at=at)
    await ledger.runs.begin(new, soon())
    await ledger.runs.note(new.id, 0, [FINDINGS[0]._replace(seat=seat) for seat in range(1, found + 1)], soon())
    await ledger.runs.end(new.id, status=RunStatus.DONE, coupons_checked=1, finding_count=found, deadline=soon())
    return new.id


def end_then(admin: Admin, run_id: bytes, days_ago: int) -> None:
    admin.run("UPDATE reconcile_run SET ended_at = UTC_TIMESTAMP(6) - INTERVAL %s DAY WHERE id = %s", days_ago, run_id)


# --- Wishes -------------------------------------------------------------------------------------------------------


async def test_a_wish_waits_is_taken_and_ends(ledger: Ledger) -> None:
    asked = wish(Mode.REPAIR, "GOLD20")
    assert asked == await ledger.runs.queue(asked, soon())
    assert asked == await ledger.runs.get(asked.id, soon())

    taken = await ledger.runs.take("one:1", soon())
    assert taken is not None
    assert taken.begun_at is not None
    assert replace(asked, status=RunStatus.RUNNING, run_by="one:1", begun_at=taken.begun_at) == taken
    assert timedelta() <= ledger.now() - taken.begun_at < timedelta(seconds=10)
    assert await ledger.runs.take("one:1", soon()) is None

    await ledger.runs.end(asked.id, status=RunStatus.DONE, coupons_checked=1, finding_count=2, deadline=soon())
    done = await ledger.runs.get(asked.id, soon())
    assert done is not None
    assert replace(taken, status=RunStatus.DONE, ended_at=done.ended_at, coupons_checked=1, finding_count=2) == done
    assert done.ended_at is not None
    assert done.ended_at >= taken.begun_at
    assert await ledger.runs.get(wish().id, soon()) is None


async def test_the_oldest_wish_is_taken_first(ledger: Ledger) -> None:
    asked = [await ledger.runs.queue(wish(mode), soon()) for mode in Mode]
    taken = [await ledger.runs.take("one:1", soon()) for _ in asked]
    assert [one.id for one in asked] == [one.id for one in taken if one]


async def test_the_same_wish_is_stored_once_while_it_waits(ledger: Ledger) -> None:
    """Whoever asked first; for another mode or coupon, and once the first has begun, it is another wish."""
    first = await ledger.runs.queue(wish(), soon())
    assert first == await ledger.runs.queue(wish(asked_by="shop"), soon())
    others = [wish(Mode.REPAIR), wish(code="GOLD20"), wish(code="SILVER")]
    assert others == [await ledger.runs.queue(one, soon()) for one in others]
    await ledger.runs.take("one:1", soon())
    again = wish()
    assert again == await ledger.runs.queue(again, soon())
    assert 5 == len(await ledger.runs.find(limit=10, deadline=soon()))


async def test_so_many_wishes_wait(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runs, "QUEUED_MAX", 3)
    asked = [await ledger.runs.queue(wish(code=f"C{number}"), soon()) for number in range(3)]
    with pytest.raises(Overloaded):
        await ledger.runs.queue(wish(code="C3"), soon())
    assert asked[2] == await ledger.runs.queue(wish(code="C2"), soon())
    await ledger.runs.take("one:1", soon())
    await ledger.runs.queue(wish(code="C3"), soon())


async def test_of_several_who_take_a_wish_one_gets_it(ledger: Ledger, far: Ledger) -> None:
    asked = [await ledger.runs.queue(wish(code=f"C{number}"), soon()) for number in range(5)]
    takers = [(each, f"{name}:{number}") for each, name in ((ledger, "near"), (far, "far")) for number in range(4)]
    taken = await asyncio.gather(*(each.runs.take(name, soon()) for each, name in takers))
    assert {one.id for one in asked} == {one.id for one in taken if one}
    assert 5 == len([one for one in taken if one])
    assert all(one is None or one.run_by == name for one, (_, name) in zip(taken, takers, strict=True))


async def test_who_takes_a_wish_too_late_gets_none(ledger: Ledger, far: Ledger, proxy: Proxy) -> None:
    """Both have read that it waits."""
    asked = await ledger.runs.queue(wish(), soon())
    late = proxy.hold(holding(b"SET status = 'running'"))
    second = asyncio.create_task(far.runs.take("far:1", soon()))
    await until(lambda: late.hits == 1, what="it takes the wish")
    first = await ledger.runs.take("near:1", soon())
    assert first is not None
    late.release()
    assert await second is None
    assert first == await ledger.runs.get(asked.id, soon())


async def test_a_lost_reply_changes_nothing(far: Ledger, ledger: Ledger, proxy: Proxy) -> None:
    """A statement that was carried out, and whose reply was lost, is sent again: the outcome is the same."""
    asked = wish()
    verbs = (b"INSERT INTO reconcile_run", b"SET status = 'running'", b"INTO reconcile_finding", b"SET status = 'done'")
    losses = [proxy.lose_reply(holding(verb)) for verb in verbs]
    await far.runs.queue(asked, soon())
    taken = await far.runs.take("one:1", soon())
    assert taken is not None
    assert asked.id == taken.id
    await far.runs.note(asked.id, 0, FINDINGS, soon())
    await far.runs.end(asked.id, status=RunStatus.DONE, coupons_checked=1, finding_count=7, deadline=soon())
    assert [1] * len(verbs) == [loss.hits for loss in losses]
    assert [RunStatus.DONE] == [one.status for one in await ledger.runs.find(limit=10, deadline=soon())]
    assert FINDINGS == await ledger.runs.findings(asked.id, limit=10, deadline=soon())


async def test_the_ledger_is_away(far: Ledger, proxy: Proxy) -> None:
    proxy.refuse()
    with pytest.raises(LedgerUnavailable):
        await far.runs.queue(wish(), soon(1))


# --- Findings -----------------------------------------------------------------------------------------------------


async def test_findings_are_kept_in_their_order(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    """As they were found, in however many batches they are noted; a batch that is sent again counts once."""
    monkeypatch.setattr(runs, "BATCH_MAX", 2)
    new, other = running(), running()
    for one in (new, other):
        await ledger.runs.begin(one, soon())
    await ledger.runs.note(new.id, 0, FINDINGS[:5], soon())
    begun = await ledger.runs.get(new.id, soon())
    assert begun is not None
    assert 5 == begun.finding_count
    await ledger.runs.note(new.id, 0, FINDINGS[:5], soon())
    await ledger.runs.note(new.id, 5, FINDINGS[5:], soon())
    await ledger.runs.note(new.id, 7, [], soon())
    assert FINDINGS == await ledger.runs.findings(new.id, limit=10, deadline=soon())
    assert FINDINGS[2:4] == await ledger.runs.findings(new.id, after_number=1, limit=2, deadline=soon())
    assert [] == await ledger.runs.findings(other.id, limit=10, deadline=soon())


# --- Ends ---------------------------------------------------------------------------------------------------------


async def test_an_end_is_final(ledger: Ledger) -> None:
    """A reconciler that was stopped, and wakes up after its run was closed, changes nothing of it."""
    new = running()
    await ledger.runs.begin(new, soon())
    assert 1 == await ledger.runs.close_orphans(Leader("two:1", AT), soon())
    await ledger.runs.end(new.id, status=RunStatus.DONE, coupons_checked=5, finding_count=0, deadline=soon())
    closed = await ledger.runs.get(new.id, soon())
    assert closed is not None
    assert (RunStatus.FAILED, runs.ORPHANED, 0) == (closed.status, closed.error, closed.coupons_checked)


async def test_a_reason_is_cut(ledger: Ledger) -> None:
    new = running()
    await ledger.runs.begin(new, soon())
    await ledger.runs.end(new.id, status=RunStatus.FAILED, coupons_checked=0, finding_count=0, error="é" * 300, deadline=soon())
    failed = await ledger.runs.get(new.id, soon())
    assert failed is not None
    assert "é" * 255 == failed.error


async def test_more_is_found_than_the_column_holds(ledger: Ledger) -> None:
    """Three coupons whose `next` somebody has set to two thousand million, say."""
    new = running()
    await ledger.runs.begin(new, soon())
    await ledger.runs.end(new.id, status=RunStatus.DONE, coupons_checked=3, finding_count=6 * 10**9, deadline=soon())
    done = await ledger.runs.get(new.id, soon())
    assert done is not None
    assert (RunStatus.DONE, 2**32 - 1) == (done.status, done.finding_count)


async def test_orphans(ledger: Ledger) -> None:
    """What others have left running, or this one's namesake; not its own, not what waits, not the command line's of today."""
    now = ledger.now()
    leader = Leader("one:1", now - timedelta(seconds=10))
    left = [
        running("two:1", now),
        running("one:1", leader.since - timedelta(seconds=1)),
        running(None, now - timedelta(hours=25)),
    ]
    kept = [running("one:1", leader.since), running(None, now - timedelta(hours=23))]
    for one in (*left, *kept):
        await ledger.runs.begin(one, soon())
    asked = await ledger.runs.queue(wish(), soon())
    assert 3 == await ledger.runs.close_orphans(leader, soon())
    statuses = {one.id: one.status for one in await ledger.runs.find(limit=10, deadline=soon())}
    assert statuses == {
        **{one.id: RunStatus.FAILED for one in left},
        **{one.id: RunStatus.RUNNING for one in kept},
        asked.id: RunStatus.QUEUED,
    }


async def test_pages_are_newest_first(ledger: Ledger) -> None:
    ids = [await ended(ledger) for _ in range(5)]
    found = await ledger.runs.find(limit=3, deadline=soon())
    assert ids[:1:-1] == [one.id for one in found]
    assert ids[1::-1] == [one.id for one in await ledger.runs.find(before_id=found[-1].id, limit=3, deadline=soon())]


# --- Who leads ----------------------------------------------------------------------------------------------------


async def test_who_leads_is_who_holds_the_lock(ledger: Ledger, admin: Admin, other: Admin) -> None:
    """The row alone is not enough: its writer may have gone, or somebody else may hold the lock who has not noted it yet."""

    async def nobody_leads() -> bool:
        return await ledger.runs.leader(soon()) is None

    assert await nobody_leads()
    note = "REPLACE INTO leader (id, name, session_id, since) VALUES (1, 'one:1', CONNECTION_ID(), %s)"
    admin.run(note, AT.replace(tzinfo=None))
    assert await nobody_leads()
    lock = "CONCAT(LEFT(DATABASE(), 51), ':usher_leader')"
    assert 1 == other.value(f"SELECT GET_LOCK({lock}, 0)")
    assert await nobody_leads()
    other.run(f"DO RELEASE_LOCK({lock})")
    assert 1 == admin.value(f"SELECT GET_LOCK({lock}, 0)")
    assert Leader("one:1", AT) == await ledger.runs.leader(soon())
    admin.close()
    await until_async(nobody_leads, what="the server notices")


# --- Old ones go --------------------------------------------------------------------------------------------------


async def test_old_runs_go(ledger: Ledger, admin: Admin) -> None:
    """With what they had found, and nothing else: not those that ended later, and none that has not ended."""
    old = [await ended(ledger, found=2, days_ago=40), await ended(ledger, days_ago=35)]
    for one in old:
        end_then(admin, one, 31)
    late = await ended(ledger, found=1, days_ago=40)  # It ended just now.
    young = await ended(ledger, found=1, days_ago=2)
    long_ago = running(id=old[0][:6] + b"\xff" * 10, begun_at=ledger.now() - timedelta(days=40))
    await ledger.runs.begin(long_ago, soon())
    await ledger.runs.note(long_ago.id, 0, FINDINGS[:1], soon())
    before = ledger.now() - timedelta(days=30)
    assert 4 == await ledger.runs.prune(before, limit=100, deadline=soon())
    assert {young, late, long_ago.id} == {one.id for one in await ledger.runs.find(limit=10, deadline=soon())}
    assert {young, late, long_ago.id} == set(admin.column("SELECT run_id FROM reconcile_finding"))
    assert 0 == await ledger.runs.prune(before, limit=100, deadline=soon())


async def test_old_runs_go_piece_by_piece(ledger: Ledger, admin: Admin) -> None:
    """No statement deletes more than the limit, and no run goes before what it has found."""
    for number in range(3):
        end_then(admin, await ended(ledger, found=2 + number, days_ago=40), 31)
    before = ledger.now() - timedelta(days=30)
    left = []
    while (deleted := await ledger.runs.prune(before, limit=5, deadline=soon())) == 5:
        orphaned = admin.value("SELECT COUNT(*) FROM reconcile_finding WHERE run_id NOT IN (SELECT id FROM reconcile_run)")
        left.append((admin.value("SELECT COUNT(*) FROM reconcile_run"), orphaned))
    assert 2 == deleted
    assert [(2, 0), (1, 0)] == left
    assert 0 == admin.value("SELECT COUNT(*) FROM reconcile_run")
