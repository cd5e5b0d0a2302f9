"""Usher as a user runs it: the command line and the server as processes of their own.

A server ends with the process that started it, however that one ends, and is only ever signalled by its number.
"""

import http.client
import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from deploy.local import Kept, free_port
from deploy.programs import PROJECT, Program
from tests.waiting import wait_until

Json = Any
"""Whatever a JSON document says."""
READY_TIMEOUT_S = 60.0
"""A server is ready after a second; several that start at once on two busy cores take longer."""
COMMAND_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 60.0
"""Longer than any stop deadline that a test sets."""
READY_ANSWERS_PER_WORKER = 5
"""Each on a connection of its own: of several workers each is most probably asked once; a lone one is asked for certain."""
LISTENING = "0A"
"""The state of a listening socket in /proc/net/tcp."""


@dataclass(frozen=True)
class Finished:
    """A command that has ended."""

    status: int
    output: str
    errors: str

    def check(self) -> Self:
        """Itself, if the command succeeded."""
        assert self.status == 0, f"exit status {self.status}\n{self.output}\n{self.errors}"
        return self

    @property
    def json(self) -> Json:
        """The one JSON document on standard output."""
        return json.loads(self.output)


def environment(
    *, database_url: str = "", migration_url: str = "", redis_url: str = "", settings: Mapping[str, str] | None = None
) -> dict[str, str]:
    """The variables that an Usher for these stores is started with, in addition to this process' own."""
    urls = {
        "USHER_DATABASE_URL": database_url,
        "USHER_MIGRATION_DATABASE_URL": migration_url,
        "USHER_REDIS_URL": redis_url,
    }
    return {**{name: url for name, url in urls.items() if url}, **(settings or {})}


def run_usher(
    *arguments: str,
    database_url: str = "",
    migration_url: str = "",
    redis_url: str = "",
    settings: Mapping[str, str] | None = None,
) -> Finished:
    """Runs an `usher` command to its end; `settings` are further variables of its environment."""
    variables = environment(database_url=database_url, migration_url=migration_url, redis_url=redis_url, settings=settings)
    done = subprocess.run(
        [sys.executable, "-m", "service.cli", *arguments],
        cwd=PROJECT,
        env={**os.environ, **variables},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=COMMAND_TIMEOUT_S,
        text=True,
        check=False,
    )
    return Finished(done.returncode, done.stdout, done.stderr)


class Usher:
    """A running `usher serve`, and all that was ever started at its address.

    Args:
        log: where its output goes.
        variables: the environment, see `environment`.
        workers: `--workers`.

    Attributes:
        port: on 127.0.0.1; the same after a restart.
    """

    def __init__(self, log: Path, variables: Mapping[str, str], *, workers: int = 1) -> None:
        self.port = free_port()
        self.log = log
        self._variables = dict(variables)
        self._workers = workers
        self._kept: Kept | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None) -> None:
        self.stop()

    @property
    def url(self) -> str:
        """Where it serves, without a slash at the end."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def pid(self) -> int:
        """The process that was started; with several workers their parent."""
        return self._running().pid

    @property
    def running(self) -> bool:
        """Whether the process that was started has not ended."""
        return self._kept is not None and self._kept.running

    @property
    def output(self) -> str:
        """All that it has written to standard output and standard error."""
        return self.log.read_text(errors="replace") if self.log.exists() else ""

    def workers(self) -> list[int]:
        """The processes that serve: the children, or the process itself when it is to serve alone."""
        if self._workers == 1:
            return [self.pid]
        return [int(pid) for pid in Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split()]

    def start(self, *, wait: bool = True) -> None:
        """Starts it and waits until all its workers are ready."""
        assert not self.running
        self._kept = self.launch("--port", str(self.port))
        if not wait:
            return
        try:
            self.wait_until_ready()
        except BaseException:
            self.stop()
            raise

    def launch(self, *arguments: str) -> Kept:
        """Starts `usher serve` with these arguments; the caller stops it."""
        program = Program(Path(sys.executable), sys.executable, before=("-m", "service.cli"), environment=self._variables)
        several = ["--workers", str(self._workers)] if self._workers > 1 else []
        return Kept(program, ["serve", *several, *arguments], folder=PROJECT, log=self.log, grace_s=STOP_TIMEOUT_S)

    def wait_until_ready(self) -> None:
        """Until every worker listens, and whoever is asked says that it is ready."""
        answers = READY_ANSWERS_PER_WORKER * self._workers if self._workers > 1 else 1

        def ready() -> bool:
            assert self.running, f"usher serve ended with status {self._running().exit_status}:\n{self.output}"
            return listeners(self.port) >= self._workers and all(self.readiness() == 200 for _ in range(answers))

        wait_until(ready, timeout_s=READY_TIMEOUT_S, what=lambda: f"usher serve is not ready:\n{self.output}")

    def readiness(self) -> int:
        """The status of `/readyz`; 0 without an answer."""
        return get(self.port, "/readyz")[0]

    def terminate(self) -> None:
        """SIGTERM; returns at once."""
        os.kill(self.pid, signal.SIGTERM)

    def wait(self) -> int:
        """The exit status, once it has ended by itself or by a signal."""
        kept = self._running()
        status = kept.wait(STOP_TIMEOUT_S)
        kept.stop()
        self._kept = None
        return status

    def stop(self) -> None:
        """SIGTERM, and waits; does nothing if it does not run."""
        if self._kept is not None:
            self._kept.stop()
            self._kept = None

    def kill(self) -> None:
        """SIGKILL to it and its workers, as when the machine fails."""
        pids = self.workers() if self._workers > 1 else []
        if self._kept is not None:
            self._kept.kill()
            self._kept = None
        for pid in pids:
            kill(pid)

    def kill_parent(self) -> None:
        """SIGKILL to the process that was started, and to nobody else."""
        self._running().kill()
        self._kept = None

    def _running(self) -> Kept:
        assert self._kept is not None, "usher serve was not started"
        return self._kept


def kill(pid: int) -> None:
    """SIGKILL to a worker; one that has just ended is not an error."""
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return


def get(port: int, path: str) -> tuple[int, bytes]:
    """Status and body of a GET on a connection of its own; status 0 without an answer."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        return answer.status, answer.read()
    except (OSError, http.client.HTTPException):
        return 0, b""
    finally:
        connection.close()


def listeners(port: int) -> int:
    """Sockets that listen on this port."""
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return sum(row[3] == LISTENING and int(row[1].partition(":")[2], 16) == port for row in rows)
