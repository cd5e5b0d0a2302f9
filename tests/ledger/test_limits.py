"""Limits lowered and raised while redemptions come and go: the move, in one piece or in many, and what is over."""

import asyncio
import random
from collections.abc import Callable
from contextlib import suppress
from contextvars import Context
from typing import Any

import pytest

from service.config import Settings
from service.errors import CouponBusy, LedgerContended, LedgerReplyLost, LedgerUnavailable, VersionMismatch
from service.ledger import Ledger, coupon_changes, deadlines
from service.ledger.coupon_changes import Change
from service.model import Coupon, LookUp, RecordEnding
from service.transition import Transition, TransitionEnding, Verb
from tests.faults import Proxy, holding
from tests.ledger import given
from tests.stores import Admin
from tests.waiting import until, until_async

COMMIT = b"\x03commit"
COARSE_S = 0.1


def seats(admin: Admin) -> list[int]:
    return admin.column("SELECT seat FROM redemption WHERE seat IS NOT NULL ORDER BY seat")


def fill(admin: Admin, coupon: Coupon, *, first: int, last: int) -> None:
    """Confirmed redemptions on all of these seats, past Usher."""
    admin.run(
        "INSERT INTO redemption (id, coupon_id, customer_id, order_id, status, seat, live_order_id, api_key_id, created_at, "
        "confirmed_at) SELECT UNHEX(LPAD(HEX(seq), 32, '0')), %s, CONCAT('c', seq), CONCAT('o', seq), 'confirmed', seq, "
        f"CONCAT('o', seq), 1, UTC_TIMESTAMP(6), UTC_TIMESTAMP(6) FROM seq_{first}_to_{last}",
        coupon.id,
    )


async def cancel(ledger: Ledger, redemption_id: bytes) -> None:
    (ended,) = await ledger.transitions.carry_out([Transition(Verb.CANCEL, redemption_id)], given.soon())
    assert ended is not None
    assert TransitionEnding.DONE is ended.ending


async def is_cancelled(ledger: Ledger, redemption_id: bytes) -> bool:
    """Whether it could be: its coupon is not being changed, and nobody had to give way."""
    with suppress(LedgerContended):
        (ended,) = await ledger.transitions.carry_out([Transition(Verb.CANCEL, redemption_id)], given.soon())
        return ended is not None
    return False


async def test_lowered_and_raised(ledger: Ledger, admin: Admin) -> None:
    """60 of 100, lowered to 50: ten cancels admit nobody, the eleventh does; then raised to 55."""
    # Given
    coupon = await given.coupon(ledger, max_redemptions=100)
    rows = [given.row(ledger, coupon, seat=seat) for seat in range(31, 91)]
    await given.endings(ledger, *rows)
    # When
    await given.changed(ledger, coupon.code, max_redemptions=50)
    # Then
    assert [*range(1, 51), *range(51, 61)] == seats(admin)
    admitted = []
    for row in rows[:11]:
        await cancel(ledger, row.id)
        free = (await ledger.seats.free_seats(coupon.id, 50, limit=50, deadline=given.soon())).seats
        admitted.append(len(free))
    assert [0] * 10 + [1] == admitted
    assert 49 == len(seats(admin))
    await given.changed(ledger, coupon.code, max_redemptions=55)
    assert 6 == len((await ledger.seats.free_seats(coupon.id, 55, limit=50, deadline=given.soon())).seats)


async def test_raised_while_over(ledger: Ledger, admin: Admin) -> None:
    """Those above the new limit get the seats that it has brought."""
    coupon = await given.coupon(ledger, max_redemptions=20)
    fill(admin, coupon, first=1, last=20)
    await given.changed(ledger, coupon.code, max_redemptions=10)
    assert list(range(1, 21)) == seats(admin)
    await cancel(ledger, admin.value("SELECT id FROM redemption WHERE seat = 13"))
    assert list(range(1, 21)) == [*seats(admin)[:12], 13, *seats(admin)[12:]]
    await given.changed(ledger, coupon.code, max_redemptions=15)
    assert [*range(1, 16), 16, 17, 18, 19] == seats(admin)


