"""A random walk over all calls on few coupons, customers and orders: no answer differs from what a small model predicts."""

import secrets
from collections import Counter
from collections.abc import Iterator

import pytest
import redis
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import run_state_machine_as_test

from tests.acceptance.conftest import StartUsher, Stores
from tests.faults import Proxy
from tests.stores import Admin
from tests.usher_process import Usher
from tests.walk.at_once import STEP, Step, WalkAtOnce
from tests.walk.world import World

MET_ALWAYS = {
    "200 reserved", "200 confirmed", "200 cancelled", "200 expired", "201 reserved", "201 confirmed",
    "404 coupon_not_found", "404 redemption_not_found", "412 version_mismatch",
    "409 already_cancelled", "409 already_confirmed", "409 reservation_expired",
    "409 coupon_exhausted", "409 customer_limit_reached",
    "422 coupon_paused", "422 coupon_not_started", "422 coupon_ended", "422 order_mismatch", "422 idempotency_key_reused",
    "422 limit_kind_fixed", "at once", "parted from Redis",
}  # fmt: skip
"""A walk that does not meet all of these has missed what it is for."""


MORE_EXAMPLES, MORE_WALKS_MAX = 50, 10
"""Some of these are met six times in two hundred examples, and so by chance not at all."""
AT_ONCE_MIN = 250
"""So often calls come at once in their own test."""


@pytest.fixture(scope="module")
def proxies(stores: Stores) -> Iterator[list[Proxy]]:
    """A way to Redis for each service."""
    with Proxy(stores.redis.port) as one, Proxy(stores.redis.port) as other:
        yield [one, other]


@pytest.fixture(scope="module")
def ushers(proxies: list[Proxy], start_usher: StartUsher, stores: Stores) -> list[Usher]:
    """Two `usher serve`, which share the stores and nothing else."""
    return [start_usher(redis_url=proxy.url(stores.redis.url)) for proxy in proxies]


@pytest.fixture
def world(ushers: list[Usher], proxies: list[Proxy], api_key: str, stores: Stores, admin: Admin) -> Iterator[World]:
    other_key = admin.make_key(f"walk-{secrets.token_hex(4)}", "admin")
    with redis.Redis.from_url(stores.redis.operator_url) as client:
        world = World(ushers, [api_key, other_key], admin, client, proxies)
        yield world
        world.close()


def walk(world: World, *, examples: int, steps: int) -> None:
    """So many examples, each of that many steps at most, and more of them until they have met all that they are for."""
    met: Counter[str] = Counter()

    class Example(WalkAtOnce):
        def __init__(self) -> None:
            super().__init__(world, met)

    for count in (examples, *[MORE_EXAMPLES] * MORE_WALKS_MAX):
        run_state_machine_as_test(Example, settings=settings(max_examples=count, stateful_step_count=steps))
        assert not world.unexplained, "\n".join(world.unexplained)
        if set(met) >= MET_ALWAYS:
            return
    raise AssertionError(f"not met: {MET_ALWAYS - set(met)}")


@pytest.mark.timeout(600)
def test_at_once(world: World) -> None:
    """Nothing but calls that come at once, on coupons that are nearly exhausted."""
    met: Counter[str] = Counter()

    @settings(max_examples=60, phases=[Phase.generate])
    @given(limit=st.integers(1, 2), steps=st.lists(STEP, min_size=5, max_size=10))
    def walk_at_once(limit: int, steps: list[Step]) -> None:
        example = WalkAtOnce(world, met)
        example.create(a=(limit, None), b=(limit, 1), calm=True)
        for step in steps:
            example.at_once(step)
        example.teardown()

    walk_at_once()
    assert not world.unexplained, "\n".join(world.unexplained)
    assert AT_ONCE_MIN <= met["at once"]


@pytest.mark.timeout(600)
def test_walk(world: World) -> None:
    walk(world, examples=200, steps=25)


@pytest.mark.long
@pytest.mark.timeout(3_600)
def test_long_walk(world: World) -> None:
    walk(world, examples=2_000, steps=40)
