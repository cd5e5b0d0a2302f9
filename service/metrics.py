"""What a process has counted, for Prometheus; and what all workers have counted, whichever of them is asked.

Workers write into files of a folder that they share, each into those of its own place: who takes the place of a worker that
has died goes on with its numbers. That is the library's multiprocess mode; a single process needs no files.
"""

import asyncio
import os
import shutil
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import structlog
from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    disable_created_metrics,
    generate_latest,
    values,
)
from prometheus_client.multiprocess import MultiProcessCollector

from service.counts import OVERLOADED, RETRY_CAUSES, Batches, Counts
from service.ledger.recording import RETRY_CAUSES as RECORD_RETRY_CAUSES
from service.model import Ending, Refusal
from service.transition import TransitionEnding, Verb

CONTENT_TYPE: Final = CONTENT_TYPE_LATEST
TAKE_INTERVAL_S: Final = 0.25
"""So often a worker hands over what it has counted; one that is killed takes the rest along."""
PREFIX: Final = "usher_"
SHARED_MEMORY: Final = Path("/dev/shm")  # noqa: S108 - the folder made there has a random name and is closed to others
"""Where there is one, the files are never written to a disk; and it can be written to where the rest is read-only."""
FREE_MIN_BYTES: Final = 32 * 1024 * 1024
"""A worker has some 3 MiB of files at most. Whoever writes into a mapped file for which there is no room is killed."""
FOLDER_VARIABLE: Final = "PROMETHEUS_MULTIPROC_DIR"
"""By which the library wants to be told."""

SIZES: Final = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)
SECONDS: Final = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0)
PLAIN: Final = {
    "collisions": "Seats that a counter handed out, or would have, and that were taken.",
    "loads": "Counters loaded from the ledger, or found to be as they should.",
    "refills": "Searches for free seats on behalf of a counter.",
    "refilled_seats": "Free seats that those gave to counters.",
    "searches": "Searches for free seats on behalf of requests.",
    "releases_lost": "Uses that were not given back to their counter; a refill finds them.",
    "ids_abandoned": "Redemptions whose outcome the ledger could not say in time.",
}
GAUGES: Final = {
    "redemptions_under_way": "Requests to redeem that are being carried out.",
    "claim_queue_requests": "Requests that wait for a claim.",
    "record_queue_rows": "Claimed redemptions that wait to be recorded.",
    "look_up_queue_orders": "Refused orders that wait to be looked up.",
    "ids_in_doubt": "Abandoned redemptions whose outcome is not known yet.",
    "breaker_open": "Workers for which Redis is away.",
    "workers": "Workers that serve.",
}

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Shared:
    """A folder that workers share, and the place of this one among them."""

    folder: Path
    place: int


def make_folder() -> Path | None:
    """A folder for workers to share, closed to other users; None where none can be made: then each tells its own numbers."""
    try:
        fits = os.access(SHARED_MEMORY, os.W_OK) and shutil.disk_usage(SHARED_MEMORY).free >= FREE_MIN_BYTES
        return Path(tempfile.mkdtemp(prefix="usher-metrics-", dir=SHARED_MEMORY if fits else None))
    except OSError as error:
        log.warning("no folder for metrics; each worker tells its own", error=f"{type(error).__name__}: {error.strerror}")
        return None


def remove_folder(folder: Path | None) -> None:
    """Removes it with all files."""
    if folder is not None:
        shutil.rmtree(folder, ignore_errors=True)


