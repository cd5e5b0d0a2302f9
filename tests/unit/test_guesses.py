"""Who may name further codes: what is noted, who waits for whom, and what a limited customer hears. The ledger is scripted."""

import asyncio
import itertools
from collections.abc import Iterable, Sequence
from types import SimpleNamespace
from typing import Any

import pytest
import structlog

from service import loads as loads_module
from service.config import Settings
from service.counts import Counts
from service.errors import LedgerUnavailable, Overloaded
from service.flights import UNAVAILABLE
from service.guesses import COUNTED_FOR_S, EVENTS_PER_REFRESH_MAX, NOTE_INTERVAL_S, Guesses
from service.ledger.guesses import PLACES_AT_ONCE, Naming, digest, pack
from service.ledger.guesses import Guesses as LedgerGuesses
from service.loads import Loads
from service.model import GUESSES_MAX, Ending, Guess, LoadedCoupon, LookUp, Noted, Order, Redeemed, Refusal, Standing
from service.paced import Paced
from service.turns import Turns
from tests.unit.scripted import COUNTED, COUPON, ScriptedGuesses, ScriptedRedemptions, redemption_for, scripted_ledger, standing
from tests.waiting import stalls, until

ORDER = Order(code="TYPO", customer_id="ann", order_id="o-1", api_key_id=1)
NOT_FOUND = Redeemed(Ending.REFUSED, refusal=Refusal.COUPON_NOT_FOUND)
CREATED = Redeemed(Ending.CREATED, redemption_for(ORDER))
REFUSED = Noted(counted=False, limited_s=41.3, reached=False)
REACHED = Noted(counted=True, limited_s=60.0, reached=True)
DEADLINE_MS = 1_000


class Coupons:
    """The codes that there are, `known` ones being known to this process. Stands for Loads and for the flow behind."""

    def __init__(self, *there: str, known: Iterable[str] = ()) -> None:
        self._known = set(known)
        self.there = {*there, *known}
        self.loaded: list[str] = []
        self.redeemed: list[str] = []
        self.gate = asyncio.Event()
        self.gate.set()

    def known(self, code: str) -> int | None:
        return 7 if code in self._known else None

    async def load(self, code: str) -> int | None:
        self.loaded.append(code)
        await self.gate.wait()
        if code in self.there:
            self._known.add(code)
        return self.known(code)

    async def redeem(self, order: Order, _arrived_at: float) -> Redeemed:
        self.redeemed.append(order.code)
        return CREATED


def guesses_of(
    ledger: ScriptedGuesses,
    coupons: Coupons | None = None,
    *,
    standings: Sequence[Standing] = (),
    deadline_ms: int = DEADLINE_MS,
) -> Guesses:
    loads: Any = coupons or Coupons()
    gateway: Any = scripted_ledger(ScriptedRedemptions(standings=list(standings)), ledger)
    return Guesses(loads, gateway, Settings(request_deadline_ms=deadline_ms))


async def redeem(guesses: Guesses, order: Order = ORDER) -> Redeemed:
    coupons: Any = guesses._loads
    return await guesses.redeem(coupons.redeem, order, asyncio.get_running_loop().time())


def codes(count: int) -> list[Order]:
    return [ORDER._replace(code=f"CODE-{number}") for number in range(count)]


async def limit(guesses: Guesses, ledger: ScriptedGuesses, left_s: float = 41.3) -> None:
    """As if another process had limited the customer."""
    ledger.limits = {digest(ORDER.api_key_id, ORDER.customer_id): left_s}
    await guesses.refresh()


async def test_a_404_is_noted_first() -> None:
    """And an answer that is none costs the ledger nothing."""
    ledger = ScriptedGuesses()
    guesses = guesses_of(ledger, Coupons("GOLD20"))

    assert [CREATED, NOT_FOUND] == [await redeem(guesses, ORDER._replace(code="GOLD20")), await redeem(guesses)]

    assert [[Guess(1, "ann", "TYPO")]] == ledger.noted


async def test_one_too_many() -> None:
    """It is 429 with what is left, rounded up; a deadline's rest of nothing is one second."""
    for left_s, expected in ((41.3, 42), (0.0, 1)):
        answers = ScriptedGuesses([REFUSED._replace(limited_s=left_s)])
        guesses = guesses_of(answers, standings=[standing(coupon=None)])
        assert Redeemed(Ending.LIMITED, retry_after_s=expected) == await redeem(guesses)


