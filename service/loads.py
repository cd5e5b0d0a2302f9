"""Counters are made from the ledger: one statement for all codes that wait, one statement at a time."""

import asyncio
from collections import OrderedDict
from contextlib import suppress
from typing import TypeVar

import structlog

from service.counters import Counters
from service.counts import Counts
from service.errors import CounterUnavailable
from service.ledger import Ledger
from service.told import Told

STATEMENT_INTERVAL_S = 0.02
"""Between two statements; the first is made at once. Codes gather meanwhile, so they cost 50 statements a second at most."""
GUESSES_INTERVAL_S = 0.1
"""After a statement that found no coupon at all, unless a code that there is is asked for."""
CODES_PER_STATEMENT_MAX = 1_000
LOAD_DEADLINE_S = 2.0
"""For the statement, which many requests share; each request still keeps its own deadline."""
KNOWN_MAX = 200_000
"""Codes remembered with their coupon's id, which never changes; some 100 bytes each."""


log = structlog.get_logger(__name__)

Key = TypeVar("Key")
Value = TypeVar("Value")


class Loads:
    """Loads counters, and remembers which codes there are; never which there are not: anybody may create one at any time."""

    def __init__(self, counters: Counters, ledger: Ledger, counts: Counts) -> None:
        self._counters = counters
        self._counts = counts
        self._ledger = ledger
        self._known: OrderedDict[str, int] = OrderedDict()
        self._waiting: dict[str, asyncio.Future[int | None]] = {}
        self._at_hand: dict[str, asyncio.Future[int | None]] = {}
        self._even_newer: set[str] = set()
        self._known_waits = asyncio.Event()
        self._runner: asyncio.Task[None] | None = None
        self._told = Told()

    def known(self, code: str) -> int | None:
        """The id of this code's coupon, by the ledger; None when this process has not loaded it yet."""
        return self._known.get(code)

    async def load(self, code: str, *, even_newer: bool = False) -> int | None:
        """Load this code's counter by a statement that begins after this call; the coupon's id, or None if there is none.

        `even_newer`: the counter's version is above the ledger's, which was read after it. While Redis is away this learns what
        the ledger says, and loads nothing. Raises LedgerUnavailable.
        """
        if even_newer:
            self._even_newer.add(code)
        if code in self._known:
            self._known_waits.set()
        future = self._waiting.get(code)
        if future is None:
            future = self._waiting[code] = asyncio.get_running_loop().create_future()
            if self._runner is None:
                self._runner = asyncio.create_task(self._run())
        return await asyncio.shield(future)

    async def load_missing(self, code: str) -> int | None:
        """As `load`, for a counter that is not there: for a coupon that is known, a load that is under way is as good.

        So is one that ended within STATEMENT_INTERVAL_S: the reply to a claim from before it may come after it.
        """
        future = self._at_hand.get(code) if code in self._known else None
        has_failed = future is not None and future.done() and future.exception() is not None
        return await (self.load(code) if future is None or has_failed else asyncio.shield(future))

    async def _run(self) -> None:
        """Load until nobody waits."""
        try:
            while self._waiting:
                codes = list(self._waiting)
                if len(codes) > CODES_PER_STATEMENT_MAX:  # A known code does not stand behind a storm of guesses.
                    codes.sort(key=self._is_new)
                    del codes[CODES_PER_STATEMENT_MAX:]
                self._known_waits.clear()
                self._at_hand = {code: self._waiting.pop(code) for code in codes}
                guessed = await self._answer(self._at_hand)
                await asyncio.sleep(STATEMENT_INTERVAL_S)
                self._at_hand = {}
                if guessed:
                    with suppress(TimeoutError):
                        async with asyncio.timeout(GUESSES_INTERVAL_S - STATEMENT_INTERVAL_S):
                            await self._known_waits.wait()
        finally:
            self._runner, self._at_hand = None, {}

    def _is_new(self, code: str) -> bool:
        return code not in self._known

    async def _answer(self, waiting: dict[str, asyncio.Future[int | None]]) -> bool:
        """Load these codes, and answer all that wait for them; whether there is a coupon of none of them."""
        try:
            ids = await self._load(list(waiting))
        except Exception as error:  # noqa: BLE001 - told to those who wait
            self._tell(len(waiting), f"{type(error).__name__}: {error}")
            for future in waiting.values():
                future.set_exception(error)
                future.exception()  # Marks it as seen, should nobody wait any more.
            return False
        for code, future in waiting.items():
            future.set_result(ids.get(code))
        return not ids

    async def _load(self, codes: list[str]) -> dict[str, int]:
        """One statement, one round trip to Redis; the ids of the coupons that there are."""
        even_newer = self._even_newer.intersection(
            codes
        )  # Asked for before this statement, so it is read after their counters.
        self._even_newer -= even_newer
        found = await self._ledger.coupons.load(codes, asyncio.get_running_loop().time() + LOAD_DEADLINE_S)
        for code, loaded in found.items():
            remember(self._known, code, loaded.coupon.id, KNOWN_MAX)
        if found:
            try:
                await self._counters.load(list(found.values()), even_newer=even_newer)
                self._counts.plain["loads"] += len(found)
            except CounterUnavailable as error:  # Whoever needs the counter finds it missing or outdated.
                if not self._counters.is_away:
                    self._tell(len(found), str(error))
        return {code: loaded.coupon.id for code, loaded in found.items()}

    def _tell(self, coupons: int, error: str) -> None:
        if due := self._told.due(coupons):
            log.warning("counters not loaded", coupons=due, error=error)


def remember(memory: OrderedDict[Key, Value], key: Key, value: Value, entries_max: int) -> None:
    """Keeps a value in a bounded memory: the oldest entry makes room. A plain dict would look for it among the deleted ones."""
    memory[key] = value
    memory.move_to_end(key)
    if len(memory) > entries_max:
        memory.popitem(last=False)
