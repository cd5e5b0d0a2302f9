"""What a run of check or repair has in hand: what is suspected and not certain yet, and what was found, told and mended."""

from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

from reconciler.mending import Mending
from reconciler.suspects import Looks, Suspect, chunks
from service.comparing import Inspected
from service.ledger.ranges import ComparedCoupon
from service.reconciling import Finding, Kind

SUSPECTS_MAX: Final = 10_000
"""So many are looked at again, told and mended before further ones are looked for."""
MISSING_LISTED_MAX: Final = 1_000
"""Coupons without a counter that are named; the others are counted."""
FINDINGS_AT_ONCE: Final = 1_000

Found = Callable[[Sequence[Finding]], Awaitable[None]]
"""Told of findings, in pieces of FINDINGS_AT_ONCE at most, before they are mended."""


class Stopped(Exception):
    """Somebody has asked to stop."""


class Collecting:
    """Collects suspicions; has them looked at again, told, and mended where there is a `mending`.

    `tells_unsearched`: also leaked seats that their counter has yet to look for, see `Inspected.unsearched`.

    `counts`: findings by kind, without the notes. `missing`: coupons without a counter. `not_mended`: findings that are as they
    were. `unlisted`: leaked seats that were counted and not told one by one.
    """

    def __init__(
        self, looks: Looks, found: Found, *, mending: Mending | None, tells_unsearched: bool, is_stopping: Callable[[], bool]
    ) -> None:
        self._looks = looks
        self._found = found
        self._mending = mending
        self._tells_unsearched = tells_unsearched
        self._is_stopping = is_stopping
        self._suspects: dict[int, Suspect] = {}
        self.counts: Counter[Kind] = Counter()
        self.missing = self.not_mended = self.unlisted = 0

    def check_stop(self) -> None:
        """Between statements. Raises Stopped."""
        if self._is_stopping():
            raise Stopped

    def suspect(self, ledger: ComparedCoupon, counter: Inspected) -> Suspect:
        """What is suspected of this coupon, to be added to."""
        return self._suspects.setdefault(ledger.coupon.id, Suspect(ledger, counter))

    def all_listed(self, ledger: ComparedCoupon) -> None:
        """No further leaked seats of this coupon will be suspected; those that were before have been told and mended."""
        found = self._suspects.get(ledger.coupon.id)
        if found is not None:
            found.is_all = True

    async def certain_if_many(self) -> None:
        """Makes certain of what is suspected if there is no room for more."""
        if sum(one.size for one in self._suspects.values()) >= SUSPECTS_MAX:
            await self.certain()

    async def certain(self) -> None:
        """Looks again at all that is suspected, tells what is certain, then mends it. Raises NotAllowed."""
        suspects, self._suspects = self._suspects, {}
        if not suspects:
            return
        confirmed = await self._looks.confirm(list(suspects.values()), wait=self._mending is not None)
        for one in confirmed:
            one.quiet_to = 0 if self._tells_unsearched else one.counter.unsearched
            for findings in chunks(one.findings(), FINDINGS_AT_ONCE):
                await self.tell(findings)
            self.counts[Kind.LEAKED] += one.unlisted
            self.not_mended += one.unlisted
            self.unlisted += one.unlisted
        if self._mending is not None:
            for one in confirmed:
                await self._mending.mend(one)
                self.not_mended -= one.unlisted + sum(1 for _ in one.findings())

    async def tell(self, findings: Sequence[Finding]) -> None:
        """Counts and tells findings that are certain. They count as not mended until they are."""
        await self._found(findings)
        self.counts.update(one.kind for one in findings)
        self.not_mended += len(findings)

    async def note_missing(self, codes: Sequence[str]) -> None:
        """Tells that these coupons have no counter, the first MISSING_LISTED_MAX of a run."""
        room = max(0, MISSING_LISTED_MAX - self.missing)
        self.missing += len(codes)
        for some in chunks((Finding(code, Kind.MISSING, None, None) for code in codes[:room]), FINDINGS_AT_ONCE):
            await self._found(some)