@pytest.mark.parametrize("seed", range(3))
async def test_a_random_life(ledger: Ledger, admin: Admin, seed: int) -> None:
    """Whatever comes and goes side by side: each seat once, nobody admitted at or above the limit in force, nobody lost."""
    # Given
    chance = random.Random(seed)
    coupon = await given.coupon(ledger, max_redemptions=30)
    live: set[bytes] = set()
    limits = [30]

    async def record() -> None:
        new = given.row(ledger, coupon, seat=chance.randint(1, 40))
        (ending,) = await given.endings(ledger, new)
        if ending is RecordEnding.RECORDED:
            live.add(new.id)

    async def end() -> None:
        if live:
            gone = chance.choice(sorted(live))
            live.discard(gone)
            await until_async(lambda: is_cancelled(ledger, gone), what="a redemption is cancelled")

    async def change() -> None:
        limits.append(chance.randint(1, 40))
        await given.changed(ledger, coupon.code, max_redemptions=limits[-1])

    # When, Then
    for _ in range(40):
        before, most = len(live), limits[-1]
        steps = [chance.choices([record, end, change], [6, 4, 1])[0] for _ in range(8)]
        await asyncio.gather(*(step() for step in steps))
        assert len(live) <= max(before, most, *limits[-1 - steps.count(change) :])
        taken = seats(admin)
        assert len(live) == len(taken)
        assert sorted(live) == admin.column("SELECT id FROM redemption WHERE live_order_id IS NOT NULL ORDER BY id")
        limit = admin.value("SELECT max_redemptions FROM coupon")
        assert taken[-1:] <= [limit] or set(range(1, limit + 1)) <= set(taken), "over, and yet a seat is free"


# --- In pieces ------------------------------------------------------------------------------------------------------


@pytest.fixture
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(coupon_changes, "PIECE_MAX_MOVES", 10)


async def test_25_000_moves(far: Ledger, ledger: Ledger, admin: Admin, proxy: Proxy) -> None:
    """Meanwhile the coupon is busy: nothing is recorded, a look-up says so, cancels go on, a second change is refused."""
    # Given
    coupon = await given.coupon(ledger, max_redemptions=60_000)
    fill(admin, coupon, first=30_001, last=55_000)
    held = proxy.hold(holding(b"for update"), skip=2)
    # When
    changing = asyncio.create_task(given.changed(far, coupon.code, max_redemptions=28_000))
    await until(lambda: held.hits == 1, what="the third piece begins")
    ending = await given.endings(ledger, given.row(ledger, coupon, seat=60_000))
    (standing,) = await ledger.redemptions.look_up([LookUp(coupon.code, "c", "o")], given.soon())
    refused = await asyncio.gather(given.changed(ledger, coupon.code, max_redemptions=5), return_exceptions=True)
    held.release()
    changed = await changing
    # Then
    assert [RecordEnding.COUPON_REFUSES] == ending
    assert standing.is_busy
    assert [CouponBusy] == [type(error) for error in refused]
    assert (28_000, 2) == (changed.max_redemptions, changed.version)
    assert 25_000 == admin.value("SELECT COUNT(DISTINCT seat) FROM redemption WHERE seat <= 28000")
    free = await ledger.seats.free_seats(coupon.id, 28_000, limit=1, deadline=given.soon())
    assert [RecordEnding.RECORDED] == await given.endings(ledger, given.row(ledger, coupon, seat=free.seats[0]))


