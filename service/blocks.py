"""Seats in blocks, from the ledger: where they come from while Redis is away.

A block is a range of seats above all that are in a row and all blocks before it, so that processes which do not see Redis hand
out different seats. It is a hint as all seats are: another process may see Redis and hand out the same ones, and the ledger's
unique key decides. What is left of a block is forgotten; a search finds it.

A coupon that is asked for now and then gets the seat above all in a row instead: reading that costs no commit, and is done for
many coupons at once.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import structlog

from service.batcher import Asker
from service.config import Settings
from service.errors import LedgerContended
from service.ledger import Ledger
from service.loads import remember
from service.model import Coupon
from service.once import Once

BLOCK_MIN_SEATS: Final = 8
"""The first block of a coupon, unless more requests wait; one that is used up in time is followed by one twice as large."""
READS_AT_ONCE: Final = 2
"""Statements side by side; more would make the batches smaller."""
BLOCK_MAX_SEATS: Final = 256
"""A block costs a commit, as a batch that is recorded does, and few batches are larger."""
SHARE_OF_LIMIT: Final = 64
"""A block that nobody waits for takes a part so small of the coupon: what is left in it keeps nobody waiting for a search."""
BLOCK_AGE_MAX_S: Final = 1.0
"""Seats that nobody wanted for so long are forgotten; and a coupon that had no block is asked again."""
BLOCK_DEADLINE_S: Final = 2.0
"""For a block, which several requests share; each request still keeps its own deadline."""
COUPONS_MAX: Final = 10_000
"""Coupons whose blocks are kept: half a kilobyte each, and ten where a block is large, which few can be at the same time."""

log = structlog.get_logger(__name__)


@dataclass(slots=True)
class Block:
    """The seats of a block that nobody has got yet, highest first. `at`: when it was made, in seconds of the loop's clock.

    `size`: the next one is twice as large; 0 when no block was to be had. `end`: the highest of its seats.
    """

    version: int
    at: float
    size: int
    seats: list[int]
    end: int = 0

    @property
    def is_young(self) -> bool:
        """Whether its seats may be handed out, and its size is a measure for the next."""
        return asyncio.get_running_loop().time() - self.at <= BLOCK_AGE_MAX_S


class Blocks:
    """Hands out the seats of blocks, and asks for one at a time per coupon."""

    def __init__(self, ledger: Ledger, settings: Settings) -> None:
        self._ledger = ledger
        self._seat_max = Asker[str, int](
            self._read,
            at_once=READS_AT_ONCE,
            batch_max=settings.record_batch_max_rows,
            queue_max=settings.queue_max_requests,
        )
        self._blocks: OrderedDict[int, Block] = OrderedDict()
        self._waiting: dict[int, int] = {}
        self._once = Once(self._failed)

    @property
    def busy(self) -> bool:
        """Whether a block is on its way."""
        return self._once.busy

    async def seat(self, coupon: Coupon) -> int | None:
        """A seat of a limited coupon that nobody else is told here; None when blocks are past the limit or have collided.

        Raises LedgerUnavailable.
        """
        while True:
            block = self._blocks.get(coupon.id)
            if block is not None and block.version == coupon.version and block.is_young:
                if block.seats:
                    return block.seats.pop()
                if not block.size:
                    return None
            self._waiting[coupon.id] = self._waiting.get(coupon.id, 0) + 1
            try:
                await self._once.do(coupon.id, lambda: self._take(coupon))
            finally:
                self._waiting[coupon.id] -= 1
                if not self._waiting[coupon.id]:
                    del self._waiting[coupon.id]

    def drop(self, coupon_id: int) -> None:
        """After a collision: another process has Redis and hands out the same seats. For a while a search finds others."""
        block = self._blocks.get(coupon_id)
        if block is not None:
            self._keep(coupon_id, Block(block.version, asyncio.get_running_loop().time(), 0, []))

    async def _take(self, coupon: Coupon) -> None:
        """One block. Where there is none, that is remembered as well."""
        before = self._blocks.get(coupon.id)
        if before is not None and not before.is_young:
            before = None
        waiting = self._waiting.get(coupon.id, 0)
        if before is None and waiting <= 1:
            size, seats = BLOCK_MIN_SEATS // 2, await self._next(coupon)
        else:
            size = max(_size(coupon, before), min(waiting, BLOCK_MAX_SEATS))
            seats = await self._block(coupon, size, 0 if before is None else before.end)
        now = asyncio.get_running_loop().time()
        self._keep(coupon.id, Block(coupon.version, now, size if seats else 0, seats, seats[0] if seats else 0))

    async def _block(self, coupon: Coupon, size: int, above: int) -> list[int]:
        """The seats of a block, highest first, less those up to `above`, which was handed out here and may be in no row yet."""
        limit, deadline = coupon.max_redemptions or 0, asyncio.get_running_loop().time() + BLOCK_DEADLINE_S
        while True:
            try:
                block = await self._ledger.seats.block(coupon.id, size, limit=limit, deadline=deadline)
            except LedgerContended:
                return []
            seats = [seat for seat in reversed(block) if seat > above]
            if seats or not block:
                return seats

    async def _next(self, coupon: Coupon) -> list[int]:
        """The seat above all that are in a row, if there is one."""
        seat = await self._seat_max.ask(coupon.code) + 1
        return [seat] if seat <= (coupon.max_redemptions or 0) else []

    async def _read(self, codes: Sequence[str]) -> Sequence[int]:
        """The highest seats in a row of these coupons."""
        deadline = asyncio.get_running_loop().time() + BLOCK_DEADLINE_S
        found = await self._ledger.coupons.load(list(dict.fromkeys(codes)), deadline)
        return [found[code].seat_max if code in found else 0 for code in codes]

    def _keep(self, coupon_id: int, block: Block) -> None:
        remember(self._blocks, coupon_id, block, COUPONS_MAX)

    @staticmethod
    def _failed(error: BaseException) -> None:
        """Those who wait are told; nobody else is harmed."""
        log.debug("no block", error=f"{type(error).__name__}: {error}")


def _size(coupon: Coupon, before: Block | None) -> int:
    """How many seats, if nobody waited."""
    wanted = 2 * before.size if before is not None and before.size else BLOCK_MIN_SEATS
    return max(1, min(wanted, BLOCK_MAX_SEATS, (coupon.max_redemptions or 0) // SHARE_OF_LIMIT))
