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
VALUES: dict[str, dict[str, object]] = {
    "record": {"rows": Sql("(x'00',1,'c','o',1,1,1,'2026-11-22'),(x'01',1,'c','p',2,2,1,'2026-11-22')")},
    "record_landed": {"ids": Sql("x'00',x'01'")},
    "record_diagnose": {"rows": tuples([(0, 1, "c", "o", 1, 1), (1, 1, "d", "p", 2, 1)])},
    "look_up": {"questions": Sql("(0,1,_ascii'GOLD20','c','o'),(1,0,_ascii'GOLD20','d','p')")},
    "coupon_load": {"codes": Sql("_ascii'GOLD20',_ascii'OTHER'")},
    "coupon_usage": {"coupon_id": 1},
    "seat_max": {"coupon_id": 1},
    "seats_count": {"coupon_id": 1, "begin": 1, "end": 20, "rows_max": 10},
    "seats_list": {"coupon_id": 1, "begin": 1, "end": 20, "rows_max": 10},
    "redemption_get": {"id": ID},
}
PLANS = {
    "record": {"c": "PRIMARY"},
    "record_landed": {"r": "PRIMARY"},
    "record_diagnose": {"c": "PRIMARY", "r": "redemption_live_order", "s": "redemption_customer_seat redemption_seat"},
    "look_up": {"c": "coupon_code", "r": "redemption_live_order", "s": "redemption_customer_seat"},
    "coupon_load": {"s": "redemption_seat"},
    "coupon_usage": {"r": "redemption_coupon_status"},
    "seat_max": {"s": "redemption_seat"},
    "seats_count": {"s": "redemption_seat"},
    "seats_list": {"s": "redemption_seat"},
    "redemption_get": {"r": "PRIMARY"},
}


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
        if re.fullmatch("[crs]", step[2] or "") and step[2] in PLANS[name]:
            used.setdefault(step[2], set()).add(step[5])
            assert "ALL" != step[3]
    expected = {table: set(keys.split()) for table, keys in PLANS[name].items()}
    assert {table: used.get(table, expected[table]) for table in expected} == expected