@pytest.mark.usefixtures("small_pieces")
async def test_a_mover_that_died(far: Ledger, ledger: Ledger, admin: Admin, proxy: Proxy) -> None:
    """Between two pieces: everybody still has a seat, the limit is the old one, and it is busy no longer than its lease."""
    # Given
    coupon = await given.coupon(ledger, max_redemptions=100)
    fill(admin, coupon, first=51, last=100)
    held = proxy.hold(holding(b"for update"), skip=2)
    moving = asyncio.create_task(given.changed(far, coupon.code, max_redemptions=50))
    await until(lambda: held.hits == 1, what="the third piece begins")
    # When
    moving.cancel()
    await asyncio.gather(moving, return_exceptions=True)
    # Then
    assert [*range(1, 21), *range(51, 81)] == seats(admin)
    assert (1, 100) == tuple(admin.run("SELECT version, max_redemptions FROM coupon")[0].values())
    with pytest.raises(CouponBusy):
        await given.changed(ledger, coupon.code, max_redemptions=50)
    assert admin.value("SELECT busy_until < UTC_TIMESTAMP(6) + INTERVAL 11 SECOND FROM coupon")
    admin.run("UPDATE coupon SET busy_until = UTC_TIMESTAMP(6)")
    assert [RecordEnding.RECORDED] == await given.endings(ledger, given.row(ledger, coupon, seat=21))
    await given.changed(ledger, coupon.code, max_redemptions=60)
    assert [*range(1, 42), *range(51, 61)] == seats(admin)


@pytest.mark.usefixtures("small_pieces")
async def test_a_move_that_fails_ends_its_lease(far: Ledger, ledger: Ledger, admin: Admin, proxy: Proxy) -> None:
    """Who is told that it failed can try again at once."""
    coupon = await given.coupon(ledger, max_redemptions=100)
    fill(admin, coupon, first=51, last=100)
    proxy.lose_reply(holding(b"update (with v"), skip=1)
    with pytest.raises(LedgerUnavailable):
        await given.changed(far, coupon.code, max_redemptions=50)
    assert 10 == len([seat for seat in seats(admin) if seat <= 50])
    assert 2 == (await given.changed(ledger, coupon.code, max_redemptions=50)).version
    assert list(range(1, 51)) == seats(admin)


@pytest.mark.usefixtures("small_pieces")
async def test_a_move_that_takes_too_long(ledger: Ledger, admin: Admin, monkeypatch: pytest.MonkeyPatch) -> None:
    """It stops in time with the coupon as it was, no longer busy; the next attempts come to its end."""
    # Given
    monkeypatch.setattr(coupon_changes, "PIECE_PAUSE_S", 0.6)
    coupon = await given.coupon(ledger, max_redemptions=100)
    fill(admin, coupon, first=51, last=100)
    change = Change(coupon.code, {"max_redemptions": 50}, given.BY)
    # When
    with pytest.raises(CouponBusy):
        await ledger.coupon_changes.change(change, given.soon(1.5))
    moved = len([seat for seat in seats(admin) if seat <= 50])
    # Then
    assert moved in {10, 20}
    assert (1, 100, None) == tuple(admin.run("SELECT version, max_redemptions, busy_until FROM coupon")[0].values())
    assert 2 == (await ledger.coupon_changes.change(change, given.soon())).version
    assert list(range(1, 51)) == seats(admin)


@pytest.mark.usefixtures("small_pieces")
async def test_a_change_between_the_pieces(far: Ledger, ledger: Ledger, admin: Admin, proxy: Proxy) -> None:
    """A mover whose lease ran out finds the coupon changed: its If-Match does not hold any more."""
    coupon = await given.coupon(ledger, max_redemptions=100)
    fill(admin, coupon, first=51, last=100)
    held = proxy.hold(holding(b"for update"), skip=2)
    moving = asyncio.create_task(given.changed(far, coupon.code, 1, max_redemptions=50))
    await until(lambda: held.hits == 1, what="the third piece begins")
    admin.run("UPDATE coupon SET busy_until = UTC_TIMESTAMP(6)")
    await given.changed(ledger, coupon.code, metadata={"by": "another"})
    held.release()
    with pytest.raises(VersionMismatch):
        await moving
    assert 50 == len(seats(admin))
    assert admin.value("SELECT busy_until IS NULL FROM coupon")


