"""A coupon's counter in Redis as the rivals have it: a hash with `used` and `max`, and a script that takes a use."""

from types import TracebackType
from typing import Any, Self

from redis.asyncio import ConnectionPool
from redis.asyncio.connection import AbstractConnection
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from bench.strategies.line import Line
from bench.strategies.model import Failed, Failure

USED = "used"
TAKE = """
-- KEYS[1]: the counter. Returns 1 where a use was taken, 0 where none is left, -1 where there is no counter.
local found = redis.call("HMGET", KEYS[1], "used", "max")
if not found[1] or not found[2] then return -1 end
if tonumber(found[1]) >= tonumber(found[2]) then return 0 end
redis.call("HINCRBY", KEYS[1], "used", 1)
return 1
"""
NO_COUNTER = -1


def key(code: str) -> str:
    """The counter's name."""
    return f"bench:{{{code}}}"


class RedisCounter:
    """The counters of all coupons, over so many connections: the library without its client, in half the time."""

    def __init__(self, url: str, pool: int) -> None:
        self._pool = ConnectionPool.from_url(url, max_connections=pool, protocol=2, retry=Retry(NoBackoff(), 0))
        self._size = pool
        self._line: Line[AbstractConnection] = Line(())
        self._take = ""

    async def __aenter__(self) -> Self:
        opened = [await self._pool.get_connection() for _ in range(self._size)]  # type: ignore[no-untyped-call]
        self._line = Line(opened)
        self._take = (await self._ask("SCRIPT", "LOAD", TAKE)).decode()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._pool.disconnect()

    async def take(self, code: str) -> bool | None:
        """A use of the coupon; false where none is left, None where there is no such counter. Raises Failed."""
        taken = await self._ask("EVALSHA", self._take, 1, key(code))
        return None if taken == NO_COUNTER else bool(taken)

    async def give_back(self, code: str) -> None:
        """A use that was taken and not sold. Raises Failed."""
        await self._ask("HINCRBY", key(code), USED, -1)

    async def _ask(self, *command: str | int) -> Any:  # noqa: ANN401 - whatever Redis says
        connection = await self._line.take()
        try:
            await connection.send_command(*command)
            return await connection.read_response()
        except (RedisError, OSError) as error:
            await connection.disconnect()
            raise Failed(Failure.OTHER) from error
        except BaseException:
            # Cut short: its reply must not be taken for that of the next command.
            await connection.disconnect(nowait=True)
            raise
        finally:
            self._line.give_back(connection)