class Metrics:
    """All metrics of the service. `shared`: with the other workers; there can be one of these in such a process."""

    def __init__(self, counts: Counts, shared: Shared | None = None) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]
        _choose_values(shared)
        self._counts = counts
        self._folder = shared and shared.folder
        self._registry = registry = CollectorRegistry(auto_describe=False)
        self._redemptions = _counter(registry, "redemptions", "Requests to redeem, by how they ended.", "ending")
        self._refusals = _counter(registry, "refusals", "Redemptions that were refused, by the problem's code.", "code")
        self._transitions = _counter(registry, "transitions", "Confirmations and so on, by how they ended.", "verb", "ending")
        self._http_answers = _counter(registry, "http_answers", "HTTP answers.", "status")
        self._retries = _counter(registry, "retries", "Requests to redeem that tried again, by why.", "cause")
        self._record_retries = _counter(registry, "record_retries", "Record statements sent again, by why.", "cause")
        self._breaker_openings = _counter(registry, "breaker_openings", "How often Redis was found to be away.")
        self._plain = {name: _counter(registry, name, text) for name, text in PLAIN.items()}
        self._claim_sizes = _histogram(registry, "claim_batch_requests", "Requests claimed together.", SIZES)
        self._claim_seconds = _histogram(registry, "claim_batch_seconds", "How long a batch of claims took.", SECONDS)
        self._record_sizes = _histogram(registry, "record_batch_rows", "Redemptions recorded together.", SIZES)
        self._record_seconds = _histogram(registry, "record_batch_seconds", "How long a batch of records took.", SECONDS)
        self._gauges = {
            name: Gauge(PREFIX + name, text, multiprocess_mode="livesum", registry=registry) for name, text in GAUGES.items()
        }
        self._totals_before: dict[tuple[str, str], int] = {}
        self._begin()

    def _begin(self) -> None:
        """All that there can be are there from the start: a rate needs a zero to begin with."""
        for ending in (*(one.value for one in Ending), OVERLOADED):
            self._redemptions.labels(ending)
        for refusal in Refusal:
            self._refusals.labels(refusal.value)
        for verb in Verb:
            for done in (*(one.value for one in TransitionEnding), OVERLOADED):
                self._transitions.labels(verb.value, done)
        for cause in RETRY_CAUSES:
            self._retries.labels(cause)
        for cause in RECORD_RETRY_CAUSES:
            self._record_retries.labels(cause)

    async def keep(self) -> None:
        """Takes over what was counted, again and again, until it is cancelled."""
        while True:
            self.take()
            await asyncio.sleep(TAKE_INTERVAL_S)

    def take(self) -> None:
        """Takes over what was counted since the last time, and asks for what has a value now."""
        counts = self._counts
        for ending, count in _taken(counts.redemptions):
            self._redemptions.labels(_text(ending)).inc(count)
        for refusal, count in _taken(counts.refusals):
            self._refusals.labels(refusal.value).inc(count)
        for (verb, done), count in _taken(counts.transitions):
            self._transitions.labels(verb.value, _text(done)).inc(count)
        for status, count in _taken(counts.http_answers):
            self._http_answers.labels(str(status)).inc(count)
        for cause, count in _taken(counts.retries):
            self._retries.labels(cause).inc(count)
        for name, count in _taken(counts.plain):
            self._plain[name].inc(count)
        _observe(counts.claims, self._claim_sizes, self._claim_seconds)
        _observe(counts.records, self._record_sizes, self._record_seconds)
        for name, value in counts.gauges.items():
            self._gauges[name].set(value())
        self._take_totals()

    def _take_totals(self) -> None:
        """Of what others count for themselves, what has been added since the last time."""
        for (name, label), total in self._counts.totals.items():
            counter = self._breaker_openings if name == "breaker_openings" else self._record_retries.labels(label)
            now = total()
            counter.inc(now - self._totals_before.get((name, label), 0))
            self._totals_before[name, label] = now

    def exposed(self) -> bytes:
        """All metrics of all workers in Prometheus' text format."""
        self.take()
        if self._folder is None:
            return generate_latest(self._registry)
        registry = CollectorRegistry()
        MultiProcessCollector(registry, path=str(self._folder))  # type: ignore[no-untyped-call]
        return generate_latest(registry)


def _choose_values(shared: Shared | None) -> None:
    """Where metrics that are made from now on keep their values: the library has one place for that, for all of a process."""
    if shared is None:
        values.ValueClass = values.MutexValue
        return
    os.environ[FOLDER_VARIABLE] = str(shared.folder)
    values.ValueClass = values.MultiProcessValue(lambda: shared.place)  # type: ignore[no-untyped-call]


def _counter(registry: CollectorRegistry, name: str, text: str, *labels: str) -> Counter:
    return Counter(PREFIX + name, text, labels, registry=registry)


def _histogram(registry: CollectorRegistry, name: str, text: str, buckets: Iterable[float]) -> Histogram:
    return Histogram(PREFIX + name, text, buckets=tuple(buckets), registry=registry)


def _taken(counter: Any) -> list[tuple[Any, int]]:  # noqa: ANN401 - any labels
    """What it holds; it is empty afterwards."""
    taken = list(counter.items())
    counter.clear()
    return taken


def _text(ending: Any) -> str:  # noqa: ANN401 - a member of one of the enums of endings, or a word beside them
    return ending if isinstance(ending, str) else str(ending.value)


def _observe(batches: Batches, sizes: Histogram, seconds: Histogram) -> None:
    while batches.sizes:
        sizes.observe(batches.sizes.popleft())
        seconds.observe(batches.seconds.popleft())
