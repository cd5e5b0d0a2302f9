"""check and repair against real stores: each kind planted by hand is named, mended, and gone."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import redis
import redis.asyncio

from reconciler import collecting, compare, comparing_seats, diff, suspects
from reconciler.compare import Report, compare_once
from service.counters import PARTS, ClaimBatch, Counters, key
from service.errors import CounterUnavailable, LedgerUnavailable
from service.ledger import Ledger
from service.model import Coupon, CouponStatus, LoadedCoupon, Wish
from service.reconciling import Finding, Kind
from tests.faults import Proxy
from tests.ledger import given
from tests.reconciler.comparisons import Told, before_look, check, compared, ghosts, leaked, redeemed, repair
from tests.stores import Admin

CODE = "GOLD20"
COUNTER, FREE, PENDING, CUSTOMERS = (key(CODE, part) for part in PARTS)

Raw = redis.asyncio.Redis
Plant = Callable[[Admin, Raw], Awaitable[list[Finding]]]


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is in flight that would need longer."""
    monkeypatch.setattr(suspects, "PAUSES_S", (0.01, 0.01))
    monkeypatch.setattr(suspects, "WAIT_PAUSE_S", 0.01)


def dumped(url: str) -> dict[Any, Any]:
    """Every key with all that is in it, and when it expires."""
    with redis.Redis.from_url(url) as client:
        return {name: (client.dump(name), client.expiretime(name)) for name in client.scan_iter()}


async def free(raw: Raw) -> set[int]:
    return set(map(int, await raw.smembers(FREE)))


def taken(admin: Admin) -> set[int]:
    return set(admin.column("SELECT seat FROM redemption WHERE seat IS NOT NULL"))


def cancel(admin: Admin, *seats: int) -> list[str]:
    """Ends redemptions, and nobody tells the counter; their customers."""
    customers = [admin.value("SELECT customer_id FROM redemption WHERE seat = %s", seat) for seat in seats]
    for redemption in given.ids(admin, f"seat IN ({','.join(map(str, seats))})"):
        given.cancel(admin, redemption)
    return customers


# --- Each kind -----------------------------------------------------------------------------------------------------


async def plant_outdated(_admin: Admin, raw: Raw) -> list[Finding]:
    await raw.hset(COUNTER, mapping={"max_redemptions": 30, "version": 7})
    return [Finding(CODE, Kind.OUTDATED, {"max_redemptions": 30, "version": 7}, {"max_redemptions": 20, "version": 1})]


async def plant_impossible(_admin: Admin, raw: Raw) -> list[Finding]:
    await raw.hset(COUNTER, mapping={"next": "21"})
    fields = {"loaded": await raw.hget(COUNTER, "loaded"), "next": "21", "searched": "0", "pending": 0}
    return [Finding(CODE, Kind.OUTDATED, fields, {"loaded": None, "next": 10, "searched": 0, "pending": 0})]


async def plant_wrong_type(_admin: Admin, raw: Raw) -> list[Finding]:
    await raw.set(FREE, "text")
    return [Finding(CODE, Kind.OUTDATED, {"free": "string"}, {"free": "set"})]


async def plant_another_coupons(_admin: Admin, raw: Raw) -> list[Finding]:
    other = int(await raw.hget(COUNTER, "coupon_id") or 0)
    await raw.hset(COUNTER, mapping={"coupon_id": other + 1})
    return [Finding(CODE, Kind.OUTDATED, {"coupon_id": other + 1}, {"coupon_id": other})]


async def plant_leaked(admin: Admin, raw: Raw) -> list[Finding]:
    await raw.hdel(CUSTOMERS, *cancel(admin, 3, 5))
    return leaked(CODE, [3, 5])


async def plant_ghosts(_admin: Admin, raw: Raw) -> list[Finding]:
    await raw.sadd(FREE, 4, 7)
    return ghosts(CODE, [4, 7])


