"""How the server reads for each statement: by the key that was made for it, also while it knows little about the tables."""

import re

import pytest

from service.ledger import Ledger
from service.ledger.literals import Sql, tuples
from service.ledger.sql import Query
from service.model import RecordEnding
from tests.ledger import given
from tests.stores import Admin

ID = Sql("x'00'")
KEY = Sql("_ascii'key'")
KEYS = tuples([(0, 1, 1, KEY, b"0" * 16), (1, 1, 1, Sql("_ascii'other'"), b"1" * 16)])
RANGES = Sql("(s.coupon_id = 1 AND s.seat BETWEEN 1 AND 20) OR (s.coupon_id = 2 AND s.seat BETWEEN 3 AND 20)")
PART = Sql(
    "(s.customer_id = 'c' AND s.coupon_id >= 1) OR (s.customer_id > 'c' AND s.customer_id < 'd')"
    " OR (s.customer_id = 'd' AND s.coupon_id < 2)"
)
VALUES: dict[str, dict[str, object]] = {
    "record": {
        "rows": Sql(
            "(x'00',1,'c','o',1,1,1,'2026-11-22',NULL,NULL),(x'01',1,'c','p',2,2,1,'2026-11-22','2026-11-23',_ascii'key')"
        )
    },
    "record_landed": {"ids": Sql("x'00',x'01'")},
    "record_diagnose": {"rows": tuples([(0, 1, "c", "o", 1, 1, 1, None), (1, 1, "d", "p", 2, 1, 1, KEY)])},
    "look_up": {"questions": Sql("(0,1,_ascii'GOLD20','c','o',1,NULL),(1,0,_ascii'GOLD20','d','p',1,_ascii'key')")},
    "coupon_load": {"codes": Sql("_ascii'GOLD20',_ascii'OTHER'")},
    "coupon_usage": {"coupon_id": 1},
    "seat_max": {"coupon_id": 1},
    "seeds_page": {"after_id": 0, "last_id": 2},
    "seeds_of": {"ids": Sql("1,2")},
    "seeds_page_end": {"after_id": 0, "limit": 10},
    "seeds_recent": {"limit": 10},
    "seats_count": {"coupon_id": 1, "begin": 1, "end": 20},
    "seats_list": {"coupon_id": 1, "begin": 1, "end": 20, "rows_max": 10},
    "redemption_get": {"id": ID},
    "redemption_get_many": {"ids": Sql("x'00',x'01'")},
    "redemption_live": {"code": Sql("_ascii'GOLD20'"), "order_id": "o"},
    "orders_recorded": {"coupon_id": 1, "claims": Sql("('o','2026-11-22'),('p','2026-11-23')")},
    "overdue": {"id": ID, "expires_at": Sql("'2026-11-22'"), "limit": 10},
    "overdue_of_coupon": {"coupon_id": 1, "limit": 10},
    "found_key_lock": {"ids": Sql("1,2")},
    "found_key_remember": {"rows": KEYS},
    "found_key_read": {"rows": KEYS},
    "transition_find": {"ids": Sql("x'00',x'01'")},
    "transition_lock_coupon": {"id": 1},
    "transition_lock_coupons": {"ids": Sql("1,2")},
    "transition_lock_redemptions": {"keys": tuples([(b"0" * 16, 1), (b"1" * 16, 1)])},
    "transition_write": {
        "rows": tuples(
            [(b"0" * 16, 1, "cancelled", 1, None, None, None, None), (b"1" * 16, 1, "expired", 2, None, None, None, "x")]
        )
    },
    "over_find": {"limits": tuples([(1, 5), (2, 5)])},
    "over_list": {"coupon_id": 1, "max_redemptions": 5, "limit": 10},
    "over_move": {"moves": tuples([(b"0" * 16, 1, 7, 2), (b"1" * 16, 1, 8, 3)])},
    "coupon_lock": {"code": Sql("_ascii'GOLD20'")},
    "coupon_history_find": {"code": Sql("_ascii'GOLD20'"), "below_version": 5, "limit": 10},
    "compared_coupons": {"condition": Sql("c.id > 0"), "limit": 10},
    "ranges_sums": {"ranges": RANGES, "size": 256, "rows_max": 10},
    "ranges_list": {"ranges": RANGES},
    "seats_sitting": {"seats": tuples([(1, 5), (2, 5)])},
    "customers_live": {"customers": tuples([(0, 1, "c"), (1, 2, "d")])},
    "customers_sitting": {"customers": tuples([(0, 1, "c"), (1, 2, "d")])},
    "seats_above": {"coupon_id": 1, "seat": 5, "limit": 10},
    "limits_in_force": {"coupon_id": 1, "below_version": 5, "limit": 10},
    "customers_border": {"customer_id": "c", "coupon_id": 1, "entries": 10},
    "customers_exceeding": {"part": PART},
    "coupon_customers_border": {"coupon_id": 1, "status": "confirmed", "after_id": b"", "entries": 10},
    "coupon_customers_exceeding": {
        "coupon_id": 1, "status": "confirmed", "after_id": b"", "last_id": b"1" * 16, "max_per_customer": 1,
    },
}  # fmt: skip
PLANS = {
    "record": {"c": "PRIMARY", "f": "PRIMARY"},
    "record_landed": {"r": "PRIMARY"},
    "record_diagnose": {
        "c": "PRIMARY", "r": "redemption_live_order", "s": "redemption_customer_seat redemption_seat",
        "k": "redemption_idempotency_key", "f": "PRIMARY",
    },
    "look_up": {
        "c": "coupon_code", "r": "redemption_live_order", "s": "redemption_customer_seat",
        "k": "redemption_idempotency_key", "f": "PRIMARY",
    },
    "coupon_load": {"s": "redemption_seat"},
    "coupon_usage": {"r": "redemption_coupon_expiry"},
    "seat_max": {"s": "redemption_seat"},
    "seeds_page": {"c": "PRIMARY", "s": "redemption_seat"},
    "seeds_of": {"c": "PRIMARY", "s": "redemption_seat"},
    "seeds_page_end": {"c": "PRIMARY"},
    "seeds_recent": {"r": "PRIMARY"},
    "seats_count": {"s": "redemption_seat"},
    "seats_list": {"s": "redemption_seat"},
    "redemption_get": {"r": "PRIMARY"},
    "redemption_get_many": {"r": "PRIMARY"},
    "redemption_live": {"c": "coupon_code"},  # The order is looked for by its unique key while the plan is made.
    "orders_recorded": {"r": "redemption_order"},
    "overdue": {"r": "redemption_expiry"},
    "overdue_of_coupon": {"r": "redemption_coupon_expiry"},
    "found_key_lock": {"c": "PRIMARY"},
    "found_key_remember": {"k": "redemption_idempotency_key"},
    "found_key_read": {"c": "PRIMARY", "k": "redemption_idempotency_key", "f": "PRIMARY"},
    "transition_find": {"r": "PRIMARY"},
    "transition_lock_coupon": {"c": "PRIMARY"},
    "transition_lock_coupons": {"c": "PRIMARY"},
    "transition_lock_redemptions": {"r": "PRIMARY"},
    "transition_write": {"r": "PRIMARY"},
    "over_find": {"s": "redemption_seat"},
    "over_list": {"s": "redemption_seat"},
    "over_move": {"r": "PRIMARY"},
    "coupon_lock": {"c": "coupon_code"},
    "coupon_history_find": {"c": "coupon_code", "h": "PRIMARY"},
    "compared_coupons": {"c": "PRIMARY", "r": "redemption_coupon_status", "s": "redemption_seat"},
    "ranges_sums": {"s": "redemption_seat"},
    "ranges_list": {"s": "redemption_seat"},
    "seats_sitting": {"s": "redemption_seat"},
    "customers_live": {"s": "redemption_customer_seat"},
    "customers_sitting": {"s": "redemption_customer_seat"},
    "seats_above": {"s": "redemption_seat"},
    "limits_in_force": {"h": "PRIMARY"},
    "customers_border": {"s": "redemption_customer_seat"},
    "customers_exceeding": {"s": "redemption_customer_seat", "c": "PRIMARY"},
    "coupon_customers_border": {"s": "redemption_coupon_status"},
    "coupon_customers_exceeding": {"s": "redemption_coupon_status"},
}  # fmt: skip


