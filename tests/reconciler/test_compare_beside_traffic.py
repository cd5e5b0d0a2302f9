"""check and repair beside full traffic with cancels: nothing is made up, nobody is above the limit, no use is lost."""

import asyncio
import itertools
import random
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import redis.asyncio

from service.claims import Claims
from service.config import Settings
from service.counters import Counters, key
from service.counts import Counts
from service.guesses import Guesses
from service.ledger import Ledger
from service.life import Life
from service.loads import Loads
from service.model import Coupon, Ending, Order
from service.redeem import Redeemer
from service.transition import Transition, Verb
from tests.ledger import given
from tests.reconciler.comparisons import check, compared, repair
from tests.stores import Admin

CODE = "GOLD20"
LIMIT = 300
CUSTOMERS = 60
CLIENTS = 40
PER_CUSTOMER = 7
CHECKS_MIN = 3


class Service:
    """A service without its HTTP side, and clients that redeem and cancel."""

    def __init__(self, settings: Settings, ledger: Ledger, counters: Counters) -> None:
        counts = Counts()
        loads = Loads(counters, ledger, counts)
        self._claims = Claims(counters, ledger, loads, settings, counts=counts)
        self._life = Life(self._claims, ledger, settings, counts)
        guesses = Guesses(loads, ledger, settings)
        self._redeemer = Redeemer(self._claims, loads, ledger, settings, guesses=guesses, life=self._life, counts=counts)
        self._numbers = itertools.count(1)
        self.endings: Counter[str] = Counter()

    async def redeem(self, customer: str) -> bytes | None:
        """The id of a new redemption; None for a refusal."""
        answer = await self._redeemer.redeem(Order(CODE, customer, f"order-{next(self._numbers)}", 1))
        self.endings[answer.refusal or answer.ending.value] += 1
        return answer.redemption.id if answer.redemption is not None else None

    async def cancel(self, redemption: bytes) -> None:
        """Ends one."""
        until = asyncio.get_running_loop().time() + 5
        await self._life.carry_out(Transition(Verb.CANCEL, redemption), until)

    @asynccontextmanager
    async def busy(self) -> AsyncIterator[None]:
        """Clients redeem, and cancel most of what they got, until the end of the block; then all has come to its end."""
        stop = asyncio.Event()
        clients = [asyncio.create_task(self._client(random.Random(n), stop)) for n in range(CLIENTS)]
        try:
            yield
        finally:
            stop.set()
            await asyncio.gather(*clients)
            await self._redeemer.drain(10)

    async def _client(self, dice: random.Random, stop: asyncio.Event) -> None:
        mine: list[bytes] = []
        while not stop.is_set():
            if mine and dice.random() < 0.5:
                await self.cancel(mine.pop(dice.randrange(len(mine))))
            else:
                redemption = await self.redeem(f"customer-{dice.randrange(CUSTOMERS)}")
                mine += [redemption] if redemption is not None else []

    async def fill(self) -> int:
        """Redeems until the coupon is exhausted; how many it took."""
        got = 0
        for customer in itertools.cycle(f"filler-{n}" for n in range(LIMIT)):
            if await self.redeem(customer) is None:
                return got
            got += 1
        return got


@pytest.fixture
async def service(settings: Settings) -> AsyncIterator[Service]:
    """A service with connections of its own."""
    ledger, counters = await Ledger.connect(settings), await Counters.connect(settings)
    yield Service(settings, ledger, counters)
    await counters.close()
    await ledger.close()


@pytest.fixture
async def coupon(ledger: Ledger) -> Coupon:
    """A coupon that the clients exhaust and free again and again."""
    return await given.coupon(ledger, CODE, max_redemptions=LIMIT, max_per_customer=PER_CUSTOMER)


def live(admin: Admin) -> int:
    count: int = admin.value("SELECT COUNT(*) FROM redemption WHERE live_order_id IS NOT NULL")
    return count


async def test_a_check_beside_traffic_makes_nothing_up(
    ledger: Ledger, counters: Counters, coupon: Coupon, service: Service
) -> None:
    """What is being claimed, recorded, cancelled or released is no fault, however often it is looked at.

    The coupon is never exhausted: a refill beside so much traffic makes a ghost now and then, which would be found.
    """
    await given.changed(ledger, coupon.code, max_redemptions=100_000, max_per_customer=1_000)
    await service.redeem("customer-0")
    async with service.busy():
        checks = 0
        while checks < CHECKS_MIN or service.endings[Ending.CREATED.value] <= LIMIT:
            assert [] == await check(ledger, counters, code=coupon.code)
            checks += 1
    assert [] == await check(ledger, counters)


async def test_repairs_in_a_loop_beside_traffic(
    ledger: Ledger, counters: Counters, coupon: Coupon, service: Service, admin: Admin, raw: redis.asyncio.Redis
) -> None:
    """Two at once, while somebody spoils the counter: nobody is above the limit, and at the end exactly the limit is had."""
    dice = random.Random(1)
    async with service.busy():
        for _ in range(3):
            await raw.sadd(key(CODE, "free"), *dice.sample(range(1, LIMIT), 20))
            await raw.hincrby(key(CODE, "customers"), f"customer-{dice.randrange(CUSTOMERS)}", 1)
            await raw.hset(key(CODE, "counter"), "next", dice.randrange(LIMIT // 2, LIMIT))
            await asyncio.gather(*(compared(ledger, counters, mend=True) for _ in range(2)))
            assert live(admin) <= LIMIT
    await repair(ledger, counters)
    assert [] == await check(ledger, counters)

    before = live(admin)
    assert LIMIT - before == await service.fill()
    assert LIMIT == live(admin)
    assert [] == await check(ledger, counters)
