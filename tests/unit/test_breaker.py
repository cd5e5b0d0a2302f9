"""The breaker: what opens it, what closes it, and that it says so once."""

import asyncio
from collections.abc import AsyncIterator, Callable

import pytest
from structlog.testing import capture_logs

from service.breaker import PROBE_PAUSE_MAX_S, PROBE_PAUSE_MIN_S, Breaker
from service.errors import CounterUnavailable
from tests.waiting import stalls, until

BROKEN = CounterUnavailable("the connection broke")
MakeBreaker = Callable[[], Breaker]


class Redis:
    """Answers probes while it `is_well`; `probes`: when each came, in seconds of the loop's clock."""

    def __init__(self) -> None:
        self.is_well = True
        self.error: Exception = CounterUnavailable("nothing answers there")
        self.probes: list[float] = []

    async def probe(self) -> None:
        self.probes.append(asyncio.get_running_loop().time())
        if not self.is_well:
            raise self.error


@pytest.fixture
def redis() -> Redis:
    return Redis()


@pytest.fixture
async def breaker(redis: Redis) -> AsyncIterator[Breaker]:
    made = Breaker(redis.probe)
    yield made
    await made.stop()


async def until_closed(breaker: Breaker) -> None:
    await until(lambda: not breaker.is_open, what="the breaker is closed")


async def test_a_reply_that_is_too_late_opens_it(breaker: Breaker) -> None:
    """The next would make everybody wait as long: from now on calls fail at once."""
    breaker.failed(breaker.enter(), BROKEN, too_late=True)
    assert breaker.is_open
    with pytest.raises(CounterUnavailable, match="Redis is away"):
        breaker.enter()
    await until_closed(breaker)
    breaker.enter()


async def test_two_failures_in_a_row_open_it(breaker: Breaker) -> None:
    """One connection may break whose server is well; a success between two shows that it is."""
    breaker.failed(breaker.enter(), BROKEN, too_late=False)
    breaker.succeeded(breaker.enter())
    breaker.failed(breaker.enter(), BROKEN, too_late=False)
    assert not breaker.is_open
    breaker.failed(breaker.enter(), BROKEN, too_late=False)
    assert breaker.is_open


async def test_it_stays_open_until_a_probe_is_answered(breaker: Breaker, redis: Redis) -> None:
    """One event when it opens, one when it closes, whatever fails meanwhile."""
    redis.is_well = False
    with capture_logs() as events:
        entered = [breaker.enter() for _ in range(5)]
        for one in entered:
            breaker.failed(one, BROKEN, too_late=True)
        await until(lambda: len(redis.probes) == 2, what="two probes")
        assert breaker.is_open
        redis.error = ZeroDivisionError("a defect")
        await until(lambda: len(redis.probes) == 3, what="a third one")
        assert breaker.is_open
        redis.is_well = True
        await until_closed(breaker)
    told = [event["event"] for event in events if event["log_level"] in ("warning", "info")]
    assert ["breaker opened", "breaker closed"] == told
    assert "probe failed" in [event["event"] for event in events]


async def test_a_call_from_before_says_nothing_of_redis_as_it_is_now(breaker: Breaker) -> None:
    """It began before the breaker opened, and gives up long after Redis was found again."""
    late, lost = breaker.enter(), breaker.enter()
    breaker.failed(lost, BROKEN, too_late=True)
    await until_closed(breaker)
    breaker.failed(late, BROKEN, too_late=True)
    assert not breaker.is_open


async def test_a_redis_that_answers_nothing_but_probes_is_probed_less_often(breaker: Breaker, redis: Redis) -> None:
    """It would stop everybody ten times a second: the pause is doubled each time, up to a bound."""
    expected = [PROBE_PAUSE_MIN_S, 2 * PROBE_PAUSE_MIN_S, 4 * PROBE_PAUSE_MIN_S]
    for pause_s in expected:
        breaker.failed(breaker.enter(), BROKEN, too_late=True)
        opened_at = asyncio.get_running_loop().time()
        async with stalls() as stood_still:
            await until_closed(breaker)
        assert 0 <= redis.probes[-1] - opened_at - pause_s < PROBE_PAUSE_MIN_S + stood_still.total_s
    assert PROBE_PAUSE_MAX_S >= expected[-1]


@pytest.mark.parametrize("fails_before", [True, False])
async def test_no_probe_after_its_end(redis: Redis, fails_before: bool) -> None:
    redis.is_well = False
    breaker = Breaker(redis.probe)
    entered = breaker.enter()
    if fails_before:
        breaker.failed(entered, BROKEN, too_late=True)
    await breaker.stop()
    breaker.failed(entered, BROKEN, too_late=True)
    await asyncio.sleep(2 * PROBE_PAUSE_MIN_S)
    assert [] == redis.probes
