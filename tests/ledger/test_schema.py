from typing import Any

import pymysql
import pytest

from service.ledger import Ledger
from tests.ledger import given
from tests.stores import Admin

CONSTRAINT_FAILED = 4025
DUPLICATE = 1062


async def live_row(ledger: Ledger, admin: Admin) -> None:
    """One confirmed redemption on seat 1."""
    coupon = await given.coupon(ledger, max_per_customer=5)
    given.insert(admin, given.row(ledger, coupon, seat=1, customer_seat=1, customer_id="c", order_id="o"))


REFUSED = {
    "redemption_seat_from_1": "seat = 0",
    "redemption_customer_seat_from_1": "customer_seat = 0",
    "redemption_live": "live_order_id = NULL",
    "redemption_live_order_is_order": "live_order_id = 'O'",
    "redemption_ended_sits_nowhere": "status = 'cancelled', live_order_id = NULL, ended_at = NOW(), customer_seat = NULL",
    "redemption_ended_at": "ended_at = NOW()",
    "redemption_hold_expires": "status = 'reserved'",
    "redemption_confirmed_at": "confirmed_at = NULL",
}
ALSO_REFUSED = {
    "redemption_live": "status = 'cancelled', ended_at = NOW(), seat = NULL, customer_seat = NULL",
    "redemption_live_order_is_order": "order_id = 'o '",
    "redemption_ended_sits_nowhere": "status = 'cancelled', live_order_id = NULL, ended_at = NOW(), seat = NULL",
    "redemption_ended_at": "status = 'cancelled', live_order_id = NULL, seat = NULL, customer_seat = NULL",
    "redemption_hold_expires": (
        "status = 'expired', live_order_id = NULL, seat = NULL, customer_seat = NULL, ended_at = NOW()"
    ),
}


@pytest.mark.parametrize(("check", "change"), [*REFUSED.items(), *ALSO_REFUSED.items()])
async def test_checks(ledger: Ledger, admin: Admin, check: str, change: str) -> None:
    """What no redemption may be, the ledger refuses, whoever writes it."""
    # Given
    await live_row(ledger, admin)
    # When
    with pytest.raises(pymysql.err.OperationalError) as caught:
        admin.run(f"UPDATE redemption SET {change}")
    # Then
    assert CONSTRAINT_FAILED == caught.value.args[0]
    assert f"`{check}`" in caught.value.args[1]


def test_every_check_is_tested(admin: Admin, database_url: str) -> None:
    """No CHECK of a redemption is without a test."""
    assert database_url
    found = admin.run(
        "SELECT CONSTRAINT_NAME AS name FROM information_schema.CHECK_CONSTRAINTS "
        "WHERE CONSTRAINT_SCHEMA = 'usher' AND TABLE_NAME = 'redemption'"
    )
    assert set(REFUSED) == {row["name"] for row in found}


@pytest.mark.parametrize(
    "change",
    [
        "status = 'reserved', confirmed_at = NULL, expires_at = NOW()",
        "status = 'cancelled', live_order_id = NULL, was_seat = seat, seat = NULL, customer_seat = NULL, ended_at = NOW()",
        (
            "status = 'expired', live_order_id = NULL, was_seat = seat, seat = NULL, customer_seat = NULL, "
            "expires_at = NOW(), ended_at = NOW(), end_reason = 'too_late', confirmed_at = NULL"
        ),
        "idempotency_key = 'A key of 255 visible characters at most'",
    ],
)
async def test_what_a_redemption_may_be(ledger: Ledger, admin: Admin, change: str) -> None:
    """Holds, cancelled and expired redemptions fit."""
    await live_row(ledger, admin)
    admin.run(f"UPDATE redemption SET {change}")


@pytest.mark.parametrize(
    ("key", "same"),
    [
        ("PRIMARY", {}),
        ("redemption_seat", {"id": b"y" * 16}),
        ("redemption_customer_seat", {"id": b"y" * 16, "seat": 2}),
        ("redemption_live_order", {"id": b"y" * 16, "seat": 2, "customer_id": "d"}),
    ],
)
async def test_unique_keys(ledger: Ledger, admin: Admin, key: str, same: dict[str, Any]) -> None:
    """What may be there once is refused a second time; and only that."""
    # Given
    coupon = await given.coupon(ledger, max_per_customer=5)
    values = {"id": b"x" * 16, "seat": 1, "customer_seat": 1, "customer_id": "c", "order_id": "o"}
    given.insert(admin, given.row(ledger, coupon, **values))
    # When
    with pytest.raises(pymysql.err.IntegrityError) as caught:
        given.insert(admin, given.row(ledger, coupon, **{**values, **same}))
    # Then
    assert DUPLICATE == caught.value.args[0]
    assert f"'{key}'" in caught.value.args[1]
    different = {"id": b"z" * 16, "seat": 2, "customer_id": "C", "order_id": "o "}
    given.insert(admin, given.row(ledger, coupon, **{**values, **different}))


async def test_idempotency_keys_are_there_once(ledger: Ledger, admin: Admin) -> None:
    """Per coupon and API key, byte by byte, and for ever; rows without one are not held against each other."""
    # Given
    coupon = await given.coupon(ledger)
    rows = [given.row(ledger, coupon, seat=seat) for seat in (1, 2, 3)]
    for row in rows:
        given.insert(admin, row)
    admin.run("UPDATE redemption SET idempotency_key = 'k' WHERE seat = 1")
    admin.run("UPDATE redemption SET idempotency_key = 'K' WHERE seat = 2")
    given.cancel(admin, rows[0].id)
    # When, Then
    with pytest.raises(pymysql.err.IntegrityError) as caught:
        admin.run("UPDATE redemption SET idempotency_key = 'k' WHERE seat = 3")
    assert "'redemption_idempotency_key'" in caught.value.args[1]
    admin.run("UPDATE redemption SET idempotency_key = 'k', api_key_id = 2 WHERE seat = 3")


@pytest.mark.parametrize(
    ("check", "change"),
    [
        ("coupon_code_form", "code = 'gold'"),
        ("coupon_code_form", "code = '-A'"),
        ("coupon_max_redemptions", "max_redemptions = 0"),
        ("coupon_max_redemptions", "max_redemptions = 2000000001"),
        ("coupon_max_per_customer", "max_per_customer = 0"),
        ("coupon_max_per_customer", "max_per_customer = 1001"),
        ("coupon_window", "starts_at = NOW(), ends_at = NOW()"),
        ("coupon_metadata", "metadata = '[]'"),
        ("coupon.metadata", "metadata = '{'"),
        ("coupon_version", "version = 0"),
    ],
)
async def test_checks_of_coupons(ledger: Ledger, admin: Admin, check: str, change: str) -> None:
    """What no coupon may be, the ledger refuses, whoever writes it."""
    await given.coupon(ledger)
    with pytest.raises(pymysql.err.OperationalError) as caught:
        admin.run(f"UPDATE coupon SET {change}")
    assert CONSTRAINT_FAILED == caught.value.args[0]
    assert f"`{check}`" in caught.value.args[1]
