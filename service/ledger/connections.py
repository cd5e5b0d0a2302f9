"""Connections to MariaDB: a fixed number for each role, every call with a deadline, every driver's error translated.

The driver's own pool can leave waiters hanging for ever after connections die, and the driver has no time-out for reading.
So: connections are owned here, opened when they are needed, and one whose call was cut short is closed.
"""

import asyncio
import re
import socket
import struct
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, NoReturn
from urllib.parse import unquote, urlsplit

import aiomysql
from pydantic import SecretStr
from pymysql.constants import CLIENT, ER, FIELD_TYPE
from pymysql.converters import decoders

from service.errors import LedgerContended, LedgerRefusedAccess, LedgerRefusedData, LedgerReplyLost, LedgerUnavailable
from service.ledger.clock import Clock

CONNECT_TIMEOUT_S = 2.0
"""Within the request's deadline there is time for another attempt after one that hangs."""
IDLE_TRUSTED_S = 30.0
"""A connection that was idle for longer is asked whether it is still there: servers and firewalls drop idle ones silently."""
CLOCK_AGE_MAX_S = 30.0
"""Clocks drift apart by a millisecond or so in this time."""

LOCK_WAIT_TIMEOUT_S = 2
"""For InnoDB's row locks, so that a statement can be tried again within the request's deadline."""
IDLE_TRANSACTION_TIMEOUT_S = 5
"""The server ends a transaction whose client went silent: its locks stop others no longer than that."""

SESSION = (
    "SET NAMES utf8mb4 COLLATE utf8mb4_nopad_bin, autocommit = 1, time_zone = '+00:00', "
    # Backslashes escape (no NO_BACKSLASH_ESCAPES), a value that does not fit is an error.
    "sql_mode = 'STRICT_ALL_TABLES,ONLY_FULL_GROUP_BY,NO_ZERO_IN_DATE,NO_ZERO_DATE,ERROR_FOR_DIVISION_BY_ZERO,"
    "NO_ENGINE_SUBSTITUTION', "
    f"innodb_lock_wait_timeout = {LOCK_WAIT_TIMEOUT_S}, idle_transaction_timeout = {IDLE_TRANSACTION_TIMEOUT_S}, "
    # The server's default; a smaller one would cut lists of seats short.
    "group_concat_max_len = 1048576"
)
ISOLATION = "SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED"
"""A statement of its own: the variable's name differs between versions of MariaDB."""

ER_OPTION_PREVENTS_STATEMENT = 1290
ER_READ_ONLY_TRANSACTION = 1792
ER_READ_ONLY_MODE = 1836
ER_CHECKREAD = 1020
ER_CONSTRAINT_FAILED = 4025
ER_INVALID_CHARACTER_STRING = 1300
ER_NET_PACKET_TOO_LARGE = 1153

CONTENDED = frozenset({ER.LOCK_DEADLOCK, ER.LOCK_WAIT_TIMEOUT, ER_CHECKREAD})
"""The statement was rolled back, and may do well the next time. 1020: a row changed since the snapshot."""
LACKS_RIGHT = frozenset({1044, 1142, 1143, 1227, 1370})
"""The user lacks a right. The driver takes these for trouble of the connection; they are answers, and nothing was done."""
ABSENT = frozenset({ER.NO_SUCH_TABLE, ER.BAD_FIELD_ERROR})
CANNOT_CONNECT = {
    1040: "it has too many connections",
    1044: "the account has no rights on this database, or there is none of this name",
    1045: "user or password is wrong",
    1049: "there is no database of this name",
    1130: "the server takes no connections from this host",
    1698: "user or password is wrong",
    2003: "nothing answers there",
    3159: "the server wants TLS, which Usher does not speak with it",
}
"""In words of our own: the driver's text may quote what is secret."""
NOT_LET_IN = frozenset({1044, 1045, 1049, 1130, 1698, 3159})
RIGHT = re.compile(r"([A-Z][A-Z ,]*) command denied|you need \(at least one of\) the ([A-Z][A-Z ,]*) privilege")
"""Where the server's text names the right that is lacking."""
READ_ONLY = frozenset({ER_OPTION_PREVENTS_STATEMENT, ER_READ_ONLY_TRANSACTION, ER_READ_ONLY_MODE})
"""The statement was refused. Another server may have become the writer, so the connection is given up as well."""
REFUSED_DATA = frozenset(
    {ER_CONSTRAINT_FAILED, ER_INVALID_CHARACTER_STRING, ER_NET_PACKET_TOO_LARGE, ER.TRUNCATED_WRONG_VALUE_FOR_FIELD}
)
"""Beside the classes of errors that the driver sees as the data's."""

