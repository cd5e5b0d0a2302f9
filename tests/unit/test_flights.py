import asyncio

import pytest

from service.counts import Counts
from service.errors import Overloaded
from service.flights import Flights, existing
from service.model import Ending, Order, Redeemed, Redemption, RedemptionStatus, Refusal
from tests.unit.scripted import redemption_for

ORDER = Order(code="GOLD20", customer_id="ann", order_id="o-1", api_key_id=1)
OTHER_CUSTOMER = Order(code="GOLD20", customer_id="bob", order_id="o-1", api_key_id=1)


async def join(order: Order, _arrived_at: float, live: Redemption) -> Redeemed:
    """Remembers nothing."""
    return existing(order, live)


async def test_overlapping_sends_of_one_order_share_one_flow() -> None:
    """Ten sends: asked once; the first has created it, the nine others get the same as a replay."""
    asked: list[Order] = []

    async def redeem(order: Order, _arrived_at: float) -> Redeemed:
        asked.append(order)
        await asyncio.sleep(0.01)
        return Redeemed(Ending.CREATED, redemption_for(order))

    flights = Flights(100, Counts())

    answers = await asyncio.gather(*(flights.board(ORDER, 0.0, redeem, join) for _ in range(10)))

    assert [ORDER] == asked
    assert [Ending.CREATED] + [Ending.REPLAYED] * 9 == [answer.ending for answer in answers]
    assert {redemption_for(ORDER).id} == {answer.redemption.id for answer in answers if answer.redemption}
    assert len(flights) == 0


async def test_an_overlapping_send_with_another_customer_is_a_mismatch() -> None:
    """The order belongs to whoever's redemption it became."""

    async def redeem(order: Order, _arrived_at: float) -> Redeemed:
        await asyncio.sleep(0.01)
        return Redeemed(Ending.CREATED, redemption_for(order))

    flights = Flights(100, Counts())

    _, other = await asyncio.gather(flights.board(ORDER, 0.0, redeem, join), flights.board(OTHER_CUSTOMER, 0.0, redeem, join))

    assert Ending.ORDER_MISMATCH is other.ending


async def test_a_refusal_is_not_shared_with_another_customer() -> None:
    """What is refused to Ann says nothing about Bob: his send goes its own way."""
    refused = Redeemed(Ending.REFUSED, refusal=Refusal.CUSTOMER_LIMIT_REACHED)

    async def redeem(order: Order, _arrived_at: float) -> Redeemed:
        await asyncio.sleep(0.01)
        return refused if order.customer_id == "ann" else Redeemed(Ending.CREATED, redemption_for(order))

    flights = Flights(100, Counts())

    ann, again, bob = await asyncio.gather(
        *(flights.board(order, 0.0, redeem, join) for order in (ORDER, ORDER, OTHER_CUSTOMER))
    )

    assert [refused, refused] == [ann, again]
    assert Ending.CREATED is bob.ending


@pytest.mark.parametrize(
    "no",
    [
        Redeemed(Ending.REFUSED, refusal=Refusal.COUPON_NOT_FOUND),
        Redeemed(Ending.LIMITED, retry_after_s=7),
        Redeemed(Ending.ORDER_MISMATCH),
        Redeemed(Ending.KEY_REUSED),
    ],
    ids=lambda no: no.ending.value,
)
async def test_a_no_is_not_told_to_those_who_came_after_it_was_asked_for(no: Redeemed) -> None:
    """The order may have been redeemed by another process since. However many they are, they share the next flight."""
    asked = 0

    async def redeem(order: Order, _arrived_at: float) -> Redeemed:
        nonlocal asked
        asked += 1
        answer = no if asked == 1 else Redeemed(Ending.REPLAYED, redemption_for(order))
        await asyncio.sleep(0.01)
        return answer

    flights = Flights(100, Counts())

    first, *others = await asyncio.gather(*(flights.board(ORDER, 0.0, redeem, join) for _ in range(10)))

    assert [no] + [Ending.REPLAYED] * 9 == [first, *(other.ending for other in others)]
    assert 2 == asked


@pytest.mark.parametrize("ending", [Ending.UNAVAILABLE, Ending.OUTCOME_UNKNOWN, Ending.BUSY])
async def test_what_says_nothing_of_the_order_is_told_to_all(ending: Ending) -> None:
    """Nine further sends would hardly find the store better."""
    asked = 0

    async def redeem(_order: Order, _arrived_at: float) -> Redeemed:
        nonlocal asked
        asked += 1
        await asyncio.sleep(0.01)
        return Redeemed(ending)

    flights = Flights(100, Counts())

    answers = await asyncio.gather(*(flights.board(ORDER, 0.0, redeem, join) for _ in range(10)))

    assert [Redeemed(ending)] * 10 == answers
    assert 1 == asked


