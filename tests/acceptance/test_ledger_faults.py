"""Deadlocks, locks, killed connections and a ledger that only reads: made by hand, in the real MariaDB."""

import asyncio
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import pytest

from tests.acceptance.conftest import PATIENT, MakeCoupon, StartUsher, Stores
from tests.auditor import Auditor
from tests.driver import Client, orders, repeating, tally
from tests.stores import Admin
from tests.usher_process import Usher
from tests.waiting import until, until_async

KILL_EVERY_S = 0.05
HEAVY_ROWS = 500
"""InnoDB rolls back the transaction that changed fewer rows: with so many it is not the test's."""


@pytest.fixture(scope="module")
def usher(start_usher: StartUsher) -> Usher:
    return start_usher(settings=PATIENT)


@pytest.fixture
def blocker(stores: Stores) -> Iterator[Admin]:
    """A second administrator, whose transaction stands in the way; rolled back when the test ends."""
    with Admin(stores.mariadb) as connection:
        yield connection


def insert(admin: Admin, coupon_id: int, *, seat: int, order: str) -> None:
    """Puts a redemption onto a seat, past Usher."""
    admin.run(
        "INSERT INTO redemption (id, coupon_id, customer_id, order_id, live_order_id, status, seat, customer_seat,"
        " api_key_id, created_at, confirmed_at)"
        " VALUES (%s, %s, %s, %s, %s, 'confirmed', %s, 1, 1, UTC_TIMESTAMP(6), UTC_TIMESTAMP(6))",
        uuid.uuid4().bytes,
        coupon_id,
        f"customer-of-{order}",
        order,
        order,
        seat,
    )


def waits_for_lock(admin: Admin) -> bool:
    """Whether a transaction of Usher waits for a lock; INNODB_TRX would show an old picture to those who ask often."""
    return admin.status("Innodb_row_lock_current_waits") > 0


async def test_coupon_row_is_locked(client: Client, coupon: MakeCoupon, auditor: Auditor, blocker: Admin) -> None:
    """While somebody holds a coupon's row its redemptions wait, those of other coupons do not, and none is refused."""
    locked, free = await coupon("LOCKED", max_redemptions=5), await coupon("FREE", max_redemptions=5)
    for code in (locked, free):
        assert 201 == (await client.redeem(code, "first", "first")).status
    blocker.run("BEGIN")
    blocker.run("SELECT * FROM coupon WHERE code = %s FOR UPDATE", locked)

    waiting = asyncio.create_task(client.redeem_all(locked, orders(3)))
    for round_ in range(10):
        passing = await client.redeem_all(free, orders(3, f"r{round_}"))
        assert set(tally(passing)) <= {"201", "409 coupon_exhausted"}
    assert not waiting.done()
    blocker.run("ROLLBACK")

    assert {"201": 3} == tally(await waiting)
    assert 4 == len(auditor.check(locked))
    assert 5 == len(auditor.check(free))


async def test_coupon_row_stays_locked(
    start_usher: StartUsher, api_key: str, coupon: MakeCoupon, auditor: Auditor, blocker: Admin
) -> None:
    """A coupon's row that is held beyond the deadline: 503, nothing is redeemed then or later, and nothing stays claimed."""
    hasty = start_usher(settings={"USHER_REQUEST_DEADLINE_MS": "2000"})
    code = await coupon("LOCKED", max_redemptions=5, max_per_customer=1)
    async with Client(hasty.url, key=api_key) as client:
        assert 201 == (await client.redeem(code, "first", "first")).status
        blocker.run("BEGIN")
        blocker.run("SELECT * FROM coupon WHERE code = %s FOR UPDATE", code)
        answers = await client.redeem_all(code, orders(3))
        assert 3 == sum(answer.status == 503 and answer.code in ("unavailable", "busy") for answer in answers)
        blocker.run("ROLLBACK")

        assert 5 == len(await auditor.fill(client, code))
    assert {"first"} == {row["order_id"] for row in auditor.live(code)} - {f"filling-{n}" for n in range(100)}


@pytest.mark.parametrize("ending", ["ROLLBACK", "COMMIT"])
async def test_lock_wait(
    client: Client, coupon: MakeCoupon, auditor: Auditor, admin: Admin, blocker: Admin, ending: str
) -> None:
    """The seat that was handed out is being written by somebody else: the record waits, and gets this seat or another one."""
    code = await coupon("WAIT", max_redemptions=10)
    assert 201 == (await client.redeem(code, "first", "first")).status
    blocker.run("BEGIN")
    insert(blocker, auditor.coupon(code)["id"], seat=2, order="blocker")

    waiting = asyncio.create_task(client.redeem(code, "customer", "order"))
    await until(lambda: waits_for_lock(admin), what="the record waits for the seat")
    blocker.run(ending)

    answer = await waiting
    assert (201, ending == "ROLLBACK") == (answer.status, answer.body["seat"] == 2)
    auditor.check(code, [answer])
    assert 10 == len(await auditor.fill(client, code))


async def test_lock_wait_that_times_out(
    client: Client, coupon: MakeCoupon, auditor: Auditor, admin: Admin, blocker: Admin
) -> None:
    """A lock that is held longer than the ledger waits (1205): Usher tries again, and the client sees a 201."""
    code = await coupon("WAIT", max_redemptions=10)
    assert 201 == (await client.redeem(code, "first", "first")).status
    blocker.run("BEGIN")
    insert(blocker, auditor.coupon(code)["id"], seat=2, order="blocker")
    before = admin.status("Innodb_row_lock_waits")

    waiting = asyncio.create_task(client.redeem(code, "customer", "order"))
    await until(lambda: admin.status("Innodb_row_lock_waits") >= before + 2, what="the record waits again after a time-out")
    blocker.run("ROLLBACK")

    answer = await waiting
    assert 201 == answer.status
    auditor.check(code, [answer])
    assert 10 == len(await auditor.fill(client, code))


