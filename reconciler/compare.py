"""check and repair: counters are held against the ledger, online, beside full traffic, in bounded memory.

    report = await compare_once(ledger, counters, found)                                    # check
    report = await compare_once(ledger, counters, found, mend=True, may_mend=is_leading)    # repair

A check changes nothing in Redis, not even an expiry time. A repair mends just what was found, after `found` was told. Both go
through the coupons in pages, and through a coupon's seats in sums (see `diff`); what differs is looked at again until it is
certain (see `suspects`), then told, then mended (see `mending`).
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import Final

from reconciler import diff
from reconciler.collecting import Collecting, Found, Stopped
from reconciler.comparing_seats import WALKED_AT_ONCE, Pair, SeatComparison, following
from reconciler.mending import Mending, NotAllowed
from reconciler.oversold import Oversold
from reconciler.suspects import Looks
from service.comparing import BEGIN, Comparing
from service.counters import Counters
from service.ledger import Ledger
from service.ledger.ranges import ComparedCoupon
from service.model import CouponStatus
from service.reconciling import Kind

PAGE_COUPONS: Final = 500
"""Read, and held against their counters, at once."""

Progress = Callable[[float, int], None]
"""Told how many coupons are done, a large one in parts, and how many there are."""


@dataclass(frozen=True, slots=True)
class Report:
    """What a run of `compare_once` has found.

    `coupons_checked`: those held against a counter. `counts`: findings by kind, without the notes. `missing`: coupons that are
    active or were ever redeemed and have no counter; the first 1,000 of them were told. `not_mended`: findings that are as they
    were; in a repair these are those of Kind.OVERSOLD, and what might not be mended any more. `unlisted`: leaked seats that are
    in `counts` and were not told one by one. `complete`: False if it was stopped, or might not mend any more.
    """

    coupons_checked: int
    counts: Mapping[Kind, int]
    missing: int
    not_mended: int
    unlisted: int
    complete: bool

    @property
    def finding_count(self) -> int:
        """Findings of all kinds, without the notes."""
        return sum(self.counts.values())


def never() -> bool:
    """Nobody asks to stop."""
    return False


async def always() -> bool:
    """Whoever runs this may mend."""
    return True


def unseen(_done: float, _total: int) -> None:
    """Nobody watches."""


async def compare_once(
    ledger: Ledger,
    counters: Counters,
    found: Found,
    *,
    code: str | None = None,
    mend: bool = False,
    tells_unsearched: bool = True,
    may_mend: Callable[[], Awaitable[bool]] = always,
    is_stopping: Callable[[], bool] = never,
    progress: Progress = unseen,
) -> Report:
    """Compares all coupons, or the one with this code, with their counters; `mend`: and mends what differs.

    `found` is told findings as they become certain, and notes (Kind.MISSING); with `tells_unsearched` also of seats that their
    counter has yet to look for, see `Inspected.unsearched`: those are mended in any case. `may_mend` is
    asked before each mending, and `is_stopping` between statements: then the run ends, and what was suspected and not yet
    certain is dropped. With a code that no coupon has, nothing is found. Raises LedgerUnavailable and CounterUnavailable; what
    was told and mended by then stays.
    """
    comparing = Comparing(counters)
    looks = Looks(ledger, comparing, claim_age_max_s=counters.claim_age_max_ms / 1_000)
    mending = Mending(ledger, counters, comparing, may_mend) if mend else None
    collecting = Collecting(looks, found, mending=mending, tells_unsearched=tells_unsearched, is_stopping=is_stopping)
    comparison = _Comparison(looks, collecting, progress)
    complete = True
    try:
        await comparison.run(code)
    except (NotAllowed, Stopped):
        complete = False
    return Report(
        comparison.checked,
        dict(+collecting.counts),
        collecting.missing,
        collecting.not_mended,
        collecting.unlisted,
        complete=complete,
    )


class _Comparison:
    """One run through the coupons. `checked`: those held against a counter so far."""

    def __init__(self, looks: Looks, collecting: Collecting, progress: Progress) -> None:
        self._looks = looks
        self._collecting = collecting
        self._progress = progress
        self._oversold = Oversold(looks, collecting)
        self._done, self._total, self._shown = 0, 1, 0.0
        self.checked = 0

    async def run(self, code: str | None) -> None:
        """All coupons, or one. Raises Stopped, NotAllowed."""
        ranges = self._looks.ledger.ranges
        if code is not None:
            one = await self._looks.paced(partial(ranges.coupon, code))
            if one is not None:
                await self._compare([one])
                await self._collecting.certain()
                await self._oversold.look_at_customers_of(one)
        else:
            self._total = await self._looks.paced(ranges.coupon_count)
            after_id = 0
            while page := await self._looks.paced(partial(ranges.coupons, after_id, PAGE_COUPONS)):
                await self._compare(page)
                after_id = page[-1].coupon.id
            await self._collecting.certain()
            await self._oversold.look_at_customers()
        self._progress(self._total, self._total)

    async def _compare(self, page: Sequence[ComparedCoupon]) -> None:
        """Some coupons: the ledger has been read, then the counters are, then the ledger, and so on."""
        self._collecting.check_stop()
        counters = await self._looks.comparing.inspect([one.coupon.code for one in page])
        pairs = [(ledger, counter) for ledger, counter in zip(page, counters, strict=True) if counter is not None]
        await self._collecting.note_missing(
            [
                ledger.coupon.code
                for ledger, counter in zip(page, counters, strict=True)
                if counter is None and (ledger.is_redeemed or ledger.coupon.status is CouponStatus.ACTIVE)
            ]
        )
        self.checked += len(pairs)
        comparable = [pair for pair in pairs if self._compare_fields(pair)]
        seats = SeatComparison(self._looks, self._collecting, lambda share: self._show(share * len(page)))
        await seats.compare([pair for pair in comparable if pair[0].coupon.max_redemptions is not None])
        await self._compare_customers(pairs)
        for ledger in page:
            await self._oversold.look_at_seats(ledger)
        self._done += len(page)
        self._show(0)

    def _show(self, at_hand: float) -> None:
        self._total = max(self._total, self._done)
        self._shown = max(self._shown, min(self._done + at_hand, self._total))
        self._progress(self._shown, self._total)

    def _compare_fields(self, pair: Pair) -> bool:
        """Whether the seats can be compared: an outdated counter is loaded anew, that of a busy coupon will be."""
        ledger, counter = pair
        outdated = diff.outdated(counter, ledger)
        if outdated is not None:
            self._collecting.suspect(ledger, counter).outdated = outdated
        elif ledger.seat_high > counter.number("next"):
            self._collecting.suspect(ledger, counter).is_behind = True
        return outdated is None and not ledger.is_busy

    async def _compare_customers(self, pairs: Sequence[Pair]) -> None:
        """Customers that the counters know, and their live redemptions. Another coupon's customers leave with the load."""
        by_code = {
            ledger.coupon.code: (ledger, counter)
            for ledger, counter in pairs
            if ledger.coupon.max_per_customer is not None
            and counter.customer_count
            and counter.values.get("coupon_id") == str(ledger.coupon.id)
        }
        cursors = dict.fromkeys(by_code, BEGIN)
        while cursors:
            self._collecting.check_stop()
            pages = await self._looks.comparing.customers_page(dict(islice(cursors.items(), WALKED_AT_ONCE)))
            known = [(by_code[code][0].coupon.id, name) for code, (_, counts) in pages.items() for name in counts]
            limits = (by_code[code][0].coupon.max_per_customer or 1 for code in pages)
            live = await self._looks.live(known, max(limits))
            for code, (_, counts) in pages.items():
                ledger, counter = by_code[code]
                for name, seen in counts.items():
                    number = diff.counted(live.get((ledger.coupon.id, name), 0), ledger.coupon.max_per_customer)
                    if seen != str(number):
                        self._collecting.suspect(ledger, counter).customers[name] = (seen, number)
            await self._collecting.certain_if_many()
            cursors = following(cursors, {code: cursor for code, (cursor, _) in pages.items()})
