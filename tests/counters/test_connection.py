"""What lies between the gateway and Redis: lost replies, restarts, full memory, replicas."""

import asyncio
import contextlib
from collections.abc import Callable, Sequence

import pytest
import redis.asyncio
from pydantic import SecretStr

import lua
from deploy.local import Redis, free_port
from service.config import Settings
from service.counters import CLAIM, SCRIPTS, ClaimBatch, Counters, key
from service.errors import CounterUnavailable
from service.model import Return, Wish
from tests.counters.given import CODE, claim, claimed, loaded, wishes
from tests.faults import Proxy, holding
from tests.waiting import until

Faults = Callable[[int], Proxy]


def settings_for(url: str, timeout_ms: int = 1_000) -> Settings:
    return Settings(redis_url=SecretStr(url), redis_timeout_ms=timeout_ms)


async def test_lost_reply(counters: Counters, redis_server: Redis, faults: Faults, raw: redis.asyncio.Redis) -> None:
    """A claim whose reply is lost has run once; the order's next send gets the same seat."""
    await counters.load([loaded(5, 1)])
    proxy = faults(redis_server.port)
    lossy = await Counters.connect(settings_for(proxy.url(redis_server.url)))
    lost = proxy.lose_reply(holding(CLAIM.sha.encode()))
    sent = proxy.count(holding(CLAIM.sha.encode()))

    with pytest.raises(CounterUnavailable) as caught:
        await claim(lossy, [Wish("a", "ann")])

    assert isinstance(caught.value.__cause__, redis.exceptions.ConnectionError)
    assert [1, 1] == [lost.hits, sent.hits]
    assert "1" == await raw.hget(key(CODE, "counter"), "next")
    assert [claimed(1, 1)] == await claim(lossy, [Wish("a", "ann")])
    assert {"ann": "1"} == await raw.hgetall(key(CODE, "customers"))
    await lossy.close()


async def test_silence(counters: Counters, redis_server: Redis, faults: Faults) -> None:
    """A reply that does not come in time counts as lost; the late one is never taken for another's."""
    await counters.load([loaded(5)])
    proxy = faults(redis_server.port)
    lossy = await Counters.connect(settings_for(proxy.url(redis_server.url), timeout_ms=500))
    held = proxy.hold(holding(CLAIM.sha.encode()))
    sent = proxy.count(holding(CLAIM.sha.encode()))

    with pytest.raises(CounterUnavailable):
        await claim(lossy, wishes("a"))
    held.release()

    await until(lambda: held.landed == 1, what="the claim that was given up has landed")
    await until(lambda: not lossy.is_away, what="Redis is asked again")

    assert [claimed(2), claimed(1)] == await claim(lossy, wishes("b", "a"))
    assert 2 == sent.hits
    await lossy.close()


async def test_redis_away() -> None:
    """The gateway is there without Redis; every call says so."""
    counters = await Counters.connect(settings_for(f"redis://127.0.0.1:{free_port()}/0"))
    for call in (
        counters.ping(),
        counters.claim([ClaimBatch(CODE, wishes("a"))]),
        counters.release({CODE: [Return("a", "ann", 1)]}),
        counters.load([loaded(5)]),
        counters.shrink(CODE, 1),
        counters.look(CODE),
    ):
        with pytest.raises(CounterUnavailable):
            await call
    await counters.close()


async def test_redis_comes_back(own_redis: Redis) -> None:
    """After a restart, with all scripts forgotten, the same gateway works; nobody else has to load them."""
    counters = await Counters.connect(settings_for(own_redis.url))
    await counters.ping()
    own_redis.stop()
    with pytest.raises(CounterUnavailable):
        await counters.ping()
    own_redis.start()

    await counters.load([loaded(5, code=code) for code in ("ONE", "TWO")])

    answers = await counters.claim([ClaimBatch(code, wishes("a", "b")) for code in ("ONE", "TWO")])
    assert [[claimed(1), claimed(2)]] * 2 == answers
    await counters.close()


async def test_unknown_script(counters: Counters, raw: redis.asyncio.Redis) -> None:
    """Where Redis has forgotten a script, the batches go again, once each."""
    await counters.load([loaded(5, code=code) for code in ("ONE", "TWO")])
    await raw.script_flush()

    answers = await counters.claim([ClaimBatch(code, wishes("a")) for code in ("ONE", "TWO", "NONE")])

    assert [[claimed(1)], [claimed(1)]] == answers[:2]
    assert ["1", "1"] == [await raw.hget(key(code, "counter"), "next") for code in ("ONE", "TWO")]


async def test_only_what_was_unknown_goes_again(counters: Counters, monkeypatch: pytest.MonkeyPatch) -> None:
    """When a script is forgotten in the middle of a batch, what has run does not run again."""
    await counters.load([loaded(5, code=code) for code in ("ONE", "TWO")])
    send = counters._send

    async def forget_the_second(commands: Sequence[Sequence[bytes | str | int]], *, plain: bool) -> list[object]:
        monkeypatch.setattr(counters, "_send", send)
        return [*await send(commands[:1], plain=plain), redis.exceptions.NoScriptError()]

    monkeypatch.setattr(counters, "_send", forget_the_second)
    answers = await counters.claim([ClaimBatch(code, wishes("a")) for code in ("ONE", "TWO")])
    sent = [await claim(counters, wishes("b"), code=code) for code in ("ONE", "TWO")]

    assert [[claimed(1)], [claimed(1)]] == answers
    assert [[claimed(2)], [claimed(2)]] == sent


