"""Who may name further codes: what is noted, who waits for whom, and what a limited customer hears. The ledger is scripted."""

import asyncio
import itertools
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest
import structlog

from service import loads as loads_module
from service.config import Settings
from service.errors import LedgerUnavailable
from service.flights import UNAVAILABLE
from service.guesses import COUNTED_FOR_S, EVENTS_PER_REFRESH_MAX, NOTE_INTERVAL_S, Guesses
from service.ledger.guesses import digest
from service.loads import Loads
from service.model import GUESSES_MAX, Ending, Guess, LoadedCoupon, LookUp, Noted, Order, Redeemed, Refusal, Standing
from service.paced import Paced
from tests.unit.scripted import COUNTED, COUPON, ScriptedGuesses, ScriptedRedemptions, redemption_for, scripted_ledger, standing

ORDER = Order(code="TYPO", customer_id="ann", order_id="o-1", api_key_id=1)
NOT_FOUND = Redeemed(Ending.REFUSED, refusal=Refusal.COUPON_NOT_FOUND)
CREATED = Redeemed(Ending.CREATED, redemption_for(ORDER))
REFUSED = Noted(counted=False, limited_s=41.3, reached=False)
REACHED = Noted(counted=True, limited_s=60.0, reached=True)
DEADLINE_MS = 1_000


class Flow:
    """Knows the codes in `known`; answers when `gate` is open."""

    def __init__(self, *known: str) -> None:
        self.known = set(known)
        self.asked: list[str] = []
        self.gate = asyncio.Event()
        self.gate.set()

    async def __call__(self, order: Order, _arrived_at: float) -> Redeemed:
        self.asked.append(order.code)
        await self.gate.wait()
        return CREATED if order.code in self.known else NOT_FOUND


def guesses_of(ledger: ScriptedGuesses, *known: str, standings: Sequence[Standing] = ()) -> Guesses:
    loads: Any = SimpleNamespace(known=lambda code: 7 if code in known else None)
    gateway: Any = scripted_ledger(ScriptedRedemptions(standings=list(standings)), ledger)
    return Guesses(loads, gateway, Settings(request_deadline_ms=DEADLINE_MS))


async def redeem(guesses: Guesses, flow: Flow, order: Order = ORDER) -> Redeemed:
    return await guesses.redeem(flow, order, asyncio.get_running_loop().time())


def codes(count: int) -> list[Order]:
    return [ORDER._replace(code=f"CODE-{number}") for number in range(count)]


async def limit(guesses: Guesses, ledger: ScriptedGuesses, left_s: float = 41.3) -> None:
    """As if another process had limited the customer."""
    ledger.limits = {digest(ORDER.api_key_id, ORDER.customer_id): left_s}
    await guesses.refresh()


async def test_a_404_is_noted_first() -> None:
    """And an answer that is none costs the ledger nothing."""
    ledger = ScriptedGuesses()
    guesses = guesses_of(ledger)

    assert [CREATED, NOT_FOUND] == [await redeem(guesses, Flow("TYPO")), await redeem(guesses, Flow())]

    assert [[Guess(1, "ann", "TYPO")]] == ledger.noted


async def test_one_too_many() -> None:
    """It is 429 with what is left, rounded up; a deadline's rest of nothing is one second."""
    for left_s, expected in ((41.3, 42), (0.0, 1)):
        guesses = guesses_of(ScriptedGuesses([REFUSED._replace(limited_s=left_s)]))
        assert Redeemed(Ending.LIMITED, retry_after_s=expected) == await redeem(guesses, Flow())


async def test_the_ledger_fails() -> None:
    """Not noted is not answered 404: the count would be lost."""
    guesses = guesses_of(ScriptedGuesses(error=LedgerUnavailable()))
    assert UNAVAILABLE is await redeem(guesses, Flow())


async def test_the_ledger_hangs() -> None:
    """The answer comes within the deadline."""
    ledger = ScriptedGuesses()
    guesses = guesses_of(ledger)
    hanging = asyncio.Event()

    async def note(_guesses: Sequence[Guess], _deadline: float) -> list[Noted]:
        await hanging.wait()
        return [COUNTED]

    ledger.note = note  # type: ignore[method-assign, assignment]
    async with asyncio.timeout(DEADLINE_MS / 1_000):
        assert UNAVAILABLE is await redeem(guesses, Flow())
    hanging.set()


async def test_a_storm_is_noted_in_batches() -> None:
    """The first at once; what gathers within the interval goes together."""
    ledger = ScriptedGuesses()
    guesses = guesses_of(ledger)
    begin = asyncio.get_running_loop().time()
    assert NOT_FOUND == await redeem(guesses, Flow(), ORDER._replace(customer_id="bob"))
    assert asyncio.get_running_loop().time() - begin < NOTE_INTERVAL_S

    await asyncio.gather(*(redeem(guesses, Flow(), ORDER._replace(customer_id=f"c-{number}")) for number in range(500)))

    assert [1, 500] == [len(batch) for batch in ledger.noted]
    assert asyncio.get_running_loop().time() - begin >= NOTE_INTERVAL_S


