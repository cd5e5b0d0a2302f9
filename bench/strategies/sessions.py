"""Sessions with MariaDB in a pool: the driver without its cursors, and many statements in one round trip."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, NamedTuple

import aiomysql
from pydantic import SecretStr
from pymysql.constants import ER

from bench.strategies.line import Line
from bench.strategies.model import Failed, Failure
from service.ledger.connections import BROKEN, SESSION, Address

FAILURES = {ER.LOCK_DEADLOCK: Failure.DEADLOCK, ER.LOCK_WAIT_TIMEOUT: Failure.LOCK_WAIT}
SAID_BY_THE_SERVER = range(1000, 2000)
"""Its own errors; others are the driver's, for connections that were lost before or after a commit."""
SIGNALLED = 1644
"""The error of a statement's own SIGNAL."""


class Duplicate(Exception):
    """The order has a live redemption already."""


class Exhausted(Exception):
    """The statement itself found the coupon exhausted, and said so by SIGNAL."""


class Result(NamedTuple):
    """What one statement has answered."""

    affected: int
    insert_id: int
    rows: tuple[tuple[Any, ...], ...] | None


class Session:
    """One session; who has taken it out of the pool has it alone."""

    def __init__(self, where: Address, isolation: str) -> None:
        self._where = where
        self._isolation = isolation
        self._driver: Any = None

    async def open(self) -> None:
        """Opens it unless it is open; raises Failed."""
        if self._driver is not None:
            return
        where = self._where
        try:
            self._driver = await aiomysql.connect(
                host=where.host, port=where.port, user=where.user, password=where.password, db=where.database,
                charset="utf8mb4", autocommit=True, init_command=SESSION,
            )  # fmt: skip
            await self._driver.query(f"SET SESSION TRANSACTION ISOLATION LEVEL {self._isolation}")
        except (aiomysql.Error, *BROKEN) as error:
            self.close()
            raise Failed(Failure.OTHER) from error

    def close(self) -> None:
        """Drops it without a word; the server rolls back."""
        driver, self._driver = self._driver, None
        if driver is not None:
            driver.close()

    async def run(self, statement: str) -> int:
        """Runs one statement; how many rows it affected. Raises Duplicate, Exhausted, Failed."""
        try:
            affected: int = await self._driver.query(statement)
        except (aiomysql.Error, *BROKEN) as error:
            raise _told_apart(error) from error
        return affected

    async def results(self, statements: str) -> list[Result]:
        """Runs statements with `;` between them in one round trip. Those after one that fails are not run; raises as `run`."""
        driver = self._driver
        try:
            await driver.query(statements)
            found = [_result(driver)]
            while driver._result.has_next:  # noqa: SLF001 - the driver's cursors read it, too
                await driver.next_result()
                found.append(_result(driver))
        except (aiomysql.Error, *BROKEN) as error:
            raise _told_apart(error) from error
        return found

    async def rows(self, statement: str) -> tuple[tuple[Any, ...], ...]:
        """The rows of one statement; raises as `run`."""
        (result,) = await self.results(statement)
        return result.rows or ()

    async def roll_back(self) -> None:
        """After a failure in the middle of a transaction, which would otherwise stay with its locks."""
        if self._driver is not None:
            try:
                await self.run("ROLLBACK")
            except Failed:  # It was lost. The next who takes it opens it anew.
                self.close()


def _result(driver: aiomysql.Connection) -> Result:
    result = driver._result  # noqa: SLF001 - a cursor around it would ask for warnings in another round trip
    return Result(result.affected_rows, result.insert_id or 0, result.rows)


def _told_apart(error: Exception) -> Exception:
    number = error.args[0] if error.args and isinstance(error.args[0], int) else 0
    if number == ER.DUP_ENTRY:
        return Duplicate()
    if number == SIGNALLED:
        return Exhausted()
    return Failed(FAILURES.get(number, Failure.OTHER), is_certain=number in SAID_BY_THE_SERVER)


class Pool:
    """So many sessions."""

    def __init__(self, database_url: str, size: int, isolation: str) -> None:
        where = Address.of(SecretStr(database_url))
        self._all = [Session(where, isolation) for _ in range(size)]
        self._line = Line(self._all)

    async def open(self) -> None:
        """Opens all of them."""
        await asyncio.gather(*[session.open() for session in self._all])

    def close(self) -> None:
        """Closes all of them."""
        for session in self._all:
            session.close()

    @asynccontextmanager
    async def use(self) -> AsyncIterator[Session]:
        """A session; raises as `Line.take`."""
        session = await self._line.take()
        try:
            await session.open()
            yield session
        except Failed:
            await session.roll_back()
            raise
        except BaseException:
            # Cut short: its answer may still come, and must not be taken for that of the next statement.
            session.close()
            raise
        finally:
            self._line.give_back(session)
