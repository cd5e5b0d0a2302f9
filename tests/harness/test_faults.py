"""The proxy does what its rules say, with real stores behind it."""

import asyncio
import contextlib
import gc
import socket
from collections.abc import Callable

import pymysql
import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from deploy.local import MariaDB, Redis
from tests.faults import Proxy, holding
from tests.stores import Admin
from tests.waiting import until

Faults = Callable[[int], Proxy]


def client(proxy: Proxy, url: str) -> "contextlib.closing[redis.Redis]":
    """A client of Redis through the proxy that never tries again."""
    return contextlib.closing(
        redis.Redis.from_url(proxy.url(url), retry=Retry(NoBackoff(), 0), socket_timeout=1, decode_responses=True)
    )


def test_passes_everything_on(redis_server: Redis, operator_url: str, faults: Faults) -> None:
    """A value of 300 KB comes back as it went."""
    proxy = faults(redis_server.port)
    value = "x" * 300_000
    with client(proxy, operator_url) as through:
        through.set("key", value)
        assert value == through.get("key")
    assert 1 == proxy.accepted


def test_lost_reply(redis_server: Redis, operator_url: str, faults: Faults) -> None:
    """The request was carried out, the client sees a broken connection, and the next one passes."""
    proxy = faults(redis_server.port)
    lost = proxy.lose_reply(holding(b"incr"), skip=1)
    with client(proxy, operator_url) as through:
        assert 1 == through.incr("key")
        with pytest.raises(redis.ConnectionError):
            through.incr("key")
        assert "2" == through.get("key")
    assert 1 == lost.hits


def test_silently_lost_reply(redis_server: Redis, operator_url: str, faults: Faults) -> None:
    """The client waits until its own time-out."""
    proxy = faults(redis_server.port)
    proxy.lose_reply(holding(b"incr"), silent=True)
    with client(proxy, operator_url) as through:
        with pytest.raises(redis.TimeoutError):
            through.incr("key")
        assert "1" == through.get("key")


def test_refuses_and_accepts(redis_server: Redis, operator_url: str, faults: Faults) -> None:
    """Refusing cuts what is there and lets nobody in; afterwards all is as before."""
    proxy = faults(redis_server.port)
    with client(proxy, operator_url) as through:
        through.ping()
        proxy.refuse()
        for _ in range(2):
            with pytest.raises(redis.ConnectionError):
                through.ping()
        proxy.accept()
        assert through.ping()


@pytest.mark.parametrize("turns", range(12))
def test_whoever_comes_as_it_refuses_is_cut(redis_server: Redis, faults: Faults, turns: int) -> None:
    """So many turns of its loop after a client has connected: nobody is passed on, and nothing is left open."""
    proxy = faults(redis_server.port)

    async def refuse() -> socket.socket:
        connected = socket.create_connection(("127.0.0.1", proxy.port))
        for _ in range(turns):
            await asyncio.sleep(0)
        await proxy.stop()
        return connected

    with proxy.call(refuse()) as came:
        came.settimeout(5)
        with contextlib.suppress(ConnectionResetError):
            assert b"" == came.recv(1)
    gc.collect()


def test_counts(redis_server: Redis, operator_url: str, faults: Faults) -> None:
    """Only what matches is counted, until the rule ends."""
    proxy = faults(redis_server.port)
    counted = proxy.count(holding(b"incr", b"this"))
    with client(proxy, operator_url) as through:
        through.incr("this")
        through.incr("that")
        counted.end()
        through.incr("this")
    assert 1 == counted.hits


async def test_held_statement_lands_after_its_client_has_gone(
    mariadb_server: MariaDB, bare_database_url: str, admin: Admin, faults: Faults
) -> None:
    """An INSERT that is held back lands when it is released, long after its client gave up; other connections pass."""
    admin.run("CREATE TABLE usher_bare.late (id INT PRIMARY KEY)")
    proxy = faults(mariadb_server.port)
    held = proxy.hold(holding(b"insert into late"))

    def insert() -> None:
        with pytest.raises(pymysql.err.OperationalError), connect(mariadb_server, proxy) as connection:
            connection.query("INSERT INTO late VALUES (1)")

    await asyncio.to_thread(insert)
    with connect(mariadb_server, proxy) as connection:
        connection.query("SELECT 1")
    assert 0 == admin.value("SELECT COUNT(*) FROM usher_bare.late")

    held.release()

    await until(lambda: held.landed == 1, what="the statement that was held back has landed")
    assert 1 == admin.value("SELECT COUNT(*) FROM usher_bare.late")


def connect(server: MariaDB, proxy: Proxy) -> "contextlib.closing[pymysql.Connection[pymysql.cursors.Cursor]]":
    """A connection through the proxy that waits a second for a reply."""
    return contextlib.closing(
        pymysql.connect(
            host="127.0.0.1",
            port=proxy.port,
            user=server.user,
            password=server.password,
            database="usher_bare",
            autocommit=True,
            read_timeout=1,
        )
    )