async def plant_hidden(admin: Admin, raw: Raw) -> list[Finding]:
    """As many leaks as ghosts, with equal sums of seats and of their squares."""
    await raw.hdel(CUSTOMERS, *cancel(admin, 1, 5, 6))
    await raw.sadd(FREE, 2, 3, 7)
    return leaked(CODE, [1, 5, 6]) + ghosts(CODE, [2, 3, 7])


async def plant_no_seats(_admin: Admin, raw: Raw) -> list[Finding]:
    await raw.sadd(FREE, "15", "007", b"\xff")
    return [
        Finding(CODE, Kind.GHOST, "007", "no seat"),
        Finding(CODE, Kind.GHOST, "free", "not handed out", seat=15),
        Finding(CODE, Kind.GHOST, "\ufffd", "no seat"),
    ]


async def plant_behind(_admin: Admin, raw: Raw) -> list[Finding]:
    await raw.hset(COUNTER, "next", 8)
    return [Finding(CODE, Kind.BEHIND, 8, 10)]


async def plant_behind_what_is_free(admin: Admin, raw: Raw) -> list[Finding]:
    """Seats that are rightly free are above `next` now, and no fault of their own; one above all rows is."""
    await raw.hdel(CUSTOMERS, *cancel(admin, 8, 9))
    await raw.sadd(FREE, 8, 9, 15)
    await raw.hset(COUNTER, "next", 5)
    return [Finding(CODE, Kind.BEHIND, 5, 10), Finding(CODE, Kind.GHOST, "free", "not handed out", seat=15)]


async def plant_counts(admin: Admin, raw: Raw) -> list[Finding]:
    first, second = admin.column("SELECT customer_id FROM redemption WHERE seat IN (1, 2) ORDER BY customer_id")
    await raw.hset(CUSTOMERS, mapping={first: 0, second: "x", "nobody": 1, b"\xff": 1, "z" * 200: 1})
    counted = [(first, 0, 1), (second, "x", 1), ("nobody", 1, 0), ("z" * 128, 1, 0), ("\ufffd", 1, 0)]
    return [
        Finding(CODE, Kind.CUSTOMER_COUNT, before, after, customer_id=customer)
        for customer, before, after in sorted(counted, key=lambda one: one[0])
    ]


PLANTED: list[Plant] = [
    plant_outdated, plant_impossible, plant_wrong_type, plant_another_coupons, plant_leaked, plant_ghosts, plant_hidden,
    plant_no_seats, plant_behind, plant_behind_what_is_free, plant_counts,
]  # fmt: skip


@pytest.mark.parametrize("plant", PLANTED, ids=lambda plant: plant.__name__)
async def test_each_kind(
    plant: Plant, ledger: Ledger, counters: Counters, coupon: Coupon, admin: Admin, raw: Raw, operator_url: str
) -> None:
    """A check names it and changes nothing; a repair tells the same and mends it; then a check is clean."""
    wanted = await plant(admin, raw)
    before = dumped(operator_url)

    assert wanted == await check(ledger, counters)
    assert wanted == await check(ledger, counters, code=coupon.code)
    assert before == dumped(operator_url)

    assert wanted == await repair(ledger, counters)
    assert [] == await check(ledger, counters)
    assert set(range(1, 11)) == taken(admin) | await free(raw)
    assert not taken(admin) & await free(raw)
    assert "10" == await raw.hget(COUNTER, "next")


async def test_a_counter_that_is_right_is_left_as_it_is(
    ledger: Ledger, counters: Counters, coupon: Coupon, operator_url: str
) -> None:
    """By a repair, too: it mends just what was found."""
    before = dumped(operator_url)
    assert Report(1, {}, 0, 0, 0, complete=True) == (await compared(ledger, counters, code=coupon.code))[1]
    assert [] == await repair(ledger, counters)
    assert before == dumped(operator_url)