BROKEN = (OSError, RuntimeError, asyncio.IncompleteReadError, AssertionError, struct.error)
"""What else the driver raises: for a transport that was closed under it, for an answer that is no MariaDB's."""

Row = tuple[Any, ...]


def _utc(value: str) -> datetime:
    """A DATETIME column's text."""
    return datetime.fromisoformat(value).replace(tzinfo=UTC)


DECODERS = {**decoders, FIELD_TYPE.DATETIME: _utc, FIELD_TYPE.TIMESTAMP: _utc}


@dataclass(frozen=True, slots=True)
class Address:
    """Where the ledger is, and who comes."""

    host: str
    port: int
    user: str
    password: str = field(repr=False)
    database: str = ""

    @classmethod
    def of(cls, url: SecretStr) -> "Address":
        """From `mysql://user:password@host:port/name`."""
        parts = urlsplit(url.get_secret_value())
        return cls(
            host=parts.hostname or "",
            port=parts.port or 3306,
            user=unquote(parts.username or ""),
            password=unquote(parts.password or ""),
            database=unquote(parts.path[1:]),
        )


class Connection:
    """One session with the server; between two calls it may be closed, then the next use opens it anew."""

    def __init__(self, where: Address, clock: Clock, *, idle_timeout_s: int | None = None) -> None:
        self._where = where
        self._clock = clock
        self._session = SESSION if idle_timeout_s is None else f"{SESSION}, wait_timeout = {idle_timeout_s}"
        self._driver: Any = None
        self._used_at = 0.0

    # --- Calls -------------------------------------------------------------------------------------------------

    async def run(self, statement: str, deadline: float) -> int:
        """Runs a statement; the number of affected rows. `deadline` in seconds of the loop's clock.

        Raises:
            LedgerUnavailable: nothing was done (LedgerReplyLost: perhaps it was, or still will be).
            LedgerContended: nothing was done, because of others.
            LedgerRefusedData: nothing was done, because of a value.
        """
        request = self._request(statement, deadline)
        async with self._translated(deadline):
            # The driver's own way without a cursor around it, which would also ask for the statement's warnings.
            affected: int = await self._driver.query(request)
        return affected

    async def fetch(self, statement: str, deadline: float) -> tuple[Row, ...]:
        """Runs a statement and returns its rows; raises as `run` does."""
        request = self._request(statement, deadline)
        async with self._translated(deadline):
            cursor = await self._driver.cursor()
            await cursor.execute(request)
            rows: tuple[Row, ...] = await cursor.fetchall()
        return rows

    async def insert(self, statement: str, deadline: float) -> int:
        """Runs an INSERT of one row; its generated id, or what LAST_INSERT_ID(…) in it was given. Raises as `run` does."""
        await self.run(statement, deadline)
        row_id: int = self._driver.insert_id()
        return row_id

    @asynccontextmanager
    async def transaction(self, deadline: float) -> AsyncIterator[None]:
        """A transaction that commits at the end and rolls back on an error.

        Raises LedgerReplyLost only for the COMMIT: what was lost before it was not committed and is LedgerUnavailable.
        """
        try:
            await self.run("START TRANSACTION", deadline)
            yield
        except LedgerReplyLost as error:
            raise LedgerUnavailable(str(error)) from error
        except BaseException:
            await self._roll_back(deadline)
            raise
        try:
            await self.run("COMMIT", deadline)
        except LedgerUnavailable:
            # No time was left to send it, perhaps: whoever uses the session next would commit what is open on it.
            self.close()
            raise

    async def _roll_back(self, deadline: float) -> None:
        """Back to a session without a transaction, if need be by closing it: the server then rolls back."""
        try:
            if self._driver is not None:
                await self.run("ROLLBACK", deadline)
        except LedgerUnavailable:
            self.close()

    def _request(self, statement: str, deadline: float) -> bytes:
        """The statement as it is sent, if there is time for it."""
        if self._driver is None:
            raise LedgerUnavailable("the connection to the ledger was closed")
        if asyncio.get_running_loop().time() >= deadline:
            raise LedgerUnavailable("no time was left to ask the ledger")
        try:
            # The driver itself would let half surrogates pass as raw bytes.
            return statement.encode()
        except UnicodeEncodeError as error:
            raise LedgerRefusedData("half of a surrogate pair") from error

    @asynccontextmanager
    async def _translated(self, deadline: float) -> AsyncIterator[None]:
        """Around a call of the driver. A call that is cut short leaves no connection on which its answer could arrive later."""
        try:
            async with asyncio.timeout_at(deadline):
                yield
        except aiomysql.Error as error:
            await self._raise_translated(error, deadline)
        except TimeoutError as error:
            self.close()
            raise LedgerReplyLost("the ledger did not answer in time") from error
        except BROKEN as error:
            self.close()
            raise LedgerReplyLost from error
        except BaseException:
            self.close()
            raise
        self._used_at = asyncio.get_running_loop().time()

    async def _raise_translated(self, error: aiomysql.Error, deadline: float) -> NoReturn:
        """What an error of the driver says of the statement."""
        number = error.args[0] if error.args and isinstance(error.args[0], int) else 0
        if number in CONTENDED:
            # A lock wait that ran out has rolled back the statement only; without this its transaction would stay.
            await self._roll_back(deadline)
            raise LedgerContended from error
        if number in READ_ONLY:
            self.close()
            raise LedgerUnavailable("the ledger is read-only") from error
        if number in REFUSED_DATA or isinstance(error, aiomysql.DataError | aiomysql.IntegrityError):
            raise LedgerRefusedData(f"error {number}") from error
        if number in LACKS_RIGHT:
            raise LedgerRefusedAccess(f"the account lacks {_right(error)} (error {number})") from error
        if number in ABSENT:
            raise LedgerRefusedAccess(
                f"it has no tables for this version of Usher: run `usher migrate` (error {number})"
            ) from error
        if isinstance(error, aiomysql.ProgrammingError | aiomysql.NotSupportedError):
            # An answer, and nothing was done.
            raise LedgerUnavailable(f"the ledger does not know this statement: error {number}") from error
        # Lost, killed, shut down, or an error that says nothing about the commit: 2013 is the same before and after it.
        self.close()
        raise LedgerReplyLost(f"the connection to the ledger was lost: error {number}") from error

    # --- Life --------------------------------------------------------------------------------------------------

    async def prepare(self, deadline: float) -> None:
        """Makes sure that the session is open, and now and then that it is still there; raises LedgerUnavailable."""
        loop = asyncio.get_running_loop()
        if self._server_has_gone():
            self.close()
        if self._driver is not None and loop.time() - self._used_at > IDLE_TRUSTED_S:
            await self._check(min(deadline, loop.time() + CONNECT_TIMEOUT_S))
        if self._driver is None:
            await self._open(min(deadline, loop.time() + CONNECT_TIMEOUT_S))
        if self._clock.age_s > CLOCK_AGE_MAX_S:
            await self._set_clock(deadline)

    def _server_has_gone(self) -> bool:
        """Whether the server has closed the session meanwhile: what is sent now would be lost for certain, not perhaps."""
        if self._driver is None:
            return False
        reader = self._driver._reader  # noqa: SLF001 - what the driver's own pool looks at
        return reader is None or reader.eof_received or reader.exception() is not None

    def close(self) -> None:
        """Drops the session without a word. The server rolls back what it has not committed, when it notices."""
        driver, self._driver = self._driver, None
        if driver is not None:
            driver.close()

    async def say_goodbye(self) -> None:
        """Closes the session in good order, so that the server does not count it as lost."""
        driver, self._driver = self._driver, None
        if driver is not None:
            try:
                async with asyncio.timeout(CONNECT_TIMEOUT_S):
                    await driver.ensure_closed()
            except (TimeoutError, OSError, aiomysql.Error):
                driver.close()

    async def _check(self, deadline: float) -> None:
        try:
            await self.run("DO 0", deadline)
        except LedgerUnavailable:
            self.close()

    async def _open(self, deadline: float) -> None:
        where = self._where
        try:
            async with asyncio.timeout_at(deadline):
                driver = await aiomysql.connect(
                    host=where.host,
                    port=where.port,
                    user=where.user,
                    password=where.password,
                    db=where.database,
                    charset="utf8mb4",
                    conv=DECODERS,
                    client_flag=0,
                    autocommit=True,
                    init_command=self._session,
                    program_name="usher",
                )
        except (aiomysql.Error, TimeoutError, *BROKEN) as error:
            kind = LedgerRefusedAccess if error.args and error.args[0] in NOT_LET_IN else LedgerUnavailable
            raise kind(f"no connection, {_reason(error)}") from error
        # With it, a row that ON DUPLICATE KEY UPDATE leaves as it is would count as affected: collisions would pass as landed.
        assert not driver.client_flag & CLIENT.FOUND_ROWS, "affected rows must count what changed"
        self._driver = driver
        try:
            await self.run(ISOLATION, deadline)
        except BaseException:
            self.close()
            raise

    async def _set_clock(self, deadline: float) -> None:
        asked_at_s = time.monotonic()
        ((ledger_now,),) = await self.fetch("SELECT UTC_TIMESTAMP(6)", deadline)
        self._clock.set(ledger_now, asked_at_s=asked_at_s)


