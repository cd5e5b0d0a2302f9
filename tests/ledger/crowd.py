"""A crowd at the ledger: all that Usher does with redemptions, side by side, with seats that are used again and again.

What Redis does in Usher is done by `Seats` here, in a few lines that know nothing of how Usher does it.
"""

import asyncio
import random
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import timedelta
from typing import Any, Final, TypeVar

from reconciler.jobs import expire_once
from service.config import Settings
from service.counts import Counts
from service.errors import LedgerContended
from service.ledger import Ledger
from service.life import Life
from service.model import Coupon, FoundKey, NewRedemption, Record, RecordEnding, Return
from service.transition import Transition, Verb
from tests.ledger import given

T = TypeVar("T")

ROWS: Final = 8
"""In a batch."""
REFILL_SEATS: Final = 24
OVERDUE_AFTER_S: Final = 0.03
"""Some holds are as short as that: others end them, extend them or find them overdue."""
KNOWN_MAX: Final = 50
"""So many redemptions at most are remembered as possibly live, so that different customers meet at the same ones."""
AGAIN_S: Final = 0.002


class Seats:
    """Which seats are free, as far as anybody was told. Stands for Claims and for Counters."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._free: dict[str, list[int]] = {}
        self._used: set[tuple[str, int]] = set()
        self.happened: Counter[str] = Counter()

    async def claim(self, coupon: Coupon, limit: int) -> int | None:
        """A seat up to the limit, perhaps one that is taken; None where the ledger has none."""
        free = self._free.setdefault(coupon.code, [])
        if not free:
            found = await self._ledger.seats.free_seats(coupon.id, limit, limit=REFILL_SEATS, deadline=given.soon())
            free.extend(found.seats)
        if not free:
            return None
        seat = free.pop()
        self.happened["claimed again"] += (coupon.code, seat) in self._used
        self._used.add((coupon.code, seat))
        return seat

    async def release(self, *given_back: Any) -> None:  # noqa: ANN401 - as Claims: a code and a Return; as Counters: all by code
        """A seat can be had again, or stays with somebody whom it was handed on to."""
        by_code: Mapping[str, Sequence[Return]] = given_back[0] if len(given_back) == 1 else {given_back[0]: [given_back[1]]}
        for code, returns in by_code.items():
            for one in returns:
                self.happened["handed on" if one.seat is None else "released"] += 1
                if one.seat is not None:
                    self._free.setdefault(code, []).append(one.seat)

    async def search_anew(self, code: str) -> None:
        self._free.pop(code, None)


class Crowd:
    """Works on two ledgers, as two processes would.

    Attributes:
        batches: calls of the gateways, each a transaction or more.
        happened: how often each kind of ending was met, such as `confirm done`.
    """

    def __init__(self, ledgers: Sequence[Ledger], coupons: Sequence[Coupon], *, seed: int) -> None:
        self._ledgers = ledgers
        self._coupons = coupons
        self._limits = {coupon.code: coupon.max_redemptions or 0 for coupon in coupons}
        self._chance = random.Random(seed)
        self.seats = Seats(ledgers[0])
        gateway: Any = self.seats
        self._lives = [Life(gateway, ledger, Settings(), Counts()) for ledger in ledgers]
        self._known: list[NewRedemption] = []
        self.happened = self.seats.happened
        self.batches = 0

    # --- Buyers --------------------------------------------------------------------------------------------------------

    async def buy(self, rounds: int) -> None:
        """Records, some of it again, and does something with what there is."""
        for _ in range(rounds):
            await self._record([await self._new() for _ in range(ROWS)])
            known = self._chance.choices(self._known, k=2 * ROWS)
            await asyncio.gather(*(self._do_something(one) for one in known))

    async def _new(self) -> NewRedemption:
        """A row for a new order, confirmed or a hold; or another one for an order that is probably live."""
        now = self._ledgers[0].now()
        if self._known and self._chance.random() < 0.2:
            old = self._chance.choice(self._known)
            of = next(coupon for coupon in self._coupons if coupon.id == old.coupon_id)
            values: dict[str, object] = {"customer_id": old.customer_id, "order_id": old.order_id}
        else:
            of = self._chance.choice(self._coupons)
            hold_s = self._chance.choice([None, given.HOLD_S, given.HOLD_S, OVERDUE_AFTER_S])
            values = {"expires_at": None if hold_s is None else now + timedelta(seconds=hold_s)}
        key = f"key-{self._chance.randrange(10**9)}" if self._chance.random() < 0.3 else None
        seat = await self.seats.claim(of, self._limits[of.code])
        customer_seat = 1 if of.max_per_customer else None
        return given.row(self._ledgers[0], of, seat=seat, customer_seat=customer_seat, idempotency_key=key, **values)

    async def _record(self, rows: Sequence[NewRedemption]) -> None:
        """Coupons may have been lowered since, seats taken and orders redeemed; other endings are none."""
        ledger = self._chance.choice(self._ledgers)
        rows = [row for row in rows if row.seat is not None]
        answers = await self._counted(ledger.redemptions.record(rows))
        for row, answer in zip(rows, answers, strict=True):
            record: Record = answer if isinstance(answer, Record) else await answer
            self.happened[f"record {record.ending.value}"] += 1
            if record.ending is RecordEnding.RECORDED:
                self._known = [*self._known[-KNOWN_MAX:], row]
            elif record.ending in (RecordEnding.ORDER_LIVE, RecordEnding.CUSTOMER_SEAT_TAKEN):
                await self.seats.release(row.code, Return(row.order_id, row.customer_id, row.seat))
            if record.ending is RecordEnding.ORDER_LIVE and record.redemption is not None and row.idempotency_key:
                found = FoundKey(row.coupon_id, row.api_key_id, row.idempotency_key, record.redemption.id)
                await self._again(lambda found=found: ledger.redemptions.remember([found], given.soon()))  # type: ignore[misc]
                self.happened["key remembered"] += 1

    async def _do_something(self, with_: NewRedemption) -> None:
        """A transition, or two at once, or a cancel by order."""
        is_over = with_.expires_at is not None and with_.expires_at <= self._ledgers[0].now()
        weights = [1, 1, 1, 6, 0] if is_over else [3, 1, 3, 1, 2]
        verb = self._chance.choices([Verb.CONFIRM, Verb.EXTEND, Verb.CANCEL, Verb.EXPIRE, None], weights)[0]
        wished = with_.id
        if verb is None:
            ledger = self._chance.choice(self._ledgers)
            deadline = given.soon()
            found = await self._again(lambda: ledger.redemptions.find_live(with_.code, with_.order_id, deadline))
            self.happened["order not live" if found is None else "order found"] += 1
            if found is None:
                return
            verb, wished = Verb.CANCEL, found
        wish = Transition(verb, wished, given.HOLD_S)
        times = self._chance.choice([1, 1, 2])
        await asyncio.gather(*(self._carry_out(self._chance.choice(self._lives), wish) for _ in range(times)))

    async def _carry_out(self, life: Life, wish: Transition) -> None:
        ended = await life.carry_out(wish, given.soon())
        self.happened[f"{wish.verb} {ended.ending.value}"] += 1

    # --- Others --------------------------------------------------------------------------------------------------------

    async def sweep(self) -> None:
        """What the reconciler does."""
        gateway: Any = self.seats
        report = await expire_once(self._ledgers[1], gateway)
        self.happened["swept"] += report.ended

    async def change(self, above: Callable[[int, int], int]) -> None:
        """Lowers or raises the limit of a coupon. `above`: counts the live redemptions of a coupon's id above a limit."""
        coupon = self._chance.choice(self._coupons)
        limit = self._chance.choice([12, 20, 30, 40])
        self.happened["sat above a new limit"] += above(coupon.id, limit)
        ledger = self._chance.choice(self._ledgers)
        await self._counted(given.changed(ledger, coupon.code, max_redemptions=limit))
        self._limits[coupon.code] = limit
        self.happened["changed"] += 1

    # --- Counting ------------------------------------------------------------------------------------------------------

    def count_batches(self) -> None:
        """From now on each batch of transitions counts, also those that Usher makes by itself."""
        for ledger in self._ledgers:
            carry_out = ledger.transitions.carry_out

            async def counted(*wishes: Any, carry_out: Any = carry_out) -> Any:  # noqa: ANN401 - as it was called
                return await self._counted(carry_out(*wishes))

            ledger.transitions.carry_out = counted  # type: ignore[method-assign, assignment]

    async def _counted(self, call: Awaitable[T]) -> T:
        self.batches += 1
        return await call

    async def _again(self, call: Callable[[], Awaitable[T]]) -> T:
        """What is just being recorded or ended is asked for again, as Usher does for its callers."""
        while True:
            try:
                return await self._counted(call())
            except LedgerContended:
                self.happened["asked again"] += 1
                await asyncio.sleep(AGAIN_S)
