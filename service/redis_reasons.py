"""What keeps Redis from answering, in words for a log: the driver's errors become CounterUnavailable here."""

import socket
import ssl
from typing import Final

from redis.exceptions import AuthenticationError, InvalidResponse, NoPermissionError
from redis.exceptions import TimeoutError as RedisTimeoutError

from service.errors import CounterUnavailable

NOT_KNOWN: Final = "user or password is wrong"
RIGHT_LACKING: Final = "its account lacks a right"
NOBODY_NAMED: Final = "it wants a user and a password"
ACCESS_REFUSED: Final = (NOT_KNOWN, RIGHT_LACKING, NOBODY_NAMED)
"""Redis is there, and it is the account that keeps it from being used."""

REASONS: Final[tuple[tuple[tuple[type[BaseException], ...], str], ...]] = (
    ((AuthenticationError,), NOT_KNOWN),
    ((NoPermissionError,), RIGHT_LACKING),
    ((TimeoutError, RedisTimeoutError), "no answer in time"),
    ((socket.gaierror,), "there is no host of this name"),
    ((ssl.SSLError,), "it does not speak TLS as rediss:// wants it"),
    ((ConnectionRefusedError,), "nothing answers there"),
    ((InvalidResponse,), "what answers there is no Redis"),
)
"""The first that fits; the rest is said in the library's words."""

UNAUTHENTICATED: Final = "unauthenticated"
"""In Redis' word for a long command of somebody who has not logged in."""


def unavailable(error: Exception) -> CounterUnavailable:
    """The driver's error in the gateway's words, and as its cause."""
    told = CounterUnavailable(_reason(error))
    told.__cause__ = error
    return told


def _reason(error: Exception) -> str:
    """What keeps Redis from answering, in plain words where they are known."""
    chain = (error, error.__cause__ or error.__context__)
    if any(UNAUTHENTICATED in str(one) for one in chain):
        return NOBODY_NAMED
    for kinds, words in REASONS:
        if any(isinstance(one, kinds) for one in chain):
            return words
    return f"{type(error).__name__}: {error}"
