import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from service.errors import (
    CouponExists,
    CouponNotFound,
    CustomerLimitLowered,
    LedgerRefusedData,
    LedgerReplyLost,
    LedgerUnavailable,
    LimitKindFixed,
    UsherError,
    VersionMismatch,
    WindowEmpty,
)
from service.ledger import Ledger
from service.model import Coupon, CouponStatus, LoadedCoupon, RecordEnding
from tests.faults import Proxy, holding
from tests.ledger import given
from tests.stores import Admin
from tests.waiting import until

BEGIN = datetime(2026, 11, 22, 10, 15, 30, 123456, tzinfo=UTC)
END = datetime(2027, 1, 1, tzinfo=UTC)
COMMIT = b"\x03commit"
"""As it is sent."""


async def change(ledger: Ledger, if_version: int | None = None, **changes: Any) -> Coupon:  # noqa: ANN401 - any field
    return await given.changed(ledger, "GOLD20", if_version, **changes)


# --- Create and read --------------------------------------------------------------------------------------------


async def test_a_coupon_is_kept_as_it_was_made(ledger: Ledger) -> None:
    """What `create` returns is what is read afterwards: version 1, aware times, metadata of any form."""
    # Given, When
    made = await given.coupon(
        ledger,
        max_redemptions=2_000_000_000,
        max_per_customer=1_000,
        starts_at=BEGIN,
        ends_at=END,
        status=CouponStatus.PAUSED,
        metadata={"a": ["😀", "'\\\"", {"b": None}], "": 1.5},
    )
    # Then
    assert made == await ledger.coupons.get("GOLD20", given.soon())
    assert (1, made.created_at, BEGIN, END) == (made.version, made.updated_at, made.starts_at, made.ends_at)
    assert abs(made.created_at - datetime.now(UTC)) < timedelta(seconds=5)


async def test_unlimited(ledger: Ledger) -> None:
    """Limits and times may be absent."""
    made = await given.coupon(ledger, max_redemptions=None)
    assert made == await ledger.coupons.get("GOLD20", given.soon())
    assert (None, None, None, None) == (made.max_redemptions, made.max_per_customer, made.starts_at, made.ends_at)


async def test_a_code_is_there_once(ledger: Ledger) -> None:
    """A second coupon of the same code is refused, the first stays."""
    # Given
    first = await given.coupon(ledger)
    # When
    with pytest.raises(CouponExists):
        await given.coupon(ledger, max_redemptions=5)
    # Then
    assert first == await ledger.coupons.get("GOLD20", given.soon())


@pytest.mark.parametrize(
    ("wrong", "error"),
    [
        ({"code": "gold"}, LedgerRefusedData),
        ({"code": "A B"}, LedgerRefusedData),
        ({"code": ""}, LedgerRefusedData),
        ({"code": "A" * 65}, LedgerRefusedData),
        ({"max_redemptions": 0}, LedgerRefusedData),
        ({"max_redemptions": 2_000_000_001}, LedgerRefusedData),
        ({"max_per_customer": 0}, LedgerRefusedData),
        ({"max_per_customer": 1_001}, LedgerRefusedData),
        ({"starts_at": BEGIN, "ends_at": BEGIN}, WindowEmpty),
        ({"starts_at": END, "ends_at": BEGIN}, WindowEmpty),
    ],
)
async def test_what_no_coupon_may_be(ledger: Ledger, admin: Admin, wrong: dict[str, Any], error: type[UsherError]) -> None:
    """The ledger refuses what the contract does not allow, whoever asks for it."""
    with pytest.raises(error):
        await given.coupon(ledger, **wrong)
    assert 0 == admin.value("SELECT COUNT(*) FROM coupon")


