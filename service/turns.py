"""Unknown codes under way: no customer has more of them at once than may be named.

Without this, a customer sends a thousand codes at the same time, and the one that exists among them is redeemed before the
others are known to be guesses.
"""

import asyncio
from dataclasses import dataclass, field

from service.model import GUESSES_MAX, Guess


@dataclass(slots=True)
class UnderWay:
    """A customer's codes, each with the number of requests that name it; and who waits for one of them to end."""

    codes: dict[str, int] = field(default_factory=dict)
    ended: asyncio.Future[None] | None = None


class Turns:
    """Codes under way that this process does not know yet, by API key and customer."""

    def __init__(self) -> None:
        self._customers: dict[tuple[int, str], UnderWay] = {}

    def __len__(self) -> int:
        """Customers with such codes under way."""
        return len(self._customers)

    def is_free(self, guess: Guess) -> bool:
        """Whether the code may go on its way now: it is on its way already, or few others of this customer are."""
        under_way = self._customers.get(guess[:2])
        return under_way is None or guess.code in under_way.codes or len(under_way.codes) < GUESSES_MAX

    def begin(self, guess: Guess) -> None:
        """The code is on its way, until `end`."""
        codes = self._customers.setdefault(guess[:2], UnderWay()).codes
        codes[guess.code] = codes.get(guess.code, 0) + 1

    def end(self, guess: Guess) -> None:
        """One request with this code has its answer: all that wait look again."""
        under_way = self._customers[guess[:2]]
        under_way.codes[guess.code] -= 1
        if not under_way.codes[guess.code]:
            del under_way.codes[guess.code]
        if not under_way.codes:
            del self._customers[guess[:2]]
        if under_way.ended is not None:
            under_way.ended.set_result(None)
            under_way.ended = None

    async def wait(self, guess: Guess) -> None:
        """Until one of this customer's codes that are under way has ended."""
        under_way = self._customers[guess[:2]]
        if under_way.ended is None:
            under_way.ended = asyncio.get_running_loop().create_future()
        await asyncio.shield(under_way.ended)
