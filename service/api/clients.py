"""The connections of clients: no more than so many, and none that is slow for long.

A request costs nothing here. Every half a second each connection is looked at and compared with what it was at the last
look: one that has been at the same stage of the same request for too long is cut. A timer for each request would cost all
clients something for the sake of those few.
"""

import asyncio
from enum import IntEnum
from math import ceil
from typing import Final, Protocol

import structlog

from service.config import Settings

LOOK_MAX_INTERVAL_S: Final = 0.5
TURNS_PER_LOOK: Final = 8
"""Not all connections at once, so that nobody waits for the look: a look takes some 4 ms for 4,000 of them, a turn 0.5 ms."""
SEND_DEADLINE_S: Final = 8.0
"""For the client to take an answer. The largest of /v1 has some 70 KiB, of `/docs` 430; who takes less keeps memory so long."""
PATIENCE_S: Final = 1.0
"""When connections run out, a head that has not come for so long is taken for slow before its deadline."""
ROOM_SHARE: Final = 64
"""When connections run out, room is made for one in so many at once, since looking for the right ones takes a while."""
LOG_INTERVAL_S: Final = 10.0
"""Between two events of the same kind, however many clients were cut."""

log = structlog.get_logger(__name__)


class Stage(IntEnum):
    """What a connection is doing."""

    HEAD = 0
    """Its first head, or another of which something has come."""
    IDLE = 1
    """Between requests."""
    BUSY = 2
    """A request is read or worked on; whoever does that has a deadline of his own."""
    SENDING = 3
    """Bytes of an answer wait for the client to take them."""


class Connection(Protocol):
    """What is needed of a connection: `service.api.protocol.Protocol`.

    Attributes:
        seen, since: its stage, and since when (the loop's clock, seconds); kept by Clients.
    """

    seen: tuple[Stage, int]
    since: float

    def stage(self) -> tuple[Stage, int]:
        """What it is doing, and for which of its requests."""
        ...

    def cut(self, *, silently: bool) -> None:
        """Ends it; unless silently, with a 400 for a head that has begun."""
        ...

    def abort(self) -> None:
        """Ends it at once, whatever has not been sent."""
        ...


class Clients:
    """All connections of one process."""

    def __init__(self, settings: Settings, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._most = settings.clients_max_connections
        self._head_deadline_s = settings.head_deadline_ms / 1000
        self._keep_alive_s = settings.keep_alive_s
        self._turn_s = min(LOOK_MAX_INTERVAL_S, self._head_deadline_s / 4) / TURNS_PER_LOOK
        self._open: dict[Connection, None] = {}
        self._due: list[Connection] = []
        self._share = 0
        self._crowded_until = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._slow = Tally(loop)
        self._crowd = Tally(loop)

    def start(self) -> None:
        """Looks at connections from now on."""
        self._timer = self._loop.call_later(self._turn_s, self._look)

    def stop(self) -> None:
        """Looks no more; logs what has not been logged."""
        if self._timer is not None:
            self._timer.cancel()
        self._report(finally_=True)

    # --- Connections come and go -------------------------------------------------------------------------------

    def has_room(self) -> bool:
        """Whether one more may come; makes room if need be and if there is one that can be spared."""
        if len(self._open) < self._most or self._make_room():
            return True
        self._crowd.count("refused")
        return False

    def add(self, connection: Connection) -> None:
        """A connection is about to be made: its first head is awaited from now on."""
        connection.seen = (Stage.HEAD, 0)
        connection.since = self._loop.time()
        self._open[connection] = None

    def discard(self, connection: Connection) -> None:
        """A connection has ended; again does nothing."""
        self._open.pop(connection, None)

    def slow_body(self) -> None:
        """A body did not arrive in time."""
        self._slow.count("bodies")

    def _make_room(self) -> bool:
        """Cuts those that are easiest to spare: heads that do not come, oldest first, then those idle for longest."""
        now = self._loop.time()
        if now < self._crowded_until:
            return False
        spare: list[tuple[Stage, float, Connection]] = []
        for connection in self._open:
            self._compare(connection, now)
            stage, since = connection.seen[0], connection.since
            if stage is Stage.IDLE or (stage is Stage.HEAD and now - since >= PATIENCE_S):
                spare.append((stage, since, connection))
        if not spare:
            # Whoever else comes within this turn is refused without another look.
            self._crowded_until = now + self._turn_s
            return False
        spare.sort(key=lambda one: one[:2])
        for _, _, connection in spare[: max(1, self._most // ROOM_SHARE)]:
            self._crowd.count("closed")
            connection.cut(silently=True)
            self.discard(connection)
        return True

    # --- Looking -----------------------------------------------------------------------------------------------

    def _look(self) -> None:
        """Looks at the next few of all connections."""
        self._timer = self._loop.call_later(self._turn_s, self._look)
        if not self._due:
            self._due = list(self._open)
            self._share = ceil(len(self._due) / TURNS_PER_LOOK)
            self._report()
        now = self._loop.time()
        looked_at, self._due = self._due[: self._share], self._due[self._share :]
        for connection in looked_at:
            # Some have ended since the list was made.
            if connection in self._open and self._compare(connection, now):
                self._check(connection, now)

    def _compare(self, connection: Connection, now: float) -> bool:
        """Whether it is where it was at the last look; otherwise its time begins anew."""
        stage = connection.stage()
        if stage == connection.seen:
            return True
        connection.seen, connection.since = stage, now
        return False

    def _check(self, connection: Connection, now: float) -> None:
        """Ends it if its time is over."""
        stage, took_s = connection.seen[0], now - connection.since
        if stage is Stage.HEAD and took_s >= self._head_deadline_s:
            self._slow.count("heads")
            connection.cut(silently=False)
        elif stage is Stage.IDLE and took_s >= self._keep_alive_s:
            connection.cut(silently=True)
        elif stage is Stage.SENDING and took_s >= SEND_DEADLINE_S:
            self._slow.count("answers")
            connection.abort()

    def _report(self, *, finally_: bool = False) -> None:
        if slow := self._slow.take(finally_=finally_):
            log.warning(
                "slow clients cut",
                heads=slow.get("heads", 0),
                bodies=slow.get("bodies", 0),
                answers=slow.get("answers", 0),
            )
        if crowd := self._crowd.take(finally_=finally_):
            log.warning("too many clients", closed=crowd.get("closed", 0), refused=crowd.get("refused", 0), limit=self._most)


class Tally:
    """Counts what is logged together, now and then."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._counts: dict[str, int] = {}
        self._taken_at = float("-inf")

    def count(self, what: str) -> None:
        """One more."""
        self._counts[what] = self._counts.get(what, 0) + 1

    def take(self, *, finally_: bool) -> dict[str, int]:
        """The counts since they were last taken; empty when there are none, or, unless `finally_`, it is too early."""
        now = self._loop.time()
        if not self._counts or (now - self._taken_at < LOG_INTERVAL_S and not finally_):
            return {}
        counts, self._counts, self._taken_at = self._counts, {}, now
        return counts
