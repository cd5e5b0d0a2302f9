"""Events that come in crowds while a store is in trouble: the first is told at once, the others together, once a second."""

import asyncio
from typing import Final

EVENT_INTERVAL_S: Final = 1.0
"""A Redis that refuses whatever is asked of it, being full or a replica, say, does not flood the log."""


class Told:
    """How many there are to tell of, of one kind of event."""

    def __init__(self) -> None:
        self._untold = 0
        self._told_at = float("-inf")

    def due(self, count: int = 1) -> int:
        """After so many more: how many have come since an event was told, if one is to be told now; else 0."""
        self._untold += count
        now = asyncio.get_running_loop().time()
        if now - self._told_at < EVENT_INTERVAL_S:
            return 0
        due, self._untold, self._told_at = self._untold, 0, now
        return due
