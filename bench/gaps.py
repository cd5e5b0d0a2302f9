"""Which of the times without a success belong to a flush of Redis."""

from collections.abc import Iterable, Sequence

AFTER_MS = 1_000
"""What begins within a second of a flush, or was there already, is laid to it."""
Gap = Sequence[float]
"""When it ended, in ms since 1970, and how long it was, in ms."""


def of_flush(gaps: Iterable[Gap], flushed_ms: float) -> list[Gap]:
    """The gaps that overlap the second after a flush, however long after it they end."""
    return [gap for gap in gaps if gap[0] >= flushed_ms and gap[0] - gap[1] < flushed_ms + AFTER_MS]


def longest(gaps: Iterable[Gap]) -> float:
    """Of the longest, in ms; 0 where there is none."""
    return max((length_ms for _, length_ms in gaps), default=0.0)