class Connections:
    """The connections of one role. Who uses one has it alone; who finds none waits.

    `idle_timeout_s`: the server ends a session that has been silent for so long; its own setting unless given.
    """

    def __init__(self, where: Address, clock: Clock, *, size: int, idle_timeout_s: int | None = None) -> None:
        self._all = [Connection(where, clock, idle_timeout_s=idle_timeout_s) for _ in range(size)]
        # Last in, first out: under little load few sessions stay busy, and those that are idle may be dropped.
        self._free: asyncio.LifoQueue[Connection] = asyncio.LifoQueue()
        for connection in self._all:
            self._free.put_nowait(connection)

    @asynccontextmanager
    async def use(self, deadline: float) -> AsyncIterator[Connection]:
        """An open connection; raises LedgerUnavailable when none is free or can be opened until the deadline."""
        if self._free.empty():
            try:
                async with asyncio.timeout_at(deadline):
                    connection = await self._free.get()
            except TimeoutError as error:
                raise LedgerUnavailable("no connection to the ledger became free in time") from error
        else:
            connection = self._free.get_nowait()
        try:
            try:
                await connection.prepare(deadline)
            except LedgerReplyLost as error:  # Of a question that changes nothing.
                raise LedgerUnavailable(str(error)) from error
            yield connection
        finally:
            self._free.put_nowait(connection)

    async def fetch(self, statement: str, deadline: float) -> tuple[Row, ...]:
        """The rows of a statement that only reads. A connection that was lost is replaced once; raises LedgerUnavailable."""
        try:
            return await self._fetch(statement, deadline)
        except LedgerReplyLost:
            return await self._fetch(statement, deadline)

    async def _fetch(self, statement: str, deadline: float) -> tuple[Row, ...]:
        async with self.use(deadline) as connection:
            return await connection.fetch(statement, deadline)

    async def close(self) -> None:
        """Closes all; a call under way ends as one whose reply was lost."""
        for connection in self._all:
            await connection.say_goodbye()


def connections(url: SecretStr, clock: Clock, *, size: int) -> Connections:
    """The connections of a role to the ledger at this URL."""
    return Connections(Address.of(url), clock, size=size)


def _right(error: aiomysql.Error) -> str:
    """The right that the server wants, as far as its text says; the rest of the text holds names."""
    found = RIGHT.search(str(error.args[1])) if len(error.args) > 1 else None
    return f"the right {found[1] or found[2]}" if found else "a right"


def _reason(error: BaseException) -> str:
    """What a driver's error may tell a log: its number, and what that means. Its text can hold values and passwords' users."""
    if isinstance(error, TimeoutError):
        return "no answer in time"
    if isinstance(error.__cause__, socket.gaierror):
        return "there is no host of this name"
    number = error.args[0] if error.args else None
    if not isinstance(number, int):
        return type(error).__name__
    return f"{CANNOT_CONNECT[number]} (error {number})" if number in CANNOT_CONNECT else f"error {number}"
