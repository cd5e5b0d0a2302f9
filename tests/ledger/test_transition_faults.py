"""Transitions when the ledger's replies are lost, its connections die, and everything comes at once."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from pydantic import SecretStr

from service.config import Settings
from service.counts import Counts
from service.errors import LedgerReplyLost, LedgerUnavailable
from service.ledger import Ledger, transitions
from service.life import Life
from service.model import Coupon, NewRedemption
from service.transition import Freed, Transition, Transitioned, TransitionEnding, Verb
from tests.driver import repeating
from tests.faults import Proxy, holding
from tests.ledger import given
from tests.ledger.crowd import Crowd
from tests.stores import Admin
from tests.unit.scripted import ScriptedClaims
from tests.waiting import until

COMMIT = b"\x03commit"
STATEMENTS = {
    "find": (b"from redemption r force index (primary) where r.id in", LedgerReplyLost),
    "begin": (b"start transaction", LedgerUnavailable),
    "coupons": (b"lock in share mode skip locked", LedgerUnavailable),
    "redemptions": (b"for update", LedgerUnavailable),
    "write": (b"r.status = v.status", LedgerUnavailable),
    "over": (b") > v.max_redemptions", LedgerUnavailable),
    "commit": (COMMIT, LedgerReplyLost),
}


ALL_OF_IT = {
    "record recorded", "record order_live", "record seat_taken", "key remembered",
    "confirm done", "confirm unchanged", "confirm already_cancelled", "confirm reservation_expired",
    "extend done", "extend already_confirmed", "cancel done", "cancel unchanged", "expire done", "expire unchanged",
    "order found", "order not live", "swept", "changed", "sat above a new limit", "released", "handed on", "claimed again",
}  # fmt: skip
"""What the crowd has to have met, each of it SEVERAL times, to have been one."""
SEVERAL = 3
FAILED = ("not_recorded", "unknown", "unavailable", "busy", "not_found")
"""Endings of these names are a trouble that a client would see."""


def life_on(ledger: Ledger) -> tuple[Life, ScriptedClaims]:
    claims = ScriptedClaims([])
    gateway: Any = claims
    return Life(gateway, ledger, Settings(), Counts()), claims


async def holds(ledger: Ledger, coupon: Coupon, count: int) -> list[NewRedemption]:
    return [await given.hold(ledger, coupon, seat=seat) for seat in range(1, count + 1)]


@pytest.mark.parametrize("statement", STATEMENTS)
async def test_a_lost_reply(far: Ledger, proxy: Proxy, admin: Admin, statement: str) -> None:
    """Lost before the commit, nothing was done; asked again, all is, and what was freed is told either way."""
    # Given
    coupon = await given.coupon(far)
    new = await given.hold(far, coupon, seat=3)
    await far.transitions.carry_out([Transition(Verb.EXTEND, new.id, given.HOLD_S)], given.soon())  # Connects.
    text, error = STATEMENTS[statement]
    lost = proxy.lose_reply(holding(text))
    # When
    with pytest.raises(error) as caught:
        await far.transitions.carry_out([Transition(Verb.CANCEL, new.id)], given.soon())
    # Then
    assert (1, error) == (lost.hits, caught.type)
    assert ("cancelled" if statement == "commit" else "reserved") == admin.value("SELECT status FROM redemption")
    (answer,) = await far.transitions.carry_out([Transition(Verb.CANCEL, new.id, again=True)], given.soon())
    assert answer is not None
    assert Freed(coupon.code, new.customer_id, new.order_id, 3) == answer.freed


@pytest.mark.parametrize("statement", STATEMENTS)
async def test_a_client_does_not_notice(far: Ledger, proxy: Proxy, statement: str) -> None:
    """Wherever a reply is lost, the answer is that of the ledger, and the use goes back to the counter."""
    coupon = await given.coupon(far)
    new = await given.hold(far, coupon, seat=3)
    life, claims = life_on(far)
    # The driver sends a COMMIT when it connects.
    lost = proxy.lose_reply(holding(STATEMENTS[statement][0]), skip=statement == "commit")
    answer = await life.carry_out(Transition(Verb.CANCEL, new.id, reason="declined"), given.soon())
    assert answer.ending in (TransitionEnding.DONE, TransitionEnding.UNCHANGED)
    assert 1 == lost.hits
    assert answer.redemption is not None
    assert "declined" == answer.redemption.end_reason
    assert [("release", (3, None))] == claims.done


@pytest.mark.parametrize("statement", [b"for update", b"s.seat > 5", b"r.seat = v.old_seat", COMMIT])
async def test_over_and_a_lost_reply(far: Ledger, proxy: Proxy, admin: Admin, statement: bytes) -> None:
    """While a coupon is over, an ending in two steps: whichever is lost, the seat is handed over once, and nobody is lost."""
    coupon = await given.coupon(far, max_redemptions=10)
    rows = await holds(far, coupon, 8)
    await given.changed(far, coupon.code, max_redemptions=5)
    life, claims = life_on(far)
    # The driver sends a COMMIT when it connects; the first FOR UPDATE is that of the try in share mode.
    lost = proxy.lose_reply(holding(statement), skip=statement in (COMMIT, b"for update"))
    answer = await life.carry_out(Transition(Verb.CANCEL, rows[1].id), given.soon())
    assert answer.ending in (TransitionEnding.DONE, TransitionEnding.UNCHANGED)
    assert 1 == lost.hits
    assert [1, 2, 3, 4, 5, 6, 7] == admin.column("SELECT seat FROM redemption WHERE seat IS NOT NULL ORDER BY seat")
    assert 1 == len(claims.done)


async def test_another_coupon_gets_over_meanwhile(ledger: Ledger, admin: Admin, monkeypatch: pytest.MonkeyPatch) -> None:
    """A batch finds one coupon over, and in its next try another: both are carried out all the same."""
    # Given
    coupons = [await given.coupon(ledger, code, max_redemptions=10) for code in ("A", "B", "C")]
    rows = [[await given.hold(ledger, coupon, seat=seat) for seat in (1, 2, 3)] for coupon in coupons]
    admin.run("UPDATE coupon SET max_redemptions = 2 WHERE code = 'A'")
    together = transitions._Batch._together
    lowering = ["UPDATE coupon SET max_redemptions = 2 WHERE code = 'B'"]

    async def lowered_in_between(batch: Any, places: dict[int, list[int]]) -> dict[int, Transitioned]:  # noqa: ANN401
        try:
            return await together(batch, places)
        finally:
            if lowering:
                admin.run(lowering.pop())

    monkeypatch.setattr(transitions._Batch, "_together", lowered_in_between)
    # When
    answers = await ledger.transitions.carry_out([Transition(Verb.CANCEL, row[0].id) for row in rows], given.soon())
    # Then
    assert [TransitionEnding.DONE] * 3 == [answer and answer.ending for answer in answers]
    assert [None, None, 1] == [answer and answer.freed and answer.freed.seat for answer in answers]
    assert [1, 2, 1, 2, 2, 3] == admin.column("SELECT seat FROM redemption WHERE seat IS NOT NULL ORDER BY coupon_id, seat")


async def test_killed_connections(ledger: Ledger, admin: Admin, other: Admin) -> None:
    """A batch that waits for a coupon when its connection is killed, twice, is carried out on the next one."""
    coupon = await given.coupon(ledger, max_redemptions=3)
    rows = await holds(ledger, coupon, 3)
    await given.changed(ledger, coupon.code, max_redemptions=2)
    life, claims = life_on(ledger)
    other.run("BEGIN")
    other.run("SELECT * FROM coupon LOCK IN SHARE MODE")  # So it cannot be had exclusively, which an ending needs now.
    cancelling = asyncio.create_task(life.carry_out(Transition(Verb.CANCEL, rows[0].id), given.soon()))
    waiting = "SELECT ID FROM information_schema.PROCESSLIST WHERE INFO LIKE '%FROM coupon%FOR UPDATE%' AND TIME_MS > 20"
    me, killed = int(str(admin.value("SELECT CONNECTION_ID()"))), set[int]()
    for times in (1, 2):
        await until(lambda: bool(set(admin.column(waiting)) - killed - {me}), what="a batch waits for the coupon")
        for connection in set(admin.column(waiting)) - killed - {me}:
            admin.kill(connection)
            killed.add(connection)
        assert times == len(killed)
    other.run("ROLLBACK")
    assert TransitionEnding.DONE is (await cancelling).ending
    assert [("release", (None, None))] == claims.done
    assert [1, 2] == admin.column("SELECT seat FROM redemption WHERE seat IS NOT NULL ORDER BY seat")


async def test_a_hold_that_expires_while_somebody_else_has_its_row(ledger: Ledger, other: Admin) -> None:
    """The time that counts is that of the lock: who has been told meanwhile that it is expired is not contradicted."""
    coupon = await given.coupon(ledger)
    new = await given.hold(ledger, coupon, seat=3, hold_s=0.5)
    other.run("BEGIN")
    other.run("UPDATE redemption SET api_key_id = 2")
    confirming = asyncio.create_task(life_on(ledger)[0].carry_out(Transition(Verb.CONFIRM, new.id), given.soon()))
    await asyncio.sleep(0.8)
    other.run("ROLLBACK")
    assert TransitionEnding.RESERVATION_EXPIRED is (await confirming).ending


@pytest.fixture
async def beside(database_url: str) -> AsyncIterator[Ledger]:
    """The same ledger as `ledger`, as another process has it."""
    opened = await Ledger.connect(Settings(database_url=SecretStr(database_url)))
    yield opened
    await opened.close()


async def test_everything_at_once(ledger: Ledger, beside: Ledger, admin: Admin) -> None:
    """Record, confirm, cancel, expire and PATCH, side by side: deadlocks in under 1 % of the batches, none seen by a client."""
    # Given
    limits = {"A": None, "B": None, "C": 1}
    coupons = [await given.coupon(ledger, code, max_redemptions=40, max_per_customer=one) for code, one in limits.items()]
    crowd = Crowd([ledger, beside], coupons, seed=4)
    crowd.count_batches()
    deadlocks = admin.status("Innodb_deadlocks")

    def above(coupon_id: int, limit: int) -> int:
        count = "SELECT COUNT(*) FROM redemption WHERE coupon_id = %s AND seat > %s"
        return int(str(admin.value(count, coupon_id, limit)))

    # When
    async with repeating(crowd.sweep, every_s=0.01), repeating(lambda: crowd.change(above), every_s=0.02):
        await asyncio.gather(*(crowd.buy(30) for _ in range(8)))
    # Then
    happened = crowd.happened
    assert ALL_OF_IT <= {name for name, times in happened.items() if times >= SEVERAL}, happened
    assert {} == {name: times for name, times in happened.items() if any(word in name for word in FAILED)}
    deadlocks = admin.status("Innodb_deadlocks") - deadlocks
    latest = admin.run("SHOW ENGINE INNODB STATUS")[0]["Status"]
    assert deadlocks < 0.01 * crowd.batches, f"{deadlocks} deadlocks in {crowd.batches} batches, the last one:\n{latest}"
    assert admin.value("SELECT COUNT(*) FROM redemption") == admin.value(
        "SELECT SUM(seat IS NOT NULL) + SUM(was_seat IS NOT NULL) FROM redemption"
    )