# --- The history ----------------------------------------------------------------------------------------------------


async def test_history(ledger: Ledger) -> None:
    """Every version, newest first: who, when, before and after; page by page."""
    coupon = await given.coupon(ledger, metadata={"name": "ä"})
    changed = [await given.changed(ledger, coupon.code, max_redemptions=limit) for limit in (30, 10)]
    history = await ledger.coupons.history(coupon.code, limit=10, deadline=given.soon())
    assert [(3, 30, 10), (2, 20, 30), (1, None, 20)] == [
        (one.version, one.before and one.before["max_redemptions"], one.after["max_redemptions"]) for one in history
    ]
    assert [changed[1].updated_at, changed[0].updated_at, coupon.created_at] == [one.changed_at for one in history]
    assert {given.BY} == {one.changed_by for one in history}
    assert {"name": "ä"} == history[2].after["metadata"]
    assert history[1:2] == await ledger.coupons.history(coupon.code, below_version=3, limit=1, deadline=given.soon())
    assert [] == await ledger.coupons.history("NONE", limit=10, deadline=given.soon())


@pytest.mark.parametrize(
    ("statement", "error", "version"),
    [
        (b"update coupon", LedgerUnavailable, 1),
        (b"insert into coupon_history", LedgerUnavailable, 1),
        (COMMIT, LedgerReplyLost, 2),
    ],
)
async def test_a_version_and_its_history_are_one(
    far: Ledger, proxy: Proxy, admin: Admin, statement: bytes, error: type[Exception], version: int
) -> None:
    """Wherever the reply is lost, both are there or neither is."""
    coupon = await given.coupon(far)
    proxy.lose_reply(holding(statement))
    with pytest.raises(error) as caught:
        await given.changed(far, coupon.code, max_redemptions=10)
    assert error is caught.type
    expected: list[dict[str, Any]] = [{"version": one} for one in range(1, version + 1)]
    assert expected == list(admin.run("SELECT version FROM coupon_history ORDER BY version"))
    assert version == admin.value("SELECT version FROM coupon")


async def test_a_coupon_that_others_hold(ledger: Ledger, other: Admin) -> None:
    """A change waits as long as it may, then says that others hold it."""
    coupon = await given.coupon(ledger)
    other.run("BEGIN")
    other.run("SELECT * FROM coupon LOCK IN SHARE MODE")
    with pytest.raises(LedgerContended):
        await ledger.coupon_changes.change(Change(coupon.code, {"metadata": {}}, given.BY), given.soon(2.5))


class Coarse(asyncio.SelectorEventLoop):
    """Its timers go off before the clock has come to their time, as uvloop's can, only more so."""

    def call_at(
        self, when: float, callback: Callable[..., object], *args: object, context: Context | None = None
    ) -> asyncio.TimerHandle:
        return super().call_at(when - COARSE_S / 2, callback, *args, context=context)


def test_a_coupon_that_others_hold_when_timers_go_off_early(
    settings: Settings, other: Admin, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The wait for it was cut short, and by the clock the deadline is still to come: it is said all the same."""
    monkeypatch.setattr(deadlines, "CLOCK_STEP_S", COARSE_S)

    async def change() -> None:
        ledger = await Ledger.connect(settings)
        coupon = await given.coupon(ledger)
        other.run("BEGIN")
        other.run("SELECT * FROM coupon LOCK IN SHARE MODE")
        try:
            await ledger.coupon_changes.change(Change(coupon.code, {"metadata": {}}, given.BY), given.soon(1.0))
        finally:
            await ledger.close()

    with asyncio.Runner(loop_factory=Coarse) as runner, pytest.raises(LedgerContended):
        runner.run(change())