async def test_a_lost_reply_to_create(far: Ledger, proxy: Proxy) -> None:
    """When the reply to the commit is lost, nobody says that the coupon was not made; lost earlier, it was not."""
    for statement in (b"insert into coupon ", b"insert into coupon_history"):
        proxy.lose_reply(holding(statement))
        with pytest.raises(LedgerUnavailable) as caught:
            await given.coupon(far)
        assert LedgerUnavailable is caught.type
        assert await far.coupons.get("GOLD20", given.soon()) is None
    proxy.lose_reply(holding(COMMIT), skip=1)  # The driver sends one when it connects.
    with pytest.raises(LedgerReplyLost):
        await given.coupon(far)
    assert await far.coupons.get("GOLD20", given.soon()) is not None


@pytest.mark.parametrize("code", ["NONE", "gold20", "GOLD20 ", "GÖLD"])
async def test_a_code_of_no_coupon(ledger: Ledger, code: str) -> None:
    """Codes are compared byte by byte."""
    await given.coupon(ledger)
    assert await ledger.coupons.get(code, given.soon()) is None
    assert {} == await ledger.coupons.load([code], given.soon())


async def test_find(ledger: Ledger) -> None:
    """Coupons by code, page by page, of a status or a prefix; `_` in a prefix is a letter."""
    # Given
    codes = ["B", "A-1", "A_2", "AB", "A", "C9", "A_", "A_10"]
    made = {code: await given.coupon(ledger, code) for code in codes}
    await given.changed(ledger, "AB", status=CouponStatus.PAUSED)

    async def find(**by: Any) -> list[str]:  # noqa: ANN401 - any of its arguments
        return [coupon.code for coupon in await ledger.coupons.find(**{"limit": 50, **by}, deadline=given.soon())]

    # When, Then
    assert sorted(codes) == await find()
    assert sorted(codes)[:3] == await find(limit=3)
    assert sorted(codes)[3:6] == await find(limit=3, after_code=sorted(codes)[2])
    assert ["A_", "A_10", "A_2"] == await find(prefix="A_")
    assert ["A_2"] == await find(prefix="A_", after_code="A_10")
    assert ["AB"] == await find(status=CouponStatus.PAUSED, prefix="A")
    assert [] == await find(prefix="Ä")
    assert [made["B"]] == await ledger.coupons.find(prefix="B", limit=1, deadline=given.soon())


async def test_usage(ledger: Ledger, admin: Admin) -> None:
    """Live redemptions by the ledger's count; what remains is never negative, and unknown without a limit."""
    # Given
    coupon = await given.coupon(ledger, max_redemptions=3)
    other = await given.coupon(ledger, "OTHER", max_redemptions=None)
    rows = [given.row(ledger, coupon, seat=seat) for seat in (2, 3)]
    await given.endings(ledger, *rows, given.row(ledger, other))
    await given.hold(ledger, coupon, seat=1)
    given.cancel(admin, rows[1].id)
    # A hold whose time is over is no use any more, whether or not it has been written as expired.
    given.overdue(admin, (await given.hold(ledger, coupon, seat=3)).id)
    # When
    usage = await ledger.coupons.usage(coupon, given.soon())
    # Then
    assert (1, 1, 1) == (usage.reserved, usage.confirmed, usage.remaining)
    assert abs(usage.as_of - ledger.now()) < timedelta(seconds=1)
    admin.run("UPDATE coupon SET max_redemptions = 1 WHERE code = 'GOLD20'")
    lowered = await ledger.coupons.get("GOLD20", given.soon())
    assert lowered is not None
    assert 0 == (await ledger.coupons.usage(lowered, given.soon())).remaining
    assert None is (await ledger.coupons.usage(other, given.soon())).remaining
    empty = await given.coupon(ledger, "EMPTY")
    usage = await ledger.coupons.usage(empty, given.soon())
    assert (0, 0, 20) == (usage.reserved, usage.confirmed, usage.remaining)


