"""Rows whose outcome the ledger could not say in time: from then on nothing records them any more.

Each id is written once as ended, on no seat. Either the id was there already, and the redemption stands; or it never will be.
Without this, an INSERT that was delayed lands after its client has redeemed again and cancelled: a use lost for ever.
"""

import asyncio
from collections.abc import Sequence

import structlog

from service.batcher import Asker
from service.claims import Claims
from service.config import Settings
from service.counts import Counts
from service.errors import UsherError
from service.ledger import Ledger
from service.model import NewRedemption, Return

STATEMENT_DEADLINE_S = 2.0
"""For one statement. It waits for a transaction that still holds one of the ids, and is tried again."""
PAUSE_S = 0.25
ROWS_MAX = 1_000_000
"""They outlive their requests, so the bound of those is not theirs; one more waits and asks again."""

log = structlog.get_logger(__name__)


class Abandoned:
    """Finds out what became of abandoned rows, in the background, until it is known."""

    def __init__(self, claims: Claims, ledger: Ledger, settings: Settings, counts: Counts) -> None:
        self._claims = claims
        self._counts = counts
        self._ledger = ledger
        self._tasks: dict[asyncio.Task[bool], tuple[str, str]] = {}
        self._ids = Asker[NewRedemption, bool | None](
            self._abandon, at_once=1, batch_max=settings.record_batch_max_rows, queue_max=ROWS_MAX
        )
        counts.gauges["ids_in_doubt"] = self.__len__

    def __len__(self) -> int:
        """Rows whose outcome is not known yet."""
        return len(self._tasks)

    async def find_out(self, row: NewRedemption) -> bool:
        """Whether the redemption stands; if not, it never will, and its claim is given back.

        It goes on by itself when the caller does not wait for it any longer.
        """
        self._counts.plain["ids_abandoned"] += 1
        task = asyncio.create_task(self._find_out(row))
        self._tasks[task] = (row.code, row.order_id)
        task.add_done_callback(self._tasks.pop)
        return await asyncio.shield(task)

    async def known(self, code: str, order_id: str) -> None:
        """Waits until the outcome of all rows of this order is known."""
        tasks = [task for task, order in self._tasks.items() if order == (code, order_id)]
        if tasks:
            await asyncio.wait(tasks)

    async def _find_out(self, row: NewRedemption) -> bool:
        while (stands := await self._ask(row)) is None:  # noqa: ASYNC110 - the ledger tells only when asked
            await asyncio.sleep(PAUSE_S)
        if stands:
            self._claims.settle(row.code, row.order_id, row.seat)
        else:
            await self._claims.release(row.code, Return(row.order_id, row.customer_id, row.seat))
        return stands

    async def _ask(self, row: NewRedemption) -> bool | None:
        """Whether it stands, if that is known. Whatever goes wrong, the question stays open: the next try may answer it."""
        try:
            return await self._ids.ask(row)
        except UsherError as error:
            log.warning("abandoned id not settled", error=f"{type(error).__name__}: {error}")
        except Exception:
            log.exception("abandoned id not settled")
        return None

    async def _abandon(self, rows: Sequence[NewRedemption]) -> Sequence[bool | None]:
        deadline = asyncio.get_running_loop().time() + STATEMENT_DEADLINE_S
        return await self._ledger.redemptions.abandon(rows, deadline)