async def test_a_failing_ledger_is_not_asked_more_often() -> None:
    """A batch that fails keeps the interval, too."""
    asked_at = []

    async def fail(_questions: Sequence[int]) -> Sequence[int]:
        asked_at.append(asyncio.get_running_loop().time())
        raise LedgerUnavailable

    paced = Paced[int, int](fail, interval_s=0.05, batch_max=10, queue_max=10)
    for number in range(3):
        with pytest.raises(LedgerUnavailable):
            await paced.ask(number)

    assert all(later - earlier >= 0.049 for earlier, later in itertools.pairwise(asked_at))


async def test_one_typing_error_is_noted_once_in_a_while() -> None:
    """A loop over one code costs one note, until it has been forgotten."""
    ledger = ScriptedGuesses()
    guesses = guesses_of(ledger)
    assert [NOT_FOUND] * 50 == [await redeem(guesses, Flow()) for _ in range(50)]
    assert 1 == len(ledger.noted)

    guesses._counted = {guess: until - COUNTED_FOR_S for guess, until in guesses._counted.items()}
    assert NOT_FOUND == await redeem(guesses, Flow())
    assert 2 == len(ledger.noted)


async def test_a_limited_customer_is_not_asked_for() -> None:
    """Known code or unknown: the flow never hears of it, both are looked up alike and refused alike."""
    ledger = ScriptedGuesses()
    nowhere = standing(coupon=None)
    guesses = guesses_of(ledger, "GOLD20", standings=[standing(), nowhere, standing()])
    await limit(guesses, ledger)
    flow = Flow("GOLD20")

    orders = [ORDER._replace(code=code) for code in ("GOLD20", "UNKNOWN", "GOLD20")]
    answers = await asyncio.gather(*(redeem(guesses, flow, order) for order in orders))

    assert [Redeemed(Ending.LIMITED, retry_after_s=42)] * 3 == answers
    assert [] == flow.asked
    assert [] == ledger.noted
    assert 42 == guesses.limited_s(1, "ann")
    assert [0, 0] == [guesses.limited_s(2, "ann"), guesses.limited_s(1, "Ann")]


async def test_a_limited_customer_s_live_order_is_replayed() -> None:
    """Their own; another customer's would say that the code exists."""
    ledger = ScriptedGuesses()
    own, others = redemption_for(ORDER), redemption_for(ORDER)._replace(customer_id="bob")
    guesses = guesses_of(ledger, standings=[standing(live=own), standing(live=others)])
    await limit(guesses, ledger)

    assert Redeemed(Ending.REPLAYED, own) == await redeem(guesses, Flow())
    assert Ending.LIMITED is (await redeem(guesses, Flow())).ending


async def test_a_limited_customer_while_the_ledger_fails() -> None:
    """Nobody knows whether the order is live: 503."""
    ledger = ScriptedGuesses()
    guesses = guesses_of(ledger)

    async def look_up(_questions: Sequence[LookUp], _deadline: float) -> list[Standing]:
        raise LedgerUnavailable

    guesses._ledger.redemptions.look_up = look_up  # type: ignore[assignment, method-assign]
    await limit(guesses, ledger)
    assert UNAVAILABLE is await redeem(guesses, Flow())


async def test_a_limit_ends() -> None:
    """Also where the ledger cannot be read any more."""
    ledger = ScriptedGuesses()
    guesses = guesses_of(ledger)
    await limit(guesses, ledger, left_s=0.05)
    ledger.error = LedgerUnavailable()
    await guesses.refresh()
    assert 1 == guesses.limited_s(1, "ann")
    await asyncio.sleep(0.06)
    assert 0 == guesses.limited_s(1, "ann")
    assert CREATED == await redeem(guesses, Flow("TYPO"))


async def test_a_later_end_is_not_taken_back() -> None:
    """A read that began before the limit moved says the old one."""
    ledger = ScriptedGuesses([REACHED])
    guesses = guesses_of(ledger)
    await redeem(guesses, Flow())
    await limit(guesses, ledger, left_s=5.0)
    assert 60 == guesses.limited_s(1, "ann")


async def test_unknown_codes_under_way_are_as_many_as_may_be_named() -> None:
    """Of 30 at once 20 are on their way; when these have made the customer limited, the others were never asked for."""
    ledger = ScriptedGuesses([COUNTED] * 19 + [REACHED])
    guesses = guesses_of(ledger, "KNOWN", standings=[standing(coupon=None)] * 11)
    flow = Flow("CODE-25", "KNOWN")
    flow.gate.clear()
    orders = [*codes(30), ORDER._replace(code="KNOWN")]
    tasks = [asyncio.create_task(redeem(guesses, flow, order)) for order in orders]
    await asyncio.sleep(0.05)
    assert [order.code for order in orders[:GUESSES_MAX]] == flow.asked
    flow.gate.set()

    answers = await asyncio.gather(*tasks)

    assert [NOT_FOUND] * 20 + [Redeemed(Ending.LIMITED, retry_after_s=60)] * 11 == answers
    assert GUESSES_MAX == len(flow.asked)
    assert not guesses._turns


