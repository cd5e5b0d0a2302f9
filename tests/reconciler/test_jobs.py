"""The job that ends overdue holds, against real stores."""

import asyncio
from collections.abc import Sequence
from datetime import timedelta

import pytest
import redis.asyncio

from reconciler import jobs
from reconciler.jobs import Report, expire_once
from service.config import Settings
from service.counters import ClaimBatch, Counters, key
from service.errors import LedgerUnavailable
from service.ledger import Ledger
from service.model import Coupon, LoadedCoupon, NewRedemption, RecordEnding, Wish
from service.transition import Transition, Verb
from tests.faults import Proxy, holding
from tests.ledger import given
from tests.stores import Admin

RECORD_ROWS = 256


async def holds(ledger: Ledger, coupon: Coupon, seats: Sequence[int], *, overdue_s: float = 1.0) -> list[NewRedemption]:
    """Holds that are recorded, the first of them overdue for so long, each further one for a millisecond less."""
    begin = ledger.now() - timedelta(seconds=overdue_s)
    rows = [
        given.row(ledger, coupon, seat=seat, customer_seat=1, expires_at=begin + timedelta(milliseconds=at))
        if coupon.max_per_customer
        else given.row(ledger, coupon, seat=seat, expires_at=begin + timedelta(milliseconds=at))
        for at, seat in enumerate(seats)
    ]
    for start in range(0, len(rows), RECORD_ROWS):
        batch = rows[start : start + RECORD_ROWS]
        assert [RecordEnding.RECORDED] * len(batch) == await given.endings(ledger, *batch)
    return rows


async def load(counters: Counters, coupon: Coupon, seat_max: int) -> None:
    await counters.load([LoadedCoupon(coupon, seat_max)])


async def free(raw: redis.asyncio.Redis, coupon: Coupon) -> list[int]:
    """The seats that the counter may hand out again."""
    return sorted(map(int, await raw.smembers(key(coupon.code, "free"))))


def expired(admin: Admin) -> list[bytes]:
    return given.ids(admin, "status = 'expired' AND seat IS NULL AND ended_at = expires_at")


async def test_overdue_holds_end(ledger: Ledger, counters: Counters, raw: redis.asyncio.Redis, admin: Admin) -> None:
    """Their seats and their customers' counts are back; who is in time or has confirmed stays."""
    coupon = await given.coupon(ledger, max_redemptions=5, max_per_customer=1)
    await load(counters, coupon, 0)
    orders = [Wish(f"order-{n}", f"customer-{n}") for n in range(5)]
    (claims,) = await counters.claim([ClaimBatch(coupon.code, orders)])
    assert isinstance(claims, list)
    now = ledger.now()
    until = {0: now - timedelta(seconds=2), 1: now - timedelta(seconds=1), 2: now + timedelta(seconds=600), 3: None, 4: None}
    rows = [
        given.row(
            ledger, coupon, customer_id=wish.customer_id, order_id=wish.order_id, seat=claim.seat, customer_seat=1,
            expires_at=until[n],
        )
        for n, (wish, claim) in enumerate(zip(orders, claims, strict=True))
    ]  # fmt: skip
    assert [RecordEnding.RECORDED] * 5 == await given.endings(ledger, *rows)

    report = await expire_once(ledger, counters)

    assert Report(ended=2, left_out=0, releases_lost=0, redis_error=None, complete=True) == report
    assert [row.id for row in rows[:2]] == expired(admin)
    assert [1, 2] == await free(raw, coupon)
    assert {f"customer-{n}": "1" for n in (2, 3, 4)} == await raw.hgetall(key(coupon.code, "customers"))
    assert Report(ended=0, left_out=0, releases_lost=0, redis_error=None, complete=True) == await expire_once(ledger, counters)


async def test_a_run_is_bounded(ledger: Ledger, counters: Counters, admin: Admin, monkeypatch: pytest.MonkeyPatch) -> None:
    """It ends the oldest; the next run goes on."""
    monkeypatch.setattr(jobs, "BATCH_HOLDS", 10)
    monkeypatch.setattr(jobs, "RUN_HOLDS_MAX", 20)
    coupon = await given.coupon(ledger, max_redemptions=100)
    rows = await holds(ledger, coupon, range(1, 26))
    first = await expire_once(ledger, counters)
    assert (20, False) == (first.ended, first.complete)
    assert sorted(row.id for row in rows[:20]) == expired(admin)
    second = await expire_once(ledger, counters)
    assert (5, True) == (second.ended, second.complete)


