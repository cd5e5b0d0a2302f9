"""Random runs of claims, releases and refills, each answer predicted by a small model that knows nothing of Redis."""

import asyncio
from dataclasses import dataclass, field

import redis
from hypothesis import given, settings
from hypothesis import strategies as st

from service.config import Settings
from service.counters import Counters
from service.model import Claim, ClaimAnswer, Refusal, Return, Wish
from tests.counters.given import CODE, claim, loaded

LIMIT, PER_CUSTOMER = 4, 2
ORDERS = [f"o{number}" for number in range(8)]

ORDER = st.sampled_from(ORDERS)
CLAIM = st.tuples(st.just("claim"), st.lists(st.tuples(ORDER, st.booleans()), min_size=1, max_size=4))
OTHERS = st.tuples(st.sampled_from(["record", "give_back", "cancel"]), ORDER)
REFILL = st.tuples(st.just("refill"), st.none())


def customer_of(order: str) -> str:
    return f"c{int(order[1:]) % 3}"


@dataclass
class Model:
    """What a counter is, in plain words; `rows` is the ledger: order to seat."""

    next: int = 0
    free: set[int] = field(default_factory=set)
    pending: dict[str, tuple[int, int]] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)
    rows: dict[str, int] = field(default_factory=dict)

    def expect(self, wish: Wish, answer: Claim) -> None:
        """Checks the answer to a wish and follows it."""
        own = self.pending.get(wish.order_id)
        if own and not wish.again:
            assert own == (answer.seat, answer.customer_seat)
            return
        count = self.counts.get(wish.customer_id, 0)
        if own:
            del self.pending[wish.order_id]
            count = self.counts[wish.customer_id] = max(count - 1, 0)
        customer_seat = own[1] if own else count + 1
        if customer_seat > PER_CUSTOMER:
            assert Refusal.CUSTOMER_LIMIT_REACHED is answer.refusal
        elif not self.free and self.next == LIMIT:
            assert Refusal.COUPON_EXHAUSTED is answer.refusal
        else:
            assert ClaimAnswer.CLAIMED is answer.answer
            assert answer.seat is not None
            assert answer.seat in (self.free or {self.next + 1})
            assert customer_seat == answer.customer_seat
            self.free.discard(answer.seat)
            self.next = max(self.next, answer.seat)
            self.pending[wish.order_id] = (answer.seat, customer_seat)
            self.counts[wish.customer_id] = min(count + 1, PER_CUSTOMER)

    def uncount(self, order: str) -> None:
        customer = customer_of(order)
        self.counts[customer] = max(self.counts.get(customer, 0) - 1, 0)

    def unknown(self) -> list[int]:
        """Seats handed out that are in no row, and which nobody holds: what a search finds."""
        held = {seat for seat, _ in self.pending.values()}
        return [seat for seat in range(1, self.next + 1) if seat not in self.rows.values() and seat not in held]


async def follow(counters: Counters, steps: list[tuple[str, object]]) -> None:
    """Takes the steps in Redis and in the model."""
    await counters.load([loaded(LIMIT, PER_CUSTOMER)])
    model = Model()
    settled: list[tuple[str, int | None]] = []
    for verb, what in steps:
        if verb == "claim":
            assert isinstance(what, list)
            batch = [Wish(order, customer_of(order), again=again) for order, again in what if order not in model.rows]
            for wish, answer in zip(batch, await claim(counters, batch, settled), strict=True):
                model.expect(wish, answer)
            settled = []
        elif verb == "refill":
            look = await counters.look(CODE)
            assert look
            assert model.next == look.next
            found = [seat for seat in range(1, look.next + 1) if seat not in model.rows.values()]
            await counters.refill(CODE, look, seats=found, complete=True)
            settled_seats = {seat for _, seat in settled}
            model.free |= {seat for seat in model.unknown() if seat not in settled_seats}
        elif what in model.pending:
            seat, _ = model.pending.pop(str(what))
            if verb == "record":
                model.rows[str(what)] = seat
                settled.append((str(what), seat))
            else:
                await counters.release({CODE: [Return(str(what), customer_of(str(what)), seat)]})
                model.uncount(str(what))
                model.free.add(seat)
        elif verb == "cancel" and what in model.rows:
            seat = model.rows.pop(str(what))
            await counters.release({CODE: [Return(str(what), customer_of(str(what)), seat)]})
            model.uncount(str(what))
            model.free.add(seat)
            settled = [one for one in settled if one[0] != what]
        taken = [*model.rows.values(), *(seat for seat, _ in model.pending.values())]
        assert len(set(taken)) == len(taken)
        assert set(taken) <= set(range(1, LIMIT + 1))


def test_against_model(redis_url: str, operator_url: str) -> None:
    """Every answer is the one that the model predicts, and no seat is held twice."""
    with asyncio.Runner() as runner, redis.Redis.from_url(operator_url) as raw:
        counters = runner.run(Counters.connect(Settings(redis_url=redis_url)))  # type: ignore[arg-type]

        @settings(max_examples=150)
        @given(st.lists(st.one_of(CLAIM, OTHERS, REFILL), max_size=25))
        def run(steps: list[tuple[str, object]]) -> None:
            raw.flushdb()
            runner.run(follow(counters, steps))

        run()
        runner.run(counters.close())