async def test_load(far: Ledger, proxy: Proxy, admin: Admin) -> None:
    """All that are asked for come in one statement, each with its highest seat, whatever their status; unknown ones don't."""
    # Given
    coupons = [await given.coupon(far, code) for code in ("A", "B", "C")]
    rows = [given.row(far, coupons[0], seat=seat) for seat in (2, 9, 4)]
    await given.endings(far, *rows)
    archived = await given.changed(far, "C", status=CouponStatus.ARCHIVED)
    statements = proxy.count(holding(b"coupon c"))
    # When
    found = await far.coupons.load(["A", "B", "C", "NONE", "Ä", "A"], given.soon())
    # Then
    assert 1 == statements.hits
    a, b, _ = coupons
    assert {"A": LoadedCoupon(a, 9), "B": LoadedCoupon(b, 0), "C": LoadedCoupon(archived, 0)} == found
    given.cancel(admin, rows[1].id)
    assert 4 == (await far.coupons.load(["A"], given.soon()))["A"].seat_max


async def test_load_reads_one_row_for_each_coupon(ledger: Ledger, admin: Admin) -> None:
    """The highest seat is one look-up, however many rows there are."""
    # Given
    coupon = await given.coupon(ledger, max_redemptions=1_000)
    await given.coupon(ledger, "OTHER")
    await given.endings(ledger, *(given.row(ledger, coupon, seat=seat) for seat in range(1, 1_001)))

    def read() -> int:
        names = ("Handler_read_next", "Handler_read_prev", "Handler_read_rnd_next")
        return sum(admin.status(name) for name in names)

    before = read()
    # When
    found = await ledger.coupons.load(["GOLD20", "OTHER"], given.soon())
    assert 1_000 == await ledger.seats.seat_max(coupon.id, given.soon())
    # Then
    rows_read = read() - before
    assert 1_000 == found["GOLD20"].seat_max
    assert rows_read < 200, "the server's own status tables are some of these"


# --- Change -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "changes",
    [
        {"status": CouponStatus.PAUSED},
        {"max_redemptions": 21, "max_per_customer": 4},
        {"max_redemptions": 20},
        {"max_redemptions": 1},
        {"max_per_customer": None},
        {"starts_at": BEGIN, "ends_at": END},
        {"starts_at": None},
        {"metadata": {"new": "😀"}},
        {},
    ],
)
async def test_change(ledger: Ledger, changes: dict[str, Any]) -> None:
    """A change replaces the fields that it names and raises the version; what it returns is what is read afterwards."""
    # Given
    old = await given.coupon(ledger, max_per_customer=3, starts_at=BEGIN, metadata={"old": 1})
    # When
    new = await change(ledger, **changes)
    # Then
    assert new == await ledger.coupons.get("GOLD20", given.soon())
    expected = {name: changes.get(name, getattr(old, name)) for name in Coupon.__slots__}
    expected |= {"version": 2, "updated_at": new.updated_at}
    assert expected == {name: getattr(new, name) for name in Coupon.__slots__}
    assert new.updated_at > old.updated_at


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"max_redemptions": None}, LimitKindFixed),
        ({"max_per_customer": 2}, CustomerLimitLowered),
        ({"ends_at": BEGIN}, WindowEmpty),
        ({"starts_at": END, "ends_at": BEGIN}, WindowEmpty),
        ({"max_redemptions": 2_000_000_001}, LedgerRefusedData),
    ],
)
async def test_a_change_that_is_refused(ledger: Ledger, changes: dict[str, Any], error: type[UsherError]) -> None:
    """A refused change leaves everything as it was, and the coupon free for the next."""
    # Given
    old = await given.coupon(ledger, max_per_customer=3, starts_at=BEGIN)
    # When
    with pytest.raises(error):
        await change(ledger, status=CouponStatus.PAUSED, **changes)
    # Then
    assert old == await ledger.coupons.get("GOLD20", given.soon())
    assert 2 == (await change(ledger, status=CouponStatus.PAUSED)).version