async def test_deadlock(
    start_usher: StartUsher,
    api_key: str,
    coupon: MakeCoupon,
    auditor: Auditor,
    admin: Admin,
    blocker: Admin,
    stores: Stores,
) -> None:
    """InnoDB picks Usher's record as the victim of a deadlock (1213): it is carried out again, and every client sees a 201."""
    usher = start_usher(settings={**PATIENT, "USHER_RECORD_CONNECTIONS": "1"})
    code, other = await coupon("DEADLOCK", max_redemptions=20), await coupon("OTHER", max_redemptions=10_000)
    coupon_id = auditor.coupon(code)["id"]
    async with Client(usher.url, key=api_key) as client:
        assert 201 == (await client.redeem(code, "first", "first")).status
        blocker.run("BEGIN")
        for number in range(HEAVY_ROWS):
            insert(blocker, auditor.coupon(other)["id"], seat=number + 1, order=f"heavy-{number}")
        insert(blocker, coupon_id, seat=9, order="blocker")
        with Admin(stores.mariadb) as gate:  # While the one writer waits for it, all others gather behind it, in one batch.
            gate.run("BEGIN")
            insert(gate, coupon_id, seat=2, order="gate")
            second = asyncio.create_task(client.redeem(code, "second", "second"))
            await until(lambda: waits_for_lock(admin), what="the writer waits for seat 2")
            waiting = asyncio.create_task(client.redeem_all(code, orders(12)))
            await until_async(partial(are_queued, client, 12), what="seats 3 to 14 are to be recorded")
        assert 201 == (await second).status
        before = admin.status("Innodb_deadlocks")
        await until(lambda: waits_for_lock(admin), what="the batch waits for seat 9")
        await asyncio.to_thread(insert, blocker, coupon_id, seat=8, order="blocker-8")  # Now both wait for each other.
        happened = admin.status("Innodb_deadlocks") - before
        blocker.run("ROLLBACK")
        answers = await waiting

    assert happened == 1
    assert {"201": 12} == tally(answers)
    assert 14 == len(auditor.check(code, answers))


async def are_queued(client: Client, rows: int) -> bool:
    """Whether so many wait to be recorded."""
    return f"\nusher_record_queue_rows {rows:.1f}\n".encode() in (await client.get("/metrics")).text


async def test_killed_connections(client: Client, coupon: MakeCoupon, auditor: Auditor, admin: Admin, stores: Stores) -> None:
    """An administrator kills all of Usher's connections every 50 ms: nothing is sold twice, and every 201 is true."""
    code = await coupon("KILLED", max_redemptions=300, max_per_customer=1)
    killed = 0

    async def kill_all() -> None:
        nonlocal killed
        for connection in admin.connections(stores.mariadb.user):
            admin.kill(connection)
            killed += 1

    answers = []
    async with repeating(kill_all, every_s=KILL_EVERY_S):
        for part in range(0, 800, 50):
            answers += await client.redeem_all(code, orders(800)[part : part + 50])

    assert killed >= 3
    assert set(tally(answers)) <= {"201", "409 coupon_exhausted", "503 unavailable", "503 outcome_unknown"}
    auditor.check(code, answers)
    assert 300 == len(await auditor.fill(client, code))


@contextmanager
def read_only(admin: Admin) -> Iterator[None]:
    """As on a replica, or during a failover."""
    admin.run("SET GLOBAL read_only = 1")
    try:
        yield
    finally:
        admin.run("SET GLOBAL read_only = 0")


async def test_ledger_that_only_reads(client: Client, coupon: MakeCoupon, auditor: Auditor, admin: Admin) -> None:
    """503 `unavailable` with Retry-After while the ledger takes no writes; nothing stays claimed, and all comes back."""
    code = await coupon("READ-ONLY", max_redemptions=50, max_per_customer=1)
    first = await client.redeem(code, "first", "first")
    with read_only(admin):
        refused = await client.redeem_all(code, orders(40))
        replayed = await client.redeem(code, "first", "first")
        read = await client.get(f"/v1/redemptions/{first.id}")
        change = await client.send("PATCH", f"/v1/coupons/{code}", body={"status": "paused"})

    assert {"503 unavailable": 40} == tally(refused)
    assert {"1"} == {answer.headers["Retry-After"] for answer in refused}
    assert (200, 503, "unavailable") == (read.status, change.status, change.code)
    assert replayed.status in (200, 503)
    assert 1 == len(auditor.check(code, [first]))
    assert 50 == len(await auditor.fill(client, code))


async def test_read_only_for_a_moment_under_load(client: Client, coupon: MakeCoupon, auditor: Auditor, admin: Admin) -> None:
    """Orders that were told 503 in between can be sent again; exactly as many redeem as there are uses."""
    code = await coupon("READ-ONLY", max_redemptions=200, max_per_customer=1)
    answers = []
    for part in range(0, 400, 50):
        sending = asyncio.create_task(client.redeem_all(code, orders(400)[part : part + 50]))
        await asyncio.sleep(0.01)
        with read_only(admin):
            await asyncio.sleep(0.01)
        answers += await sending

    again = await client.redeem_all(code, orders(400))

    assert set(tally(answers)) <= {"201", "409 coupon_exhausted", "503 unavailable"}
    assert set(tally(again)) <= {"200", "201", "409 coupon_exhausted"}
    auditor.check(code, [*answers, *again])
    assert 200 == len(await auditor.fill(client, code))
