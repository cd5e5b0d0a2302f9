"""The two stores as the jobs find them: their going and their coming back are an event each, and what lies between is none."""

from typing import Final

import structlog

LEDGER_TURNS: Final = ("the ledger is away", "the ledger is back")
REDIS_TURNS: Final = ("Redis is away", "Redis is back")

log = structlog.get_logger(__name__)


class Store:
    """A store as it was found last."""

    def __init__(self, turns: tuple[str, str]) -> None:
        self._turns = turns
        self._is_away = False

    def failed(self, error: str) -> None:
        """It did not do what was wanted."""
        if not self._is_away:
            away = self._turns[0]
            log.warning(away, error=error)
        self._is_away = True

    def worked(self) -> None:
        """It did."""
        if self._is_away:
            back = self._turns[1]
            log.info(back)
        self._is_away = False


class Stores:
    """Both of them; what one job has found, the others need not tell again."""

    def __init__(self) -> None:
        self.ledger = Store(LEDGER_TURNS)
        self.redis = Store(REDIS_TURNS)
