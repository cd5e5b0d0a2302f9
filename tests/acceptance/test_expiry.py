"""`usher-reconciler run` beside `usher serve`: what nobody paid for comes back by itself."""

import asyncio
import os
import signal
from collections.abc import Callable, Mapping

import pytest
import redis

from tests.acceptance.conftest import MakeCoupon, StartReconciler, Stores
from tests.acceptance.test_life import act, overdue, reserve
from tests.auditor import Auditor
from tests.driver import Answer, Client, tally
from tests.faults import Proxy, holding
from tests.reconciler_process import END_S, run_reconciler
from tests.stores import Admin
from tests.usher_process import environment
from tests.waiting import until

HOLDS = 40
STARTED = ["info the reconciler runs", "info this reconciler leads"]
RACES_MAX = 5
"""A machine that stands still for a moment may let all come too late."""


def operator(stores: Stores) -> "redis.Redis":
    """Redis past Usher."""
    return redis.Redis.from_url(stores.redis.operator_url)


def expired(admin: Admin, code: str) -> int:
    """How many of the coupon's redemptions the ledger calls expired."""
    count: int = admin.value(
        "SELECT COUNT(*) FROM redemption r JOIN coupon c ON c.id = r.coupon_id WHERE c.code = %s AND r.status = 'expired'",
        code,
    )
    return count


async def overdue_holds(client: Client, admin: Admin, code: str, count: int = HOLDS) -> list[Answer]:
    held = await asyncio.gather(*(reserve(client, code, f"customer-{n}", f"order-{n}") for n in range(count)))
    assert {"201": count} == tally(held)
    overdue(admin, *held)
    return held


async def test_what_an_expired_hold_held_is_had_by_another(
    client: Client, coupon: MakeCoupon, admin: Admin, auditor: Auditor, start_reconciler: StartReconciler, stores: Stores
) -> None:
    """Ended in the ledger, and its seat in the counter, before anybody asks for it."""
    code = await coupon(max_redemptions=1, max_per_customer=1)
    held = await reserve(client, code, "ann", "order-1")
    assert {"409 coupon_exhausted": 1} == tally([await client.redeem(code, "bob", "order-2")])
    overdue(admin, held)
    start_reconciler()
    await until(lambda: expired(admin, code) == 1, what="the hold has expired")
    with operator(stores) as raw:
        await until(lambda: {b"1"} == raw.smembers(f"usher:1:{{{code}}}:free"), what="the seat is free")
        assert {} == raw.hgetall(f"usher:1:{{{code}}}:customers")
    assert {"201": 1} == tally([await client.redeem(code, "bob", "order-2")])
    assert {"409 reservation_expired": 1} == tally([await act(client, held.id, "confirm")])
    auditor.check(code)


async def confirm_late(client: Client, code: str) -> tuple[list[Answer], list[Answer]]:
    """Holds of a second, and what is told to those who confirm them when it is nearly over, and a little later."""
    held = await asyncio.gather(*(reserve(client, code, f"c-{n}", f"o-{n}", hold_s=1) for n in range(HOLDS)))

    async def confirm(n: int) -> Answer:
        await asyncio.sleep(0.7 + n / HOLDS * 0.8)
        return await act(client, held[n].id, "confirm")

    return held, await asyncio.gather(*map(confirm, range(HOLDS)))


async def test_confirm_races_with_the_sweep(
    client: Client, coupon: MakeCoupon, admin: Admin, auditor: Auditor, start_reconciler: StartReconciler
) -> None:
    """Each is either confirmed and stays so, or answered that it has expired, and stays so."""
    start_reconciler()
    races = 1
    held, answers = await confirm_late(client, code := await coupon(max_redemptions=HOLDS))
    while len(tally(answers)) == 1 and races < RACES_MAX:
        races += 1
        held, answers = await confirm_late(client, code := await coupon(max_redemptions=HOLDS))

    told = tally(answers)
    assert {"200", "409 reservation_expired"} == set(told), "no race was one"
    await until(lambda: expired(admin, code) == told["409 reservation_expired"], what="those that were late are ended")
    status = {str(row["id"]): row["status"] for row in auditor.rows(code)}
    assert ["confirmed" if one.status == 200 else "expired" for one in answers] == [
        (await client.get(f"/v1/redemptions/{one.id}")).body["status"] for one in held
    ]
    assert told["200"] == sum(one == "confirmed" for one in status.values())
    auditor.check(code)


