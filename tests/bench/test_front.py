import http.client
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager

import pytest
import redis

from bench.servers import answers
from bench.strategies.preparation import Places, prepare, recount
from bench.strategies.redis_counter import USED, key
from deploy.local import free_port
from tests.stores import Admin
from tests.waiting import wait_until

CUSTOMER = "ann"
STOP_S = 10
LIMIT = 5


@pytest.fixture
def places(migration_url: str, operator_url: str, admin: Admin) -> Places:
    """The stores, with one coupon of which nothing is used."""
    admin.run(
        "INSERT INTO coupon (code, max_redemptions, status, metadata, version, created_at, updated_at) "
        "VALUES ('HOT', %s, 'active', '{}', 1, UTC_TIMESTAMP(6), UTC_TIMESTAMP(6))",
        LIMIT,
    )
    return Places(migration_url, operator_url)


@pytest.fixture
def environment(database_url: str, operator_url: str) -> dict[str, str]:
    """Where the stores are, for the program."""
    return {"USHER_DATABASE_URL": database_url, "USHER_REDIS_URL": operator_url}


@contextmanager
def front(
    strategy: str, environment: Mapping[str, str], *, workers: int = 1, pool: int = 1
) -> Iterator[tuple["subprocess.Popen[bytes]", int]]:
    """The program and its port, when it answers."""
    port = free_port()
    options = {"--port": port, "--workers": workers, "--pool": pool}
    words = [str(word) for option in options.items() for word in option]
    with subprocess.Popen(
        [sys.executable, "-m", "bench.front", strategy, *words], env={**os.environ, **environment}
    ) as process:
        try:
            wait_until(lambda: answers(port) or process.poll() is not None, what=f"{strategy} answers")
            assert process.poll() is None, "it has ended"
            yield process, port
        finally:
            process.kill()


def ask(port: int, order: str) -> http.client.HTTPConnection:
    """A request that has been sent, on a connection of its own."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=STOP_S)
    connection.request("POST", "/v1/redemptions", json.dumps({"code": "HOT", "customer_id": CUSTOMER, "order_id": order}))
    return connection


def redeem(port: int, order: str) -> tuple[int, dict[str, object]]:
    """Status and body of the answer."""
    with closing(ask(port, order)) as connection:
        answer = connection.getresponse()
        return answer.status, json.loads(answer.read())


def counted(places: Places) -> int:
    """What the counter in Redis says."""
    with redis.Redis.from_url(places.operator_url) as client:
        return int(client.hget(key("HOT"), USED) or 0)


def test_workers_sell_together_and_end_when_told(environment: dict[str, str], places: Places, admin: Admin) -> None:
    prepare("conditional-update", ["HOT"], places)
    with front("conditional-update", environment, workers=2, pool=4) as (process, port):
        wait_until(lambda: len(admin.connections("usher")) == 2 * 4, what="two workers with four connections each")
        assert [201] * LIMIT + [409] * 3 == [redeem(port, f"order-{n}")[0] for n in range(LIMIT + 3)]
        process.terminate()
        assert 0 == process.wait(STOP_S)
        assert not answers(port)
    assert recount("conditional-update", ["HOT"], places).live == LIMIT


def test_the_empty_handler_needs_no_stores() -> None:
    with front("empty", {}) as (process, port):
        status, document = redeem(port, "order-1")
        process.terminate()
        assert 0 == process.wait(STOP_S)
    assert (201, CUSTOMER, "order-1") == (status, document["customer_id"], document["order_id"])


def test_a_stop_waits_for_requests_whose_clients_are_gone(environment: dict[str, str], places: Places, admin: Admin) -> None:
    prepare("redis-insert", ["HOT"], places)
    with front("redis-insert", environment) as (process, port):
        assert 201 == redeem(port, "order-0")[0]
        admin.run("LOCK TABLES redemption WRITE")
        # Both are counted in Redis. One has the session and is not written yet, the other waits for the session.
        asked = [ask(port, f"order-{n}") for n in (1, 2)]
        wait_until(lambda: counted(places) == 3, what="both are counted")
        for connection in asked:
            connection.close()
        process.terminate()
        time.sleep(0.2)
        assert process.poll() is None
        admin.run("UNLOCK TABLES")
        assert 0 == process.wait(STOP_S)
    found = recount("redis-insert", ["HOT"], places)
    assert (3, 3, 0) == (found.live, found.counted, found.sold_too_few)
