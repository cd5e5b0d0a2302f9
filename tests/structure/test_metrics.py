"""docs/metrics.md lists every metric, by name, type and labels, and no others."""

import re
from collections.abc import Iterable
from datetime import UTC, datetime

import pytest
from prometheus_client.parser import text_string_to_metric_families

from reconciler.metrics import Metrics as ReconcilerMetrics
from service.counts import Counts
from service.metrics import Metrics
from tests.structure.source import ROOT

PAGE = (ROOT / "docs" / "metrics.md").read_text(encoding="utf-8")
SECTIONS = dict(re.findall(r"^## (.*?)\n(.*?)(?=^## |\Z)", PAGE, re.MULTILINE | re.DOTALL))
ROW = re.compile(r"^\| `(usher_\w+)` \| (\w+) \| (.*?) \|", re.MULTILINE)
OF_HISTOGRAMS = "le"

Described = set[tuple[str, str, frozenset[str]]]


def shown(section: str) -> Described:
    """Name, type and labels of each row."""
    return {(name, kind, frozenset(re.findall(r"`(\w+)`", labels))) for name, kind, labels in ROW.findall(SECTIONS[section])}


def told(text: str) -> Described:
    """The same of what is exposed."""
    return {
        (
            f"{family.name}_total" if family.type == "counter" else family.name,
            family.type,
            frozenset(label for sample in family.samples for label in sample.labels) - {OF_HISTOGRAMS},
        )
        for family in text_string_to_metric_families(text)
    }


def of_the_service() -> str:
    counts = Counts()
    counts.http_answers[200] += 1
    return Metrics(counts).exposed().decode()


def of_the_reconciler() -> str:
    now = datetime.now(UTC)
    metrics = ReconcilerMetrics(lambda: True, lambda: now)
    metrics.seen.holds_overdue = metrics.seen.coupons_over = 0
    metrics.seen.clean_at = now
    return metrics.exposed().decode()


def test_the_service() -> None:
    assert told(of_the_service()) == shown("The service")


def test_the_reconciler() -> None:
    assert told(of_the_reconciler()) == shown("The reconciler")


def names(families: Iterable[Described]) -> set[str]:
    """As Prometheus has them."""
    suffixes = {"counter": ("",), "gauge": ("",), "histogram": ("_bucket", "_sum", "_count")}
    return {name + suffix for family in families for name, kind, _ in family for suffix in suffixes[kind]}


def test_alerts_are_about_metrics_that_there_are() -> None:
    known = names([shown("The service"), shown("The reconciler")])
    asked = set(re.findall(r"\busher_\w+", SECTIONS["Alerts to begin with"]))
    assert asked
    assert asked <= known


@pytest.mark.parametrize("section", ["The service", "The reconciler"])
def test_units_are_those_of_prometheus(section: str) -> None:
    """Times are in seconds, and what only rises says so."""
    for name, kind, _ in shown(section):
        assert (kind == "counter") == name.endswith("_total"), name
        assert not re.search(r"_(ms|us|minutes|millis\w*)\b", name), name