async def test_slow_drops() -> None:
    """Replies that come one by one, each in time, are too late when all of them together are."""
    serving: list[asyncio.Task[object]] = []

    async def trickle(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task
        serving.append(task)
        with contextlib.suppress(ConnectionError):
            while not writer.is_closing():
                writer.write(b"*1\r\n:0\r\n")
                await writer.drain()
                await asyncio.sleep(0.05)
            await writer.wait_closed()

    port = free_port()
    async with await asyncio.start_server(trickle, "127.0.0.1", port):
        counters = await Counters.connect(settings_for(f"redis://127.0.0.1:{port}/0", timeout_ms=200))
        with pytest.raises(CounterUnavailable) as caught:
            await counters.claim([ClaimBatch(f"C{number}", wishes("a")) for number in range(20)])
        await counters.close()
        await asyncio.gather(*serving)
    assert TimeoutError is type(caught.value.__cause__)


async def test_out_of_memory(own_redis: Redis) -> None:
    """A full Redis refuses each coupon's claim and still takes claims back."""
    counters = await Counters.connect(settings_for(own_redis.url))
    await counters.load([loaded(5)])
    await claim(counters, wishes("a"))
    async with redis.asyncio.Redis.from_url(own_redis.operator_url, decode_responses=True) as raw:
        await raw.config_set("maxmemory-policy", "noeviction")
        await raw.config_set("maxmemory", 1)

        answers = await counters.claim([ClaimBatch(CODE, wishes("b")), ClaimBatch("OTHER", wishes("b"))])
        await counters.release({CODE: [Return("a", "customer of a", 1)]})

        assert [CounterUnavailable, CounterUnavailable] == [type(answer) for answer in answers]
        assert {"1"} == await raw.smembers(key(CODE, "free"))
        with pytest.raises(CounterUnavailable, match=r"OOM|maxmemory"):
            await counters.load([loaded(5, version=4)])
        await raw.config_set("maxmemory", 0)
    assert [claimed(1)] == await claim(counters, wishes("b"))
    await counters.close()


async def test_replica(own_redis: Redis, faults: Faults) -> None:
    """A server that has become a replica is left, since a new connection may reach the one that took over."""
    proxy = faults(own_redis.port)
    counters = await Counters.connect(settings_for(proxy.url(own_redis.url)))
    await counters.load([loaded(5)])
    accepted = proxy.accepted
    async with redis.asyncio.Redis.from_url(own_redis.operator_url) as raw:
        await raw.replicaof("127.0.0.1", str(free_port()))
        with pytest.raises(CounterUnavailable):
            await claim(counters, wishes("a"))
        await raw.replicaof("NO", "ONE")

    assert [claimed(1)] == await claim(counters, wishes("a"))
    assert accepted + 1 == proxy.accepted
    await counters.close()


async def test_more_calls_than_connections(counter_settings: Settings) -> None:
    """More calls at once than there are connections wait for one another."""
    patient = counter_settings.model_copy(update={"redis_timeout_ms": 20_000, "request_deadline_ms": 60_000})
    counters = await Counters.connect(patient)
    await counters.load([loaded(200)])
    answers = await asyncio.gather(*(claim(counters, wishes(f"o{number}")) for number in range(200)))
    await counters.close()
    assert set(range(1, 201)) == {one.seat for (one,) in answers}


async def test_callers_that_give_up(counter_settings: Settings) -> None:
    """Wherever a call is cut short, its connection goes back: another one opens in its place, and none is lost to the pool."""
    patient = counter_settings.model_copy(
        update={"redis_timeout_ms": 20_000, "request_deadline_ms": 60_000, "redis_connections": 1}
    )
    counters = await Counters.connect(patient)
    await counters.load([loaded(1_000)])
    for turns in range(60):
        call = asyncio.create_task(claim(counters, wishes(f"o{turns}")))
        for _ in range(turns % 20):
            await asyncio.sleep(0)
        call.cancel()
        await asyncio.gather(call, return_exceptions=True)
    (last,) = await claim(counters, wishes("last"))
    await counters.close()
    assert last.seat is not None


def test_scripts_are_whole() -> None:
    """Each script begins with the line that Redis reads, and contains what it requires."""
    for script in SCRIPTS:
        assert script.text.startswith("#!lua")
        assert "require(" not in script.text.partition("local counter = (function()")[0]
        assert 1 == script.text.count("\nreturn counter\nend)()\n")


def test_unknown_name() -> None:
    with pytest.raises(FileNotFoundError):
        lua.load("nothing")


def test_keys_of_a_coupon_share_a_slot() -> None:
    """The part in braces is the code alone, so that a cluster keeps a coupon's keys together."""
    assert "usher:1:{GOLD20}:free" == key("GOLD20", "free")