async def test_the_ledger_fails() -> None:
    """Not noted is not answered 404: the count would be lost."""
    guesses = guesses_of(ScriptedGuesses(error=LedgerUnavailable()))
    assert UNAVAILABLE is await redeem(guesses)


async def test_the_ledger_hangs() -> None:
    """The answer comes within the deadline."""
    ledger = ScriptedGuesses()
    guesses = guesses_of(ledger)
    hanging = asyncio.Event()

    async def note(_guesses: Sequence[Guess], _deadline: float) -> list[Noted]:
        await hanging.wait()
        return [COUNTED]

    ledger.note = note  # type: ignore[method-assign, assignment]
    begun_at = asyncio.get_running_loop().time()
    async with stalls() as stood_still:
        assert UNAVAILABLE is await redeem(guesses)
    assert asyncio.get_running_loop().time() - begun_at < DEADLINE_MS / 1_000 + stood_still.total_s
    hanging.set()


async def test_a_storm_is_noted_in_batches() -> None:
    """The first at once; what gathers within the interval goes together."""
    ledger = ScriptedGuesses()
    guesses = guesses_of(ledger)
    begin = asyncio.get_running_loop().time()
    async with stalls() as stood_still:
        assert NOT_FOUND == await redeem(guesses, ORDER._replace(customer_id="bob"))
    assert asyncio.get_running_loop().time() - begin < NOTE_INTERVAL_S + stood_still.total_s

    await asyncio.gather(*(redeem(guesses, ORDER._replace(customer_id=f"c-{number}")) for number in range(500)))

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
    assert [NOT_FOUND] * 50 == [await redeem(guesses) for _ in range(50)]
    assert 1 == len(ledger.noted)

    for guess in guesses._counted:
        guesses._counted[guess] -= COUNTED_FOR_S
    assert NOT_FOUND == await redeem(guesses)
    assert 2 == len(ledger.noted)


async def test_a_limited_customer_is_not_asked_for() -> None:
    """Known code or unknown: the flow never hears of it, both are looked up alike and refused alike."""
    ledger = ScriptedGuesses()
    nowhere = standing(coupon=None)
    coupons = Coupons(known=["GOLD20"])
    guesses = guesses_of(ledger, coupons, standings=[standing(), nowhere, standing()])
    await limit(guesses, ledger)

    orders = [ORDER._replace(code=code) for code in ("GOLD20", "UNKNOWN", "GOLD20")]
    answers = await asyncio.gather(*(redeem(guesses, order) for order in orders))

    assert [Redeemed(Ending.LIMITED, retry_after_s=42)] * 3 == answers
    assert [] == coupons.loaded + coupons.redeemed
    assert [] == ledger.noted
    assert 42 == guesses.limited_s(1, "ann")
    assert [0, 0] == [guesses.limited_s(2, "ann"), guesses.limited_s(1, "Ann")]


async def test_a_limited_customer_s_live_order_is_replayed() -> None:
    """Their own; another customer's would say that the code exists."""
    ledger = ScriptedGuesses()
    own, others = redemption_for(ORDER), redemption_for(ORDER)._replace(customer_id="bob")
    guesses = guesses_of(ledger, standings=[standing(live=own), standing(live=others)])
    await limit(guesses, ledger)

    assert Redeemed(Ending.REPLAYED, own) == await redeem(guesses)
    assert Ending.LIMITED is (await redeem(guesses)).ending


async def test_a_limited_customer_while_the_ledger_fails() -> None:
    """Nobody knows whether the order is live: 503."""
    ledger = ScriptedGuesses()
    guesses = guesses_of(ledger)

    async def look_up(_questions: Sequence[LookUp], _deadline: float) -> list[Standing]:
        raise LedgerUnavailable

    guesses._ledger.redemptions.look_up = look_up  # type: ignore[assignment, method-assign]
    await limit(guesses, ledger)
    assert UNAVAILABLE is await redeem(guesses)


async def test_a_limit_ends() -> None:
    """Also where the ledger cannot be read any more."""
    ledger = ScriptedGuesses()
    guesses = guesses_of(ledger, Coupons("TYPO"))
    await limit(guesses, ledger, left_s=0.5)
    ledger.error = LedgerUnavailable()
    await guesses.refresh()
    assert 1 == guesses.limited_s(1, "ann")
    await until(lambda: guesses.limited_s(1, "ann") == 0, what="nobody is limited any more")
    assert CREATED == await redeem(guesses)


