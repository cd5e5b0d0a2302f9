"""The SQL that several ways of counting have in common.

Their own table is `bench_counter`: a coupon's limit and how much of it is used, in one row or in several parts.
"""

from collections import Counter
from collections.abc import Iterable, Sequence

from bench.strategies.model import Row
from service.ledger.literals import text

INSERT = (
    "INSERT INTO redemption (id, coupon_id, customer_id, order_id, status, live_order_id, api_key_id, created_at, confirmed_at)"
)
API_KEY_ID = 1
"""The rivals look at no key; the column wants one."""


def cells(row: Row) -> str:
    """A row's values, as INSERT names them."""
    order = text(row.order_id)
    return (
        f"x'{row.id.replace('-', '')}',{row.coupon_id},{text(row.customer_id)},{order},'confirmed',{order},{API_KEY_ID},"
        f"'{row.created_at}','{row.created_at}'"
    )


def insert(rows: Iterable[Row]) -> str:
    """All of these rows in one statement."""
    return f"{INSERT} VALUES {','.join([f'({cells(row)})' for row in rows])}"


def count_one(row: Row, part: int = 0) -> str:
    """The conditional update: it affects one row, or none where nothing is left."""
    where = f"coupon_id = {row.coupon_id} AND part = {part} AND used < max_redemptions"
    return f"UPDATE bench_counter SET used = used + 1 WHERE {where}"


def count_up_to(coupon_id: int, count: int) -> str:
    """Takes so many uses of a coupon, or as many as are left: its reply has the number in place of a generated id."""
    taken = f"LAST_INSERT_ID(LEAST(max_redemptions - used, {count}))"
    return f"UPDATE bench_counter SET used = used + {taken} WHERE coupon_id = {coupon_id} AND part = 0"


def take_back(row: Row) -> str:
    """One use that was counted and not sold."""
    return f"UPDATE bench_counter SET used = used - 1 WHERE coupon_id = {row.coupon_id} AND part = 0"


def read_counter(row: Row, into: str = "") -> str:
    """How much is used, and the limit; within a compound statement into two variables."""
    target = f" INTO {into}" if into else ""
    return f"SELECT used, max_redemptions{target} FROM bench_counter WHERE coupon_id = {row.coupon_id} AND part = 0"


def parts_left(row: Row) -> str:
    """The parts of a split counter that have something left."""
    return f"SELECT part FROM bench_counter WHERE coupon_id = {row.coupon_id} AND used < max_redemptions"


def sell_or_signal(row: Row, part: int = 0) -> str:
    """Row and count in one transaction and one round trip; SIGNAL where nothing is left.

    The count comes last, so that the counter's row is locked no longer than from there to the commit.
    """
    return (
        f"BEGIN NOT ATOMIC START TRANSACTION; {insert([row])}; {count_one(row, part)}; "
        "IF ROW_COUNT() = 1 THEN COMMIT; ELSE ROLLBACK; SIGNAL SQLSTATE '45000'; END IF; END"
    )


def sell_all_or_signal(rows: Sequence[Row]) -> str:
    """As `sell_or_signal`, for many rows of several coupons: all of them, or none and SIGNAL where not enough is left for all.

    Rows by their orders and counters by their coupons: two workers with the same ones never wait for each other in a circle.
    """
    counts = [
        f"UPDATE bench_counter SET used = used + {count} "
        f"WHERE coupon_id = {coupon_id} AND part = 0 AND used + {count} <= max_redemptions; "
        "IF ROW_COUNT() = 0 THEN ROLLBACK; SIGNAL SQLSTATE '45000'; END IF; "
        for coupon_id, count in sorted(Counter([row.coupon_id for row in rows]).items())
    ]
    written = insert(sorted(rows, key=lambda row: row.order_id))
    return f"BEGIN NOT ATOMIC START TRANSACTION; {written}; {''.join(counts)}COMMIT; END"


def find_coupon(code: str) -> str:
    """A coupon's id."""
    return f"SELECT id FROM coupon WHERE code = {text(code)}"


def find_live(row: Row) -> str:
    """The order's live redemption: id, customer and time of creation as text."""
    return (
        "SELECT LOWER(INSERT(INSERT(INSERT(INSERT(HEX(id), 9, 0, '-'), 14, 0, '-'), 19, 0, '-'), 24, 0, '-')), customer_id, "
        "DATE_FORMAT(created_at, '%Y-%m-%dT%H:%i:%s.%f') FROM redemption "
        f"WHERE coupon_id = {row.coupon_id} AND live_order_id = {text(row.order_id)}"
    )