async def test_a_run_ends_in_time(ledger: Ledger, counters: Counters, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also when it may end nothing of all that it finds."""
    monkeypatch.setattr(jobs, "RUN_S", 0.0)
    await holds(ledger, await given.coupon(ledger), [1])
    assert Report(ended=0, left_out=0, releases_lost=0, redis_error=None, complete=False) == await expire_once(ledger, counters)


async def test_who_is_to_stop_begins_no_further_batch(
    ledger: Ledger, counters: Counters, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jobs, "BATCH_HOLDS", 10)
    await holds(ledger, await given.coupon(ledger, max_redemptions=100), range(1, 26))
    asked = iter([False, True])
    report = await expire_once(ledger, counters, lambda: next(asked))
    assert (10, False) == (report.ended, report.complete)


async def test_holds_that_ended_in_the_same_moment(
    ledger: Ledger, counters: Counters, admin: Admin, monkeypatch: pytest.MonkeyPatch
) -> None:
    """None of them is passed over where a batch ends between them."""
    monkeypatch.setattr(jobs, "BATCH_HOLDS", 4)
    rows = await holds(ledger, await given.coupon(ledger, max_redemptions=100), range(1, 11))
    admin.run("UPDATE redemption SET expires_at = %s", "2026-01-01 00:00:00")
    report = await expire_once(ledger, counters)
    assert (10, True) == (report.ended, report.complete)
    assert sorted(row.id for row in rows) == expired(admin)


async def test_a_coupon_that_is_being_changed(
    ledger: Ledger, counters: Counters, admin: Admin, other: Admin, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its holds are left for the next run; though they fill a batch and are older, they hold up nobody."""
    monkeypatch.setattr(jobs, "BATCH_HOLDS", 4)
    changing, coupon = [await given.coupon(ledger, code) for code in ("A", "B")]
    first = await holds(ledger, changing, range(1, 7), overdue_s=100)
    rows = await holds(ledger, coupon, range(1, 7))
    other.run("BEGIN")
    other.run("SELECT * FROM coupon WHERE id = %s FOR UPDATE", changing.id)
    report = await expire_once(ledger, counters)
    assert (6, 6, True) == (report.ended, report.left_out, report.complete)
    assert [row.id for row in rows] == expired(admin)
    other.run("ROLLBACK")
    assert 6 == (await expire_once(ledger, counters)).ended
    assert sorted(row.id for row in [*first, *rows]) == expired(admin)


async def test_a_hold_that_somebody_else_has(ledger: Ledger, counters: Counters, admin: Admin, other: Admin) -> None:
    """It is left for the next run, and not waited for."""
    rows = await holds(ledger, await given.coupon(ledger), [1, 2, 3])
    other.run("BEGIN")
    other.run("SELECT * FROM redemption WHERE id = %s FOR UPDATE", rows[1].id)
    report = await expire_once(ledger, counters)
    assert (2, 1, True) == (report.ended, report.left_out, report.complete)
    assert [rows[0].id, rows[2].id] == expired(admin)
    other.run("ROLLBACK")


async def test_without_redis(
    ledger: Ledger, far_counters: Counters, redis_proxy: Proxy, admin: Admin, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The holds end all the same; Redis is asked once in a run, and the uses that it did not get are counted."""
    monkeypatch.setattr(jobs, "BATCH_HOLDS", 4)
    rows = await holds(ledger, await given.coupon(ledger), range(1, 11))
    lost = redis_proxy.lose_reply(holding(b"EVALSHA"), times=None)
    report = await expire_once(ledger, far_counters)
    assert (10, 10, True) == (report.ended, report.releases_lost, report.complete)
    assert report.redis_error
    assert 1 == lost.hits
    assert [row.id for row in rows] == expired(admin)


async def test_without_mariadb(far_ledger: Ledger, counters: Counters, mariadb_proxy: Proxy) -> None:
    mariadb_proxy.refuse()
    with pytest.raises(LedgerUnavailable):
        await expire_once(far_ledger, counters)


async def test_a_lost_reply_to_the_commit(
    ledger: Ledger, far_ledger: Ledger, counters: Counters, raw: redis.asyncio.Redis, admin: Admin, mariadb_proxy: Proxy
) -> None:
    """What was ended without anybody's being told so is given back all the same."""
    coupon = await given.coupon(ledger)
    await load(counters, coupon, 3)
    rows = await holds(ledger, coupon, [1, 2, 3])
    # Connections are open: the driver commits whenever it has opened one.
    await far_ledger.redemptions.overdue(limit=1, deadline=given.soon())
    await far_ledger.transitions.carry_out([Transition(Verb.EXPIRE, bytes(16))], given.soon())
    lost = mariadb_proxy.lose_reply(holding(b"\x03COMMIT"))
    report = await expire_once(far_ledger, counters)
    assert 1 == lost.hits
    assert Report(ended=3, left_out=0, releases_lost=0, redis_error=None, complete=True) == report
    assert [row.id for row in rows] == expired(admin)
    assert [1, 2, 3] == await free(raw, coupon)


async def test_several_at_once(
    settings: Settings, counters: Counters, raw: redis.asyncio.Redis, admin: Admin, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each hold is ended once, and nobody waits in a circle."""
    monkeypatch.setattr(jobs, "BATCH_HOLDS", 100)
    ledgers = [await Ledger.connect(settings) for _ in range(4)]
    for ledger in ledgers:  # Connections are open, or the first one might do it all.
        await ledger.redemptions.overdue(limit=1, deadline=given.soon())
        await ledger.transitions.carry_out([Transition(Verb.EXPIRE, bytes(16))], given.soon())
    coupons = [await given.coupon(ledgers[0], code, max_redemptions=1_000) for code in ("A", "B")]
    for coupon in coupons:
        await load(counters, coupon, 600)
        await holds(ledgers[0], coupon, range(1, 601))
    deadlocks = admin.status("Innodb_deadlocks")

    async def sweep(ledger: Ledger) -> int:
        """Until nothing is overdue any more; how many it has ended."""
        ended = 0
        while await ledger.redemptions.overdue(limit=1, deadline=given.soon()):
            ended += (await expire_once(ledger, counters)).ended
        return ended

    ended = await asyncio.gather(*map(sweep, ledgers))

    assert 1_200 == sum(ended)
    assert 1_200 == len(expired(admin))
    assert 1 < sum(count > 0 for count in ended), "one did it all: they were not side by side"
    assert deadlocks == admin.status("Innodb_deadlocks")
    for coupon in coupons:
        assert list(range(1, 601)) == await free(raw, coupon)
    for ledger in ledgers:
        await ledger.close()
