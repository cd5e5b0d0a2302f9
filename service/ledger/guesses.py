"""Guesses in the ledger: which unknown codes each customer of a key has named within the last minute.

Each customer has a place that follows from a digest of key and customer: a row that up to four customers share. To note is to
lock the rows, to count here, and to write them back. It can be repeated at will: a code that is named again counts once.
"""

import asyncio
import hashlib
import struct
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

from service.errors import LedgerContended, LedgerUnavailable
from service.ledger.connections import Connections
from service.ledger.literals import tuples
from service.ledger.sql import Query
from service.model import GUESS_WINDOW_S, GUESSES_MAX, Guess, Noted

TAKE = Query("guess_take")
KEEP = Query("guess_keep")
LIMITED = Query("guess_limited")

DIGEST_BYTES = 16
CODE_DIGEST_BYTES = 8
"""Two codes of the same customer that share a digest count as one; with 20 codes that does not happen."""
PLACE_BYTES = 2
"""Of the digest."""
CUSTOMERS_MAX = 4
"""Who share a place. Of 100,000 who guess within a minute, two in a hundred places would need more."""
CUSTOMER = struct.Struct(f">{DIGEST_BYTES}sB")
"""The customer's digest, and how many namings follow."""
NAMING = struct.Struct(f">Q{CODE_DIGEST_BYTES}s")
"""When, in microseconds since 1970, and the code's digest."""
AGAIN_PAUSES_S = (0.003, 0.03)
"""Before another attempt, after a deadlock or a lost connection."""
PLACES_AT_ONCE = 100
"""Read without a pause: a millisecond of this process."""
PLACES_READ_MAX = 2_000
"""By one statement. Whoever is not among them is limited all the same, when the next unknown code is noted."""
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class Naming(NamedTuple):
    """A code that was named. `at_us`: in microseconds since 1970, by the ledger's clock."""

    at_us: int
    code: bytes


def digest(api_key_id: int, customer_id: str) -> bytes:
    """The 16 bytes by which a customer of a key is known; the first two are the place."""
    return hashlib.blake2b(f"{api_key_id}:{customer_id}".encode(), digest_size=DIGEST_BYTES).digest()


def code_digest(code: str) -> bytes:
    """The 8 bytes by which a named code is known."""
    return hashlib.blake2b(code.encode(), digest_size=CODE_DIGEST_BYTES).digest()


def count(recent: Sequence[Naming], code: bytes, *, now_us: int, window_us: int) -> tuple[tuple[Naming, ...], bool]:
    """The namings within the window once this code is named; and whether it may be, since that leaves them within the limit.

    A code that is among them already counts once, by its latest naming. Who is limited stays as they are, so that the end
    of the limit does not move.
    """
    kept = within(recent, now_us=now_us, window_us=window_us)
    if len(kept) >= GUESSES_MAX:
        return kept, any(naming.code == code for naming in kept)
    return (*(naming for naming in kept if naming.code != code), Naming(now_us, code)), True


def limited_until_us(recent: Sequence[Naming], window_us: int) -> int | None:
    """When the oldest of as many namings as there may be leaves the window; None for fewer: not limited."""
    return min(naming.at_us for naming in recent) + window_us if len(recent) >= GUESSES_MAX else None


