"""What is counted is what is exposed, in one process and over several."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from service import metrics as module
from service.counts import OVERLOADED, Counts
from service.errors import CounterUnavailable
from service.metrics import Metrics, make_folder, remove_folder
from service.model import Claim, ClaimAnswer, Ending, Record, RecordEnding, Redeemed, Refusal
from service.transition import TransitionEnding, Verb

WORKER = """
import os, signal, sys
from pathlib import Path
from service.counts import Counts
from service.metrics import Metrics, Shared
from service.model import Ending, Redeemed

folder, place, redemptions, end = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
counts = Counts()
counts.gauges["workers"] = lambda: 1
metrics = Metrics(counts, Shared(folder, place))
for _ in range(redemptions):
    counts.redeemed(Redeemed(Ending.CREATED))
counts.claims.add(7, 0.003)
metrics.take()
if end == "killed":
    os.kill(os.getpid(), signal.SIGKILL)
sys.stdout.write(metrics.exposed().decode())
"""


def samples(text: str) -> dict[tuple[str, ...], float]:
    """Values that are not 0, by name and labels, which are in the order of their names."""
    return {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.value
    }


def exposed(metrics: Metrics) -> dict[tuple[str, ...], float]:
    return samples(metrics.exposed().decode())


def test_what_is_counted() -> None:
    counts = Counts()
    metrics = Metrics(counts)
    assert {} == exposed(metrics)
    counts.redeemed(Redeemed(Ending.CREATED))
    counts.redeemed(Redeemed(Ending.REFUSED, refusal=Refusal.COUPON_EXHAUSTED))
    counts.redemptions[OVERLOADED] += 3
    counts.transitions[Verb.CANCEL, TransitionEnding.DONE] += 1
    counts.transitions[Verb.CONFIRM, OVERLOADED] += 1
    counts.http_answers[201] += 2
    counts.plain["collisions"] += 4
    counts.gauges["claim_queue_requests"] = lambda: 5
    counts.totals["breaker_openings", ""] = lambda: 6
    counts.totals["record_retries", "locked"] = lambda: 7

    found = [exposed(metrics), exposed(metrics)]  # Asking changes nothing.

    assert [
        {
            ("usher_redemptions_total", "created"): 1,
            ("usher_redemptions_total", "refused"): 1,
            ("usher_redemptions_total", "overloaded"): 3,
            ("usher_refusals_total", "coupon_exhausted"): 1,
            ("usher_transitions_total", "done", "cancel"): 1,
            ("usher_transitions_total", "overloaded", "confirm"): 1,
            ("usher_http_answers_total", "201"): 2,
            ("usher_collisions_total",): 4,
            ("usher_claim_queue_requests",): 5,
            ("usher_breaker_openings_total",): 6,
            ("usher_record_retries_total", "locked"): 7,
        }
    ] * 2 == found


@pytest.mark.parametrize(
    ("ending", "cause"),
    [
        (Claim(ClaimAnswer.NOT_LOADED), "not_loaded"),
        (Claim(ClaimAnswer.REFUSED, refusal=Refusal.COUPON_ENDED), "counter_refused"),
        (CounterUnavailable(), "redis_failed"),
        *(
            (Record(ending), ending.value)
            for ending in RecordEnding
            if ending not in {RecordEnding.RECORDED, RecordEnding.UNKNOWN}
        ),
    ],
)
def test_causes_of_retries(ending: object, cause: str) -> None:
    counts = Counts()
    counts.tried_again(ending)
    assert {("usher_retries_total", cause): 1} == exposed(Metrics(counts))


def test_batches() -> None:
    counts = Counts()
    metrics = Metrics(counts)
    counts.records.add(3, 0.004)
    counts.records.add(600, 9.0)
    found = exposed(metrics)
    assert (2, 603) == (found["usher_record_batch_rows_count",], found["usher_record_batch_rows_sum",])
    assert 9.004 == found["usher_record_batch_seconds_sum",]
    assert 1 == found["usher_record_batch_rows_bucket", "4.0"]
    assert ("usher_record_batch_rows_bucket", "2.0") not in found


def work(folder: Path, place: int, redemptions: int, end: str = "") -> str:
    command = [sys.executable, "-c", WORKER, str(folder), str(place), str(redemptions), end]
    return subprocess.run(command, stdout=subprocess.PIPE, text=True, check=not end).stdout


def test_several_workers(tmp_path: Path) -> None:
    """Whoever is asked tells the sum; who takes the place of a worker that was killed goes on with its numbers."""
    work(tmp_path, 0, 3)
    work(tmp_path, 1, 40, "killed")
    found = samples(work(tmp_path, 1, 500))
    assert 543 == found["usher_redemptions_total", "created"]
    assert 2 == found["usher_workers",]
    assert (3, 21) == (found["usher_claim_batch_requests_count",], found["usher_claim_batch_requests_sum",])
    assert {"0.db", "1.db"} == {path.name.rpartition("_")[2] for path in tmp_path.iterdir()}


def test_a_folder_of_its_own() -> None:
    folder = make_folder()
    assert folder is not None
    assert 0o700 == folder.stat().st_mode & 0o777
    remove_folder(folder)
    assert not folder.exists()


def test_no_folder_can_be_made(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Then it serves all the same."""
    monkeypatch.setattr(module, "SHARED_MEMORY", tmp_path / "missing")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "missing too"))
    assert make_folder() is None
    remove_folder(None)


def test_the_library_is_told_by_nobody_else(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A variable from outside makes no files of a process that is alone."""
    monkeypatch.setitem(os.environ, module.FOLDER_VARIABLE, str(tmp_path))
    counts = Counts()
    counts.http_answers[200] += 1
    assert {("usher_http_answers_total", "200"): 1} == exposed(Metrics(counts))
    assert [] == list(tmp_path.iterdir())
