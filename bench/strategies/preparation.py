"""What a way of counting needs before a run, and how many uses it has sold after it, counted in the ledger."""

from collections.abc import Iterable, Sequence
from contextlib import closing
from typing import Any, NamedTuple

import pymysql
import redis
from pydantic import SecretStr

from bench.strategies import KINDS
from bench.strategies.redis_counter import USED, key
from service.ledger.connections import Address

ON_REDIS = frozenset({"redis-only", "redis-insert"})
WITHOUT_COUNTER = frozenset({"empty", "floor", "usher", "usher-without-redis"})
COUNTING_ON_LEDGER = frozenset(KINDS) - ON_REDIS - WITHOUT_COUNTER
CODES_AT_ONCE = 1_000

TABLE = """
CREATE OR REPLACE TABLE bench_counter (
    coupon_id BIGINT UNSIGNED NOT NULL,
    part SMALLINT UNSIGNED NOT NULL,
    used INT UNSIGNED NOT NULL,
    max_redemptions INT UNSIGNED NOT NULL,
    PRIMARY KEY (coupon_id, part)
) ENGINE = InnoDB
"""
LIVE = """
SELECT c.id, c.code, c.max_redemptions, (
    SELECT COUNT(*) FROM redemption r WHERE r.coupon_id = c.id AND r.status IN ('reserved', 'confirmed')
)
FROM coupon c WHERE c.code IN ({codes})
"""
COUNTED = "SELECT coupon_id, SUM(used) FROM bench_counter GROUP BY coupon_id"
"""A recount is of the coupons that were prepared."""


class Places(NamedTuple):
    """The stores, for accounts that may make tables, and keys of any name: Usher's own account may not."""

    migration_url: str
    operator_url: str


class Coupon(NamedTuple):
    """A coupon with its limit, and how many live redemptions it has."""

    id: int
    code: str
    limit: int
    live: int


class Recount(NamedTuple):
    """What the ledger and the counter say of some coupons, added up.

    `counted`: None for a way of counting that has no counter of its own. `sold_too_many`: live redemptions above a limit; of a
    way that is not durable, by its counter. `sold_too_few`: uses that the counter has given away and no redemption has.
    `uncounted`: redemptions that the counter does not know of, each of them one too many once the limit is reached.
    """

    limit: int
    live: int
    counted: int | None
    sold_too_many: int
    sold_too_few: int
    uncounted: int


def prepare(name: str, codes: Sequence[str], places: Places) -> None:
    """The counters of these limited coupons, as if what is live in the ledger had passed through them."""
    with closing(_connect(places)) as connection:
        coupons = _coupons(connection, codes)
        if name in ON_REDIS:
            with redis.Redis.from_url(places.operator_url) as client, client.pipeline(transaction=False) as pipeline:
                for coupon in coupons:
                    pipeline.hset(key(coupon.code), mapping={USED: coupon.live, "max": coupon.limit})
                pipeline.execute()
        elif name in COUNTING_ON_LEDGER:
            with connection.cursor() as cursor:
                cursor.execute(TABLE)
                statement = "INSERT INTO bench_counter VALUES (%s, %s, %s, %s)"
                cursor.executemany(statement, list(_parts(coupons, KINDS[name].parts)))


def recount(name: str, codes: Sequence[str], places: Places) -> Recount:
    """After a run, with nothing under way any more."""
    with closing(_connect(places)) as connection:
        coupons = _coupons(connection, codes)
        counted = _counted(name, coupons, connection, places)
    durable = KINDS[name].durable
    total = [0, 0, 0]
    for coupon in coupons:
        by_counter = counted.get(coupon.id)
        sold = coupon.live if durable or by_counter is None else by_counter
        total[0] += max(0, sold - coupon.limit)
        if durable and by_counter is not None:
            total[1] += max(0, by_counter - coupon.live)
            total[2] += max(0, coupon.live - by_counter)
    return Recount(
        limit=sum(coupon.limit for coupon in coupons),
        live=sum(coupon.live for coupon in coupons),
        counted=sum(counted.values()) if counted else None,
        sold_too_many=total[0],
        sold_too_few=total[1],
        uncounted=total[2],
    )


def _connect(places: Places) -> "pymysql.Connection[Any]":
    where = Address.of(SecretStr(places.migration_url))
    return pymysql.connect(
        host=where.host, port=where.port, user=where.user, password=where.password, database=where.database, autocommit=True
    )


def _coupons(connection: "pymysql.Connection[Any]", codes: Sequence[str]) -> list[Coupon]:
    """The coupons of these codes; LookupError where one is missing or without a limit."""
    found = []
    with connection.cursor() as cursor:
        for begin in range(0, len(codes), CODES_AT_ONCE):
            some = codes[begin : begin + CODES_AT_ONCE]
            cursor.execute(LIVE.format(codes=",".join(["%s"] * len(some))), list(some))
            found += [Coupon(*row) for row in cursor.fetchall()]
    if len(found) != len(codes) or any(coupon.limit is None for coupon in found):
        raise LookupError("not all of these coupons are in the ledger and have a limit")
    return found


def _parts(coupons: Iterable[Coupon], parts: int) -> Iterable[tuple[int, int, int, int]]:
    """The rows of the counters: limit and uses are spread evenly, the first parts have what remains."""
    for coupon in coupons:
        for part in range(parts):
            used, limit = ((total + parts - 1 - part) // parts for total in (coupon.live, coupon.limit))
            yield coupon.id, part, used, limit


def _counted(name: str, coupons: Sequence[Coupon], connection: "pymysql.Connection[Any]", places: Places) -> dict[int, int]:
    """What the counters say, by the coupons' ids; nothing for a way of counting without any."""
    if name in ON_REDIS:
        with redis.Redis.from_url(places.operator_url) as client, client.pipeline(transaction=False) as pipeline:
            for coupon in coupons:
                pipeline.hget(key(coupon.code), USED)
            used = pipeline.execute()
        return {coupon.id: int(said or 0) for coupon, said in zip(coupons, used, strict=True)}
    if name in COUNTING_ON_LEDGER:
        with connection.cursor() as cursor:
            cursor.execute(COUNTED)
            every = {row[0]: int(row[1]) for row in cursor.fetchall()}
        return {coupon.id: every[coupon.id] for coupon in coupons}
    return {}
