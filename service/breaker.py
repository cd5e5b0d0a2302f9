"""The breaker in front of Redis: while Redis is away nobody waits for it, and as soon as it answers it is asked again.

It opens at once when a reply has not come in time, since the next would make everybody wait as long; and on the second call in
a row that failed quickly, since one connection may break whose server is well. What Redis itself replies, an error too, is an
answer. While it is open a probe asks Redis in the background, and closes it.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final

import structlog

from service.errors import CounterUnavailable

FAILURES_MAX: Final = 2
"""Failed calls in a row that open the breaker, when each failed quickly."""
PROBE_PAUSE_MIN_S: Final = 0.1
"""Between two probes: so soon is Redis used again after it is back."""
PROBE_PAUSE_MAX_S: Final = 1.6
"""A Redis that answers the probe and nothing else would stop everybody ten times a second: the pause is doubled each time."""
STEADY_S: Final = 2.0
"""When the breaker has been closed for so long, the pause is the shortest again."""

log = structlog.get_logger(__name__)


class Breaker:
    """Closed: calls pass, and tell how they ended. Open: they are refused, until `probe` does not raise CounterUnavailable.

    A call that has begun before the breaker opened says nothing of Redis as it is after that, so each tells when it began.
    """

    def __init__(self, probe: Callable[[], Awaitable[None]]) -> None:
        self._probe = probe
        self._prober: asyncio.Task[None] | None = None
        self._failures = 0
        self._openings = 0
        self._pause_s = PROBE_PAUSE_MIN_S
        self._closed_at = float("-inf")
        self._is_stopped = False

    @property
    def is_open(self) -> bool:
        """Whether Redis is away, as far as is known."""
        return self._prober is not None

    @property
    def openings(self) -> int:
        """How often it has opened."""
        return self._openings

    def enter(self) -> int:
        """Before a call: what `succeeded` or `failed` is told after it. Raises CounterUnavailable at once while it is open."""
        if self._prober is not None:
            raise CounterUnavailable("Redis is away, and is not asked until it answers a probe")
        return self._openings

    def succeeded(self, entered: int) -> None:
        """Redis has replied."""
        if entered == self._openings:
            self._failures = 0

    def failed(self, entered: int, error: CounterUnavailable, *, too_late: bool) -> None:
        """There was no reply: it did not come in time (`too_late`), or the connection failed before that."""
        if entered != self._openings or self._is_stopped:
            return
        self._failures += 1
        if too_late or self._failures >= FAILURES_MAX:
            self._open(error)

    async def stop(self) -> None:
        """Ends the probing; nothing is asked afterwards."""
        self._is_stopped = True
        if self._prober is not None:
            self._prober.cancel()
            await asyncio.gather(self._prober, return_exceptions=True)

    def _open(self, error: CounterUnavailable) -> None:
        loop = asyncio.get_running_loop()
        is_steady = loop.time() - self._closed_at >= STEADY_S
        self._pause_s = PROBE_PAUSE_MIN_S if is_steady else min(2 * self._pause_s, PROBE_PAUSE_MAX_S)
        self._openings += 1
        self._failures = 0
        log.warning("breaker opened", error=str(error))
        self._prober = loop.create_task(self._run(opened_at=loop.time()))

    async def _run(self, *, opened_at: float) -> None:
        """Until Redis answers."""
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(self._pause_s)
            try:
                await self._probe()
                break
            except CounterUnavailable as error:
                log.debug("Redis does not answer the probe", error=str(error))
            except Exception:
                log.exception("probe failed")
        self._prober = None
        self._closed_at = loop.time()
        log.info("breaker closed", away_s=round(self._closed_at - opened_at, 3))
