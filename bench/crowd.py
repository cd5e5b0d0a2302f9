"""A ledger full of data: half of the redemptions on the hot coupon, the others on ten thousand coupons by Zipf's law.

Customers and orders are random, so that none of their keys is in order: a new row goes anywhere in them, as in a ledger that
has grown for years. Seats and ids ascend, as they do there. The server makes it all by itself, in two sessions.
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from bench.stores import administrator
from bench.wrk import CODE
from deploy.local import MariaDB

MANY = 10_000
"""Coupons beside the hot one: CODE-1 and so on."""
LIMIT = 2_000_000_000
SESSIONS = 2
BATCH_ROWS = 20_000

HOT = """
INSERT INTO coupon (id, code, max_redemptions, status, metadata, version, created_at, updated_at)
VALUES (1, '{code}', {limit}, 'active', '{{}}', 1, UTC_TIMESTAMP(6), UTC_TIMESTAMP(6))
"""
OTHERS = """
INSERT INTO coupon (id, code, max_redemptions, status, metadata, version, created_at, updated_at)
SELECT seq + 1, CONCAT('{code}-', seq), {limit}, 'active', '{{}}', 1, UTC_TIMESTAMP(6), UTC_TIMESTAMP(6)
FROM seq_1_to_{many}
"""
REDEMPTIONS = """
INSERT INTO redemption
    (id, coupon_id, customer_id, order_id, status, seat, live_order_id, api_key_id, created_at, confirmed_at)
SELECT
    UNHEX(LPAD(HEX(r.seq), 32, '0')), r.coupon_id, MD5(-r.seq), r.order_id, 'confirmed',
    IF(r.coupon_id = 1, (r.seq + 1) DIV 2, r.seq), r.order_id, 1, UTC_TIMESTAMP(6), UTC_TIMESTAMP(6)
FROM (
    SELECT seq, MD5(seq) AS order_id, IF(seq % 2, 1, 1 + FLOOR(POW({many}, RAND()))) AS coupon_id FROM seq_{begin}_to_{end}
) r
"""
ONE = """
INSERT INTO coupon (code, max_redemptions, status, metadata, version, created_at, updated_at)
VALUES ('{code}', {limit}, 'active', '{{}}', 1, UTC_TIMESTAMP(6), UTC_TIMESTAMP(6))
"""
USED = """
INSERT INTO redemption
    (id, coupon_id, customer_id, order_id, status, seat, live_order_id, api_key_id, created_at, confirmed_at)
SELECT CONCAT(UNHEX('{first}'), UNHEX(LPAD(HEX(seq), 24, '0'))), {coupon_id}, MD5(-seq), CONCAT('{code}-', seq), 'confirmed',
    seq, CONCAT('{code}-', seq), 1, UTC_TIMESTAMP(6), UTC_TIMESTAMP(6)
FROM seq_1_to_{used}
"""


def fill(mariadb: MariaDB, rows: int, told: Callable[[int], None]) -> None:
    """The coupons and so many redemptions; `told` hears how many there are, from several threads."""
    with administrator(mariadb) as session, session.cursor() as cursor:
        cursor.execute(HOT.format(code=CODE, limit=LIMIT))
        cursor.execute(OTHERS.format(code=CODE, limit=LIMIT, many=MANY))
    pieces = [(begin, min(begin + BATCH_ROWS - 1, rows)) for begin in range(1, rows + 1, BATCH_ROWS)]
    with ThreadPoolExecutor(SESSIONS) as threads:
        for piece in threads.map(lambda piece: insert(mariadb, piece), pieces):
            told(piece)
    with administrator(mariadb) as session, session.cursor() as cursor:
        cursor.execute("ANALYZE TABLE coupon, redemption")
        # Writes all pages that are in memory alone: nothing of the filling goes on beside the first measurements.
        cursor.execute("FLUSH TABLES redemption FOR EXPORT")
        cursor.execute("UNLOCK TABLES")


def insert(mariadb: MariaDB, piece: tuple[int, int]) -> int:
    """The redemptions of these numbers; how many."""
    begin, end = piece
    with administrator(mariadb) as session, session.cursor() as cursor:
        cursor.execute("SET unique_checks = 0")
        cursor.execute(REDEMPTIONS.format(begin=begin, end=end, many=MANY))
    return end - begin + 1


def coupon(mariadb: MariaDB, code: str, *, limit: int, used: int) -> None:
    """A coupon of which so many uses are taken, on its first seats."""
    with administrator(mariadb) as session, session.cursor() as cursor:
        cursor.execute(ONE.format(code=code, limit=limit))
        cursor.execute(USED.format(code=code, used=used, first=f"{cursor.lastrowid:08X}", coupon_id=cursor.lastrowid))
