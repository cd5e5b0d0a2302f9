"""The ledger's clock, as estimated here: the one by which coupons begin and end."""

import time
from datetime import UTC, datetime, timedelta


class Clock:
    """Follows the ledger's clock by this machine's steady one, so that a jump of the local time of day does no harm."""

    def __init__(self) -> None:
        self._set_at_s = float("-inf")
        self._ledger_zero = datetime.now(UTC) - timedelta(seconds=time.monotonic())

    def now(self) -> datetime:
        """The ledger's time, aware, in UTC; this machine's until the ledger has been asked."""
        return self._ledger_zero + timedelta(seconds=time.monotonic())

    @property
    def age_s(self) -> float:
        """How long ago the ledger was asked."""
        return time.monotonic() - self._set_at_s

    def set(self, ledger_now: datetime, *, asked_at_s: float) -> None:
        """The ledger has just answered with its time; half of the way there and back lies between its clock and here."""
        self._set_at_s = time.monotonic()
        self._ledger_zero = ledger_now - timedelta(seconds=(asked_at_s + self._set_at_s) / 2)
