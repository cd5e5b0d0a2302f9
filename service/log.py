"""Logs: one event a line on standard error, as JSON, or for people. Codes, customers, orders and keys never in full."""

import hashlib
import logging
import re
import secrets
import sys
import traceback
from collections.abc import Iterator
from types import TracebackType
from typing import Final

import orjson
import structlog
from structlog.typing import EventDict, WrappedLogger

from service.config import Settings, unknown_variables

HASHED: Final = frozenset({"code", "customer_id", "order_id"})
"""Fields shown as a short hash: the same value has the same hash in all processes of one start, and no other."""
HIDDEN: Final = frozenset({"key", "authorization", "password", "token", "url"})
HASH_BYTES: Final = 6
MASK: Final = "…"
QUOTED: Final = re.compile(r"'[^']*'|\"[^\"]*\"|x'[0-9a-f]*'|usher_[A-Za-z0-9_-]+")
"""What a driver repeats of a statement in its messages, and keys wherever they are."""

_hash_key = secrets.token_bytes(16)


def configure(settings: Settings) -> None:
    """Sets structlog up, and the standard library's logging, which the libraries use, to go the same way."""
    level = getattr(logging, settings.log_level.upper())
    pretty = settings.log_format == "pretty" or (settings.log_format == "auto" and sys.stderr.isatty())
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            mask,
            explain_exception,
            structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty()) if pretty else _render_json,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.PrintLoggerFactory(file=sys.stderr),
        cache_logger_on_first_use=True,
    )
    logging.basicConfig(handlers=[Forward()], level=max(level, logging.WARNING), force=True)
    logging.captureWarnings(capture=True)


def mask(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
    """Hides what must not be in a log, by the field's name; of errors' texts, whatever they quote."""
    for name, value in event.items():
        if name in HIDDEN:
            event[name] = MASK
        elif name in HASHED and value is not None:
            event[name] = hashlib.blake2b(str(value).encode(), key=_hash_key, digest_size=HASH_BYTES).hexdigest()
        elif name == "error":
            event[name] = mask_text(str(value))
    return event


def mask_text(text: str) -> str:
    """A message without what it quotes."""
    return QUOTED.sub(MASK, text)


def explain_exception(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
    """`exc_info` as text: where it happened and what it was, without the values that messages quote."""
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
    yield from (line.rstrip() for line in traceback.format_tb(error.__traceback__))
    yield f"{type(error).__module__}.{type(error).__qualname__}: {mask_text(str(error))}"


def _render_json(_: WrappedLogger, __: str, event: EventDict) -> str:
    return orjson.dumps(event, default=str, option=orjson.OPT_NON_STR_KEYS).decode()


class Forward(logging.Handler):
    """Hands records of the standard library's logging to structlog."""

    def emit(self, record: logging.LogRecord) -> None:
        """One record; its message masked, for nobody knows what a library puts there."""
        logger = structlog.get_logger(record.name)
        logger.log(record.levelno, mask_text(record.getMessage()), exc_info=record.exc_info[1] if record.exc_info else None)


def log_uncaught(kind: type[BaseException], error: BaseException, _: TracebackType | None) -> None:
    """For `sys.excepthook`: a defect is logged like any other event."""
    if not issubclass(kind, KeyboardInterrupt):
        structlog.get_logger(__name__).critical("uncaught", exc_info=error)


def warn_of_unknown_variables() -> None:
    """One warning for each variable that looks like a setting and is none."""
    for name, nearest in unknown_variables():
        structlog.get_logger(__name__).warning("unknown variable", name=name, nearest=nearest)
