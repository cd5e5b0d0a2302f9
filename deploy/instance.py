"""What the private instances of MariaDB and Redis have in common: a folder, a port, a life."""

import os
import secrets
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from deploy.kept import Kept
from deploy.ports import free_port
from deploy.programs import LOCAL, Program

PORT_ATTEMPTS = 8
"""Somebody else may take a port between choosing and binding; eight times in a row it is something else."""

START_TIMEOUT_S = 60.0
"""Recovery after a crash takes MariaDB some seconds on a slow disk; Redis needs milliseconds."""

POLL_S = 0.02
LOG_LINES_SHOWN = 15


class StoreError(Exception):
    """A store did not start or is not running; the message carries the last lines of its log."""


class Store(ABC):
    """A server of this process' own.

    Args:
        folder: the instance's own; made if need be. Its log is `log` in it.
        settings: added after the lines of the settings file in `deploy/stores/`, and stronger than they.
        local: the project's `.local`, where programs and templates are.
        hand_down: see `Kept`.
    """

    def __init__(
        self,
        folder: Path,
        *,
        settings: Mapping[str, str] | None = None,
        local: Path = LOCAL,
        hand_down: Sequence[int] = (),
    ) -> None:
        self.folder = folder.resolve()
        self.settings = dict(settings or {})
        self.log = self.folder / "log"
        self._local = local
        self._hand_down = hand_down
        self._port: int | None = None
        self._kept: Kept | None = None

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.kill()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None) -> None:
        self.stop()

    @property
    def port(self) -> int:
        """On 127.0.0.1; the same after a restart.

        Raises:
            StoreError: it was never started.
        """
        if self._port is None:
            raise StoreError(f"the store in {self.folder} was not started")
        return self._port

    @property
    def pid(self) -> int:
        """The server's process number.

        Raises:
            StoreError: it is not running.
        """
        return self._running().pid

    @property
    def running(self) -> bool:
        """Whether the server's process is there (paused or not)."""
        return self._kept is not None and self._kept.running

    def start(self) -> None:
        """Starts the server and waits until it answers.

        Raises:
            StoreError: it did not start; the message ends with its log.
            ProgramMissingError: it is not on this machine and could not be fetched.
        """
        assert not self.running, f"the store in {self.folder} is running"
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        program = self._prepare()
        for _ in range(PORT_ATTEMPTS):
            port = self._port or free_port()
            log_begin = self.log.stat().st_size if self.log.exists() else 0
            self._kept = self._launch(program, port)
            if self._wait_until_ready(self._kept, port):
                self._port = port
                return
            self._kept.kill()
            if self._port is not None or not self._port_was_taken(log_begin):
                break
        raise StoreError(f"{program.path} did not start in {self.folder}; its log ends:\n{self._log_end()}")

    def stop(self) -> None:
        """SIGTERM, after a while SIGKILL. Does nothing if it is not running."""
        if self._kept is not None:
            self._kept.stop()
            self._kept = None

    def kill(self) -> None:
        """SIGKILL, as a crash. Does nothing if it is not running; `start` brings it back on the same port."""
        if self._kept is not None:
            self._kept.kill()
            self._kept = None

    def pause(self) -> None:
        """SIGSTOP: accepts and answers nothing, closes nothing."""
        self._running().pause()

    def resume(self) -> None:
        """SIGCONT after `pause`."""
        self._running().resume()

    def _running(self) -> Kept:
        if self._kept is None:
            raise StoreError(f"the store in {self.folder} is not running")
        return self._kept

    def _wait_until_ready(self, kept: Kept, port: int) -> bool:
        deadline = time.monotonic() + START_TIMEOUT_S
        while kept.running and time.monotonic() < deadline:
            try:
                if self._answers(kept, port):
                    return True
            except OSError:
                pass  # Not listening yet.
            time.sleep(POLL_S)
        return False

    def _port_was_taken(self, log_begin: int) -> bool:
        return b"in use" in self.log.read_bytes()[log_begin:]

    def _log_end(self) -> str:
        lines = self.log.read_text(errors="replace").splitlines() if self.log.exists() else []
        return "\n".join(lines[-LOG_LINES_SHOWN:])

    @abstractmethod
    def _prepare(self) -> Program:
        """Finds the program and makes what the server needs in its folder."""

    @abstractmethod
    def _launch(self, program: Program, port: int) -> Kept:
        """Starts the server's process."""

    @abstractmethod
    def _answers(self, kept: Kept, port: int) -> bool:
        """Whether this very server answers; raises `OSError` while nobody listens."""


def private_folder(folder: Path) -> None:
    """Makes a folder that only this user can enter, or makes sure that an existing one is like that."""
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    found = folder.lstat()
    if found.st_uid != os.geteuid() or folder.is_symlink():
        raise StoreError(f"{folder} belongs to somebody else")
    folder.chmod(0o700)


def write_private(path: Path, text: str) -> None:
    """Writes a whole file that only this user can read; nobody sees half of it."""
    part = path.with_name(f"{path.name}.part")
    part.unlink(missing_ok=True)
    with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(text)
    part.rename(path)


def kept_password(path: Path) -> str:
    """The random password in a file that only this user can read; made when it is first asked for."""
    if not path.exists():
        write_private(path, secrets.token_urlsafe(24))
    return path.read_text()
