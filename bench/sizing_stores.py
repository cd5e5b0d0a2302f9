"""What the stores need: bytes in Redis for each thing that is there, bytes in MariaDB for each redemption."""

import asyncio
import itertools
import secrets
import sys
import time
import uuid
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

import pymysql
import redis
import uuid_utils
from pydantic import SecretStr

from deploy.local import MariaDB, Redis
from service.config import Settings
from service.counters import REFILL_MAX_SEATS, ClaimBatch, Counters, key
from service.errors import CounterUnavailable
from service.ledger import Ledger, migrations
from service.model import Coupon, CouponStatus, LoadedCoupon, NewRedemption, RecordEnding, Wish

CODE_LENGTH = 10
ID_LENGTHS = (36, 128)
"""A UUID as text, and the longest that the API takes."""
SMALL, LARGE = 50, 100_000
"""Entries of a hash or set below and far above 64, where deploy/stores/redis.conf has Redis change its form."""
COUPONS = 10_000
CLAIM_BATCH = 500
RECORD_BATCH = 256
MILLION = 1_000_000
PAGE_BYTES = 16_384
MAXMEMORY_MB = 256
PARTS = {"pending": "a claim in flight", "customers": "a customer of a limited coupon", "free": "a free seat"}
DEADLINE_S = 60.0
LONG_AGO = datetime(2020, 1, 1, tzinfo=UTC)


