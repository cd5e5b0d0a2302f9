"""The walk that looks for customers above their limits, in steps of any size."""

import pytest

from service.ledger import Ledger, walk
from service.ledger.walk import CustomerCursor, Exceeding
from service.model import Coupon
from tests.ledger import given
from tests.stores import Admin


async def walked(ledger: Ledger) -> list[Exceeding]:
    """All that a walk through the customers' key finds."""
    found: list[Exceeding] = []
    cursor: CustomerCursor | None = CustomerCursor()
    while cursor is not None:
        some, following = await ledger.walk.customers(cursor, given.soon())
        assert following is None or following > cursor, "the walk goes on"
        found += some
        cursor = following
    return found


async def walked_of(ledger: Ledger, coupon: Coupon) -> set[Exceeding]:
    """All that a walk through a coupon's rows finds."""
    found: set[Exceeding] = set()
    for status in ledger.walk.LIVE:
        last: bytes | None = b""
        while last is not None:
            some, last = await ledger.walk.customers_of(coupon, status, last, given.soon())
            found |= set(some)
    return found


@pytest.mark.parametrize("step", [1, 2, 3, 5, 50_000])
async def test_customers_above_their_limits(ledger: Ledger, admin: Admin, monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    """Each customer and coupon once, whatever else the customers have, and however large the steps are."""
    monkeypatch.setattr(walk, "STEP_ENTRIES", step)
    monkeypatch.setattr(walk, "STEP_ROWS", step)
    one = await given.coupon(ledger, "ONE", max_per_customer=1)
    two = await given.coupon(ledger, "TWO", max_per_customer=2)
    any_number = await given.coupon(ledger, "ANY")
    seats = iter(range(1, 21))
    for coupon, customer, customer_seats in (
        (one, "ann", [1, 2, 3]), (two, "ann", [1, 2]), (any_number, "ann", [None, None, None]),
        (one, "bob", [1]), (two, "bob", [3]), (one, "b", [1]), (two, "cy's", [1, 2, 4]),
    ):  # fmt: skip
        for customer_seat in customer_seats:
            new = given.row(ledger, coupon, customer_id=customer, seat=next(seats), customer_seat=customer_seat)
            given.insert(admin, new)
            ended = given.row(ledger, coupon, customer_id=customer)
            given.insert(admin, ended)
            given.cancel(admin, ended.id)
    hold = given.row(ledger, one, customer_id="dan", seat=20, customer_seat=2)
    given.insert(admin, hold)
    admin.run("UPDATE redemption SET status = 'reserved', expires_at = '2099-01-01' WHERE id = %s", hold.id)

    assert [
        Exceeding("ONE", "ann", 3, 1), Exceeding("TWO", "bob", 3, 2), Exceeding("TWO", "cy's", 4, 2),
        Exceeding("ONE", "dan", 2, 1),
    ] == await walked(ledger)  # fmt: skip
    assert {"ann", "dan"} == {found.customer_id for found in await walked_of(ledger, one)}
    assert {"bob", "cy's"} == {found.customer_id for found in await walked_of(ledger, two)}


async def test_an_empty_ledger(ledger: Ledger) -> None:
    assert [] == await walked(ledger)
    assert set() == await walked_of(ledger, await given.coupon(ledger, max_per_customer=1))
