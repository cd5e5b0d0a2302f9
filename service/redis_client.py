"""The way to Redis: its connections, and one round trip in a bounded time. The driver's errors become CounterUnavailable."""

import asyncio
import contextlib
from collections.abc import Sequence
from typing import Any

import hiredis
from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.connection import AbstractConnection
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import DataError, ReadOnlyError, RedisError, ResponseError
from redis.exceptions import TimeoutError as RedisTimeoutError

from service.config import Settings
from service.errors import CounterUnavailable
from service.redis_reasons import unavailable

Argument = bytes | str | int


def client_of(settings: Settings, *, timeout_s: float) -> Redis:
    """The library's client by these settings; it connects when it is used."""
    pool = BlockingConnectionPool.from_url(
        settings.redis_url.get_secret_value(),
        max_connections=settings.redis_connections,
        timeout=timeout_s,
        socket_timeout=None,  # every use is within a time of its own; timers for writes and reads cost as much as they do
        socket_connect_timeout=timeout_s,
        retry=Retry(NoBackoff(), 0),  # the library's own default sends a script again whose reply was lost
        protocol=2,  # nothing here needs 3, which costs a connection two more round trips
        driver_info=None,  # no CLIENT SETINFO: Redis 7.0 does not know it, so no right to it can be given there
    )
    return Redis.from_pool(pool)


async def exchange(
    client: Redis, commands: Sequence[Sequence[Argument]], *, timeout_s: float, transaction: bool = False
) -> list[Any]:
    """One round trip. The replies, errors among them; raises CounterUnavailable unless all of them came in time."""
    try:
        async with asyncio.timeout(timeout_s):
            pipeline = client.pipeline(transaction=transaction)
            for command in commands:
                pipeline.execute_command(*command)
            replies: list[Any] = await pipeline.execute(raise_on_error=False)
    except DataError:  # A value that the library cannot send is a defect of ours, and no trouble of Redis'.
        raise
    except (RedisError, OSError, TimeoutError) as error:
        raise unavailable(error) from error
    await _leave_replica(client, replies)
    return replies


async def exchange_plain(client: Redis, commands: Sequence[Sequence[Argument]], *, timeout_s: float) -> list[Any]:
    """The same for commands whose replies are taken as they come, which scripts' are.

    The connection is the library's, which opens and closes it. Its pipeline would make some objects for each command and encode
    each argument by itself: a claim would cost the service 107 us instead of 74, and one of many coupons more.
    """
    pack: Any = hiredis.pack_command  # Its stub speaks of tuples of one element.
    packed = [pack(tuple(command)) for command in commands]
    pool: Any = client.connection_pool
    try:
        async with asyncio.timeout(timeout_s):
            connection = await pool.get_connection()
            try:
                await connection.send_packed_command(packed, check_health=False)
                replies = [await _reply(connection) for _ in commands]
            finally:  # Whatever becomes of the caller: one that is not given back is lost to the pool.
                await asyncio.shield(pool.release(connection))
    except (RedisError, OSError, TimeoutError) as error:
        raise unavailable(error) from error
    await _leave_replica(client, replies)
    return replies


async def _reply(connection: AbstractConnection) -> Any:  # noqa: ANN401 - whatever a script returns
    """The next reply; an error that the server has answered is one. After any other error the library closes the connection."""
    try:
        return await connection.read_response()
    except ResponseError as error:
        return error


async def _leave_replica(client: Redis, replies: Sequence[Any]) -> None:
    """A failover has made a replica of a server that is read-only; a new connection may find the one that took over."""
    if any(isinstance(reply, ReadOnlyError) for reply in replies):
        await drop_idle(client)


async def drop_idle(client: Redis) -> None:
    """Gives up the connections that nobody is using."""
    with contextlib.suppress(RedisError, OSError):  # They are given up in any case.
        await client.connection_pool.disconnect(inuse_connections=False)


def is_too_late(error: CounterUnavailable) -> bool:
    """Whether it was raised because a reply did not come in time, and not because the connection failed before that."""
    return isinstance(error.__cause__, TimeoutError | RedisTimeoutError)