async def test_sigterm_finishes_the_batch_at_hand(
    client: Client,
    coupon: MakeCoupon,
    admin: Admin,
    start_reconciler: StartReconciler,
    stores: Stores,
    faults: Callable[[int], Proxy],
) -> None:
    """It is committed, its seats are given back, and the program ends with status 0; a batch is not begun any more."""
    code = await coupon(max_redemptions=HOLDS)
    await overdue_holds(client, admin, code)
    proxy = faults(stores.mariadb.port)
    slow = proxy.hold(holding(b"STRAIGHT_JOIN redemption r"))
    reconciler = start_reconciler(database_url=proxy.url(stores.mariadb.url))
    await until(lambda: slow.hits == 1, what="a batch is under way")
    os.kill(reconciler.kept.pid, signal.SIGTERM)
    await asyncio.sleep(0.5)
    assert reconciler.kept.running
    slow.release()
    assert 0 == await asyncio.to_thread(reconciler.kept.wait, END_S)
    assert HOLDS == expired(admin, code)
    with operator(stores) as raw:
        assert HOLDS == raw.scard(f"usher:1:{{{code}}}:free")
    assert [*STARTED, "info stopped"] == reconciler.events()


async def test_sigkill_in_the_middle(
    client: Client,
    coupon: MakeCoupon,
    admin: Admin,
    auditor: Auditor,
    start_reconciler: StartReconciler,
    stores: Stores,
    faults: Callable[[int], Proxy],
) -> None:
    """What was not committed is as it was, and the one that takes over does it."""
    code = await coupon(max_redemptions=HOLDS)
    await overdue_holds(client, admin, code)
    proxy = faults(stores.mariadb.port)
    slow = proxy.hold(holding(b"STRAIGHT_JOIN redemption r"))
    reconciler = start_reconciler(database_url=proxy.url(stores.mariadb.url))
    await until(lambda: slow.hits == 1, what="a batch is under way")
    other = start_reconciler()
    await until(lambda: other.events() == STARTED[:1], what="another one stands by")
    await asyncio.sleep(1.0)
    assert 0 == expired(admin, code)
    reconciler.kept.kill()
    proxy.cut()
    await until(lambda: expired(admin, code) == HOLDS, what="the other one has ended them")
    with operator(stores) as raw:
        await until(lambda: raw.scard(f"usher:1:{{{code}}}:free") == HOLDS, what="the seats are free")
    assert STARTED == other.events()
    assert HOLDS == len(await auditor.fill(client, code))


async def test_a_store_that_goes_and_comes(
    client: Client,
    coupon: MakeCoupon,
    admin: Admin,
    start_reconciler: StartReconciler,
    stores: Stores,
    faults: Callable[[int], Proxy],
) -> None:
    """It is said once, and the reconciler goes on when the store is back."""
    code = await coupon(max_redemptions=HOLDS)
    proxy = faults(stores.mariadb.port)
    reconciler = start_reconciler(database_url=proxy.url(stores.mariadb.url))
    await until(lambda: reconciler.events() == STARTED, what="it runs")
    proxy.refuse()
    proxy.cut()
    await until(lambda: bool(reconciler.events("the ledger is away")), what="it has noticed")
    await overdue_holds(client, admin, code)
    await asyncio.sleep(1.0)
    proxy.accept()
    await until(lambda: expired(admin, code) == HOLDS, what="they are ended")
    # Said when the run is over that has ended them.
    await until(lambda: len(reconciler.events()) == 6, what="it has noticed that")
    told = ["warning the ledger is away", "warning this reconciler leads no longer"]
    assert told == sorted(reconciler.events()[2:4])
    assert ["info the ledger is back", "info this reconciler leads"] == sorted(reconciler.events()[4:])


@pytest.mark.parametrize(
    ("variables", "words"),
    [
        ({"USHER_EXPIRE_INTERVAL_MS": "0"}, "USHER_EXPIRE_INTERVAL_MS is '0'; allowed: 100 to 60,000 (milliseconds)"),
        ({"USHER_DATABASE_URL": "postgres://u:Sekr3t@127.0.0.1/n"}, "USHER_DATABASE_URL does not begin with mysql://"),
    ],
)
def test_a_setting_that_cannot_be(variables: dict[str, str], words: str) -> None:
    """A line on standard error, and status 2."""
    (line,) = refused(variables)
    assert line.startswith(f"usher-reconciler: {words}")
    assert "Sekr3t" not in line


def test_another_schema(bare_database_url: str, redis_url: str) -> None:
    """It does not begin."""
    (line,) = refused(environment(database_url=bare_database_url, redis_url=redis_url))
    assert "run `usher migrate`" in line
    assert "/usher_bare (USHER_DATABASE_URL)" in line


def refused(variables: Mapping[str, str]) -> list[str]:
    """The words of a reconciler that could not do anything."""
    done = run_reconciler("run", variables=variables)
    assert (2, "") == (done.status, done.output)
    return done.errors.splitlines()