@pytest.mark.parametrize("rows", [1, 1_000])
@pytest.mark.parametrize("analyzed", [True, False])
@pytest.mark.parametrize("name", VALUES)
async def test_plans(ledger: Ledger, admin: Admin, name: str, *, rows: int, analyzed: bool) -> None:
    """Each table is read by its key, whether it has few rows or many, whether or not the server has counted them lately."""
    # Given
    coupon = await given.coupon(ledger, max_redemptions=1_000, max_per_customer=1)
    await given.coupon(ledger, "OTHER")
    if not analyzed:
        admin.run("ANALYZE TABLE coupon, redemption")
    recorded = await given.endings(
        ledger, *(given.row(ledger, coupon, seat=seat, customer_seat=1) for seat in range(1, rows + 1))
    )
    assert [RecordEnding.RECORDED] * rows == recorded
    if analyzed:
        admin.run("ANALYZE TABLE coupon, redemption")
    # When
    statement = Query(name)(**VALUES[name])
    plan = await ledger._reading.fetch("EXPLAIN " + statement, given.soon())
    # Then
    used: dict[str, set[str]] = {}
    for step in plan:
        if re.fullmatch("[cfhkrs]", step[2] or "") and step[2] in PLANS[name]:
            used.setdefault(step[2], set()).add(step[5])
            assert "ALL" != step[3]
    expected = {table: set(keys.split()) for table, keys in PLANS[name].items()}
    assert {table: used.get(table) for table in expected} == expected