async def test_a_later_end_is_not_taken_back() -> None:
    """A read that began before the limit moved says the old one."""
    ledger = ScriptedGuesses([REACHED])
    guesses = guesses_of(ledger)
    await redeem(guesses)
    await limit(guesses, ledger, left_s=5.0)
    assert 60 == guesses.limited_s(1, "ann")


async def test_unknown_codes_on_their_way_are_as_many_as_may_be_named() -> None:
    """Of 30 at once 20 are on their way; when these have made the customer limited, the others are never asked for."""
    ledger = ScriptedGuesses([COUNTED] * 19 + [REACHED])
    coupons = Coupons("CODE-25", known=["KNOWN"])
    guesses = guesses_of(ledger, coupons, standings=[standing(coupon=None)] * 11)
    coupons.gate.clear()
    orders = [*codes(30), ORDER._replace(code="KNOWN")]
    tasks = [asyncio.create_task(redeem(guesses, order)) for order in orders]
    await until(lambda: len(coupons.loaded) >= GUESSES_MAX, what="as many as may be are on their way")
    assert [order.code for order in orders[:GUESSES_MAX]] == coupons.loaded
    coupons.gate.set()

    answers = await asyncio.gather(*tasks)

    assert [NOT_FOUND] * 20 + [Redeemed(Ending.LIMITED, retry_after_s=60)] * 11 == answers
    assert GUESSES_MAX == len(coupons.loaded)
    assert [] == coupons.redeemed
    assert not guesses._turns


async def test_turns_are_for_other_codes_of_the_same_customer() -> None:
    """The same code again, another customer and another key do not wait."""
    coupons = Coupons(known=["KNOWN"])
    guesses = guesses_of(ScriptedGuesses(), coupons)
    coupons.gate.clear()
    others = [
        ORDER._replace(code="CODE-3"),
        ORDER._replace(customer_id="bob"),
        ORDER._replace(api_key_id=2),
        ORDER._replace(code="KNOWN", customer_id="bob"),
    ]
    tasks = [asyncio.create_task(redeem(guesses, order)) for order in [*codes(20), *others]]
    await asyncio.sleep(0.05)
    assert [*(f"CODE-{number}" for number in range(20)), "CODE-3", "TYPO", "TYPO"] == coupons.loaded
    assert ["KNOWN"] == coupons.redeemed
    coupons.gate.set()
    await asyncio.gather(*tasks)
    assert not guesses._turns


async def test_a_turn_ends_when_the_code_is_known() -> None:
    """3,000 first uses of as many coupons by one customer: none waits until another one's redemption is done."""
    ledger = ScriptedGuesses()
    orders = codes(3_000)
    coupons = Coupons(*(order.code for order in orders))
    guesses = guesses_of(ledger, coupons, deadline_ms=60_000)
    going_on = asyncio.Event()

    async def flow(order: Order, _arrived_at: float) -> Redeemed:
        coupons.redeemed.append(order.code)
        await going_on.wait()
        return CREATED

    tasks = [asyncio.create_task(guesses.redeem(flow, order, asyncio.get_running_loop().time())) for order in orders]
    while len(coupons.redeemed) < len(orders):  # noqa: ASYNC110 - the test's own time-out ends it
        await asyncio.sleep(0)
    going_on.set()

    assert [CREATED] * 3_000 == await asyncio.gather(*tasks)
    assert [] == ledger.noted


async def test_who_waits_comes_in_turn_and_alone() -> None:
    """A turn that ends lets in one, the one that came first; who has gone away is passed over."""
    turns = Turns()
    guesses = [Guess(1, "ann", order.code) for order in codes(GUESSES_MAX + 4)]
    for guess in guesses[:GUESSES_MAX]:
        await turns.begin(guess)
    waiting = [asyncio.create_task(turns.begin(guess)) for guess in guesses[GUESSES_MAX:]]
    await asyncio.sleep(0)
    waiting[0].cancel()
    await asyncio.sleep(0)

    turns.end(guesses[0])
    await asyncio.sleep(0)
    assert [False, True, False, False] == [task.done() and not task.cancelled() for task in waiting]
    turns.end(guesses[1])
    waiting[2].cancel()  # It has just been let in, and gives its turn back.
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert [False, True, False, True] == [task.done() and not task.cancelled() for task in waiting]
    for guess in [*guesses[2:GUESSES_MAX], guesses[GUESSES_MAX + 1], guesses[GUESSES_MAX + 3]]:
        turns.end(guess)
    assert 0 == len(turns)


