"""Several processes that serve one address: the parent holds the address, starts workers, and starts again those that die.

The workers are forked before any event loop is there, so a new one listens some milliseconds after another has died. Each
binds the address for itself (SO_REUSEPORT); the kernel spreads connections over those that listen. The parent's own sockets
are bound and never listen: they keep the port when no worker is there, and let the system choose one.
"""

import errno
import os
import resource
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Final

import structlog

from service.errors import AddressUnavailable

RESTART_INTERVAL_S: Final = 0.5
"""A worker that dies at once is started again so often: within the second that is promised, and no busy loop."""
WORKERS_GRACE_S: Final = 3.0
"""A worker that takes longer than its own deadline by this is stuck."""
CRASHED_STATUS: Final = 70
"""EX_SOFTWARE: the worker ended by an exception."""
STOPPED_BY_FORCE_STATUS: Final = 1
WATCHED: Final = frozenset({signal.SIGTERM, signal.SIGINT, signal.SIGCHLD})

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Address:
    """An address to bind, as `socket.bind` wants it."""

    family: socket.AddressFamily
    host: str
    port: int


def resolve(host: str, port: int) -> list[Address]:
    """The addresses of a host's name. Raises AddressUnavailable."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except OSError as error:
        raise AddressUnavailable(f"{host} is no address to listen on: {error.strerror}") from error
    return list(dict.fromkeys(Address(family, str(name[0]), port) for family, _, _, _, name in found))


def bind(addresses: Iterable[Address], *, shared: bool) -> list[socket.socket]:
    """Sockets bound to the addresses, all on one port. Raises AddressUnavailable.

    `shared`: with SO_REUSEPORT, which other processes of this user may bind as well.
    """
    bound: list[socket.socket] = []
    for address in addresses:
        one = socket.socket(address.family, socket.SOCK_STREAM)
        bound.append(one)
        one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if shared:
            one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if address.family == socket.AF_INET6:
            one.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        port = address.port or bound[0].getsockname()[1]
        try:
            one.bind((address.host, port))
            if not shared:
                # Until somebody listens, Linux lets several bind that all reuse the address.
                one.listen()
        except OSError as error:
            close(bound)
            raise AddressUnavailable(_explain(error, address.host, port)) from error
    return bound


def _explain(error: OSError, host: str, port: int) -> str:
    reason = "is in use" if error.errno == errno.EADDRINUSE else f"cannot be had ({error.strerror})"
    return f"port {port} on {host} {reason}; choose another with --port or USHER_LISTEN_PORT"


def reserve(addresses: Sequence[Address]) -> list[socket.socket]:
    """As `bind`, shared, after making sure that nobody else listens there: sharing would split the connections with them."""
    alone = bind(addresses, shared=False)
    port = alone[0].getsockname()[1]
    close(alone)
    return bind([Address(address.family, address.host, port) for address in addresses], shared=True)


def bound_addresses(sockets: Iterable[socket.socket]) -> list[Address]:
    """Where sockets are bound."""
    return [Address(one.family, *one.getsockname()[:2]) for one in sockets]


def close(sockets: Iterable[socket.socket]) -> None:
    """Closes all of them."""
    for one in sockets:
        one.close()


def allow_files(wanted: int) -> int:
    """Raises this process' limit of open files to `wanted` where it is lower and as far as it may be; returns the limit.

    Children inherit it.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    allowed = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    if soft == resource.RLIM_INFINITY or soft >= allowed:
        return wanted if soft == resource.RLIM_INFINITY else soft
    resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))
    return allowed


def in_child(work: Callable[[], int]) -> int:
    """The status of `work`, done in a process of its own: an event loop would leave traces that a fork copies."""
    pid = os.fork()
    if pid == 0:
        _run_and_exit(work)
    _, waited = os.waitpid(pid, 0)
    return os.waitstatus_to_exitcode(waited)


@dataclass(slots=True)
class Supervisor:
    """Keeps `count` workers alive. `work(place, orphaned)` serves until SIGTERM, or until `orphaned` is readable: parent gone.

    `place`: from 0 to `count` - 1. A worker that is started in the place of another begins when that one has ended.
    """

    count: int
    work: Callable[[int, int], int]
    stop_deadline_s: float
    _started_at: dict[int, tuple[float, int]] = field(default_factory=dict)
    _due: list[tuple[float, int]] = field(default_factory=list)
    _stopping: bool = False
    _kill_at: float = float("inf")

    def run(self) -> int:
        """Until all workers have ended after a signal; returns the exit status: 0 when they ended in order."""
        orphaned, alive = os.pipe()
        before = signal.pthread_sigmask(signal.SIG_BLOCK, WATCHED)
        self._due = [(0.0, place) for place in range(self.count)]
        status = 0
        while not self._stopping or self._started_at:
            self._start_those_due(orphaned, alive, before)
            caught = signal.sigtimedwait(WATCHED, self._patience_s())
            if caught is not None and caught.si_signo != signal.SIGCHLD:
                self._on_stop()
            if time.monotonic() >= self._kill_at:
                status = STOPPED_BY_FORCE_STATUS
                self._signal_all(signal.SIGKILL)
            self._reap()
        return status

    def _start_those_due(self, orphaned: int, alive: int, mask: Iterable[int]) -> None:
        """Forks the workers whose time has come."""
        now = time.monotonic()
        while self._due and self._due[0][0] <= now:
            _, place = self._due.pop(0)
            pid = os.fork()
            if pid == 0:
                # Only the parent holds the writing end: when it is gone, the reading end says so.
                os.close(alive)
                # Before the signals come through: what they would do until the worker's loop is there.
                signal.signal(signal.SIGINT, signal.SIG_IGN)
                signal.pthread_sigmask(signal.SIG_SETMASK, mask)
                _run_and_exit(partial(self.work, place, orphaned))
            self._started_at[pid] = now, place

    def _patience_s(self) -> float:
        """How long to wait for a signal: until the next worker is due, or those that stop are killed."""
        next_at = min([self._kill_at, *(due_at for due_at, _ in self._due)])
        return max(0.0, min(next_at - time.monotonic(), 60.0))

    def _on_stop(self) -> None:
        """The first signal asks the workers to stop, the second kills them."""
        if self._stopping:
            self._kill_at = 0.0
            return
        self._stopping = True
        self._due.clear()
        self._kill_at = time.monotonic() + self.stop_deadline_s + WORKERS_GRACE_S
        self._signal_all(signal.SIGTERM)

    def _signal_all(self, number: signal.Signals) -> None:
        for pid in self._started_at:
            os.kill(pid, number)

    def _reap(self) -> None:
        """Notes the workers that have ended; unless stopping, each is due again."""
        for pid, (started_at, place) in list(self._started_at.items()):
            ended, waited = os.waitpid(pid, os.WNOHANG)
            if not ended:
                continue
            del self._started_at[pid]
            if not self._stopping:
                log.error("worker ended; starting another", pid=pid, status=os.waitstatus_to_exitcode(waited))
                self._due.append((max(time.monotonic(), started_at + RESTART_INTERVAL_S), place))
                self._due.sort()


def _run_and_exit(work: Callable[[], int]) -> None:
    """Ends this process with the work's status; nothing of the parent's is unwound here."""
    status = CRASHED_STATUS
    try:
        status = work()
    except BaseException:  # noqa: BLE001  (the process ends here in any case)
        sys.excepthook(*sys.exc_info())
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
