"""What the reconciler counts, for Prometheus. Labels are closed sets of words; no code, no customer, no order."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, disable_created_metrics, generate_latest
from prometheus_client.core import GaugeMetricFamily

from service.reconciling import Kind, Mode, RunStatus

CONTENT_TYPE: Final = CONTENT_TYPE_LATEST


@dataclass(slots=True)
class Seen:
    """What the leader saw when it looked last; None: not looked yet.

    `clean_at`: when the last check or repair of all coupons ended that found nothing.
    """

    holds_overdue: int | None = None
    coupons_over: int | None = None
    clean_at: datetime | None = None


class Metrics:
    """All of them. `leads`: whether this reconciler does; `now`: the ledger's clock.

    What is seen in the ledger is told by the leader alone, so that it is there once.
    """

    def __init__(self, leads: Callable[[], bool], now: Callable[[], datetime]) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self.seen = Seen()
        self._leads = leads
        self._now = now
        self._registry = registry = CollectorRegistry(auto_describe=False)
        self._runs = Counter(
            "usher_reconcile_runs", "Checks, repairs and reseeds that have ended.", ["mode", "status"], registry=registry
        )
        self._findings = Counter("usher_reconcile_findings", "What they have found.", ["kind"], registry=registry)
        self.holds_expired = Counter("usher_holds_expired", "Holds ended since their time was over.", registry=registry)
        self.cache_losses = Counter("usher_cache_losses", "How often Redis had lost its keys.", registry=registry)
        # All that there can be are there from the start: a rate needs a zero to begin with.
        for mode in Mode:
            for status in (RunStatus.DONE, RunStatus.FAILED):
                self._runs.labels(mode.value, status.value)
        for kind in Kind:
            self._findings.labels(kind.value)
        registry.register(self)

    def run_ended(self, mode: Mode, status: RunStatus) -> None:
        """A run has ended, DONE or FAILED."""
        self._runs.labels(mode.value, status.value).inc()

    def found(self, kind: Kind, count: int) -> None:
        """So many findings of a kind."""
        self._findings.labels(kind.value).inc(count)

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """What has a value now; called by the library."""
        leads = self._leads()
        yield GaugeMetricFamily("usher_reconciler_leading", "1 for the reconciler that leads, else 0.", value=float(leads))
        if not leads:
            return
        seen = self.seen
        if seen.holds_overdue is not None:
            text = "Holds past their time that are still to be ended."
            yield GaugeMetricFamily("usher_holds_overdue", text, value=seen.holds_overdue)
        if seen.coupons_over is not None:
            text = "Coupons with more live redemptions than their limit, since it was lowered."
            yield GaugeMetricFamily("usher_coupons_over", text, value=seen.coupons_over)
        if seen.clean_at is not None:
            text = "Since the last check or repair of all coupons that found nothing ended."
            age_s = (self._now() - seen.clean_at).total_seconds()
            yield GaugeMetricFamily("usher_seconds_since_clean_check", text, value=max(age_s, 0.0))

    def exposed(self) -> bytes:
        """All metrics in Prometheus' text format."""
        return generate_latest(self._registry)
