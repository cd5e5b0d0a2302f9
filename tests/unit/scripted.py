"""Records made by hand, and gateways whose answers a test writes down beforehand."""

import asyncio
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from types import SimpleNamespace

from service.errors import CounterUnavailable, UsherError
from service.model import (
    Claim,
    ClaimAnswer,
    Coupon,
    CouponStatus,
    Guess,
    LookUp,
    NewRedemption,
    Noted,
    Order,
    Record,
    RecordEnding,
    Redemption,
    RedemptionStatus,
    Refusal,
    Return,
    Search,
    Standing,
    Wish,
)
from service.transition import Transition, Transitioned, TransitionEnding

NOON = datetime(2026, 11, 22, 12, tzinfo=UTC)
COUPON = Coupon(7, "GOLD20", 20, 2, None, None, CouponStatus.ACTIVE, {}, 3, NOON, NOON)


def redemption_for(order: Order, *, seat: int = 1) -> Redemption:
    """A confirmed redemption of this order."""
    return Redemption(
        id=b"0123456789abcdef",
        coupon_id=COUPON.id,
        code=order.code,
        customer_id=order.customer_id,
        order_id=order.order_id,
        status=RedemptionStatus.CONFIRMED,
        seat=seat,
        expires_at=None,
        created_at=NOON,
        confirmed_at=NOON,
        ended_at=None,
        end_reason=None,
    )


def claimed(seat: int, customer_seat: int = 1) -> Claim:
    """A claim that got this seat."""
    return Claim(ClaimAnswer.CLAIMED, COUPON.id, COUPON.version, seat, customer_seat)


def refused(refusal: Refusal, *, search: Search | None = None, version: int = COUPON.version) -> Claim:
    """A claim that the counter refuses."""
    return Claim(ClaimAnswer.REFUSED, COUPON.id, version, refusal=refusal, search=search)


@dataclass
class ScriptedClaims:
    """Claims and Loads in one: answers claims from `answers`, and writes down what else it is asked to do."""

    answers: list[Claim | CounterUnavailable]
    coupon_id: int | None = COUPON.id
    ledger_seat: int | None = None
    found_none: bool = False
    is_away: bool = False
    is_behind: bool = False
    wishes: list[Wish] = field(default_factory=list)
    done: list[tuple[str, object]] = field(default_factory=list)

    def known(self, _code: str) -> int | None:
        return self.coupon_id

    async def claim(self, wishes: Sequence[tuple[str, Wish]]) -> list[Claim | CounterUnavailable]:
        self.wishes.extend(wish for _, wish in wishes)
        return [self.answers.pop(0) for _ in wishes]

    def settle(self, _code: str, _order_id: str, seat: int | None) -> None:
        self.done.append(("settle", seat))

    async def release(self, _code: str, given_back: Return) -> None:
        self.done.append(("release", (given_back.seat, given_back.customer_live)))

    async def load(self, code: str, *, even_newer: bool = False) -> int | None:  # noqa: ARG002 - as Loads
        self.done.append(("load", code))
        return self.coupon_id

    async def load_missing(self, code: str) -> int | None:
        return await self.load(code)

    async def drain(self) -> None:
        """Nothing goes on in the background."""

    async def catch_up(self, codes: Collection[str]) -> None:
        self.done.append(("catch_up", set(codes)))
        self.is_behind = False

    async def shrink(self, code: str) -> None:
        self.done.append(("shrink", code))

    async def refill(self, coupon: Coupon) -> bool:
        self.done.append(("refill", coupon.code))
        return self.found_none

    async def seat_from_ledger(self, coupon: Coupon, *, since: float, in_block: bool = False) -> int | None:  # noqa: ARG002 - as Claims
        self.done.append(("seat_in_block" if in_block else "seat_from_ledger", coupon.code))
        return self.ledger_seat

    async def is_left(self, coupon: Coupon) -> bool:
        self.done.append(("is_left", coupon.code))
        return self.ledger_seat is not None


@dataclass
class ScriptedRedemptions:
    """Answers records, look-ups and abandoned rows from lists; None as an abandoned answer means: not known yet."""

    records: list[Record] = field(default_factory=list)
    standings: list[Standing] = field(default_factory=list)
    abandoned: list[bool | None] = field(default_factory=list)
    rows: list[NewRedemption] = field(default_factory=list)

    async def record(self, rows: Sequence[NewRedemption]) -> list[Record | asyncio.Future[Record]]:
        self.rows.extend(rows)
        return [self.records.pop(0) for _ in rows]

    async def look_up(self, questions: Sequence[LookUp], _deadline: float) -> list[Standing]:
        return [self.standings.pop(0) for _ in questions]

    async def abandon(self, rows: Sequence[NewRedemption], _deadline: float) -> list[bool | None]:
        return [self.abandoned.pop(0) if self.abandoned else None for _ in rows]


@dataclass
class ScriptedGuesses:
    """Answers each guess from `answers`, the rest as counted; `error` is raised instead. `limits`: what a refresh reads."""

    answers: list[Noted] = field(default_factory=list)
    limits: dict[bytes, float] = field(default_factory=dict)
    error: UsherError | None = None
    noted: list[list[Guess]] = field(default_factory=list)

    async def note(self, guesses: Sequence[Guess], _deadline: float) -> list[Noted]:
        self.noted.append(list(guesses))
        if self.error is not None:
            raise self.error
        return [self.answers.pop(0) if self.answers else COUNTED for _ in guesses]

    async def limited(self, _deadline: float) -> dict[bytes, float]:
        if self.error is not None:
            raise self.error
        return self.limits


@dataclass
class ScriptedTransitions:
    """Answers the batches from `answers`: one answer for each wish, or an error for all of them; then they end as DONE."""

    answers: list[list[Transitioned | None] | UsherError] = field(default_factory=list)
    asked: list[list[Transition]] = field(default_factory=list)

    async def carry_out(self, wishes: Sequence[Transition], _deadline: float) -> list[Transitioned | None]:
        self.asked.append(list(wishes))
        if not self.answers:
            return [Transitioned(TransitionEnding.DONE) for _ in wishes]
        answer = self.answers.pop(0)
        if isinstance(answer, UsherError):
            raise answer
        return answer


def scripted_ledger(
    redemptions: ScriptedRedemptions,
    guesses: ScriptedGuesses | None = None,
    transitions: ScriptedTransitions | None = None,
) -> SimpleNamespace:
    """A ledger with these redemptions, guesses and transitions, whose clock stands at noon."""
    return SimpleNamespace(
        redemptions=redemptions,
        guesses=guesses or ScriptedGuesses(),
        transitions=transitions or ScriptedTransitions(),
        now=lambda: NOON,
    )


def standing(
    *,
    live: Redemption | None = None,
    refusal: Refusal | None = None,
    customer_seats: tuple[int, ...] = (),
    coupon: Coupon | None = COUPON,
) -> Standing:
    """What the ledger says of an order."""
    return Standing(coupon, live, refusal, customer_seats)


RECORDED = Record(RecordEnding.RECORDED)
COUNTED = Noted(counted=True, limited_s=0.0, reached=False)
