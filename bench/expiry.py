"""From `expires_at` to "another order can have it", at so many expiries a second: `python -m bench.expiry`.

Private stores, one coupon, holds that end one after the other, and `usher-reconciler run`. Somebody takes seats out of the
counter as soon as they are free; what counts is how long after its hold's time each of them is had.
"""

import argparse
import asyncio
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from pathlib import Path

import redis.asyncio
import uuid_utils
from pydantic import SecretStr

from deploy.local import MariaDB, Redis
from service.config import Settings
from service.counters import Counters, key
from service.ledger import Ledger, migrations
from service.ledger.coupon_changes import CouponChanges
from service.model import Coupon, CouponStatus, LoadedCoupon, NewRedemption, Record, RecordEnding

CODE = "HOT"
BATCH_ROWS = 256
POLL_S = 0.01
TAKE_SEATS = 10_000
DEADLINE_S = 60.0
PROMISED_S = 3.0
RECORDED_PER_S = 2_000
"""What even a busy machine records: the first hold must not end before the last is recorded."""


def main() -> None:
    """Measure, and print one line a run."""
    asked = argparse.ArgumentParser(description=__doc__)
    asked.add_argument("--rate", type=int, default=1_000, help="expiries a second")
    asked.add_argument("--seconds", type=int, default=10)
    asked.add_argument("--rounds", type=int, default=3)
    asked.add_argument("--reconcilers", type=int, default=1)
    options = asked.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="usher-bench-"))
    try:
        with MariaDB(folder / "mariadb") as mariadb, Redis(folder / "redis") as store:
            settings = Settings(
                database_url=SecretStr(mariadb.url),
                migration_database_url=SecretStr(mariadb.migration_url),
                redis_url=SecretStr(store.url),
            )
            asyncio.run(migrations.run(settings.migration_url))
            for turn in range(options.rounds):
                late = asyncio.run(measure(options, settings, store.operator_url, f"{CODE}-{turn}"))
                print(describe(late), flush=True)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def describe(late: list[float]) -> str:
    """How late the seats were had, in seconds."""
    late = sorted(late)
    p50, p99 = (late[int(len(late) * share)] for share in (0.5, 0.99))
    broken = sum(one >= PROMISED_S for one in late)
    return (
        f"{len(late)} holds: p50 {p50:.2f} s  p99 {p99:.2f} s  max {late[-1]:.2f} s  {broken} after {PROMISED_S:.0f} s or more"
    )


async def measure(options: argparse.Namespace, settings: Settings, operator_url: str, code: str) -> list[float]:
    """How many seconds after their holds' time the seats were had; one for each hold."""
    count = options.rate * options.seconds
    ledger, counters = await Ledger.connect(settings), await Counters.connect(settings)
    client = redis.asyncio.Redis.from_url(operator_url)
    try:
        coupon = await create(ledger.coupon_changes, code, count)
        await counters.load([LoadedCoupon(coupon, count)])
        begin = ledger.now() + timedelta(seconds=2 + count / RECORDED_PER_S)
        ends = [begin + timedelta(seconds=n / options.rate) for n in range(count)]
        await record(ledger, coupon, ends)
        assert ledger.now() < begin, "the machine is too busy: the first hold ended before the last was recorded"
        with reconcilers(settings, options.reconcilers):
            return await take(ledger, client, code, ends)
    finally:
        await client.aclose()
        await counters.close()
        await ledger.close()


async def create(changes: CouponChanges, code: str, limit: int) -> Coupon:
    """A coupon with so many seats."""
    return await changes.create(
        code, max_redemptions=limit, max_per_customer=None, starts_at=None, ends_at=None, status=CouponStatus.ACTIVE,
        metadata={}, by="bench", deadline=asyncio.get_running_loop().time() + DEADLINE_S,
    )  # fmt: skip


async def record(ledger: Ledger, coupon: Coupon, ends: list[datetime]) -> None:
    """A hold for each time at which one ends, on seats from 1 on."""
    deadline = asyncio.get_running_loop().time() + DEADLINE_S
    for start in range(0, len(ends), BATCH_ROWS):
        rows = [
            NewRedemption(
                id=uuid_utils.uuid7().bytes, coupon_id=coupon.id, code=coupon.code, customer_id=f"customer-{n}",
                order_id=f"order-{n}", seat=n + 1, customer_seat=None, api_key_id=1, created_at=ledger.now(),
                deadline=deadline, expires_at=ends[n],
            )
            for n in range(start, min(start + BATCH_ROWS, len(ends)))
        ]  # fmt: skip
        endings = [one if isinstance(one, Record) else await one for one in await ledger.redemptions.record(rows)]
        assert {RecordEnding.RECORDED} == {one.ending for one in endings}


async def take(ledger: Ledger, client: "redis.asyncio.Redis", code: str, ends: list[datetime]) -> list[float]:
    """Takes all seats as they become free."""
    late: list[float] = []
    until = ends[-1] + timedelta(seconds=DEADLINE_S)
    while len(late) < len(ends) and ledger.now() < until:
        seats = await client.spop(key(code, "free"), TAKE_SEATS) or ()
        now = ledger.now()
        late += [(now - ends[int(seat) - 1]).total_seconds() for seat in seats]
        await asyncio.sleep(POLL_S)
    assert len(late) == len(ends), f"{len(ends) - len(late)} seats never came"
    return late


@contextmanager
def reconcilers(settings: Settings, count: int) -> Iterator[None]:
    """So many programs that end overdue holds; how much of a processor they took is printed at the end."""
    variables = {
        "USHER_DATABASE_URL": settings.database_url.get_secret_value(),
        "USHER_REDIS_URL": settings.redis_url.get_secret_value(),
        "USHER_LOG_LEVEL": "warning",
    }
    programs = [subprocess.Popen([sys.executable, "-m", "reconciler.cli", "run"], env=variables) for _ in range(count)]
    begun_at = time.monotonic()
    try:
        yield
        took_s = time.monotonic() - begun_at
        used_s = sum(processor_s(program.pid) for program in programs)
        print(f"{used_s / took_s:.0%} of a processor  ", end="")
    finally:
        for program in programs:
            program.terminate()
        for program in programs:
            program.wait()


def processor_s(pid: int) -> float:
    """Seconds of a processor that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / 100


if __name__ == "__main__":
    main()
