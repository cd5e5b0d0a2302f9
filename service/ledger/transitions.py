"""What becomes of redemptions that are there: confirm, extend, cancel, expire; a batch in one transaction.

Coupons are locked first, in share mode and by id, then the redemptions, by id; so a batch never waits for another in a circle,
and a change of a coupon's limit waits for the batch, or the batch sees it.

While a coupon is *over* (live redemptions sit on seats above a limit that was lowered), a use that ends does not free its seat:
one of those above gets it. That takes the coupon's row exclusively, so nobody is admitted before live redemptions are below the
limit.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

from service.errors import LedgerContended, LedgerReplyLost, LedgerUnavailable
from service.ledger.connections import Connection, Connections, Row
from service.ledger.literals import Sql, binaries, integer, tuples
from service.ledger.sql import Query
from service.model import Redemption, RedemptionStatus
from service.transition import Freed, Transition, Transitioned, TransitionEnding, Verb

FIND = Query("transition_find")
LOCK_COUPONS = Query("transition_lock_coupons")
LOCK_COUPON = Query("transition_lock_coupon")
LOCK_REDEMPTIONS = Query("transition_lock_redemptions")
WRITE = Query("transition_write")
OVER_FIND = Query("over_find")
OVER_LIST = Query("over_list")
OVER_MOVE = Query("over_move")

BEGIN: Final = datetime.min.replace(tzinfo=UTC)
"""A time that nothing depends on: no redemption is locked."""

EXPIRE_TRIES: Final = 3
"""For holds whose time is over, at once after one another: a connection may be broken, a deadlock is over."""

NOT_FOUND: Final = Transitioned(TransitionEnding.NOT_FOUND)


@dataclass(frozen=True, slots=True)
class LockedCoupon:
    """What is needed of a coupon that this transaction has locked."""

    id: int
    code: str
    max_redemptions: int | None


@dataclass(slots=True)
class Locked:
    """A redemption that this transaction has locked: as it was found, and as it becomes."""

    found: Redemption
    was_seat: int | None
    becomes: Redemption

    @property
    def freed_seat(self) -> int | None:
        """The seat that it has to give."""
        return self.found.seat if self.becomes.ended_at is not None else None


@dataclass(frozen=True, slots=True)
class Carried:
    """What was done under the locks: how each wish (by its place) ended, and all redemptions that they were about."""

    endings: dict[int, Transitioned]
    redemptions: list[Locked]


class _Over(Exception):
    """Coupons of a batch have live redemptions above their limits: it is rolled back and done another way."""

    def __init__(self, coupon_ids: frozenset[int]) -> None:
        super().__init__()
        self.coupon_ids = coupon_ids


class Transitions:
    """The gateway to the life of redemptions."""

    def __init__(self, connections: Connections) -> None:
        self._connections = connections

    async def carry_out(self, wishes: Sequence[Transition], deadline: float) -> list[Transitioned | None]:
        """Carries out the wishes, durably; those about one redemption in this order.

        None: its coupon is being changed, or somebody else holds the redemption just now.
        `deadline` in seconds of the loop's clock. Raises LedgerContended and LedgerUnavailable: none of them was carried out;
        LedgerReplyLost: perhaps some were, or all. Asking again, with `again`, is safe after each of them.
        """
        async with self._connections.use(deadline) as connection:
            return await _Batch(connection, wishes, deadline).carry_out()

    async def expire(self, ids: Sequence[bytes], statement_s: float) -> list[Transitioned | None]:
        """Ends holds whose time is over, in one transaction; tried again after a deadlock or a lost reply.

        `statement_s`: for each try. None: its coupon is being changed, or somebody else holds it. Raises LedgerUnavailable, and
        LedgerContended after the last try.
        """
        wishes = [Transition(Verb.EXPIRE, one) for one in ids]
        for left in reversed(range(EXPIRE_TRIES)):
            try:
                return await self.carry_out(wishes, asyncio.get_running_loop().time() + statement_s)
            except (LedgerContended, LedgerUnavailable) as error:
                if not left:
                    raise
                if isinstance(error, LedgerReplyLost):  # Perhaps they are ended: then their uses are still to be given back.
                    wishes = [wish._replace(again=True) for wish in wishes]
        raise AssertionError("the last try returns or raises")


class _Batch:
    """The wishes of one call, on one connection. Places are those of the wishes in it."""

    def __init__(self, connection: Connection, wishes: Sequence[Transition], deadline: float) -> None:
        self._connection = connection
        self._wishes = wishes
        self._deadline = deadline

    async def carry_out(self) -> list[Transitioned | None]:
        """See `Transitions.carry_out`."""
        together = await self._by_coupon()
        known = {place for at in together.values() for place in at}
        answers: dict[int, Transitioned] = {place: NOT_FOUND for place in range(len(self._wishes)) if place not in known}
        alone: dict[int, list[int]] = {}
        while together:
            try:
                answers |= await self._together(together)
                break
            except _Over as over:  # Another coupon can become so until the next try.
                alone |= {coupon_id: together.pop(coupon_id) for coupon_id in over.coupon_ids}
        try:
            for coupon_id in sorted(alone):
                answers |= await self._alone(coupon_id, alone[coupon_id])
        except (LedgerContended, LedgerUnavailable) as error:
            if all(answer is NOT_FOUND for answer in answers.values()):
                raise
            # What was carried out has freed uses that the caller would never hear of otherwise.
            raise LedgerReplyLost(str(error)) from error
        return [answers.get(place) for place in range(len(self._wishes))]

    async def _by_coupon(self) -> dict[int, list[int]]:
        """The places of the wishes whose redemptions there are, by their coupons' ids."""
        ids = binaries(sorted({wish.id for wish in self._wishes}))
        coupon_ids: dict[bytes, int] = dict(await self._connection.fetch(FIND(ids=ids), self._deadline))
        places: dict[int, list[int]] = {}
        for place, wish in enumerate(self._wishes):
            if wish.id in coupon_ids:
                places.setdefault(coupon_ids[wish.id], []).append(place)
        return places

    async def _together(self, places: dict[int, list[int]]) -> dict[int, Transitioned]:
        """All coupons in one transaction, in share mode, without those that are being changed. Raises _Over: not done."""
        async with self._connection.transaction(self._deadline):
            coupons = await self._lock(LOCK_COUPONS(ids=Sql(",".join(map(integer, sorted(places))))))
            carried = await self._carry_out(coupons, {coupon_id: places[coupon_id] for coupon_id in coupons})
            await self._check_not_over(coupons, carried.redemptions)
        return carried.endings

    async def _alone(self, coupon_id: int, places: list[int]) -> dict[int, Transitioned]:
        """One coupon, locked exclusively: seats that its redemptions leave go to those above the limit first."""
        async with self._connection.transaction(self._deadline):
            coupons = await self._lock(LOCK_COUPON(id=coupon_id))
            carried = await self._carry_out(coupons, {coupon_id: places})
            taken = await self._hand_over(coupons[coupon_id], carried.redemptions)
        return {place: _without_seat(ending, taken) for place, ending in carried.endings.items()}

    async def _lock(self, statement: str) -> dict[int, LockedCoupon]:
        rows = await self._connection.fetch(statement, self._deadline)
        return {row[0]: LockedCoupon(*row[:3]) for row in rows}

    async def _carry_out(self, coupons: dict[int, LockedCoupon], places: dict[int, list[int]]) -> Carried:
        """Locks the redemptions, decides, and writes what has changed. `places`: by coupon, all of them locked."""
        keys = sorted({(self._wishes[place].id, coupon_id) for coupon_id, at in places.items() for place in at})
        if not keys:
            return Carried({}, [])
        rows = await self._connection.fetch(LOCK_REDEMPTIONS(keys=tuples(keys)), self._deadline)
        redemptions = {row[0]: _locked(row, coupons[row[1]].code) for row in rows}
        now = max((row[-1] for row in rows), default=BEGIN)
        endings = {}
        for place in sorted(place for at in places.values() for place in at):
            locked = redemptions.get(self._wishes[place].id)
            if locked is None:
                continue
            endings[place] = _carry_out(self._wishes[place], locked, now)
        changed = [locked for locked in redemptions.values() if locked.becomes != locked.found]
        if changed:
            await self._connection.run(WRITE(rows=tuples(map(_written, changed))), self._deadline)
        return Carried(endings, list(redemptions.values()))

    async def _check_not_over(self, coupons: dict[int, LockedCoupon], redemptions: Sequence[Locked]) -> None:
        """Raises _Over for the coupons in which a seat has become free that must not be."""
        freeing = {locked.found.coupon_id for locked in redemptions if locked.freed_seat is not None}
        limits = [(coupon_id, coupons[coupon_id].max_redemptions) for coupon_id in sorted(freeing)]
        if limits:
            found = await self._connection.fetch(OVER_FIND(limits=tuples(limits)), self._deadline)
            if found:
                raise _Over(frozenset(coupon_id for (coupon_id,) in found))

    async def _hand_over(self, coupon: LockedCoupon, redemptions: Sequence[Locked]) -> frozenset[int]:
        """Seats redemptions that are above the limit on the seats that became free; those seats."""
        limit = coupon.max_redemptions or 0
        free = sorted(one.freed_seat for one in redemptions if one.freed_seat is not None and one.freed_seat <= limit)
        if not free:
            return frozenset()
        over = OVER_LIST(coupon_id=coupon.id, max_redemptions=limit, limit=len(free))
        rows = await self._connection.fetch(over, self._deadline)
        moves = [
            (redemption_id, coupon.id, old_seat, seat) for (redemption_id, old_seat), seat in zip(rows, free, strict=False)
        ]
        if moves:
            await self._connection.run(OVER_MOVE(moves=tuples(moves)), self._deadline)
        return frozenset(seat for *_, seat in moves)


