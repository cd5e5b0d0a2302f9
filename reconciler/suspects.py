"""What a comparison suspects, and looks at again until it is certain that it is not merely in flight.

A seat that is being claimed, recorded, cancelled or released looks wrong for some milliseconds; so does a coupon that is being
changed. So nothing is said after one look. What is suspected is looked at again, after pauses, in the ledger and then in the
counter, and only what was the same wrong in every look is a finding.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from functools import partial
from typing import Final, TypeVar

from reconciler import diff
from service.comparing import Comparing, Inspected, SeatState, SeatStates
from service.ledger import Ledger
from service.ledger.ranges import ComparedCoupon
from service.model import MAX_REDEMPTIONS_MAX
from service.reconciling import Finding, Kind

PAUSES_S: Final = (0.2, 0.4)
"""Before each further look. A claim is recorded, and a cancelled use released, in milliseconds, seldom a tenth of a second."""
WAIT_PAUSE_S: Final = 0.5
"""Between looks at claims that stay pending, while a repair waits for them."""
LOOK_SEATS: Final = 2_000
LOOK_CUSTOMERS: Final = 1_000
LOOK_LIVE: Final = 20_000
LOOK_COUPONS: Final = 500
"""In one statement or round trip: some milliseconds each."""
IN_FLIGHT_MAX: Final = 1_000
"""Orders asked about, that may explain a customer's count."""
CLOCKS_DIFFER_S: Final = 0.1
"""By so much may two processes' estimates of the ledger's clock differ."""
STATEMENT_DEADLINE_S: Final = 10.0
REST_SHARE: Final = 0.5
REST_MAX_S: Final = 0.25
"""After a statement there is a rest, of this share of its time: it has had one of the server's processors for itself."""

Result = TypeVar("Result")
Item = TypeVar("Item")


@dataclass(slots=True)
class Suspect:
    """What may be wrong with one coupon's counter.

    `ghosts`: free seats with the redemption that was seen there, None before the first further look. `strange`: members of
    `free` that can't be seats. `pending`: seats in no row whose claims were pending, and in how many looks they were not any
    more. `customers`: the count as it is written, and live redemptions; `in_doubt`: those that a claim in flight may explain;
    `customers_ids`: which live redemptions, of either, empty before the first further look.
    `unlisted`: leaked seats beyond those that are listed. `is_all`: no others are leaked. `quiet_to`: leaked seats up to
    this one are mended and not told.
    """

    ledger: ComparedCoupon
    counter: Inspected
    outdated: diff.Outdated | None = None
    is_behind: bool = False
    leaked: set[int] = field(default_factory=set)
    ghosts: dict[int, bytes | None] = field(default_factory=dict)
    strange: set[str] = field(default_factory=set)
    pending: dict[int, int] = field(default_factory=dict)
    customers: dict[str, tuple[str, int]] = field(default_factory=dict)
    in_doubt: dict[str, tuple[str, int]] = field(default_factory=dict)
    customers_ids: dict[str, frozenset[bytes]] = field(default_factory=dict)
    unlisted: int = 0
    is_all: bool = False
    quiet_to: int = 0

    @property
    def code(self) -> str:
        """The coupon's."""
        return self.ledger.coupon.code

    @property
    def coupon_id(self) -> int:
        """The coupon's."""
        return self.ledger.coupon.id

    @property
    def size(self) -> int:
        """How many suspicions."""
        return (
            (self.outdated is not None) + self.is_behind + len(self.leaked) + len(self.ghosts) + len(self.strange)
            + len(self.pending) + len(self.customers) + (self.unlisted > 0)
        )  # fmt: skip

    @property
    def is_waiting(self) -> bool:
        """Whether claims that are pending keep it from being certain."""
        return bool(self.pending or self.in_doubt)

    def seats(self) -> list[int | str]:
        """All that the counter is asked about."""
        return [*self.leaked, *self.ghosts, *self.pending, *self.strange]

    def drop_seats(self) -> None:
        """Nothing is said of its seats."""
        self.leaked.clear()
        self.ghosts.clear()
        self.strange.clear()
        self.pending.clear()
        self.unlisted = 0

    def findings(self) -> Iterator[Finding]:
        """What is certain."""
        code = self.code
        if self.outdated is not None:
            yield Finding(code, Kind.OUTDATED, dict(self.outdated.before), dict(self.outdated.after))
        if self.is_behind:
            yield Finding(code, Kind.BEHIND, self.counter.number("next"), self.ledger.seat_high)
        for seat in sorted(seat for seat in self.leaked if seat > self.quiet_to):
            yield Finding(code, Kind.LEAKED, "handed out", "free", seat=seat)
        for seat in sorted(self.ghosts):
            yield Finding(code, Kind.GHOST, "free", "taken", seat=seat)
        for member in sorted(self.strange):
            above = diff.as_seat(member, MAX_REDEMPTIONS_MAX)
            if above is None:
                yield Finding(code, Kind.GHOST, diff.readable(member), "no seat")
            elif not self.is_behind or above > self.ledger.seat_high:  # Else it is `next` that is wrong.
                yield Finding(code, Kind.GHOST, "free", "not handed out", seat=above)
        for customer in sorted(self.customers):
            seen, live = self.customers[customer]
            before = int(seen) if diff.is_count(seen) else diff.readable(seen)
            yield Finding(code, Kind.CUSTOMER_COUNT, before, live, customer_id=diff.readable(customer))


