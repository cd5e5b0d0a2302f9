"""The stores from behind: as their administrators see them, past Usher."""

import secrets
from collections.abc import Sequence
from types import TracebackType
from typing import Any, Self

import pymysql
import redis
from pymysql.cursors import DictCursor

from deploy.local import MariaDB, Redis
from service.counters import MARKER
from service.ledger.keys import KEY_BYTES, KEY_PREFIX, digest

KEPT_TABLES = ("schema_migration",)
"""What says which schema this is; all other tables are emptied between tests."""
Cell = Any
"""What a column holds."""
ADMIN_TIMEOUT_S = 30
"""For a connection and for each statement; nothing that a test does to a store takes long."""


class Admin:
    """A connection to MariaDB as `root`, each statement a transaction of its own unless `BEGIN` was run."""

    def __init__(self, server: MariaDB) -> None:
        self._connection = pymysql.connect(
            unix_socket=str(server.socket),
            user="root",
            database=server.database,
            charset="utf8mb4",
            autocommit=True,
            cursorclass=DictCursor,
            connect_timeout=ADMIN_TIMEOUT_S,
            read_timeout=ADMIN_TIMEOUT_S,
            write_timeout=ADMIN_TIMEOUT_S,
            init_command=f"SET lock_wait_timeout = {ADMIN_TIMEOUT_S}, innodb_lock_wait_timeout = {ADMIN_TIMEOUT_S}",
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Closes the connection; what it has not committed is rolled back."""
        if self._connection.open:
            self._connection.close()

    def reconnect(self) -> None:
        """After a restart of MariaDB; a transaction is gone."""
        self._connection.ping(reconnect=True)

    def run(self, statement: str, *values: object) -> Sequence[dict[str, Any]]:
        """The rows that a statement returns."""
        with self._connection.cursor() as cursor:
            cursor.execute(statement, values or None)
            return list(cursor.fetchall())

    def value(self, statement: str, *values: object) -> Cell:
        """The first column of the first row; None without one."""
        rows = self.run(statement, *values)
        return next(iter(rows[0].values())) if rows else None

    def column(self, statement: str, *values: object) -> list[Any]:
        """The first column of every row."""
        return [next(iter(row.values())) for row in self.run(statement, *values)]

    def status(self, name: str) -> int:
        """A counter of `SHOW GLOBAL STATUS`."""
        return int(self.run("SHOW GLOBAL STATUS WHERE Variable_name = %s", name)[0]["Value"])

    def connections(self, user: str) -> list[int]:
        """The ids of a user's connections."""
        rows = self.run("SELECT ID AS id FROM information_schema.PROCESSLIST WHERE USER = %s", user)
        return [row["id"] for row in rows]

    def kill(self, connection: int) -> None:
        """Closes somebody's connection; none of that id is not an error, it has just been closed."""
        try:
            self.run(f"KILL {connection}")
        except pymysql.err.OperationalError as error:
            if error.args[0] != pymysql.constants.ER.NO_SUCH_THREAD:
                raise

    def make_key(self, name: str, *scopes: str) -> str:
        """An API key as `usher key create` makes it, without a process of its own."""
        plain = KEY_PREFIX + secrets.token_urlsafe(KEY_BYTES)
        statement = "INSERT INTO api_key (name, digest, scopes, created_at) VALUES (%s, %s, %s, UTC_TIMESTAMP(6))"
        self.run(statement, name, digest(plain), ",".join(scopes))
        return plain


def empty(server: MariaDB) -> None:
    """Empties all tables but those that say which schema it is."""
    with Admin(server) as admin:
        for table in [next(iter(row.values())) for row in admin.run("SHOW TABLES")]:
            if table not in KEPT_TABLES and admin.run(f"SELECT 1 FROM `{table}` LIMIT 1"):
                admin.run(f"TRUNCATE TABLE `{table}`")


def flush(server: Redis) -> None:
    """Empties Redis, scripts included."""
    with redis.Redis.from_url(server.operator_url) as client:
        client.flushall()
        client.script_flush()


def mark_seen(server: Redis) -> None:
    """As a reconciler does that has loaded the counters: without its mark Redis counts as one that has lost its keys."""
    with redis.Redis.from_url(server.operator_url) as client:
        run_id = client.info("server")["run_id"]
        client.hset(MARKER, mapping={"run_id": run_id, "reseeded": run_id})
