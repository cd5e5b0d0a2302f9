"""Which loads are shared, and which are not."""

import asyncio
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

from service.counts import Counts
from service.loads import STATEMENT_INTERVAL_S, Loads
from service.model import LoadedCoupon
from tests.unit.scripted import COUPON
from tests.waiting import until

CODE = COUPON.code


class Ledger:
    """Answers when it is told to, with the coupon or without."""

    def __init__(self) -> None:
        self.coupons = self
        self.gate = asyncio.Event()
        self.gate.set()
        self.asked = 0
        self.knows = True

    async def load(self, codes: list[str], _deadline: float) -> dict[str, LoadedCoupon]:
        self.asked += 1
        knows = self.knows
        await self.gate.wait()
        return {code: LoadedCoupon(replace(COUPON, code=code), 0) for code in codes if knows}


async def nothing(*_: object, **__: object) -> None:
    pass


def loads_of(ledger: Ledger) -> Loads:
    parts: Any = (SimpleNamespace(load=nothing), ledger, Counts())
    return Loads(*parts)


async def asks(ledger: Ledger) -> None:
    """Until the ledger has been asked."""
    asked = ledger.asked
    await until(lambda: ledger.asked > asked, what="the ledger is asked")


async def test_a_missing_counter_is_loaded_once() -> None:
    """Whoever finds no counter while it is loaded already gets that load's word, also after its statement has begun."""
    ledger = Ledger()
    loads = loads_of(ledger)
    await loads.load(CODE)
    await asyncio.sleep(2 * STATEMENT_INTERVAL_S)
    ledger.gate.clear()
    first = asyncio.create_task(loads.load_missing(CODE))
    await asks(ledger)
    later = [asyncio.create_task(loads.load_missing(CODE)) for _ in range(100)]
    await asyncio.sleep(0)
    ledger.gate.set()
    assert [COUPON.id] * 101 == await asyncio.gather(first, *later)
    assert 2 == ledger.asked


async def test_a_late_reply_to_a_claim_loads_nothing_more() -> None:
    """A claim from before a load may be answered just after it; a counter that is missing later is loaded again."""
    ledger = Ledger()
    loads = loads_of(ledger)
    await loads.load(CODE)
    assert COUPON.id == await loads.load_missing(CODE)
    assert 1 == ledger.asked
    await asyncio.sleep(2 * STATEMENT_INTERVAL_S)
    assert COUPON.id == await loads.load_missing(CODE)
    assert 2 == ledger.asked


async def test_what_is_asked_for_anew_is_read_anew() -> None:
    """A counter that is there and differs: only a statement that begins later has the last word."""
    ledger = Ledger()
    loads = loads_of(ledger)
    await loads.load(CODE)
    ledger.gate.clear()
    first = asyncio.create_task(loads.load(CODE))
    await asks(ledger)
    later = asyncio.create_task(loads.load(CODE))
    ledger.gate.set()
    await asyncio.gather(first, later)
    assert 3 == ledger.asked


async def test_a_coupon_made_meanwhile() -> None:
    """A statement that began before the coupon was made does not say to those who come later that there is none."""
    ledger = Ledger()
    loads = loads_of(ledger)
    ledger.gate.clear()
    ledger.knows = False
    early = asyncio.create_task(loads.load_missing(CODE))
    await asks(ledger)
    ledger.knows = True
    late = asyncio.create_task(loads.load_missing(CODE))
    await asyncio.sleep(0)
    ledger.gate.set()
    assert (None, COUPON.id) == (await early, await late)
