"""Failed redemptions in the log: enough to follow one, never one for each."""

import pytest
from structlog.testing import capture_logs

from service.api import failures
from service.api.failures import Failures
from service.api.problems import Code
from service.model import Order

ORDER = Order("GOLD20", "ann", "o-1", 7)


def test_a_failure_can_be_found_by_request_and_by_name() -> None:
    with capture_logs() as events:
        Failures().note(Code.OUTCOME_UNKNOWN, "r-1", ORDER)
    expected = {
        "event": "redemption failed",
        "log_level": "info",
        "problem": "outcome_unknown",
        "request_id": "r-1",
        "code": "GOLD20",
        "customer_id": "ann",
        "order_id": "o-1",
        "left_out": 0,
    }
    assert [expected] == events


def test_there_are_never_many(monkeypatch: pytest.MonkeyPatch) -> None:
    """So many a second; the next second's first says how many were left out."""
    monkeypatch.setattr(failures, "LOGGED_PER_S_MAX", 3)
    now = 100.0
    noted = Failures(lambda: now)
    with capture_logs() as events:
        for number in range(10):
            noted.note(Code.UNAVAILABLE, f"r-{number}", ORDER)
        now += 1.0
        for number in range(10, 12):
            noted.note(Code.UNAVAILABLE, f"r-{number}", ORDER)
    assert [("r-0", 0), ("r-1", 0), ("r-2", 0), ("r-10", 7), ("r-11", 0)] == [
        (event["request_id"], event["left_out"]) for event in events
    ]