class Looks:
    """Looks at suspects again, in both stores."""

    def __init__(self, ledger: Ledger, comparing: Comparing, *, claim_age_max_s: float) -> None:
        self.ledger = ledger
        self.comparing = comparing
        self.claim_age_max_s = claim_age_max_s

    async def paced(self, statement: Callable[[float], Awaitable[Result]]) -> Result:
        """A statement of the ledger, given its deadline, and a rest after it: redemptions get their turn."""
        loop = asyncio.get_running_loop()
        begun_at = loop.time()
        result = await statement(begun_at + STATEMENT_DEADLINE_S)
        await asyncio.sleep(min(REST_SHARE * (loop.time() - begun_at), REST_MAX_S))
        return result

    async def confirm(self, suspects: Sequence[Suspect], *, wait: bool) -> list[Suspect]:
        """Those of the suspects that are still, with what was wrong in every look.

        `wait`: for claims that stay pending, until they are recorded or count as absent, so that nothing is left to a later
        run. It takes as long as a claim may be pending, at most.
        """
        loop = asyncio.get_running_loop()
        begun_at = loop.time()
        left = list(suspects)
        for pause_s in PAUSES_S:
            await asyncio.sleep(pause_s)
            left = await self._again(left)
        await self._doubt(left, begun_at)
        until = begun_at + self.claim_age_max_s + (len(PAUSES_S) + 2) * WAIT_PAUSE_S
        while wait and loop.time() < until and await self._is_waiting(left, begun_at):
            await asyncio.sleep(WAIT_PAUSE_S)
            left = await self._again(left)
            await self._doubt(left, begun_at)
        for one in left:
            one.pending.clear()
            one.in_doubt.clear()
        return [one for one in left if one.size]

    async def _again(self, suspects: Sequence[Suspect]) -> list[Suspect]:
        """One further look: the ledger, then the counters."""
        ledger: dict[int, ComparedCoupon] = {}
        for ids in chunks([one.coupon_id for one in suspects], LOOK_COUPONS):
            ledger |= await self.paced(partial(self.ledger.ranges.coupons_of, ids))
        sitting = await self._sitting(suspects)
        redemptions = await self._redemptions_of(suspects)
        counters: dict[str, Inspected | None] = {}
        for codes in chunks([one.code for one in suspects], LOOK_COUPONS):
            counters |= zip(codes, await self.comparing.inspect(codes), strict=True)
        states = await self._states(suspects)
        counts = await self._counts(suspects)
        for one in suspects:
            found, counter = ledger.get(one.coupon_id), counters[one.code]
            if found is None or counter is None:
                _forget(one)
                continue
            _fields_again(one, found, counter)
            if one.outdated is None:
                _seats_again(one, states.get(one.code, {}), sitting)
            _customers_again(one, redemptions, counts.get(one.code, {}))
        return [one for one in suspects if one.size or one.is_waiting]

    async def _sitting(self, suspects: Sequence[Suspect]) -> Mapping[tuple[int, int], bytes]:
        seats = [(one.coupon_id, seat) for one in suspects for seat in (*one.leaked, *one.ghosts, *one.pending)]
        found: dict[tuple[int, int], bytes] = {}
        for some in chunks(seats, LOOK_SEATS):
            found |= await self.paced(partial(self.ledger.ranges.sitting, some))
        return found

    async def _redemptions_of(self, suspects: Sequence[Suspect]) -> Mapping[tuple[int, str], frozenset[bytes]]:
        pairs = [(one.coupon_id, customer) for one in suspects for customer in (*one.customers, *one.in_doubt)]
        limits = (one.ledger.coupon.max_per_customer or 1 for one in suspects if one.customers or one.in_doubt)
        found: dict[tuple[int, str], frozenset[bytes]] = {}
        for some in _customers(pairs, max(limits, default=1)):
            found |= await self.paced(partial(self.ledger.ranges.redemptions_of, some))
        return found

    async def live(self, customers: Sequence[tuple[int, str]], limit: int) -> Mapping[tuple[int, str], int]:
        """Live redemptions by (coupon's id, customer); 0 is absent, as is what can't be a customer's name.

        `limit`: no customer may have more.
        """
        found: dict[tuple[int, str], int] = {}
        for some in _customers(customers, limit):
            found |= await self.paced(partial(self.ledger.ranges.customers, some))
        return found

    async def states(self, wanted: Mapping[str, Sequence[int | str]]) -> dict[str, SeatStates | None]:
        """What the counters say of these seats, in pieces of LOOK_SEATS in all; None where a counter is gone or has changed."""
        found: dict[str, SeatStates | None] = {}
        pairs = [(code, seat) for code, seats in wanted.items() for seat in seats]
        for some in chunks(pairs, LOOK_SEATS):
            for code, states in (await self.comparing.seat_states(grouped(some))).items():
                found[code] = states if code not in found else _joined(found[code], states)
        return found

    async def _states(self, suspects: Sequence[Suspect]) -> dict[str, dict[int | str, SeatState]]:
        """By code and seat; nothing where the counter is not that of the ledger's coupon any more."""
        wanted = {one.code: one.seats() for one in suspects if one.outdated is None}
        found = await self.states({code: seats for code, seats in wanted.items() if seats})
        by_code = {}
        for one in suspects:
            states = found.get(one.code)
            if states is not None and (states.coupon_id, states.version) == (one.coupon_id, one.ledger.coupon.version):
                by_code[one.code] = dict(zip(wanted[one.code], states.states, strict=True))
        return by_code

    async def _counts(self, suspects: Sequence[Suspect]) -> dict[str, dict[str, str | None]]:
        pairs = [(one.code, customer) for one in suspects for customer in (*one.customers, *one.in_doubt)]
        found: dict[str, dict[str, str | None]] = {}
        for some in chunks(pairs, LOOK_CUSTOMERS):
            wanted = grouped(some)
            for code, counts in (await self.comparing.customer_counts(wanted)).items():
                found.setdefault(code, {}).update(zip(wanted[code], counts, strict=True))
        return found

    async def _doubt(self, suspects: Sequence[Suspect], begun_at: float) -> None:
        """A count above the ledger's may be that of a claim which has been in flight all the time: nothing is said yet."""
        for one in suspects:
            one.customers |= one.in_doubt
            one.in_doubt = {}
        doubted = [one for one in suspects if any(_is_above(*pair) for pair in one.customers.values())]
        age_min_ms = int((asyncio.get_running_loop().time() - begun_at) * 1_000)
        for some in chunks(doubted, LOOK_COUPONS):
            found = await self.comparing.in_flight([one.code for one in some], age_min_ms=age_min_ms, orders_max=IN_FLIGHT_MAX)
            for one in some:
                if await self._is_in_flight(one.coupon_id, found[one.code]):
                    one.in_doubt = {name: pair for name, pair in one.customers.items() if _is_above(*pair)}
                    one.customers = {name: pair for name, pair in one.customers.items() if name not in one.in_doubt}

    async def _is_waiting(self, suspects: Sequence[Suspect], begun_at: float) -> bool:
        """Whether a claim that was pending all the time has a seat that is doubted, or of a counter that is to be made anew."""
        if any(one.is_waiting for one in suspects):
            return True
        age_min_ms = int((asyncio.get_running_loop().time() - begun_at) * 1_000)
        for some in chunks([one for one in suspects if one.outdated is not None], LOOK_COUPONS):
            found = await self.comparing.in_flight([one.code for one in some], age_min_ms=age_min_ms, orders_max=IN_FLIGHT_MAX)
            for one in some:
                if await self._is_in_flight(one.coupon_id, found[one.code]):
                    return True
        return False

    async def _is_in_flight(self, coupon_id: int, orders: Sequence[tuple[str, int]]) -> bool:
        """Whether one of these pending orders has not been recorded yet."""
        now = self.ledger.now() - timedelta(seconds=CLOCKS_DIFFER_S)
        names = [(order, now - timedelta(milliseconds=age_ms)) for order, age_ms in orders if diff.is_name(order)]
        if not names:
            return False
        recorded = await self.paced(lambda deadline: self.ledger.redemptions.recorded(coupon_id, names, deadline))
        return any(order not in recorded for order, _ in names)