async def test_turns_are_for_other_codes_of_the_same_customer() -> None:
    """The same code again, another customer and another key do not wait."""
    guesses = guesses_of(ScriptedGuesses(), "KNOWN")
    flow = Flow()
    flow.gate.clear()
    others = [
        ORDER._replace(code="CODE-3"),
        ORDER._replace(customer_id="bob"),
        ORDER._replace(api_key_id=2),
        ORDER._replace(code="KNOWN", customer_id="bob"),
    ]
    tasks = [asyncio.create_task(redeem(guesses, flow, order)) for order in [*codes(20), *others]]
    await asyncio.sleep(0.05)
    assert [*(f"CODE-{number}" for number in range(20)), "CODE-3", "TYPO", "TYPO", "KNOWN"] == flow.asked
    flow.gate.set()
    await asyncio.gather(*tasks)
    assert not guesses._turns


async def test_who_waits_goes_on_when_codes_turn_out_to_exist() -> None:
    """A hundred first uses of as many coupons by one customer are no guesses."""
    ledger = ScriptedGuesses()
    orders = codes(100)
    guesses = guesses_of(ledger)
    assert [CREATED] * 100 == await asyncio.gather(*(redeem(guesses, Flow(*(o.code for o in orders)), one) for one in orders))
    assert [] == ledger.noted


async def test_waiting_has_an_end() -> None:
    """Twenty codes that are not decided in time: who waits behind them is answered 503 within the deadline."""
    guesses = guesses_of(ScriptedGuesses())
    flow = Flow()
    flow.gate.clear()
    tasks = [asyncio.create_task(redeem(guesses, flow, order)) for order in codes(20)]
    await asyncio.sleep(0)
    async with asyncio.timeout(DEADLINE_MS / 1_000):
        assert UNAVAILABLE is await redeem(guesses, flow)
    assert "TYPO" not in flow.asked
    flow.gate.set()
    await asyncio.gather(*tasks)


async def test_known_codes_pass_as_long_as_nobody_guesses() -> None:
    """No digest is made: it would cost every request."""
    guesses = guesses_of(ScriptedGuesses(), "TYPO")

    def never(*_: object) -> int:
        raise AssertionError("hashed")

    guesses.limited_s = never  # type: ignore[method-assign, assignment]
    assert CREATED == await redeem(guesses, Flow("TYPO"))


async def test_the_log_is_not_flooded() -> None:
    """So many events at most between two reads of the ledger; the others are told as a number, once."""
    count = EVENTS_PER_REFRESH_MAX + 25
    guesses = guesses_of(ScriptedGuesses([REACHED] * count))
    with structlog.testing.capture_logs() as events:
        await asyncio.gather(*(redeem(guesses, Flow(), ORDER._replace(customer_id=f"c-{n}")) for n in range(count)))
        await guesses.refresh()
        await guesses.refresh()
    assert [("customer limited", "c-0")] * 1 == [(event["event"], event["customer_id"]) for event in events[:1]]
    assert ["customer limited"] * EVENTS_PER_REFRESH_MAX + ["more customers limited"] == [event["event"] for event in events]
    assert 25 == events[-1]["customers"]


async def test_a_ledger_that_is_away_is_told_of_once() -> None:
    ledger = ScriptedGuesses(error=LedgerUnavailable())
    guesses = guesses_of(ledger)
    with structlog.testing.capture_logs() as events:
        for _ in range(3):
            await guesses.refresh()
        ledger.error = None
        await guesses.refresh()
        ledger.error = LedgerUnavailable()
        await guesses.refresh()
    assert ["limited customers not read until the ledger is back"] * 2 == [event["event"] for event in events]


async def test_loads_of_guesses_do_not_hold_up_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """After a statement that found nothing the next one waits, unless a code that there is is asked for."""
    monkeypatch.setattr(loads_module, "GUESSES_INTERVAL_S", 3_600.0)
    asked: list[list[str]] = []

    async def load(wanted: list[str], _deadline: float) -> dict[str, LoadedCoupon]:
        asked.append(wanted)
        return {code: LoadedCoupon(COUPON, 0) for code in wanted if code == "GOLD20"}

    async def load_counters(*_: object, **__: object) -> None: ...

    counters: Any = SimpleNamespace(load=load_counters)
    ledger: Any = SimpleNamespace(coupons=SimpleNamespace(load=load))
    loads = Loads(counters, ledger)
    assert 7 == await loads.load("GOLD20")
    assert await loads.load("A") is None
    waiting = asyncio.create_task(loads.load("B"))
    await asyncio.sleep(0.2)
    assert not waiting.done()

    async with asyncio.timeout(30):
        assert 7 == await loads.load("GOLD20")
        assert await waiting is None
    assert [["GOLD20"], ["A"], ["B", "GOLD20"]] == asked
