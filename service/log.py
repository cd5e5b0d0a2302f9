"""Logs: one event a line on standard error, as JSON, or for people. Codes, customers, orders and keys never in full.

A log is read by more people than the ledger, and kept for longer. So what is not known to be harmless is not written: of
errors that are not Usher's own, and of what libraries log, only the kind and the place, since their texts repeat values.
"""

import hashlib
import logging
import os
import re
import secrets
import sys
import threading
import traceback
from collections.abc import Iterator
from types import TracebackType
from typing import Final

import orjson
import structlog
from structlog.typing import EventDict, WrappedLogger

from service.config import Settings, unknown_variables
from service.errors import UsherError

HASHED: Final = frozenset({"code", "customer_id", "order_id"})
"""Fields shown as a short hash: with the same key, the same value has the same hash in all processes, and no other."""
HIDDEN: Final = frozenset({"key", "authorization", "password", "token", "url"})
QUOTING: Final = frozenset({"error", "reason"})
"""Fields with a text that may quote something."""
PLAIN: Final = (str, int, float, bool, type(None))
"""What a field may hold. Anything else could show a value within itself."""
HASH_BYTES: Final = 6
"""Twelve characters: short enough to read out, and among a million customers hardly two have the same."""
MASK: Final = "…"
QUOTED: Final = re.compile(r"(?:(?<![A-Za-z])|\b(?:x|b|u|_ascii))['\"].*|\{.*|usher_[A-Za-z0-9_-]+", re.DOTALL)
"""What a message quotes, to its end, for a value may contain quotation marks itself; names of keys in Redis from the code
on; and API keys wherever they are."""
VALUE: Final = re.compile(r"['\"<(\[{%\n].*|\busher_.*", re.DOTALL)
"""Where in the text of a library's message the first value can begin."""
WARNING: Final = re.compile(r"(?P<at>[^\n]*?:\d+): (?P<category>\w+):")
"""What Python's warnings look like; what follows may name a value."""


def configure(settings: Settings) -> None:
    """Sets structlog up, and the standard library's logging, which the libraries use, to go the same way."""
    level = getattr(logging, settings.log_level.upper())
    pretty = settings.log_format == "pretty" or (settings.log_format == "auto" and sys.stderr.isatty())
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            explain_exception,
            Mask(hash_key(settings) or secrets.token_bytes(hashlib.blake2b.MAX_KEY_SIZE)),
            structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty()) if pretty else _render_json,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.PrintLoggerFactory(file=sys.stderr),
        cache_logger_on_first_use=True,
    )
    logging.basicConfig(handlers=[Forward()], level=max(level, logging.WARNING), force=True)
    logging.captureWarnings(capture=True)
    sys.unraisablehook = log_unraisable
    threading.excepthook = log_in_thread


# --- Values ----------------------------------------------------------------------------------------------------------


def hash_key(settings: Settings) -> bytes | None:
    """The key of the short hashes, as `log_hash_key` says; None where it says nothing."""
    text = settings.log_hash_key.get_secret_value()
    return hashlib.blake2b(text.encode()).digest() if text else None


def short_hash(value: str, key: bytes) -> str:
    """What stands for a code, a customer or an order in the log: twelve hexadecimal digits.

    Without the key nobody can tell what it stands for, not even by trying all customers.
    """
    return hashlib.blake2b(value.encode("utf-8", "surrogatepass"), key=key, digest_size=HASH_BYTES).hexdigest()


class Mask:
    """Hides what must not be in a log, by the field's name; of errors' texts, whatever they quote."""

    def __init__(self, key: bytes) -> None:
        self._key = key

    def __call__(self, _: WrappedLogger, __: str, event: EventDict) -> EventDict:
        """The event as it may be written."""
        for name, value in event.items():
            if name in HIDDEN:
                event[name] = MASK
            elif name in HASHED and value is not None:
                event[name] = short_hash(str(value), self._key)
            elif name in QUOTING and value is not None:
                event[name] = mask_text(str(value))
            elif not isinstance(value, PLAIN):
                event[name] = type(value).__name__
        return event


def mask_text(text: str) -> str:
    """A message of Usher's own without what it quotes."""
    return QUOTED.sub(MASK, text)


# --- Exceptions ------------------------------------------------------------------------------------------------------


def explain_exception(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
    """`exc_info` as text: where it happened and what kind of error it was."""
    exc_info = event.pop("exc_info", None)
    error = exc_info if isinstance(exc_info, BaseException) else sys.exc_info()[1] if exc_info else None
    if error is not None:
        event["exception"] = "\n".join(_explain(error))
    return event


def _explain(error: BaseException) -> Iterator[str]:
    """The chain of an exception, the cause first, as Python prints it."""
    earlier = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    if earlier is not None:
        yield from _explain(earlier)
        yield "which led to"
    if isinstance(error, BaseExceptionGroup):
        for one in error.exceptions:
            yield from _explain(one)
        yield "which are part of"
    yield from (line.rstrip() for line in traceback.format_tb(error.__traceback__))
    yield f"{type(error).__module__}.{type(error).__qualname__}{_text(error)}"


def _text(error: BaseException) -> str:
    """What an error may tell of itself: Usher's own words, or a number. Another's text may repeat any value."""
    if isinstance(error, UsherError):
        return f": {mask_text(str(error))}"
    if isinstance(error, OSError) and isinstance(error.errno, int):
        return f": {os.strerror(error.errno)}"
    number = error.args[0] if error.args else None
    return f": error {number:d}" if isinstance(number, int) else ""


def log_uncaught(kind: type[BaseException], error: BaseException, _: TracebackType | None) -> None:
    """For `sys.excepthook`: a defect is logged like any other event."""
    if issubclass(kind, KeyboardInterrupt):
        return
    if structlog.is_configured():
        structlog.get_logger(__name__).critical("uncaught", exc_info=error)
    else:  # Nothing is set up yet, and structlog's own way would show the values of all variables.
        sys.stderr.write("\n".join(_explain(error)) + "\n")


def log_unraisable(unraisable: "sys.UnraisableHookArgs") -> None:
    """For `sys.unraisablehook`: an error where nobody can be told, such as in a destructor."""
    structlog.get_logger(__name__).error("error that could not be raised", exc_info=unraisable.exc_value)


def log_in_thread(failed: threading.ExceptHookArgs) -> None:
    """For `threading.excepthook`: a thread that ended by an error; its name may be anything."""
    structlog.get_logger(__name__).error("a thread failed", exc_info=failed.exc_value)


# --- Libraries -------------------------------------------------------------------------------------------------------


class Forward(logging.Handler):
    """Hands records of the standard library's logging to structlog, without the values in them."""

    def emit(self, record: logging.LogRecord) -> None:
        """One record: the beginning of its text, where no value can be yet, and where it was logged."""
        text, at = str(record.msg), f"{record.module}:{record.lineno}"
        if record.name == "py.warnings" and (warning := WARNING.match(record.getMessage())):
            text, at = warning["category"], warning["at"]
        event = VALUE.sub("", text).rstrip(" :,") or "message of a library"
        exc_info = record.exc_info[1] if record.exc_info else None
        structlog.get_logger(record.name).log(record.levelno, event, library=record.name, at=at, exc_info=exc_info)


def _render_json(_: WrappedLogger, __: str, event: EventDict) -> str:
    return orjson.dumps(event, option=orjson.OPT_NON_STR_KEYS).decode()


def warn_of_unknown_variables() -> None:
    """One warning for each variable that looks like a setting and is none."""
    for name, nearest in unknown_variables():
        structlog.get_logger(__name__).warning("unknown variable", name=name, nearest=nearest)
