"""Private instances of MariaDB and Redis, for `make run` and for the tests.

    with MariaDB(folder / "mariadb") as mariadb, Redis(folder / "redis") as redis:
        connect(mariadb.url, redis.url)

Each instance lives in a folder of its own, listens on 127.0.0.1 only, on a port below the range from which the kernel
takes the near ends of outgoing connections, and ends with the process that started it, however that one ends.
MariaDB's data stays in the folder; Redis keeps nothing.
"""

import hashlib
import os
import re
import secrets
import shutil
import socket
import subprocess
import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self
from urllib.parse import quote

from deploy.kept import Kept
from deploy.ports import PORTS, free_port
from deploy.programs import LOCAL, MARIADB, REDIS, Program, locked, provide

__all__ = ["MARIADB_FOR_TESTS", "PORTS", "Kept", "MariaDB", "Redis", "Store", "StoreError", "free_port", "write_private"]

SETTINGS = Path(__file__).resolve().parent / "stores"

PORT_ATTEMPTS = 8
"""Somebody else may take a port between choosing and binding; eight times in a row it is something else."""

START_TIMEOUT_S = 60.0
"""Recovery after a crash takes MariaDB some seconds on a slow disk; Redis needs milliseconds."""

POLL_S = 0.02
SOCKET_PATH_MAX_BYTES = 100
"""The kernel takes 107; a longer path is moved to a short private folder."""

LOG_LINES_SHOWN = 15

MARIADB_FOR_TESTS = {"innodb_buffer_pool_size": "64M", "innodb_log_file_size": "16M"}
"""A test process starts in a fraction of a second with these, and ten of them fit on a small machine."""


class StoreError(Exception):
    """A store did not start or is not running; the message carries the last lines of its log."""


class Store(ABC):
    """What MariaDB and Redis have in common: a folder, a port, a life.

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


class Redis(Store):
    """A private Redis or Valkey. It keeps nothing: after a stop it is empty."""

    @property
    def url(self) -> str:
        """As `USHER_REDIS_URL`."""
        return f"redis://127.0.0.1:{self.port}/0"

    def _prepare(self) -> Program:
        return provide(REDIS, self._local)

    def _launch(self, program: Program, port: int) -> Kept:
        own = {"bind": "127.0.0.1", "port": str(port), "daemonize": "no", "logfile": '""', **self.settings}
        lines = "".join(f"{name} {value}\n" for name, value in own.items())
        # Named relative to the folder: the settings file's syntax has trouble with some characters in paths.
        (self.folder / "redis.conf").write_text(f"{(SETTINGS / 'redis.conf').read_text()}\n# This instance.\n{lines}")
        return Kept(program, ["redis.conf"], folder=self.folder, log=self.log, hand_down=self._hand_down)

    def _answers(self, kept: Kept, port: int) -> bool:
        with socket.create_connection(("127.0.0.1", port), timeout=1) as connection:
            connection.sendall(b"INFO server\r\n")
            answer = connection.recv(8192)
        return f"process_id:{kept.pid}\r\n".encode() in answer


class MariaDB(Store):
    """A private MariaDB with the empty database `usher` and an account of that name that may do everything in it only.

    The account's password is random and kept in the folder (mode 0600). `root` comes in without one, by the socket
    alone, and the socket is in a folder that is closed to other users.
    """

    user = "usher"
    database = "usher"

    @property
    def url(self) -> str:
        """As `USHER_DATABASE_URL`, for the account `usher`."""
        return f"mysql://{self.user}:{quote(self.password)}@127.0.0.1:{self.port}/{self.database}"

    @property
    def socket(self) -> Path:
        """Where `root` connects, without a password."""
        path = self.folder / "mysql.sock"
        if len(os.fsencode(path)) <= SOCKET_PATH_MAX_BYTES:
            return path
        digest = hashlib.sha256(os.fsencode(path)).hexdigest()[:16]
        return Path(tempfile.gettempdir()) / f"usher-{os.geteuid()}-{digest}" / "mysql.sock"

    @property
    def data(self) -> Path:
        """The server's data directory."""
        return self.folder / "data"

    @property
    def password(self) -> str:
        """The account's password, made at the first start."""
        return (self.folder / "password").read_text()

    def _prepare(self) -> Program:
        program = provide(MARIADB, self._local)
        _private_folder(self.folder)
        _private_folder(self.socket.parent)
        self.socket.unlink(missing_ok=True)
        if not (self.folder / "password").exists():
            write_private(self.folder / "password", secrets.token_urlsafe(24))
        if not self.data.exists():
            _copy_whole(_template(program, self._local), self.data)
        write_private(self.folder / "init.sql", self._init_sql())
        lines = "".join(f"{name} = {value}\n" for name, value in self.settings.items())
        own = f"{(SETTINGS / 'mariadb.cnf').read_text()}\n# This instance.\n[mariadbd]\n{lines}"
        write_private(self.folder / "my.cnf", own)
        return program

    def _launch(self, program: Program, port: int) -> Kept:
        arguments = [
            f"--defaults-file={self.folder / 'my.cnf'}",
            *_paths(program),
            f"--datadir={self.data}",
            f"--socket={self.socket}",
            f"--pid-file={self.folder / 'pid'}",
            f"--init-file={self.folder / 'init.sql'}",
            f"--port={port}",
            "--bind-address=127.0.0.1",
        ]
        return Kept(program, arguments, folder=self.folder, log=self.log, hand_down=self._hand_down)

    def _answers(self, kept: Kept, port: int) -> bool:  # noqa: ARG002 - the socket says enough
        # The server listens on its port first, then on its socket, and greets when the init file has been carried out.
        # Only this server has this socket, so nobody else can answer.
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(1)
            connection.connect(str(self.socket))
            greeting = connection.recv(5)
        return len(greeting) == 5 and greeting[4] == 10  # noqa: PLR2004 - the protocol's version; 255 would be an error

    def _init_sql(self) -> str:
        """What the server carries out at each start, one statement a line. Each can be repeated."""
        account = f"'{self.user}'@'127.0.0.1'"
        return "\n".join(
            [
                # The empty passwords that a new data directory has for other ways in than the socket.
                "DELETE FROM mysql.global_priv WHERE User IN ('root', '') AND Host <> 'localhost';",
                "FLUSH PRIVILEGES;",
                f"CREATE DATABASE IF NOT EXISTS {self.database} CHARACTER SET utf8mb4;",
                f"CREATE USER IF NOT EXISTS {account} IDENTIFIED BY '{self.password}';",
                f"ALTER USER {account} IDENTIFIED BY '{self.password}';",
                f"GRANT ALL PRIVILEGES ON {self.database}.* TO {account};",
                "",
            ]
        )