async def test_a_repair_mends_just_what_was_found(ledger: Ledger, counters: Counters, coupon: Coupon, raw: Raw) -> None:
    """Another coupon and the other keys of this one stay; seats given back leave the time of the last search."""
    silver = await given.coupon(ledger, "SILVER", max_redemptions=5)
    await counters.load([LoadedCoupon(silver, 0)])
    await raw.hset(COUNTER, "searched", 12345)
    await raw.hset(PENDING, "settled-never", "2 1 1")
    await raw.hset(COUNTER, "next", 11)

    assert leaked(CODE, [11]) == await repair(ledger, counters)

    assert {11} == await free(raw)
    assert ["11", "12345"] == await raw.hmget(COUNTER, "next", "searched")
    assert 10 == await raw.hlen(CUSTOMERS)


async def test_missing_is_a_note(
    ledger: Ledger, counters: Counters, coupon: Coupon, raw: Raw, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of coupons that are active or were redeemed; beyond some they are counted. A repair leaves them to be loaded."""
    await given.changed(ledger, coupon.code, status=CouponStatus.ARCHIVED)
    await given.coupon(ledger, "PAUSED", status=CouponStatus.PAUSED)
    await given.coupon(ledger, "SILVER")
    await raw.delete(COUNTER, FREE, PENDING, CUSTOMERS)

    told, report = await compared(ledger, counters)
    assert [Finding(CODE, Kind.MISSING, None, None), Finding("SILVER", Kind.MISSING, None, None)] == told
    assert Report(0, {}, 2, 0, 0, complete=True) == report

    monkeypatch.setattr(collecting, "MISSING_LISTED_MAX", 1)
    told, report = await compared(ledger, counters, mend=True)
    assert (1, 2) == (len(told), report.missing)
    assert [] == await raw.keys("*")


async def test_a_code_that_no_coupon_has(ledger: Ledger, counters: Counters) -> None:
    assert ([], Report(0, {}, 0, 0, 0, complete=True)) == await compared(ledger, counters, code="NOTHING")
    assert ([], Report(0, {}, 0, 0, 0, complete=True)) == await compared(ledger, counters, code="GÖLD")


async def test_an_unlimited_coupon_has_fields_and_customers(ledger: Ledger, counters: Counters, raw: Raw) -> None:
    made = await given.coupon(ledger, CODE, max_redemptions=None, max_per_customer=3)
    await counters.load([LoadedCoupon(made, 0)])
    customer, *_ = await redeemed(ledger, counters, made, 3)
    assert [] == await check(ledger, counters)

    await raw.hset(CUSTOMERS, customer, 2)
    await raw.hset(COUNTER, "status", "paused")

    wanted = [
        Finding(CODE, Kind.OUTDATED, {"status": "paused"}, {"status": "active"}),
        Finding(CODE, Kind.CUSTOMER_COUNT, 2, 1, customer_id=customer),
    ]
    assert wanted == await check(ledger, counters)
    assert wanted == await repair(ledger, counters)
    assert [] == await check(ledger, counters)


async def test_a_restored_ledger_is_followed(
    ledger: Ledger, counters: Counters, coupon: Coupon, admin: Admin, raw: Raw
) -> None:
    """A ledger from an older dump, behind Redis: another version, fewer redemptions, and a counter that knows them all."""
    newer = await given.changed(ledger, CODE, max_redemptions=50)
    await counters.load([LoadedCoupon(newer, 10)])
    await redeemed(ledger, counters, newer, 5)
    admin.run("DELETE FROM redemption WHERE seat > 8")
    admin.run("UPDATE coupon SET version = 1, max_redemptions = 20")

    told = await repair(ledger, counters)

    counts = [one.kind for one in told]
    assert (1, 7) == (counts.count(Kind.OUTDATED), counts.count(Kind.CUSTOMER_COUNT))
    assert Finding(CODE, Kind.OUTDATED, {"version": 2, "max_redemptions": 50}, {"version": 1, "max_redemptions": 20}) in told
    assert [] == await check(ledger, counters)
    assert ["8", "20", "1"] == await raw.hmget(COUNTER, "next", "max_redemptions", "version")


# --- In flight -----------------------------------------------------------------------------------------------------


async def test_what_is_pending_is_no_fault_until_it_is_lost(
    ledger: Ledger, counters: Counters, coupon: Coupon, admin: Admin, raw: Raw
) -> None:
    """A claim under way has a seat and counts for its customer, and is in no row; one that is too old was lost."""
    await counters.claim([ClaimBatch(CODE, [Wish("in-flight", "ann")])])
    assert [] == await check(ledger, counters)

    await raw.hset(PENDING, "in-flight", "11 1 1")
    lost = [*leaked(CODE, [11]), Finding(CODE, Kind.CUSTOMER_COUNT, 1, 0, customer_id="ann")]
    assert lost == await check(ledger, counters)
    assert lost == await repair(ledger, counters)
    assert {11} == await free(raw)


async def test_a_repair_waits_for_claims_that_stay_pending(
    ledger: Ledger, counters: Counters, coupon: Coupon, raw: Raw
) -> None:
    """Whoever made them was killed, perhaps: then they are leaked as soon as they are too old, and a later check is clean."""
    await counters.claim([ClaimBatch(CODE, [Wish("killed", "ann")])])
    task = asyncio.create_task(repair(ledger, counters))
    await asyncio.sleep(0.2)
    assert not task.done()
    await raw.hset(PENDING, "killed", "11 1 1")
    assert [*leaked(CODE, [11]), Finding(CODE, Kind.CUSTOMER_COUNT, 1, 0, customer_id="ann")] == await task
    assert [] == await check(ledger, counters)


async def test_a_repair_waits_for_claims_of_a_counter_that_is_made_anew(
    ledger: Ledger, counters: Counters, coupon: Coupon, raw: Raw
) -> None:
    """Whoever had made one was killed: its seat is taken in with the others, and nothing is left to the next repair."""
    counters._claim_age_max_ms = 600
    await counters.claim([ClaimBatch(CODE, [Wish("lost", "ann")])])
    await raw.hdel(CUSTOMERS, "ann")
    await raw.hset(COUNTER, mapping={"version": 7, "next": 12})
    await given.endings(ledger, given.row(ledger, coupon, seat=12, customer_seat=1))
    await repair(ledger, counters)
    await asyncio.sleep(0.7)
    assert [] == await check(ledger, counters)


async def test_a_change_that_has_just_been_made_is_no_fault(
    ledger: Ledger, counters: Counters, coupon: Coupon, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The counter follows some milliseconds after the ledger."""
    changed = await given.changed(ledger, CODE, max_redemptions=30)
    before_look(monkeypatch, 1, lambda: counters.load([LoadedCoupon(changed, 10)]))
    assert [] == await check(ledger, counters)


async def test_a_customer_who_redeems_and_cancels_meanwhile(
    ledger: Ledger, counters: Counters, coupon: Coupon, admin: Admin, raw: Raw, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One claim more than redemptions in every look, and each time another one: the redemption is another one, too.

    The same goes for a seat that is free in every look, and taken in between.
    """
    customer = admin.value("SELECT customer_id FROM redemption WHERE seat = 2")
    await raw.hset(CUSTOMERS, customer, 2)
    await raw.sadd(FREE, 2)

    async def meanwhile() -> None:
        cancel(admin, 2)
        given.insert(admin, given.row(ledger, coupon, customer_id=customer, seat=2, customer_seat=1))

    before_look(monkeypatch, 2, meanwhile)
    assert [] == await check(ledger, counters)
    wanted = [*ghosts(CODE, [2]), Finding(CODE, Kind.CUSTOMER_COUNT, 2, 1, customer_id=customer)]
    assert wanted == await check(ledger, counters)


async def test_a_coupon_whose_redemptions_are_being_moved(
    ledger: Ledger, counters: Counters, coupon: Coupon, admin: Admin, raw: Raw
) -> None:
    """Its seats are compared when the move is over, and its limit another one."""
    await raw.sadd(FREE, 4)
    admin.run("UPDATE coupon SET busy_until = UTC_TIMESTAMP(6) + INTERVAL 10 SECOND")
    assert [] == await check(ledger, counters)
    admin.run("UPDATE coupon SET busy_until = NULL")
    assert ghosts(CODE, [4]) == await check(ledger, counters)


async def test_a_repair_that_comes_late_costs_a_retry(
    ledger: Ledger, counters: Counters, coupon: Coupon, admin: Admin, raw: Raw
) -> None:
    """Between what was told and what is mended everything has changed: no seat is lost, and counts that changed stay."""
    customer, *_ = cancel(admin, 3)
    await raw.hset(CUSTOMERS, customer, 1)
    await raw.hset(COUNTER, "searched", 12345)
    await raw.sadd(FREE, 4)

    async def meanwhile(_: object) -> None:
        await raw.sadd(FREE, 3)
        await raw.hset(CUSTOMERS, customer, 0)
        cancel(admin, 4)

    await compare_once(ledger, counters, meanwhile, mend=True)

    assert "0" == await raw.hget(CUSTOMERS, customer)
    assert "0" == await raw.hget(COUNTER, "searched")
    assert {3} == await free(raw), "4 is looked for by the search that was called for"


# --- Bounds --------------------------------------------------------------------------------------------------------


async def test_more_is_leaked_than_one_refill_takes(
    ledger: Ledger, counters: Counters, admin: Admin, raw: Raw, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In rounds, and every seat is told once; the counter has many ranges, the ledger none of their rows."""
    monkeypatch.setattr(collecting, "SUSPECTS_MAX", 500)
    monkeypatch.setattr(comparing_seats, "LISTED_SEATS", 300)
    made = await given.coupon(ledger, CODE, max_redemptions=20_000)
    await counters.load([LoadedCoupon(made, 1_800)])
    await raw.sadd(FREE, *range(500, 600))
    assert leaked(CODE, [*range(1, 500), *range(600, 1_801)]) == await repair(ledger, counters)
    assert set(range(1, 1_801)) == await free(raw)
    assert [] == await check(ledger, counters)


@pytest.mark.parametrize("suspects_max", [10_000, 5])
async def test_seats_that_were_not_looked_for_yet_are_no_fault(
    suspects_max: int, ledger: Ledger, counters: Counters, coupon: Coupon, raw: Raw, monkeypatch: pytest.MonkeyPatch
) -> None:
    """More than so many, after a load: they are looked for when they are needed. What was handed out since is a fault."""
    monkeypatch.setattr(collecting, "SUSPECTS_MAX", suspects_max)
    monkeypatch.setattr(comparing_seats, "LISTED_SEATS", 3)
    monkeypatch.setattr(diff, "UNSEARCHED_SEATS_MIN", 5)
    monkeypatch.setattr(comparing_seats, "LEAKED_LISTED_MAX", 5)
    monkeypatch.setattr(diff, "RANGE_SEATS_MIN", 2)
    await raw.hset(COUNTER, mapping={"next": 18, "unsearched": 17})
    await raw.sadd(FREE, 4)
    wanted = ghosts(CODE, [4]) + leaked(CODE, [17, 18])  # Those in the last range are listed, whoever of them it is.
    assert wanted == sorted(await check(ledger, counters), key=lambda one: one.seat or 0)
    assert wanted == sorted(await repair(ledger, counters), key=lambda one: one.seat or 0)
    assert [] == await check(ledger, counters)

    await raw.srem(FREE, 17, 18)
    await raw.hset(COUNTER, "unsearched", 0)
    told, report = await compared(ledger, counters, mend=True)
    assert leaked(CODE, [11, 12, 13, 14, 15]) == told
    assert Report(1, {Kind.LEAKED: 8}, 0, 0, 3, complete=True) == report
    assert [] == await check(ledger, counters)


async def test_many_are_leaked_above_those_that_were_not_looked_for_yet(
    ledger: Ledger, counters: Counters, coupon: Coupon, raw: Raw, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some are told, all are counted and mended by one repair; a few below are leaked like the others."""
    monkeypatch.setattr(diff, "RANGE_SEATS_MIN", 2)
    monkeypatch.setattr(diff, "UNSEARCHED_SEATS_MIN", 3)
    await raw.hset(COUNTER, mapping={"next": 20, "unsearched": 12})
    assert leaked(CODE, range(11, 21)) == await check(ledger, counters)
    monkeypatch.setattr(comparing_seats, "LEAKED_LISTED_MAX", 3)
    await raw.hset(COUNTER, "unsearched", 15)
    told, report = await compared(ledger, counters, mend=True)
    assert leaked(CODE, [15, 16, 17]) == told
    assert Report(1, {Kind.LEAKED: 6}, 0, 0, 3, complete=True) == report
    assert [] == await check(ledger, counters)


async def test_what_nobody_is_told_of(ledger: Ledger, counters: Counters, coupon: Coupon, admin: Admin, raw: Raw) -> None:
    """Seats that were given back before the counter was made: a scheduled repair gives them out again, and found nothing."""
    cancel(admin, 3, 5)
    await raw.delete(COUNTER, FREE, PENDING, CUSTOMERS)
    await counters.load([LoadedCoupon(coupon, 10)])
    assert leaked(CODE, [3, 5]) == await check(ledger, counters)
    await raw.hset(COUNTER, "next", 12)
    assert leaked(CODE, [11, 12]) == await repair(ledger, counters, tells_unsearched=False)
    assert {3, 5, 11, 12} == await free(raw)
    assert [] == await check(ledger, counters)


async def test_many_coupons(ledger: Ledger, counters: Counters, raw: Raw, monkeypatch: pytest.MonkeyPatch) -> None:
    """In one page and in one statement, each with its own fault or none; progress comes to its end."""
    monkeypatch.setattr(compare, "WALKED_AT_ONCE", 3)
    monkeypatch.setattr(comparing_seats, "WALKED_AT_ONCE", 3)
    for number in range(8):
        made = await given.coupon(ledger, f"C{number}", max_redemptions=10, max_per_customer=1)
        await counters.load([LoadedCoupon(made, 0)])
        await redeemed(ledger, counters, made, 5)
        if number % 2:
            await raw.sadd(key(made.code, "free"), number % 5 + 1)
        if number % 4 == 0:
            await raw.hset(key(made.code, "customers"), "nobody", 1)
    shown: list[tuple[float, int]] = []
    told = await check(ledger, counters, progress=lambda done, total: shown.append((done, total)))
    wanted = [ghost for n in (1, 3, 5, 7) for ghost in ghosts(f"C{n}", [n % 5 + 1])]
    wanted += [Finding(f"C{n}", Kind.CUSTOMER_COUNT, 1, 0, customer_id="nobody") for n in (0, 4)]
    assert wanted == sorted(told, key=lambda one: (one.kind is Kind.CUSTOMER_COUNT, one.code))
    assert (8.0, 8) == shown[-1]
    assert sorted(shown) == shown


# --- Nobody may mend, nobody is there ------------------------------------------------------------------------------


async def test_who_leads_no_longer_mends_nothing(
    ledger: Ledger, counters: Counters, coupon: Coupon, raw: Raw, operator_url: str
) -> None:
    await raw.sadd(FREE, 4, 7)
    before = dumped(operator_url)

    async def no() -> bool:
        return False

    told, report = await compared(ledger, counters, mend=True, may_mend=no)
    assert ghosts(CODE, [4, 7]) == told
    assert Report(1, {Kind.GHOST: 2}, 0, 2, 0, complete=False) == report
    assert before == dumped(operator_url)


async def test_a_run_can_be_stopped(ledger: Ledger, counters: Counters, coupon: Coupon) -> None:
    told, report = await compared(ledger, counters, is_stopping=lambda: True)
    assert ([], False) == (told, report.complete)


async def test_without_a_store(
    ledger: Ledger, counters: Counters, coupon: Coupon, far_ledger: Ledger, far_counters: Counters,
    mariadb_proxy: Proxy, redis_proxy: Proxy,
) -> None:  # fmt: skip
    redis_proxy.refuse()
    redis_proxy.cut()
    with pytest.raises(CounterUnavailable):
        await compare_once(ledger, far_counters, Told())
    mariadb_proxy.refuse()
    mariadb_proxy.cut()
    with pytest.raises(LedgerUnavailable):
        await compare_once(far_ledger, counters, Told())
