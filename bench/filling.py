"""Ledgers filled by the server itself, from its sequence tables, past Usher: a million rows in half a minute."""

import sys
from collections.abc import Iterator
from time import monotonic

import pymysql

from deploy.local import MariaDB

BATCH_ROWS = 50_000
TELL_EVERY_S = 10.0

COUPONS = """
INSERT INTO coupon
    (code, max_redemptions, max_per_customer, ends_at, status, metadata, version, created_at, updated_at)
SELECT CONCAT('C-', seq), 1000000, IF(seq % 2, 1, NULL), IF(seq % 3, NULL, '9999-01-01'), 'active', '{{}}', 1,
    UTC_TIMESTAMP(6), UTC_TIMESTAMP(6)
FROM seq_{begin}_to_{end}
"""
REDEMPTIONS = """
INSERT INTO redemption
    (id, coupon_id, customer_id, order_id, status, seat, customer_seat, live_order_id, api_key_id, created_at, confirmed_at)
SELECT UNHEX(LPAD(HEX(r.seq), 32, '0')), r.coupon_id, CONCAT('customer-', r.seq), CONCAT('order-', r.seq), 'confirmed',
    r.seat, r.customer_seat, CONCAT('order-', r.seq), 1, UTC_TIMESTAMP(6), UTC_TIMESTAMP(6)
FROM ({source}) r
"""
ZIPF = """
SELECT seq, GREATEST(1, FLOOR(POW({coupons}, RAND()))) AS coupon_id, seq % 1000000 + 1 AS seat, NULL AS customer_seat
FROM seq_{begin}_to_{end}
"""
"""Whose coupon's rank is the power of the number of coupons by a random number: by Zipf's law with exponent 1."""
ON_ONE = "SELECT seq, {coupon_id} AS coupon_id, seq AS seat, 1 AS customer_seat FROM seq_{begin}_to_{end}"


class Filler:
    """The ledger's administrator, with a migrated and empty ledger."""

    def __init__(self, store: MariaDB) -> None:
        self._connection = pymysql.connect(unix_socket=str(store.socket), user="root", database=store.database, autocommit=True)

    def close(self) -> None:
        """Closes the connection."""
        self._connection.close()

    def coupons(self, count: int) -> None:
        """Coupons `C-1` and so on, whose ids are these numbers."""
        for begin, end in pieces(count, "coupons"):
            self.run(COUPONS.format(begin=begin, end=end))

    def redemptions_by_zipf(self, count: int, coupons: int) -> None:
        """So many redemptions of so many coupons, the first ones the busiest."""
        for begin, end in pieces(count, "redemptions"):
            source = ZIPF.format(coupons=coupons, begin=begin, end=end)
            # Two may have drawn one seat of one coupon: the second is left out.
            self.run(REDEMPTIONS.format(source=source) + " ON DUPLICATE KEY UPDATE id = redemption.id")

    def redemptions_of(self, coupon_id: int, count: int) -> None:
        """So many redemptions of one coupon, on its seats from 1 on, one for each customer."""
        for begin, end in pieces(count, "redemptions"):
            self.run(REDEMPTIONS.format(source=ON_ONE.format(coupon_id=coupon_id, begin=begin, end=end)))

    def run(self, statement: str) -> tuple[tuple[object, ...], ...]:
        """A statement's rows."""
        with self._connection.cursor() as cursor:
            cursor.execute(statement)
            return tuple(cursor.fetchall())


def pieces(count: int, of: str) -> Iterator[tuple[int, int]]:
    """From 1 to `count` in pieces, both ends included; how far it is, is told now and then."""
    told_at = monotonic()
    for begin in range(1, count + 1, BATCH_ROWS):
        yield begin, min(begin + BATCH_ROWS - 1, count)
        if monotonic() - told_at >= TELL_EVERY_S:
            told_at = monotonic()
            print(f"{begin - 1 + BATCH_ROWS:,} of {count:,} {of}", file=sys.stderr, flush=True)
