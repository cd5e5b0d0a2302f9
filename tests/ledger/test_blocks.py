"""Seats in blocks: above all that are in a row, nobody's twice, never above the limit."""

import asyncio
import itertools

from service.errors import LedgerReplyLost
from service.ledger import Ledger
from tests.faults import Proxy, holding
from tests.ledger import given
from tests.stores import Admin

IS_BLOCK = holding(b"insert into seat_cursor")


async def block(ledger: Ledger, coupon_id: int, size: int = 8, *, limit: int = 1_000) -> range:
    return await ledger.seats.block(coupon_id, size, limit=limit, deadline=given.soon())


def cursor(admin: Admin) -> object:
    return admin.value("SELECT next FROM seat_cursor")


async def test_the_first_block_and_those_after_it(ledger: Ledger, admin: Admin) -> None:
    """The reply to the statement says where the block ends, whether it has made the cursor or moved it."""
    # Given
    coupon, other = await given.coupon(ledger), await given.coupon(ledger, "OTHER")
    # When, Then
    assert range(1, 9) == await block(ledger, coupon.id)
    assert range(9, 13) == await block(ledger, coupon.id, 4)
    assert range(1, 4) == await block(ledger, other.id, 3)
    assert range(13, 21) == await block(ledger, coupon.id)
    assert {coupon.id: 20, other.id: 3} == {
        row["coupon_id"]: row["next"] for row in admin.run("SELECT coupon_id, next FROM seat_cursor")
    }


async def test_above_what_is_in_a_row(ledger: Ledger) -> None:
    """A cursor that was left behind while Redis handed seats out would hand out taken ones."""
    # Given
    coupon = await given.coupon(ledger, max_redemptions=1_000)
    await given.endings(ledger, given.row(ledger, coupon, seat=100))
    # When, Then
    assert range(101, 109) == await block(ledger, coupon.id)
    await given.endings(ledger, given.row(ledger, coupon, seat=500))
    assert range(501, 509) == await block(ledger, coupon.id)


async def test_the_limit(ledger: Ledger, admin: Admin) -> None:
    """The last block is cut off at it; after that there is none, and the cursor does not go on for ever."""
    # Given
    coupon = await given.coupon(ledger)
    # When, Then
    assert [range(1, 9), range(9, 17), range(17, 21)] == [await block(ledger, coupon.id, limit=20) for _ in range(3)]
    assert [0, 0, 0] == [len(await block(ledger, coupon.id, size, limit=20)) for size in (8, 256, 1)]
    assert 21 == cursor(admin)
    assert range(22, 30) == await block(ledger, coupon.id, limit=1_000), "a limit that was raised"


async def test_none_above_a_limit_that_was_lowered(ledger: Ledger, admin: Admin) -> None:
    # Given
    coupon = await given.coupon(ledger, max_redemptions=1_000)
    await given.endings(ledger, given.row(ledger, coupon, seat=900))
    await block(ledger, coupon.id, 256)
    # When, Then
    assert 0 == len(await block(ledger, coupon.id, limit=20)), "a row sits above it"
    given.cancel(admin, given.ids(admin)[0])
    assert 0 == len(await block(ledger, coupon.id, limit=20)), "the cursor is above it"
    assert 28 == cursor(admin)


async def test_the_largest_coupon_there_can_be(ledger: Ledger) -> None:
    # Given
    limit = 2_000_000_000
    coupon = await given.coupon(ledger, max_redemptions=limit)
    await given.endings(ledger, given.row(ledger, coupon, seat=limit - 3))
    # When, Then
    assert range(limit - 2, limit + 1) == await block(ledger, coupon.id, 256, limit=limit)
    assert 0 == len(await block(ledger, coupon.id, 256, limit=limit))


async def test_many_at_once(ledger: Ledger) -> None:
    """No seat is in two blocks, whoever asks at the same time, and none is left out."""
    # Given
    coupon = await given.coupon(ledger)
    # When
    blocks = await asyncio.gather(*(block(ledger, coupon.id, size, limit=10_000) for size in range(1, 101)))
    # Then
    assert list(range(1, 5_051)) == sorted(itertools.chain(*blocks))


async def test_a_lost_reply(far: Ledger, proxy: Proxy) -> None:
    """A block whose reply was lost is nobody's: the next is another one."""
    # Given
    coupon = await given.coupon(far)
    lost = proxy.lose_reply(IS_BLOCK)
    # When, Then
    assert range(9, 17) == await block(far, coupon.id)
    assert 1 == lost.hits
    proxy.lose_reply(IS_BLOCK, times=None)
    try:
        await block(far, coupon.id)
    except LedgerReplyLost:
        return
    raise AssertionError("a block without a reply")