def table(title: str, heads: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Prints a table in Markdown."""
    print(f"\n### {title}\n\n| {' | '.join(heads)} |\n|{'---|' * len(heads)}")
    for row in rows:
        print("| " + " | ".join(f"{cell:,}" if isinstance(cell, int) else str(cell) for cell in row) + " |")
    sys.stdout.flush()


def name(length: int) -> str:
    """A name in no order, of this length: a UUID, or hexadecimal digits."""
    return str(uuid.uuid4()) if length <= ID_LENGTHS[0] else secrets.token_hex(length // 2)


def say(text: str) -> None:
    """To the person who waits; standard output is for the tables."""
    print(text, file=sys.stderr, flush=True)


# --- Redis ---------------------------------------------------------------------------------------------------------


def loaded(code: str, number: int, *, max_per_customer: int | None = None) -> LoadedCoupon:
    """A coupon with a large limit, as the ledger gives it."""
    coupon = Coupon(
        number, code, 1_000_000, max_per_customer, LONG_AGO, None, CouponStatus.ACTIVE, {}, 1, LONG_AGO, LONG_AGO
    )  # fmt: skip
    return LoadedCoupon(coupon, 0)


class Memory:
    """What Redis says of its memory. Figures are taken while nobody else is connected, whose buffers would count."""

    def __init__(self, store: Redis) -> None:
        self._client = redis.Redis.from_url(store.operator_url)

    def used(self) -> int:
        """Bytes that Redis has taken from the system's allocator; `maxmemory` bounds this."""
        return int(self._client.info("memory")["used_memory"])

    def of(self, code: str, part: str) -> int:
        """Bytes of one key with all that is in it."""
        return int(self._client.memory_usage(key(code, part), samples=0) or 0)

    def empty(self) -> None:
        """No keys; the scripts stay."""
        self._client.flushall()


async def measure_redis(store: Redis) -> None:
    """Bytes of an idle counter, then of each entry of the three keys that grow."""
    memory = Memory(store)
    settings = Settings(redis_url=SecretStr(store.url), claim_batch_max_requests=CLAIM_BATCH)
    counters = await Counters.connect(settings)
    started = memory.used()
    for first in range(0, COUPONS, CLAIM_BATCH):
        await counters.load([loaded(f"C{number:09}", number + 1) for number in range(first, first + CLAIM_BATCH)])
    idle = (memory.used() - started) / COUPONS
    alone = memory.of("C000000000", "counter")
    rows: list[tuple[str, str, int, int, float]] = [("an idle coupon", f"code of {CODE_LENGTH}", COUPONS, alone, idle)]
    wanted = [(part, length, count) for part in ("pending", "customers") for length in ID_LENGTHS for count in (SMALL, LARGE)]
    wanted += [("free", 0, count) for count in (SMALL, 10 * SMALL, LARGE)]
    for part, length, count in wanted:
        of, taken = await grown(counters, memory, part, count=count, length=length)
        # What a few entries take is lost among Redis' other buffers; the key itself says it exactly.
        each = taken / count if count == LARGE else of / count
        rows.append((PARTS[part], f"id of {length}" if length else "", count, of, each))
    await counters.close()
    heads = ("what", "", "so many", "`MEMORY USAGE` of the key", "bytes for each")
    table("Bytes in Redis", heads, [(*row[:4], f"{row[4]:.0f}") for row in rows])
    print(f"\nRedis with the scripts and nothing else: {started:,} bytes.")
    room = MAXMEMORY_MB * 1024 * 1024 - started
    held = [(row[0], row[1], f"{room / row[4] / MILLION:.1f} million") for row in rows if row[2] in (COUPONS, LARGE)]
    table(f"What {MAXMEMORY_MB} MB hold, of one kind alone", ("what", "", "so many"), held)


async def grown(counters: Counters, memory: Memory, part: str, *, count: int, length: int) -> tuple[int, int]:
    """Bytes of a coupon's key with so many entries, and all that Redis has taken for them."""
    memory.empty()
    code = "C000000000"
    await counters.load([loaded(code, 1, max_per_customer=1 if part == "customers" else None)])
    before = memory.used()
    if part == "free":
        await free_all(counters, code, count)
    else:
        await claim_all(counters, code, count=count, length=length, settle=part == "customers")
    await asyncio.sleep(1.5)  # A table that has grown is moved piece by piece, also while nobody asks.
    return memory.of(code, part), memory.used() - before


async def claim_all(counters: Counters, code: str, *, count: int, length: int, settle: bool) -> None:
    """So many claims. `settle`: they are recorded, so they leave `pending`; the customers' counts stay."""
    for first in range(0, count, CLAIM_BATCH):
        wishes = [Wish(name(length), name(length)) for _ in range(min(CLAIM_BATCH, count - first))]
        (claims,) = await counters.claim([ClaimBatch(code, wishes)])
        if isinstance(claims, CounterUnavailable):
            raise claims
        if settle:
            settled = [(wish.order_id, one.seat) for wish, one in zip(wishes, claims, strict=True)]
            await counters.claim([ClaimBatch(code, [], settled)])


async def free_all(counters: Counters, code: str, count: int) -> None:
    """A counter that has handed out so many seats, all of which have become free."""
    changed = replace(loaded(code, 1).coupon, version=2)
    await counters.load([LoadedCoupon(changed, count)])
    look = await counters.look(code)
    assert look is not None
    for first in range(0, count, REFILL_MAX_SEATS):
        seats = range(first + 1, min(first + REFILL_MAX_SEATS, count) + 1)
        assert await counters.refill(code, look, seats=seats, complete=True) == len(seats)


# --- The ledger ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Load:
    """Redemptions to record: the length of the customers' and orders' ids, and whether the coupon limits customers."""

    length: int
    limited: bool

    @property
    def title(self) -> str:
        """For the table."""
        return f"ids of {self.length}, {'one per customer' if self.limited else 'no customer limit'}"


def rows_of(store: MariaDB, statement: str) -> Sequence[tuple[Any, ...]]:
    """What a statement of the server's administrator returns."""
    root = pymysql.connect(unix_socket=str(store.socket), user="root", database=store.database, autocommit=True)
    with root as connection, connection.cursor() as cursor:
        cursor.execute(statement)
        return list(cursor.fetchall())


def status(store: MariaDB, variable: str) -> int:
    """A counter of SHOW GLOBAL STATUS."""
    ((_, value),) = rows_of(store, f"SHOW GLOBAL STATUS LIKE '{variable}'")
    return int(value)


def file_bytes(store: MariaDB, of: str) -> int:
    """The size of a table's file."""
    return (store.data / store.database / f"{of}.ibd").stat().st_size


def binlog_bytes(store: MariaDB) -> int:
    """The size of all binary logs."""
    return sum(int(row[1]) for row in rows_of(store, "SHOW BINARY LOGS"))


async def measure_ledger(store: MariaDB, count: int) -> None:
    """Bytes on disk for each million redemptions, of the table and each of its indexes; what the logs take beside it."""
    await migrations.run(SecretStr(store.migration_url))
    ledger = await Ledger.connect(Settings(database_url=SecretStr(store.url)))
    by_load: dict[Load, dict[str, float]] = {}
    for load in (Load(36, limited=False), Load(36, limited=True), Load(128, limited=True)):
        rows_of(store, "TRUNCATE TABLE redemption")
        by_load[load] = await recorded(ledger, store, load, count)
    coupons = await coupon_bytes(ledger, store)
    await ledger.close()
    heads = ("of a million redemptions", *(load.title for load in by_load))
    names = list(next(iter(by_load.values())))
    cells = [(label, *(f"{found[label] / MILLION:,.0f} MB" for found in by_load.values())) for label in names]
    table(f"Bytes in MariaDB, measured with {count:,} rows", heads, cells)
    print(f"\nA coupon: {coupons:,.0f} bytes.")


async def recorded(ledger: Ledger, store: MariaDB, load: Load, count: int) -> dict[str, float]:
    """Bytes for each million redemptions, by what takes them."""
    coupon = await ledger.coupon_changes.create(
        f"C{secrets.token_hex(4).upper()}",
        max_redemptions=2_000_000_000,
        max_per_customer=1 if load.limited else None,
        starts_at=None,
        ends_at=None,
        status=CouponStatus.ACTIVE,
        metadata={},
        by="sizing",
        deadline=asyncio.get_running_loop().time() + DEADLINE_S,
    )
    redo, binlog = status(store, "Innodb_os_log_written"), binlog_bytes(store)
    began = time.monotonic()
    seats = itertools.count(1)
    for first in range(0, count, RECORD_BATCH):
        size = min(RECORD_BATCH, count - first)
        batch = [redemption(ledger, coupon, load, next(seats)) for _ in range(size)]
        for answer in await ledger.redemptions.record(batch):
            ending = answer if not isinstance(answer, asyncio.Future) else await answer
            assert ending.ending is RecordEnding.RECORDED
    say(f"{load.title}: {count / (time.monotonic() - began):,.0f} rows/s")
    redo, binlog = status(store, "Innodb_os_log_written") - redo, binlog_bytes(store) - binlog
    rows_of(store, "ANALYZE TABLE redemption")
    pages = dict(rows_of(store, INDEX_PAGES))
    found = {"the file `redemption.ibd`": float(file_bytes(store, "redemption"))}
    found["rows (the primary key)"] = float(pages.pop("PRIMARY")) * PAGE_BYTES
    found.update({f"index `{index}`": float(size) * PAGE_BYTES for index, size in pages.items()})
    found.update({"written to the redo log": float(redo), "binary log, where it is on": float(binlog)})
    return {label: size / count * MILLION for label, size in found.items()}


INDEX_PAGES = (
    "SELECT index_name, stat_value FROM mysql.innodb_index_stats "
    "WHERE database_name = 'usher' AND table_name = 'redemption' AND stat_name = 'size' ORDER BY stat_value DESC"
)


def redemption(ledger: Ledger, coupon: Coupon, load: Load, seat: int) -> NewRedemption:
    """A row as the service makes it: the id appends, the seat is the next one, customer and order come in no order."""
    return NewRedemption(
        id=uuid_utils.uuid7().bytes,
        coupon_id=coupon.id,
        code=coupon.code,
        customer_id=name(load.length),
        order_id=name(load.length),
        seat=seat,
        customer_seat=1 if load.limited else None,
        api_key_id=1,
        created_at=ledger.now(),
        deadline=asyncio.get_running_loop().time() + DEADLINE_S,
    )


async def coupon_bytes(ledger: Ledger, store: MariaDB) -> float:
    """Bytes on disk of each coupon, in no order of their codes, without metadata."""
    before = file_bytes(store, "coupon")
    deadline = asyncio.get_running_loop().time() + DEADLINE_S
    for _ in range(0, COUPONS, RECORD_BATCH):
        making = [
            ledger.coupon_changes.create(
                secrets.token_hex(CODE_LENGTH // 2).upper(), max_redemptions=1_000, max_per_customer=1, starts_at=None,
                ends_at=None, status=CouponStatus.ACTIVE, metadata={}, by="sizing", deadline=deadline,
            )
            for _ in range(RECORD_BATCH)
        ]  # fmt: skip
        await asyncio.gather(*making)
    return (file_bytes(store, "coupon") - before) / (COUPONS // RECORD_BATCH * RECORD_BATCH)
