import asyncio
import random
from collections.abc import Sequence

import pytest

from service.errors import LedgerUnavailable
from service.ledger import Ledger, seats
from service.model import Coupon
from tests.faults import Proxy, holding
from tests.ledger import given
from tests.stores import Admin
from tests.waiting import stalls

SEATS = holding(b"s.seat between")


def sit(admin: Admin, coupon: Coupon, where: str, upper: int) -> None:
    """Live rows on those seats from 1 to `upper` for which `where` holds."""
    # Names that ascend with the seats: in the keys' order, many rows are written soon.
    name = "LPAD(seq, 9, '0')"
    admin.run(
        "INSERT INTO redemption (id, coupon_id, customer_id, order_id, status, seat, live_order_id, api_key_id, created_at, "
        f"confirmed_at) SELECT UNHEX(LPAD(HEX(seq), 32, '0')), {coupon.id}, {name}, {name}, 'confirmed', seq, {name}, 1, "
        f"UTC_TIMESTAMP(6), UTC_TIMESTAMP(6) FROM seq_1_to_{upper} WHERE {where}"
    )


async def free(ledger: Ledger, coupon: Coupon, upper: int, limit: int = 10_000, start: int | None = None) -> Sequence[int]:
    """All free seats, of which there are no more than `limit`."""
    found = await ledger.seats.free_seats(coupon.id, upper, limit=limit, deadline=given.soon(), start=start)
    assert found.complete
    return found.seats


async def test_no_rows(ledger: Ledger) -> None:
    """Without a row all seats are free; without a seat none is."""
    # Given
    coupon = await given.coupon(ledger)
    # When, Then
    assert list(range(1, 21)) == sorted(await free(ledger, coupon, 20))
    assert [1] == await free(ledger, coupon, 1)
    assert [] == await free(ledger, coupon, 0)


@pytest.mark.parametrize("upper", [1, 2, 20])
async def test_full(ledger: Ledger, admin: Admin, upper: int) -> None:
    """Where a row sits on every seat, none is free."""
    # Given
    coupon = await given.coupon(ledger, max_redemptions=upper)
    sit(admin, coupon, "1", upper)
    # When, Then
    assert [] == await free(ledger, coupon, upper)


async def test_taken(ledger: Ledger, admin: Admin) -> None:
    """Of seats of several coupons, those that a row sits on; ended rows sit on none."""
    # Given
    coupon, other = await given.coupon(ledger), await given.coupon(ledger, "OTHER")
    sit(admin, coupon, "seq IN (1, 3)", 3)
    admin.run(
        "UPDATE redemption SET status = 'cancelled', seat = NULL, live_order_id = NULL, ended_at = created_at WHERE seat = 3"
    )
    asked = [(one, seat) for one in (coupon.id, other.id) for seat in (1, 2, 3)]
    # When, Then
    assert {(coupon.id, 1)} == await ledger.seats.taken(asked, given.soon())
    assert set() == await ledger.seats.taken([], given.soon())


async def test_only_this_coupons_seats(ledger: Ledger, admin: Admin) -> None:
    """Others' rows, rows above the range and ended rows sit on no seat of it."""
    # Given
    coupon, other = await given.coupon(ledger), await given.coupon(ledger, "OTHER", max_redemptions=100)
    rows = [given.row(ledger, coupon, seat=seat) for seat in (1, 3, 5, 11, 20)]
    await given.endings(ledger, *rows, *(given.row(ledger, other, seat=seat) for seat in range(1, 21)))
    given.cancel(admin, rows[2].id)
    # When, Then
    assert [2, 4, 5, 6, 7, 8, 9, 10] == sorted(await free(ledger, coupon, 10))
    assert 20 == await ledger.seats.seat_max(coupon.id, given.soon())


async def test_every_start_finds_all(ledger: Ledger, admin: Admin, monkeypatch: pytest.MonkeyPatch) -> None:
    """Wherever the search begins, however small its pieces are: exactly the free seats, each once."""
    # Given
    monkeypatch.setattr(seats, "COUNTED_SEATS_MAX", 12)
    monkeypatch.setattr(seats, "LISTED_ROWS_MAX", 3)
    coupon = await given.coupon(ledger, max_redemptions=1_000)
    choice = random.Random(7)
    taken = {seat for seat in range(1, 151) if seat < 70 or choice.random() < 0.5 or seat > 120} - {1, 33, 150}
    sit(admin, coupon, f"seq IN ({','.join(map(str, taken))})", 150)
    expected = sorted(set(range(1, 151)) - taken)
    # When, Then
    for start in range(1, 151, 4):
        assert expected == sorted(await free(ledger, coupon, 150, start=start))