async def test_an_archived_coupon_is_no_coupon() -> None:
    """The process knows it, the flow says that it is not found, and that is counted, too."""
    ledger = ScriptedGuesses([REFUSED])
    guesses = guesses_of(ledger, Coupons(known=["TYPO"]))

    async def not_found(_order: Order, _arrived_at: float) -> Redeemed:
        return NOT_FOUND

    answer = await guesses.redeem(not_found, ORDER, asyncio.get_running_loop().time())

    assert Redeemed(Ending.LIMITED, retry_after_s=42) == answer


async def test_waiting_has_an_end() -> None:
    """Twenty codes that are not decided in time: who waits behind them is answered 503 within the deadline.

    It has been on its way for longer than they have, so its time is over first: one of theirs that is over would let it in.
    """
    coupons: Any = Coupons()
    guesses = guesses_of(ScriptedGuesses(), coupons)
    coupons.gate.clear()
    tasks = [asyncio.create_task(redeem(guesses, order)) for order in codes(20)]
    await asyncio.sleep(0)
    arrived_at = asyncio.get_running_loop().time() - DEADLINE_MS / 1_000 / 2
    async with stalls() as stood_still:
        assert UNAVAILABLE is await guesses.redeem(coupons.redeem, ORDER, arrived_at)
    assert asyncio.get_running_loop().time() - arrived_at < DEADLINE_MS / 1_000 + stood_still.total_s
    assert "TYPO" not in coupons.loaded
    assert [UNAVAILABLE] * 20 == await asyncio.gather(*tasks)
    assert not guesses._turns


async def test_known_codes_pass_as_long_as_nobody_guesses() -> None:
    """No digest is made: it would cost every request."""
    guesses = guesses_of(ScriptedGuesses(), Coupons(known=["TYPO"]))

    def never(*_: object) -> int:
        raise AssertionError("hashed")

    guesses.limited_s = never  # type: ignore[method-assign, assignment]
    assert CREATED == await redeem(guesses)


async def test_a_full_queue_is_told() -> None:
    """It is no trouble of a store."""
    coupons = Coupons()

    async def full(_code: str) -> int | None:
        raise Overloaded

    coupons.load = full  # type: ignore[assignment, method-assign]
    with pytest.raises(Overloaded):
        await redeem(guesses_of(ScriptedGuesses(), coupons))


async def test_who_is_limited_is_read_in_pieces() -> None:
    """Others have their turn while many who are limited are read."""
    limited_now = [(pack({bytes([n % 256, n // 256] * 8): [Naming(1_000_000, bytes([n] * 8))]}), 2_000_000) for n in range(250)]
    turns_of_others = 0

    async def others() -> None:
        nonlocal turns_of_others
        while True:
            turns_of_others += 1
            await asyncio.sleep(0)

    async def fetch(_statement: str, _deadline: float) -> list[tuple[bytes, int]]:
        return limited_now

    reading: Any = SimpleNamespace(fetch=fetch)
    beside = asyncio.create_task(others())
    await asyncio.sleep(0)
    before = turns_of_others
    assert {} == await LedgerGuesses(reading, reading).limited(0.0)
    beside.cancel()
    assert len(limited_now) / PLACES_AT_ONCE <= turns_of_others - before


async def test_the_log_is_not_flooded() -> None:
    """So many events at most between two reads of the ledger; the others are told as a number, once."""
    count = EVENTS_PER_REFRESH_MAX + 25
    guesses = guesses_of(ScriptedGuesses([REACHED] * count))
    with structlog.testing.capture_logs() as events:
        await asyncio.gather(*(redeem(guesses, ORDER._replace(customer_id=f"c-{n}")) for n in range(count)))
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
    loads = Loads(counters, ledger, Counts())
    assert 7 == await loads.load("GOLD20")
    assert await loads.load("A") is None
    waiting = asyncio.create_task(loads.load("B"))
    await asyncio.sleep(0.2)
    assert not waiting.done()

    async with asyncio.timeout(30):
        assert 7 == await loads.load("GOLD20")
        assert await waiting is None
    assert [["GOLD20"], ["A"], ["B", "GOLD20"]] == asked