def _carry_out(wish: Transition, locked: Locked, now: datetime) -> Transitioned:
    """What the wish makes of a redemption that is locked; a hold whose time is over expires with it, whatever the wish."""
    before = locked.becomes
    ending, locked.becomes = decide(wish, before, now)
    freed = None
    if before.ended_at is None and locked.becomes.ended_at is not None:
        freed = Freed(before.code, before.customer_id, before.order_id, before.seat)
    elif wish.again and locked.found.ended_at is not None:
        freed = Freed(before.code, before.customer_id, before.order_id, locked.was_seat)
    return Transitioned(ending, locked.becomes, freed)


def decide(wish: Transition, before: Redemption, now: datetime) -> tuple[TransitionEnding, Redemption]:
    """How a wish ends for a redemption as it was before, and what it becomes. Pure."""
    current = before.as_of(now)
    match wish.verb, current.status:
        case Verb.EXPIRE, RedemptionStatus.EXPIRED if before.status is RedemptionStatus.RESERVED:
            return TransitionEnding.DONE, current
        case Verb.CANCEL, RedemptionStatus.RESERVED | RedemptionStatus.CONFIRMED:
            becomes = current._replace(status=RedemptionStatus.CANCELLED, seat=None, ended_at=now, end_reason=wish.reason)
        case Verb.CONFIRM, RedemptionStatus.RESERVED:
            becomes = current._replace(status=RedemptionStatus.CONFIRMED, confirmed_at=now, expires_at=None)
        case Verb.EXTEND, RedemptionStatus.RESERVED:
            becomes = current._replace(expires_at=now + timedelta(seconds=wish.hold_s))
        case Verb.EXTEND, RedemptionStatus.CONFIRMED:
            return TransitionEnding.ALREADY_CONFIRMED, current
        case Verb.CONFIRM | Verb.EXTEND, RedemptionStatus.CANCELLED:
            return TransitionEnding.ALREADY_CANCELLED, current
        case Verb.CONFIRM | Verb.EXTEND, RedemptionStatus.EXPIRED:
            return TransitionEnding.RESERVATION_EXPIRED, current
        case _:
            return TransitionEnding.UNCHANGED, current
    return TransitionEnding.DONE, becomes


def _without_seat(ended: Transitioned, taken: frozenset[int]) -> Transitioned:
    """The same, with a freed seat that another redemption has got left out: the counter must not hand it out."""
    if ended.freed is None or ended.freed.seat not in taken:
        return ended
    return ended._replace(freed=ended.freed._replace(seat=None))


def _locked(row: Row, code: str) -> Locked:
    """From `transition_lock_redemptions.sql`."""
    redemption_id, coupon_id, customer_id, order_id, status, seat, was_seat, *rest, _ = row
    found = Redemption(redemption_id, coupon_id, code, customer_id, order_id, RedemptionStatus(status), seat, *rest)
    return Locked(found, was_seat, found)


def _written(locked: Locked) -> tuple[object, ...]:
    """A row of `transition_write.sql`."""
    new = locked.becomes
    was_seat = locked.was_seat if locked.freed_seat is None else locked.freed_seat
    return (
        new.id, new.coupon_id, new.status.value, was_seat, new.expires_at, new.confirmed_at, new.ended_at, new.end_reason,
    )  # fmt: skip
