"""Codes on their way that may turn out to be guesses: no customer has more of them at once than may be named.

Without this, a customer sends a thousand codes at the same time, and the one that exists among them is redeemed before the
others are known to be guesses.
"""

import asyncio
from collections import deque
from dataclasses import dataclass, field

from service.model import GUESSES_MAX, Guess


@dataclass(slots=True)
class UnderWay:
    """A customer's codes, each with the number of requests that name it; and who waits, in the order in which they came."""

    codes: dict[str, int] = field(default_factory=dict)
    waiting: deque[tuple[str, asyncio.Future[None]]] = field(default_factory=deque)

    def may_begin(self, code: str) -> bool:
        """The code is on its way already, or few others are."""
        return code in self.codes or len(self.codes) < GUESSES_MAX

    def begin(self, code: str) -> None:
        """One more request names it."""
        self.codes[code] = self.codes.get(code, 0) + 1


class Turns:
    """Codes on their way, by API key and customer."""

    def __init__(self) -> None:
        self._customers: dict[tuple[int, str], UnderWay] = {}

    def __len__(self) -> int:
        """Customers with codes on their way."""
        return len(self._customers)

    async def begin(self, guess: Guess) -> None:
        """Returns when the code is on its way, until `end`. Who came first is first; a turn that ends lets in who may come."""
        under_way = self._customers.setdefault(guess[:2], UnderWay())
        if not under_way.waiting and under_way.may_begin(guess.code):
            under_way.begin(guess.code)
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        under_way.waiting.append((guess.code, turn))
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self.end(guess)  # It was let in at this very moment.
            raise

    def end(self, guess: Guess) -> None:
        """One request with this code is past its turn."""
        under_way = self._customers[guess[:2]]
        under_way.codes[guess.code] -= 1
        if not under_way.codes[guess.code]:
            del under_way.codes[guess.code]
        waiting = under_way.waiting
        while waiting and (waiting[0][1].done() or under_way.may_begin(waiting[0][0])):
            code, turn = waiting.popleft()
            if not turn.done():
                under_way.begin(code)
                turn.set_result(None)
        if not under_way.codes:
            del self._customers[guess[:2]]