def _customers(customers: Iterable[tuple[int, str]], limit: int) -> Iterator[list[tuple[int, str]]]:
    """Those who can be customers, in pieces for one statement."""
    return chunks((pair for pair in customers if diff.is_name(pair[1])), max(1, min(LOOK_CUSTOMERS, LOOK_LIVE // limit)))


def _forget(one: Suspect) -> None:
    """The counter is missing by now: there is nothing wrong with it."""
    one.outdated, one.is_behind = None, False
    one.drop_seats()
    one.customers.clear()
    one.in_doubt.clear()


def _fields_again(one: Suspect, ledger: ComparedCoupon, counter: Inspected) -> None:
    """Outdated is what says the same wrong thing as before. What has become outdated is for another run."""
    again = diff.outdated(counter, ledger)
    if one.outdated is not None:
        is_same = (counter.types, diff.told(counter)) == (one.counter.types, diff.told(one.counter))
        one.outdated = again if is_same else None
    elif again is not None or ledger.is_busy:
        one.is_behind = False
        one.drop_seats()
    one.is_behind = one.is_behind and again is None and ledger.seat_high > counter.number("next")
    one.ledger, one.counter = ledger, counter


def _seats_again(one: Suspect, states: Mapping[int | str, SeatState], sitting: Mapping[tuple[int, int], bytes]) -> None:
    numbers = {seat: states.get(seat) for seat in (*one.leaked, *one.ghosts, *one.pending)}
    sits = {seat: sitting.get((one.coupon_id, seat)) for seat in numbers}
    handed_out = {seat for seat, state in numbers.items() if sits[seat] is None and state is SeatState.HANDED_OUT}
    pending = {seat for seat, state in numbers.items() if sits[seat] is None and state is SeatState.PENDING}
    watched = {seat: one.pending.get(seat, 0) + 1 for seat in one.pending.keys() & handed_out}
    # A claim that was pending and counts as absent was lost, perhaps: its seat is leaked after as many looks as any other.
    one.leaked = one.leaked & handed_out | {seat for seat, looks in watched.items() if looks > len(PAUSES_S)}
    one.pending = {seat: looks for seat, looks in watched.items() if seat not in one.leaked} | dict.fromkeys(pending, 0)
    one.ghosts = {
        seat: sits[seat]
        for seat, before in one.ghosts.items()
        if numbers[seat] is SeatState.FREE and sits[seat] is not None and before in (None, sits[seat])
    }
    next_seat = one.counter.number("next")
    one.strange = {
        member for member in one.strange if states.get(member) is SeatState.FREE and diff.as_seat(member, next_seat) is None
    }


def _customers_again(one: Suspect, ids: Mapping[tuple[int, str], frozenset[bytes]], counts: Mapping[str, str | None]) -> None:
    """The same count beside the same redemptions: who redeems and cancels meanwhile may look alike every time."""
    limit, before = one.ledger.coupon.max_per_customer, one.customers_ids
    one.customers_ids = {
        name: ids.get((one.coupon_id, name), frozenset()) for name in (*one.customers, *one.in_doubt)
    }  # fmt: skip

    def is_same(customer: str, seen: str, live: int) -> bool:
        now = one.customers_ids[customer]
        return counts.get(customer) == seen and live == diff.counted(len(now), limit) and now == before.get(customer, now)

    one.customers = {name: pair for name, pair in one.customers.items() if is_same(name, *pair)}
    one.in_doubt = {name: pair for name, pair in one.in_doubt.items() if is_same(name, *pair)}


def _is_above(seen: str, live: int) -> bool:
    return diff.is_count(seen) and int(seen) > live


def _joined(first: SeatStates | None, second: SeatStates | None) -> SeatStates | None:
    """Two pieces of one answer, if the counter was the same."""
    if first is None or second is None or (first.coupon_id, first.version) != (second.coupon_id, second.version):
        return None
    return SeatStates(first.coupon_id, first.version, second.next, [*first.states, *second.states])


def chunks(items: Iterable[Item], size: int) -> Iterator[list[Item]]:
    """The items in pieces of this size, the last one smaller."""
    piece: list[Item] = []
    for item in items:
        piece.append(item)
        if len(piece) == size:
            yield piece
            piece = []
    if piece:
        yield piece


def grouped(pairs: Iterable[tuple[str, Item]]) -> dict[str, list[Item]]:
    """The second of each pair, by the first."""
    found: dict[str, list[Item]] = {}
    for first, second in pairs:
        found.setdefault(first, []).append(second)
    return found
