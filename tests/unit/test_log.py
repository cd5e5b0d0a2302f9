"""Logs: one line an event, and nothing in it that names a customer, an order, a coupon or a key."""

import io
import logging
import sys
from collections.abc import Callable, Iterator
from typing import Any

import orjson
import pytest
import structlog

from service import log
from service.config import Settings

KEY = "usher_" + "k" * 43
Lines = Callable[[], list[dict[str, Any]]]


@pytest.fixture
def lines(monkeypatch: pytest.MonkeyPatch) -> Iterator[Lines]:
    """The events logged so far, as JSON."""
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stderr", stream)
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    log.configure(Settings(log_format="json"))
    yield lambda: [orjson.loads(line) for line in stream.getvalue().splitlines()]
    structlog.reset_defaults()
    logging.captureWarnings(capture=False)
    root.handlers[:] = handlers
    root.setLevel(level)


def test_an_event_is_one_line_of_json(lines: Lines) -> None:
    structlog.get_logger("x").info("released", seats=3)
    (event,) = lines()
    assert ("released", "info", 3) == (event["event"], event["level"], event["seats"])
    assert event["timestamp"].endswith("Z")


def test_names_are_hashed(lines: Lines) -> None:
    """The same name has the same hash, so that events can be found together; the name is not there."""
    for order in ("order-1", "order-2", "order-1"):
        structlog.get_logger("x").info("claimed", code="GOLD20", customer_id="ann", order_id=order)
    first, second, third = lines()
    assert first["order_id"] == third["order_id"] != second["order_id"]
    assert not any(word in str(lines()) for word in ("GOLD20", "ann", "order-"))


def test_secrets_are_hidden(lines: Lines) -> None:
    structlog.get_logger("x").info("x", key=KEY, password="hunter2", url="redis://:hunter2@h")
    (event,) = lines()
    assert not any(word in str(event) for word in ("hunter2", "kkk"))


def test_what_an_error_quotes_is_hidden(lines: Lines) -> None:
    """In exceptions, their causes, and errors as fields; where it happened stays."""
    # Not written where they are raised: a stack shows that line.
    messages = [f"Duplicate entry 'ann-GOLD20' for key 'x', header {KEY}", 'no "GOLD20"']

    def refuse() -> None:
        raise ValueError(messages[0])

    def fail() -> None:
        try:
            refuse()
        except ValueError as error:
            raise RuntimeError(messages[1]) from error

    try:
        fail()
    except RuntimeError as error:
        structlog.get_logger("x").exception("failed", error=str(error.__cause__))
    (event,) = lines()
    assert not any(word in str(event) for word in ("GOLD20", "ann", "kkk"))
    assert "test_what_an_error_quotes_is_hidden" in event["exception"]
    assert ["ValueError" in event["exception"], "RuntimeError" in event["exception"]] == [True, True]


def test_libraries_log_the_same_way(lines: Lines) -> None:
    """Their warnings, not their chatter; masked, since nobody knows what they contain."""
    logging.getLogger("asyncio").info("chatter")
    logging.getLogger("asyncio").warning("slow: %s", "'GOLD20'")
    (event,) = lines()
    assert ("warning", True) == (event["level"], "GOLD20" not in event["event"])


def test_unknown_variables_are_named(lines: Lines, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("USHER_WORKRES", "2")
    log.warn_of_unknown_variables()
    (event,) = lines()
    assert ("warning", "USHER_WORKRES", "USHER_WORKERS") == (event["level"], event["name"], event["nearest"])
