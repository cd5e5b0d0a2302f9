"""Private instances of MariaDB and Redis, for `make run` and for the tests.

    with MariaDB(folder / "mariadb") as mariadb, Redis(folder / "redis") as redis:
        connect(mariadb.url, redis.url)

Each instance lives in a folder of its own, listens on 127.0.0.1 only, on a port below the range from which the kernel
takes the near ends of outgoing connections, and ends with the process that started it, however that one ends.
Settings and accounts are those of `deploy/stores/`, as everywhere. Passwords are random and kept in the folder, in files
that only this user can read. MariaDB's data stays in the folder; Redis keeps nothing.
"""

import hashlib
import os
import re
import shutil
import socket
import subprocess
import tempfile
from pathlib import Path
from urllib.parse import quote

from deploy.instance import LOG_LINES_SHOWN, Store, StoreError, kept_password, private_folder, write_private
from deploy.kept import Kept
from deploy.ports import PORTS, free_port
from deploy.programs import MARIADB, REDIS, Program, locked, provide

__all__ = ["MARIADB_FOR_TESTS", "PORTS", "Kept", "MariaDB", "Redis", "Store", "StoreError", "free_port", "write_private"]

SETTINGS = Path(__file__).resolve().parent / "stores"

SOCKET_PATH_MAX_BYTES = 100
"""The kernel takes 107; a longer path is moved to a short private folder."""

MARIADB_FOR_TESTS = {"innodb_buffer_pool_size": "64M", "innodb_log_file_size": "16M"}
"""A test process starts in a fraction of a second with these, and ten of them fit on a small machine."""


class Redis(Store):
    """A private Redis or Valkey with the accounts of `users.acl`. It keeps nothing: after a stop it is empty."""

    user = "usher"
    operator = "operator"

    @property
    def url(self) -> str:
        """As `USHER_REDIS_URL`: the service's account, which may do what the gateway does."""
        return self._url(self.user, self.password)

    @property
    def operator_url(self) -> str:
        """For people and tests: the account that may do everything."""
        return self._url(self.operator, self.operator_password)

    @property
    def password(self) -> str:
        """The service's account's."""
        return kept_password(self.folder / "password")

    @property
    def operator_password(self) -> str:
        """The operator's account's."""
        return kept_password(self.folder / "operator-password")

    def _url(self, user: str, password: str) -> str:
        return f"redis://{user}:{quote(password)}@127.0.0.1:{self.port}/0"

    def _prepare(self) -> Program:
        private_folder(self.folder)
        write_private(self.folder / "users.acl", self._accounts())
        return provide(REDIS, self._local)

    def _launch(self, program: Program, port: int) -> Kept:
        # Named relative to the folder: the settings file's syntax has trouble with some characters in paths.
        files = {"aclfile": "users.acl", "pidfile": "pid"}
        own = {"bind": "127.0.0.1", "port": str(port), "daemonize": "no", "logfile": '""', **files, **self.settings}
        lines = "".join(f"{name} {value}\n" for name, value in own.items())
        (self.folder / "redis.conf").write_text(f"{(SETTINGS / 'redis.conf').read_text()}\n# This instance.\n{lines}")
        return Kept(program, ["redis.conf"], folder=self.folder, log=self.log, hand_down=self._hand_down)

    def _answers(self, kept: Kept, port: int) -> bool:
        with socket.create_connection(("127.0.0.1", port), timeout=1) as connection, connection.makefile("rwb") as stream:
            stream.write(f"AUTH {self.operator} {self.operator_password}\r\nINFO server\r\n".encode())
            stream.flush()
            # Another server, which does not know the password, answers each of the two with one line.
            answers = [stream.readline(), stream.readline()]
            text = stream.read(int(answers[1][1:])) if answers[1].startswith(b"$") else b""
        return f"process_id:{kept.pid}\r\n".encode() in text

    def _accounts(self) -> str:
        """The template `users.acl`, filled in as `redis-server.sh` does it."""
        lines = [line for line in (SETTINGS / "users.acl").read_text().splitlines() if not re.match(r" *(#|$)", line)]
        text = re.sub(r"\n +", " ", "\n".join(lines)) + "\n"
        for name, password in (("USHER_REDIS", self.password), ("REDIS_OPERATOR", self.operator_password)):
            text = text.replace(f"@{name}_PASSWORD_SHA256@", hashlib.sha256(password.encode()).hexdigest())
        return text


class MariaDB(Store):
    """A private MariaDB with the empty database `usher` and the accounts of `accounts.sql`.

    `root` comes in without a password, by the socket alone, and the socket is in a folder that is closed to other users.
    """

    user = "usher"
    migration_user = "usher_migrate"
    database = "usher"

    @property
    def url(self) -> str:
        """As `USHER_DATABASE_URL`: the service's account, which reads and writes rows and no more."""
        return self._url(self.user, self.password)

    @property
    def migration_url(self) -> str:
        """As `USHER_MIGRATION_DATABASE_URL`: the account that may change the schema."""
        return self._url(self.migration_user, self.migration_password)

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
        """The service's account's."""
        return kept_password(self.folder / "password")

    @property
    def migration_password(self) -> str:
        """The migrating account's."""
        return kept_password(self.folder / "migration-password")

    def _url(self, user: str, password: str) -> str:
        return f"mysql://{user}:{quote(password)}@127.0.0.1:{self.port}/{self.database}"

    def _prepare(self) -> Program:
        program = provide(MARIADB, self._local)
        private_folder(self.folder)
        private_folder(self.socket.parent)
        self.socket.unlink(missing_ok=True)
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
        passwords = f"@usher_password = '{self.password}', @usher_migrate_password = '{self.migration_password}'"
        own = [
            # The empty passwords that a new data directory has for other ways in than the socket.
            "DELETE FROM mysql.global_priv WHERE User IN ('root', '') AND Host <> 'localhost';",
            "FLUSH PRIVILEGES;",
            f"SET @usher_host = '127.0.0.1', {passwords};",
        ]
        return "\n".join(own) + "\n" + (SETTINGS / "accounts.sql").read_text()


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
    private_folder(part)
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