def _private_folder(folder: Path) -> None:
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


def _copy_whole(source: Path, target: Path) -> None:
    """Copies a folder so that the target is there whole or not at all."""
    part = target.with_name(f"{target.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    shutil.copytree(source, part)
    part.rename(target)


def _paths(program: Program) -> list[str]:
    """Arguments that tell an unpacked MariaDB where it is, and root's that it may be root."""
    arguments = ["--user=root"] if os.geteuid() == 0 else []
    if program.root != Path("/"):
        messages = next(program.root.glob("usr/share/*/english/errmsg.sys")).parent.parent
        arguments += [
            f"--basedir={program.root / 'usr'}",
            f"--lc-messages-dir={messages}",
            f"--character-sets-dir={messages / 'charsets'}",
            f"--plugin-dir={program.root / 'usr/lib/mysql/plugin'}",
        ]
    return arguments


def _template(program: Program, local: Path) -> Path:
    """An initialised data directory of this version to copy from: making one takes seconds, copying it does not."""
    version = subprocess.run(
        program.command("--no-defaults", "--version"),
        executable=program.path,
        env=program.full_environment(),
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    words = re.sub(r"[^0-9A-Za-z.]+", "-", version.split("Ver ", 1)[-1]).strip("-")
    template = local / "templates" / f"mariadb-{words}"
    with locked(local / "templates.lock"):
        if not template.exists():
            _initialise(program, template)
    return template


def _initialise(program: Program, template: Path) -> None:
    part = template.with_name(f"{template.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    _private_folder(part)
    installer = program.path.parent.parent / "bin" / "mariadb-install-db"
    done = subprocess.run(
        [
            installer if installer.exists() else "mariadb-install-db",
            "--no-defaults",
            *_paths(program),
            f"--datadir={part}",
            "--auth-root-authentication-method=normal",
            "--skip-test-db",
            "--skip-name-resolve",
            "--force",
            "--innodb-log-file-size=8M",
        ],
        env=program.full_environment(),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        end = "\n".join((done.stdout + done.stderr).splitlines()[-LOG_LINES_SHOWN:])
        raise StoreError(f"mariadb-install-db failed:\n{end}")
    part.rename(template)