async def test_a_limit_for_what_was_unlimited(ledger: Ledger) -> None:
    """An unlimited coupon stays so; its customers, once unlimited, too: a limit would be a lower one."""
    await given.coupon(ledger, max_redemptions=None)
    with pytest.raises(LimitKindFixed):
        await change(ledger, max_redemptions=5)
    with pytest.raises(CustomerLimitLowered):
        await change(ledger, max_per_customer=5)


async def test_if_match(ledger: Ledger) -> None:
    """With a version, only the coupon of that version is changed."""
    # Given
    await given.coupon(ledger)
    assert 2 == (await change(ledger, if_version=1, status=CouponStatus.PAUSED)).version
    # When, Then
    with pytest.raises(VersionMismatch):
        await change(ledger, if_version=1, status=CouponStatus.ACTIVE)
    assert 3 == (await change(ledger, if_version=2, status=CouponStatus.ACTIVE)).version


@pytest.mark.parametrize("code", ["NONE", "gold20", "GÖLD"])
async def test_a_change_of_no_coupon(ledger: Ledger, code: str) -> None:
    """There must be such a coupon."""
    await given.coupon(ledger)
    with pytest.raises(CouponNotFound):
        await given.changed(ledger, code, status=CouponStatus.PAUSED)


async def test_changes_at_once(ledger: Ledger) -> None:
    """Twenty changes at once are twenty versions; of twenty with the same If-Match, one succeeds."""
    # Given
    await given.coupon(ledger)
    # When
    changed = await asyncio.gather(*(change(ledger, metadata={"n": n}) for n in range(20)))
    matched = await asyncio.gather(
        *(change(ledger, if_version=21, metadata={"n": n}) for n in range(20)), return_exceptions=True
    )
    # Then
    assert list(range(2, 22)) == sorted(coupon.version for coupon in changed)
    assert [VersionMismatch] * 19 == [type(answer) for answer in matched if not isinstance(answer, Coupon)]


async def test_a_pause_waits_for_what_is_being_recorded(ledger: Ledger, admin: Admin, other: Admin) -> None:
    """When a pause has been answered, nothing is admitted any more: it waits for the statements that found it active."""
    # Given: a record statement has read the coupon and waits for a seat.
    coupon = await given.coupon(ledger)
    other.run("BEGIN")
    given.insert(other, given.row(ledger, coupon, seat=1))
    recording = asyncio.create_task(given.endings(ledger, given.row(ledger, coupon, seat=1)))
    await until(lambda: admin.status("Innodb_row_lock_current_waits") == 1, what="the record statement waits")
    # When
    pausing = asyncio.create_task(change(ledger, status=CouponStatus.PAUSED))
    await until(lambda: admin.status("Innodb_row_lock_current_waits") == 2, what="the pause waits, too")
    assert not pausing.done()
    other.run("ROLLBACK")
    # Then
    assert [RecordEnding.RECORDED] == await recording
    assert CouponStatus.PAUSED is (await pausing).status
    assert [RecordEnding.COUPON_REFUSES] == await given.endings(ledger, given.row(ledger, coupon, seat=2))


async def test_a_change_whose_commit_was_lost(far: Ledger, proxy: Proxy) -> None:
    """When the reply to the commit is lost, nobody says that the coupon was not changed; lost earlier, it was not."""
    # Given
    await given.coupon(far)
    # When, Then
    lost = proxy.lose_reply(holding(COMMIT))
    with pytest.raises(LedgerReplyLost):
        await change(far, status=CouponStatus.PAUSED)
    assert 1 == lost.hits
    proxy.lose_reply(holding(b"update coupon"))
    with pytest.raises(LedgerUnavailable) as caught:
        await change(far, status=CouponStatus.ACTIVE)
    assert LedgerUnavailable is caught.type
    coupon = await far.coupons.get("GOLD20", given.soon())
    assert coupon is not None
    assert (2, CouponStatus.PAUSED) == (coupon.version, coupon.status)
