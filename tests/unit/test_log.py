"""Logs: one line an event, and nothing in it that names a customer, an order, a coupon or a key."""

import io
import logging
import sys
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import orjson
import pytest
import structlog
from pydantic import SecretStr

from service import config, log
from service.config import Settings
from service.errors import ConfigurationError

KEY = "usher_" + "k" * 43
Lines = Callable[[], list[dict[str, Any]]]


@pytest.fixture
def lines(monkeypatch: pytest.MonkeyPatch) -> Iterator[Lines]:
    """The events logged so far, as JSON."""
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stderr", stream)
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    monkeypatch.setattr(sys, "unraisablehook", sys.unraisablehook)
    warnings.simplefilter("always")
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


CANARY = 'it\'s "GOLD20" of ann'
"""A value with quotation marks of its own, so that no pattern of quoted text finds its end."""


def test_an_error_that_is_not_our_own_shows_no_text(lines: Lines) -> None:
    """Whatever a library, or Python itself, put into it: locals are not shown, messages neither; numbers are."""

    def fail(error: Exception) -> None:
        local = CANARY
        raise error from KeyError(local)

    group = ExceptionGroup(CANARY, [ValueError(CANARY)])
    for error in (
        LookupError(CANARY),
        RuntimeError(f"no order {CANARY}"),
        OSError(2, CANARY, CANARY),
        Fault(2013, CANARY),
        group,
    ):
        try:
            fail(error)
        except Exception:  # noqa: BLE001 - whatever it is
            structlog.get_logger("x").exception("failed")
    ends = [event["exception"].rpartition("\n")[2] for event in lines()]
    assert "GOLD20" not in str(lines())
    assert "ann" not in str(lines())
    expected = ["LookupError", "RuntimeError", "FileNotFoundError: No such file or directory", "Fault: error 2013"]
    assert [*expected, "ExceptionGroup"] == [end.removeprefix("builtins.").removeprefix(f"{__name__}.") for end in ends]
    assert "builtins.ValueError" in lines()[-1]["exception"]


class Fault(Exception):
    """As drivers make them: a number and a text."""


@pytest.mark.parametrize(
    "text",
    ["Duplicate entry 'ann' for key 'x', CODE 'GOLD20'", f"near {CANARY!r}", "x'474f4c443230' and _ascii'GOLD20'",
     "NOPERM no access to usher:1:{GOLD20}:counter", 'no "GOLD20" it\'s "ann"', f"header {KEY}"],
)  # fmt: skip
def test_a_text_of_our_own_shows_nothing_that_it_quotes(text: str) -> None:
    masked = log.mask_text(text)
    assert not any(word in masked for word in ("GOLD20", "474f", "ann", "kkk"))


def test_a_reason_that_is_not_there_is_none(lines: Lines) -> None:
    structlog.get_logger("x").warning("ended", reason=None)
    (event,) = lines()
    assert event["reason"] is None


def test_a_text_of_our_own_is_shown() -> None:
    """An apostrophe quotes nothing."""
    text = "the ledger's user may not do this: error 1142; run `usher migrate`"
    assert text == log.mask_text(text)


def test_a_field_holds_a_plain_value(lines: Lines) -> None:
    """A record would show what is in it."""
    structlog.get_logger("x").info("x", order=("GOLD20", "ann"), seats=3, live=None, late=True)
    (event,) = lines()
    assert ("tuple", 3, None, True) == (event["order"], event["seats"], event["live"], event["late"])


def test_libraries_log_the_same_way(lines: Lines) -> None:
    """Their warnings, not their chatter; nobody knows what their values are, so only the words before them are shown."""
    logger = logging.getLogger("asyncio")
    logger.info("chatter")
    logger.warning("slow: %s", CANARY)
    logger.error(f"Task exception was never retrieved\nfuture: <Task exception=ValueError({CANARY!r})>")  # noqa: G004
    logger.error(f"Exception in callback redeem({CANARY!r})")  # noqa: G004
    logger.error({"order": CANARY})
    warnings.warn(f"bad value {CANARY}", RuntimeWarning, stacklevel=1)
    events = [(event["level"], event["event"]) for event in lines()]
    assert [
        ("warning", "slow"),
        ("error", "Task exception was never retrieved"),
        ("error", "Exception in callback redeem"),
        ("error", "message of a library"),
        ("warning", "RuntimeWarning"),
    ] == events
    assert "GOLD20" not in str(lines())
    assert all("test_log" in event["at"] for event in lines())


def test_what_nobody_can_be_told_is_logged(lines: Lines) -> None:
    """An error in a destructor: Python itself would print its text."""

    class Fragile:
        def __del__(self) -> None:
            raise ValueError(CANARY)

    Fragile()
    (event,) = lines()
    assert "error that could not be raised" == event["event"]
    assert ["ValueError" in event["exception"], "GOLD20" in event["exception"]] == [True, False]


def test_a_defect_before_anything_is_set_up(capsys: pytest.CaptureFixture[str]) -> None:
    """The place and the kind on standard error, and no value: structlog's own way would show those of all variables."""
    structlog.reset_defaults()
    log.log_uncaught(ValueError, ValueError(CANARY), None)
    written = capsys.readouterr()
    assert "" == written.out
    assert written.err.endswith("builtins.ValueError\n")
    assert "GOLD20" not in written.err


# --- Hashes ----------------------------------------------------------------------------------------------------------


def test_with_a_key_hashes_stay_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """In all processes and after a restart; with another key they are others, and without one there is nothing to repeat."""
    first, same, other = (log.hash_key(Settings(log_hash_key=SecretStr(text))) for text in ("k" * 16, "k" * 16, "l" * 16))
    assert first
    assert other
    assert first == same
    assert log.short_hash("ann", first) != log.short_hash("ann", other)
    assert log.hash_key(Settings()) is None
    shown = []
    for _ in range(2):
        stream = io.StringIO()
        monkeypatch.setattr(sys, "stderr", stream)
        log.configure(Settings(log_format="json", log_hash_key=SecretStr("k" * 16)))
        structlog.get_logger("x").info("x", customer_id="ann")
        shown.append(orjson.loads(stream.getvalue())["customer_id"])
    structlog.reset_defaults()
    assert [log.short_hash("ann", first)] * 2 == shown


def test_a_short_hash_key_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("USHER_LOG_HASH_KEY", "k" * 15)
    with pytest.raises(ConfigurationError, match=r"^USHER_LOG_HASH_KEY is too short; allowed: 16 characters or more"):
        config.load()


def test_unknown_variables_are_named(lines: Lines, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("USHER_WORKRES", "2")
    log.warn_of_unknown_variables()
    (event,) = lines()
    assert ("warning", "USHER_WORKRES", "USHER_WORKERS") == (event["level"], event["name"], event["nearest"])