class Guesses:
    """The gateway to the table `guess`. `noting` are connections for `note` alone, which waits for others' locks."""

    def __init__(self, reading: Connections, noting: Connections, window_s: float = GUESS_WINDOW_S) -> None:
        self._reading = reading
        self._noting = noting
        self._window_us = round(window_s * 1_000_000)

    async def note(self, guesses: Sequence[Guess], deadline: float) -> list[Noted]:
        """Notes guesses, in the order given and durably; one Noted for each.

        Raises LedgerUnavailable, LedgerContended: some of them may have been noted, and can be noted again.
        """
        for pause_s in AGAIN_PAUSES_S:
            try:
                return await self._note(guesses, deadline)
            except (LedgerUnavailable, LedgerContended):
                await asyncio.sleep(pause_s)
        return await self._note(guesses, deadline)

    async def limited(self, deadline: float) -> dict[bytes, float]:
        """The digests of customers who are limited now, each with the seconds that are left. Raises LedgerUnavailable."""
        limited = {}
        for n, (customers, now_us) in enumerate(await self._reading.fetch(LIMITED(limit=PLACES_READ_MAX), deadline)):
            if n % PLACES_AT_ONCE == 0:
                await asyncio.sleep(0)  # Others' requests have their turn.
            for customer, recent in unpack(customers, now_us=now_us, window_us=self._window_us).items():
                if until_us := limited_until_us(recent, self._window_us):
                    limited[customer] = (until_us - now_us) / 1_000_000
        return limited

    async def _note(self, guesses: Sequence[Guess], deadline: float) -> list[Noted]:
        named = [(digest(guess.api_key_id, guess.customer_id), code_digest(guess.code)) for guess in guesses]
        async with self._noting.use(deadline) as connection, connection.transaction(deadline):
            # By number: everybody locks in the same order.
            numbers = sorted({_place(customer) for customer, _ in named})
            found = await connection.fetch(TAKE(rows=tuples((number, b"") for number in numbers)), deadline)
            places = {number: Place(customers, now_us, self._window_us) for number, customers, now_us in found}
            noted = [places[_place(customer)].name(customer, code) for customer, code in named]
            kept = tuples((number, *place.row()) for number, place in sorted(places.items()))
            await connection.run(KEEP(rows=kept), deadline)
        return noted


class Place:
    """A row while it is locked. `now_us`: the moment at which it was."""

    def __init__(self, customers: bytes, now_us: int, window_us: int) -> None:
        self._now_us = now_us
        self._window_us = window_us
        self._customers = unpack(customers, now_us=now_us, window_us=window_us)

    def name(self, customer: bytes, code: bytes) -> Noted:
        """Counts a code that this customer has named.

        Who has to make room for another is forgotten. Nobody can use that to go on guessing: whoever may choose the customer
        needs no neighbours, a customer that was not used yet will do.
        """
        before = self._customers.pop(customer, ())
        while len(self._customers) >= CUSTOMERS_MAX:
            del self._customers[min(self._customers, key=lambda other: len(self._customers[other]))]
        recent, counted = count(before, code, now_us=self._now_us, window_us=self._window_us)
        self._customers[customer] = recent
        until_us = limited_until_us(recent, self._window_us)
        left_s = 0.0 if until_us is None else (until_us - self._now_us) / 1_000_000
        return Noted(counted, left_s, reached=len(before) < GUESSES_MAX <= len(recent))

    def row(self) -> tuple[bytes, datetime | None]:
        """What the table has of it: its customers, and when the last of them may go on."""
        untils_us = [limited_until_us(recent, self._window_us) for recent in self._customers.values()]
        until_us = max((until_us for until_us in untils_us if until_us is not None), default=None)
        return pack(self._customers), None if until_us is None else EPOCH + timedelta(microseconds=until_us)


def pack(customers: Mapping[bytes, Sequence[Naming]]) -> bytes:
    """The column `customers`: each digest, the number of its namings, and these."""
    return b"".join(
        CUSTOMER.pack(customer, len(recent)) + b"".join(NAMING.pack(*naming) for naming in recent)
        for customer, recent in customers.items()
    )


def unpack(packed: bytes, *, now_us: int, window_us: int) -> dict[bytes, tuple[Naming, ...]]:
    """The customers of a row with their namings within the window; who has none is left out.

    What somebody else has written there is read as far as it goes, and never more than there can be.
    """
    customers = {}
    at = 0
    while at + CUSTOMER.size <= len(packed):
        customer, namings = CUSTOMER.unpack_from(packed, at)
        begin, at = at + CUSTOMER.size, at + CUSTOMER.size + namings * NAMING.size
        if at > len(packed):
            break
        named = map(Naming._make, NAMING.iter_unpack(packed[begin:at]))
        if recent := within(named, now_us=now_us, window_us=window_us):
            customers[customer] = recent[-GUESSES_MAX:]
    return customers


def within(namings: Iterable[Naming], *, now_us: int, window_us: int) -> tuple[Naming, ...]:
    """Those that are younger than the window. A clock that was set back makes a naming younger, not eternal: hence `abs`."""
    return tuple(naming for naming in namings if abs(now_us - naming.at_us) < window_us)


def _place(customer: bytes) -> int:
    return int.from_bytes(customer[:PLACE_BYTES])