async def test_what_one_key_is_told_is_not_told_to_another() -> None:
    """A customer who is limited for one key may redeem with another one, also with a send that overlaps."""
    limited = Redeemed(Ending.LIMITED, retry_after_s=7)

    async def redeem(order: Order, _arrived_at: float) -> Redeemed:
        await asyncio.sleep(0.01)
        return limited if order.api_key_id == 1 else Redeemed(Ending.CREATED, redemption_for(order))

    flights = Flights(100, Counts())

    one, other = await asyncio.gather(
        flights.board(ORDER, 0.0, redeem, join), flights.board(ORDER._replace(api_key_id=2), 0.0, redeem, join)
    )

    assert [limited, Ending.CREATED] == [one, other.ending]


@pytest.mark.parametrize(
    ("first", "second", "joined"),
    [
        ((1, "k"), (1, "k"), False),
        ((1, None), (2, None), False),
        ((1, "k"), (1, "l"), True),
        ((1, "k"), (2, "k"), True),
        ((1, None), (1, "k"), True),
        ((1, "k"), (1, None), True),
    ],
)
async def test_another_idempotency_key_is_told_by_itself(
    first: tuple[int, str | None], second: tuple[int, str | None], joined: bool
) -> None:
    """What a key stands for is for the ledger to say; another API key has keys of its own. The flow is asked once."""
    asked: list[str] = []

    async def redeem(order: Order, _arrived_at: float) -> Redeemed:
        asked.append("redeem")
        await asyncio.sleep(0.01)
        return Redeemed(Ending.CREATED, redemption_for(order))

    async def note(order: Order, arrived_at: float, live: Redemption) -> Redeemed:
        asked.append("join")
        return await join(order, arrived_at, live)

    flights = Flights(100, Counts())
    orders = [ORDER._replace(api_key_id=api_key_id, idempotency_key=key) for api_key_id, key in (first, second)]
    one, other = await asyncio.gather(*(flights.board(order, 0.0, redeem, note) for order in orders))

    assert ["redeem", "join"] == asked if joined else ["redeem"] == asked
    assert [Ending.CREATED, Ending.REPLAYED] == [one.ending, other.ending]


async def test_the_same_key_with_another_customer_is_reused() -> None:
    async def redeem(order: Order, _arrived_at: float) -> Redeemed:
        await asyncio.sleep(0.01)
        return Redeemed(Ending.CREATED, redemption_for(order))

    flights = Flights(100, Counts())
    orders = [order._replace(idempotency_key="k") for order in (ORDER, OTHER_CUSTOMER)]
    _, other = await asyncio.gather(*(flights.board(order, 0.0, redeem, join) for order in orders))
    assert Ending.KEY_REUSED is other.ending


async def test_what_has_ended_is_shared_by_the_same_key_alone() -> None:
    """A key goes on standing for what has ended; to others of the order it says nothing."""

    async def redeem(order: Order, _arrived_at: float) -> Redeemed:
        await asyncio.sleep(0.01)
        made = redemption_for(order)
        if order.idempotency_key == "old":
            ended = made._replace(status=RedemptionStatus.CANCELLED, seat=None, ended_at=made.created_at)
            return Redeemed(Ending.REPLAYED, ended)
        return Redeemed(Ending.CREATED, made)

    flights = Flights(100, Counts())
    orders = [ORDER._replace(idempotency_key=key) for key in ("old", "old", "new")]
    answers = await asyncio.gather(*(flights.board(order, 0.0, redeem, join) for order in orders))
    assert [Ending.REPLAYED, Ending.REPLAYED, Ending.CREATED] == [answer.ending for answer in answers]


async def test_one_request_too_many_is_refused_at_once_and_leaves_no_trace() -> None:
    """Sends that share a flight count as well: each of them holds memory."""
    gate = asyncio.Event()

    async def redeem(order: Order, _arrived_at: float) -> Redeemed:
        await gate.wait()
        return Redeemed(Ending.CREATED, redemption_for(order))

    flights = Flights(2, Counts())
    under_way = [asyncio.create_task(flights.board(ORDER, 0.0, redeem, join)) for _ in range(2)]
    await asyncio.sleep(0)

    with pytest.raises(Overloaded):
        await flights.board(ORDER, 0.0, redeem, join)
    gate.set()
    await asyncio.gather(*under_way)

    assert len(flights) == 0


async def test_a_defect_of_the_first_leaves_nobody_waiting() -> None:
    """Those who joined are told that nothing is known to be redeemed; the order may be sent again."""

    async def redeem(order: Order, _arrived_at: float) -> Redeemed:
        await asyncio.sleep(0.01)
        raise ZeroDivisionError(order.order_id)

    flights = Flights(100, Counts())

    first, joined = await asyncio.gather(
        flights.board(ORDER, 0.0, redeem, join), flights.board(ORDER, 0.0, redeem, join), return_exceptions=True
    )

    assert isinstance(first, ZeroDivisionError)
    assert Redeemed(Ending.UNAVAILABLE) == joined
    assert len(flights) == 0
