"""Many want the last uses at once: exactly as many get one as there are."""

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta

import pytest

from tests.acceptance.conftest import PATIENT, MakeCoupon, StartUsher, Stores
from tests.acceptance.unguarded import serve_unguarded
from tests.auditor import Auditor
from tests.driver import Answer, Client, orders, tally
from tests.usher_process import Usher

ROUNDS = 4
"""A race that is won by luck once is not won so often."""


@pytest.fixture(scope="module")
def usher(start_usher: StartUsher) -> Usher:
    return start_usher(workers=2, settings=PATIENT)


@pytest.fixture(scope="module")
def other_usher(start_usher: StartUsher) -> Usher:
    """A second `usher serve`; the two share the stores and nothing else."""
    return start_usher(settings=PATIENT)


@pytest.fixture
async def both(usher: Usher, other_usher: Usher, api_key: str) -> AsyncIterator[Client]:
    """Asks the two services in turn."""
    async with Client(usher.url, other_usher.url, key=api_key) as connected:
        yield connected


async def race(client: Client, auditor: Auditor, code: str, *, customers: int, limit: int) -> None:
    """So many customers at once; exactly `limit` are admitted and the others are told why not."""
    answers = await client.redeem_all(code, orders(customers))

    live = auditor.check(code, answers)
    assert {"201": limit, "409 coupon_exhausted": customers - limit} == tally(answers)
    assert limit == len(live)


async def test_30_customers_and_20_uses(client: Client, coupon: MakeCoupon, auditor: Auditor) -> None:
    """Exactly 20 of 30 customers at once redeem GOLD20; the other 10 are told that it is exhausted."""
    for _ in range(ROUNDS):
        code = await coupon(max_redemptions=20)
        await race(client, auditor, code, customers=30, limit=20)


async def test_1000_customers_and_100_uses(usher: Usher, api_key: str, coupon: MakeCoupon, auditor: Auditor) -> None:
    """A thousand connections at two worker processes: exactly 100 redeem, nobody sees an error."""
    code = await coupon(max_redemptions=100)
    async with Client(usher.url, key=api_key, connections=1_000) as crowd:
        await race(crowd, auditor, code, customers=1_000, limit=100)


async def test_race_sees_a_missing_guard(stores: Stores, coupon: MakeCoupon, auditor: Auditor) -> None:
    """The same race against a service that reads, compares and writes fails: it can fail."""
    code = await coupon(max_redemptions=20)
    async with (
        serve_unguarded(stores.mariadb, at_once=30) as url,
        Client(url, key=None) as client,
    ):
        with pytest.raises(AssertionError, match="oversold: 30 live redemptions of 20"):
            await race(client, auditor, code, customers=30, limit=20)


@pytest.mark.parametrize("limit", [1, 3])
async def test_one_customer_with_50_orders(client: Client, coupon: MakeCoupon, auditor: Auditor, limit: int) -> None:
    """A customer who sends 50 orders at once gets as many as one customer may have."""
    for number in range(ROUNDS):
        code = await coupon(max_redemptions=1_000, max_per_customer=limit)

        answers = await client.redeem_all(code, [(f"customer-{number}", f"order-{n}") for n in range(50)])

        assert {"201": limit, "409 customer_limit_reached": 50 - limit} == tally(answers)
        assert limit == len(auditor.check(code, answers))


async def test_customers_do_not_take_each_others_uses(client: Client, coupon: MakeCoupon, auditor: Auditor) -> None:
    """20 customers with 5 orders each at once, two per customer, no limit overall: everybody gets two."""
    code = await coupon(max_per_customer=2)
    wanted = [(f"customer-{customer}", f"order-{customer}-{n}") for n in range(5) for customer in range(20)]

    answers = await client.redeem_all(code, wanted)

    assert {"201": 40, "409 customer_limit_reached": 60} == tally(answers)
    assert 40 == len(auditor.check(code, answers))


async def test_one_order_sent_50_times_to_two_services(both: Client, coupon: MakeCoupon, auditor: Auditor) -> None:
    """However often an order is sent it has one redemption: one 201, else 200 with its id, whatever became of the coupon."""
    for _ in range(ROUNDS):
        code = await coupon(max_redemptions=1)

        answers = await send_50_times(both, code)

        assert {"201": 1, "200": 49} == tally(answers)
        assert replays(answers) == [answer for answer in answers if answer.status == 200]
        assert 1 == len({answer.id for answer in answers})
        assert 1 == len(auditor.check(code, answers))
        await check_replays(both, code, answers[0].id, "409 coupon_exhausted")
        await both.change_coupon(code, status="paused")
        await check_replays(both, code, answers[0].id, "422 coupon_paused")
        await both.change_coupon(code, status="active", ends_at=(datetime.now(UTC) - timedelta(days=1)).isoformat())
        await check_replays(both, code, answers[0].id, "422 coupon_ended")
        await both.change_coupon(code, status="archived", ends_at=None)
        await check_replays(both, code, answers[0].id, "404 coupon_not_found")
        assert 1 == len(auditor.check(code))


async def test_many_orders_sent_many_times_for_few_uses(both: Client, coupon: MakeCoupon, auditor: Auditor) -> None:
    """30 orders, each sent 10 times to two services, for 20 uses: each order is only ever told one id, and none is lost."""
    for _ in range(ROUNDS):
        code = await coupon(max_redemptions=20, max_per_customer=1)

        answers = await both.redeem_all(code, orders(30) * 10)

        served = [answer for answer in answers if answer.status in (200, 201)]
        assert {"201", "200", "409 coupon_exhausted"} == set(tally(answers))
        assert len({answer.id for answer in served}) == len({answer.body["order_id"] for answer in served})
        assert replays(served) == [answer for answer in served if answer.status == 200]
        assert {answer.id for answer in served} == {row["id"] for row in auditor.check(code, answers)}
        assert 20 == len(await auditor.fill(both, code))


async def send_50_times(client: Client, code: str) -> list[Answer]:
    return await client.redeem_all(code, [("customer", "order")] * 50)


def replays(answers: list[Answer]) -> list[Answer]:
    return [answer for answer in answers if answer.headers.get("Idempotent-Replayed") == "true"]


async def check_replays(client: Client, code: str, id_: str, refusal: str) -> None:
    """The order is told its redemption 50 times, while another order is refused with this."""
    answers, others = await asyncio.gather(send_50_times(client, code), client.redeem_all(code, [("somebody", "else")] * 4))
    assert {"200": 50} == tally(answers)
    assert 50 == len(replays(answers))
    assert {id_} == {answer.id for answer in answers}
    assert {refusal: 4} == tally(others)
