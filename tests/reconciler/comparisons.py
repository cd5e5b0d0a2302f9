"""What the tests of check and repair share: runs and what they tell, and redemptions that are in order."""

import itertools
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any

import pytest

from reconciler import suspects
from reconciler.compare import Report, compare_once
from service.counters import ClaimBatch, Counters
from service.ledger import Ledger
from service.model import Coupon, RecordEnding, Wish
from service.reconciling import Finding, Kind
from tests.ledger import given

Option = Any
"""An option of `compare_once`."""


class Told(list[Finding]):
    """Findings, in the order in which they were told."""

    async def __call__(self, findings: Sequence[Finding]) -> None:
        self.extend(findings)


async def compared(ledger: Ledger, counters: Counters, **options: Option) -> tuple[list[Finding], Report]:
    """What a run tells, and its report."""
    told = Told()
    report = await compare_once(ledger, counters, told, **options)
    return told, report


async def check(ledger: Ledger, counters: Counters, **options: Option) -> list[Finding]:
    """What a check finds, notes included."""
    told, report = await compared(ledger, counters, **options)
    assert len(told) == report.finding_count + report.missing
    assert (report.finding_count, True) == (report.not_mended, report.complete)
    return told


async def repair(ledger: Ledger, counters: Counters, **options: Option) -> list[Finding]:
    """What a repair finds and mends."""
    told, report = await compared(ledger, counters, mend=True, **options)
    assert (len(told), 0, True) == (report.finding_count + report.missing, report.not_mended, report.complete)
    return told


async def redeemed(ledger: Ledger, counters: Counters, coupon: Coupon, count: int) -> list[str]:
    """So many redemptions, claimed, recorded and settled, each of a customer of its own; the customers."""
    numbers = [next(given.names) for _ in range(count)]
    wishes = [Wish(f"order-{number}", f"customer-{number}") for number in numbers]
    (claims,) = await counters.claim([ClaimBatch(coupon.code, wishes)])
    assert isinstance(claims, list)
    rows = [
        given.row(
            ledger, coupon, customer_id=wish.customer_id, order_id=wish.order_id, seat=claim.seat,
            customer_seat=claim.customer_seat,
        )
        for wish, claim in zip(wishes, claims, strict=True)
    ]  # fmt: skip
    assert {RecordEnding.RECORDED} == set(await given.endings(ledger, *rows))
    settled = [(wish.order_id, claim.seat) for wish, claim in zip(wishes, claims, strict=True)]
    await counters.claim([ClaimBatch(coupon.code, [], settled)])
    return [wish.customer_id for wish in wishes]


def before_look(monkeypatch: pytest.MonkeyPatch, number: int, act: Callable[[], Awaitable[None]]) -> None:
    """Something happens just before a run looks again for the first or the second time."""
    again, looks = suspects.Looks._again, itertools.count(1)

    async def look(self: suspects.Looks, left: Sequence[suspects.Suspect]) -> list[suspects.Suspect]:
        if next(looks) == number:
            await act()
        return await again(self, left)

    monkeypatch.setattr(suspects.Looks, "_again", look)


def leaked(code: str, seats: Iterable[int]) -> list[Finding]:
    """What is told of seats that are in no row."""
    return [Finding(code, Kind.LEAKED, "handed out", "free", seat=seat) for seat in seats]


def ghosts(code: str, seats: Iterable[int]) -> list[Finding]:
    """What is told of free seats that are in rows."""
    return [Finding(code, Kind.GHOST, "free", "taken", seat=seat) for seat in seats]
