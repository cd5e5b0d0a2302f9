"""The two stores as the jobs find them: their going and their coming back are an event each, and what lies between is none."""

from typing import Final

import structlog

LEDGER_TURNS: Final = ("the ledger is away", "the ledger is back")
REDIS_TURNS: Final = ("Redis is away", "Redis is back")

log = structlog.get_logger(__name__)


class Store:
    """A store as it was found last.

    Runs side by side end in any order: what was asked before the last turn says nothing about the time after it.
    """

    def __init__(self, turns: tuple[str, str]) -> None:
        self._turns = turns
        self._turn = 0
        self._is_away = False

    def ask(self) -> int:
        """To be called before it is asked for anything; `failed` and `worked` want to know what this has returned."""
        return self._turn

    def failed(self, asked: int, error: str) -> None:
        """It did not do what was wanted."""
        if self._turns_to(asked, is_away=True):
            away = self._turns[0]
            log.warning(away, error=error)

    def worked(self, asked: int) -> None:
        """It did."""
        if self._turns_to(asked, is_away=False):
            back = self._turns[1]
            log.info(back)

    def _turns_to(self, asked: int, *, is_away: bool) -> bool:
        """Whether that is news; then it is noted."""
        is_news = asked == self._turn and is_away is not self._is_away
        if is_news:
            self._turn += 1
            self._is_away = is_away
        return is_news


class Stores:
    """Both of them; what one job has found, the others need not tell again."""

    def __init__(self) -> None:
        self.ledger = Store(LEDGER_TURNS)
        self.redis = Store(REDIS_TURNS)