async def test_limit(ledger: Ledger, admin: Admin) -> None:
    """No more than asked for; complete only when these are all."""
    # Given
    coupon = await given.coupon(ledger)
    sit(admin, coupon, "seq NOT IN (3, 7, 8, 9)", 20)
    # When
    found = [await ledger.seats.free_seats(coupon.id, 20, limit=limit, deadline=given.soon()) for limit in range(6)]
    # Then
    assert [0, 1, 2, 3, 4, 4] == [len(one.seats) for one in found]
    assert [False, False, False, False, True, True] == [one.complete for one in found]
    assert all(set(one.seats) <= {3, 7, 8, 9} and len(set(one.seats)) == len(one.seats) for one in found)


async def test_a_huge_range(far: Ledger, proxy: Proxy, admin: Admin) -> None:
    """Two thousand million seats with few rows are a few statements; a search from another start finds other seats."""
    # Given
    coupon = await given.coupon(far, max_redemptions=2_000_000_000)
    await given.endings(far, given.row(far, coupon, seat=2_000_000_000), given.row(far, coupon, seat=1_000))
    statements = proxy.count(SEATS)
    # When
    first = await far.seats.free_seats(coupon.id, 2_000_000_000, limit=100, deadline=given.soon())
    second = await far.seats.free_seats(coupon.id, 2_000_000_000, limit=100, deadline=given.soon())
    # Then
    assert (100, False) == (len(first.seats), first.complete)
    assert not {*first.seats, *second.seats} & {1_000, 2_000_000_000}
    assert first.seats != second.seats
    assert statements.hits < 10
    assert 2_000_000_000 == await far.seats.seat_max(coupon.id, given.soon())
    assert 0 == admin.value("SELECT COUNT(*) FROM redemption WHERE seat BETWEEN 2 AND 999")


async def test_200_000_rows(far: Ledger, proxy: Proxy, admin: Admin) -> None:
    """A large coupon is searched in some bounded statements, in little time, with all gaps found: one, a crowd, everywhere."""
    # Given
    coupon = await given.coupon(far, max_redemptions=200_000)
    sit(admin, coupon, "1", 200_000)
    statements = proxy.count(SEATS)
    gone = "0"
    for gap, statements_max in (
        ("0", 5),
        ("seat = 123457", 25),
        ("seat BETWEEN 50000 AND 55000", 40),
        ("seat % 40 = 0", 100),
    ):
        gone += f" OR {gap}"
        admin.run(f"DELETE FROM redemption WHERE {gap}")
        expected = [row["seat"] for row in admin.run(f"SELECT seq AS seat FROM seq_1_to_200000 HAVING {gone} ORDER BY seq")]
        before, begin = statements.hits, asyncio.get_running_loop().time()
        # When
        async with stalls() as stood_still:
            found = await free(far, coupon, 200_000)
        # Then
        took_s = asyncio.get_running_loop().time() - begin - stood_still.total_s
        assert expected == sorted(found)
        assert statements.hits - before <= statements_max
        assert took_s < 5


async def test_a_deadline_within_a_search(ledger: Ledger, admin: Admin, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was found until the deadline is an answer, and not a complete one."""
    # Given
    monkeypatch.setattr(seats, "LISTED_ROWS_MAX", 1)
    monkeypatch.setattr(seats, "COUNTED_SEATS_MAX", 1)
    coupon = await given.coupon(ledger, max_redemptions=100_000)
    sit(admin, coupon, "seq % 2 = 0", 100_000)
    # When
    found = await ledger.seats.free_seats(coupon.id, 100_000, limit=100_000, deadline=given.soon(0.5))
    # Then
    assert not found.complete
    assert found.seats


async def test_a_ledger_that_is_away(far: Ledger, proxy: Proxy) -> None:
    """Without the ledger there is no answer."""
    # Given
    coupon = await given.coupon(far)
    proxy.refuse()
    # When, Then
    with pytest.raises(LedgerUnavailable):
        await far.seats.free_seats(coupon.id, 20, limit=5, deadline=given.soon())


async def test_what_is_left_is_looked_at_by_the_next_search(
    ledger: Ledger, admin: Admin, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A search that was cut off by its deadline says from where another one goes on, and so all is looked at."""
    # Given
    monkeypatch.setattr(seats, "COUNTED_SEATS_MAX", 12)
    monkeypatch.setattr(seats, "LISTED_ROWS_MAX", 10)
    coupon = await given.coupon(ledger, max_redemptions=20_000)
    sit(admin, coupon, "seq NOT IN (5432, 5433)", 20_000)
    search = seats.FreeSeats([], complete=False, reached=6_000)
    starts = []
    # When
    while not search.seats:
        starts.append(search.reached)
        search = await ledger.seats.free_seats(
            coupon.id, 20_000, limit=5, deadline=given.soon(0.05), start=search.reached, enough_at=0
        )
    # Then
    assert [5_432, 5_433] == search.seats
    assert (False, 5_434) == (search.complete, search.reached), "enough, and it ends at once"
    assert len(starts) > 2
