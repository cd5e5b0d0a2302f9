"""What a call does when there is no answer: the same request again, until patience ends. And what it never sends twice."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from functools import partial

import pytest

from service.api.problems import KINDS
from tests.client.scripted import COUPON, HALF, LOST, REDEMPTION, SILENT, Scripted, Step, problem, says
from tests.waiting import until
from usher_client import (
    AnswerNotUnderstood,
    CouponExhausted,
    OutcomeUnknown,
    Overloaded,
    Patience,
    Problem,
    Redemption,
    RedemptionNotFound,
    RedemptionStatus,
    TryAgain,
    Unavailable,
    UnknownFailure,
    Unreachable,
    Usher,
)
from usher_client.patience import JITTER

QUICK = Patience(deadline_s=20, try_timeout_s=10, tries_max=4, pause_s=0.01)
"""Time enough for a busy machine, and no long pauses."""
IMPATIENT = Patience(deadline_s=20, try_timeout_s=0.5, tries_max=4, pause_s=0.01)
GUARD_S = 15.0
"""Far from every deadline that is tested: only what has no deadline gets here."""
CREATED = says(dict(REDEMPTION), status=201)
NO_ANSWERS = {
    "connection broken": LOST,
    "broken in the middle of the answer": HALF,
    "half an answer that looks whole": says(b'{"id": "01a2'),
    "overloaded": problem(503, "overloaded"),
    "unavailable": problem(503, "unavailable", Retry_After="0"),
    "busy": problem(503, "busy"),
    "outcome_unknown": problem(503, "outcome_unknown"),
    "a code of the future": problem(503, "asleep"),
    "internal": problem(500, "internal"),
    "a proxy's 502": says(b"<h1>Bad Gateway</h1>", status=502),
    "a proxy's 504": says(b"", status=504),
}
ANSWERED = {str(code): status for code, (status, _, _) in KINDS.items() if status < 500}


@pytest.fixture
async def quick(scripted: Scripted) -> AsyncIterator[Usher]:
    async with Usher(scripted.url, "key", patience=QUICK) as usher:
        yield usher


def redeem(usher: Usher) -> Awaitable[Redemption]:
    return usher.redeem("GOLD20", customer_id="ann", order_id="order-1", idempotency_key="key-1")


@pytest.mark.parametrize("step", NO_ANSWERS.values(), ids=NO_ANSWERS)
async def test_the_same_request_again(scripted: Scripted, quick: Usher, step: Step) -> None:
    scripted.then(step, step, CREATED)
    redemption = await redeem(quick)
    assert REDEMPTION["id"] == redemption.id
    first, *others = scripted.asked
    assert {"code": "GOLD20", "customer_id": "ann", "order_id": "order-1"} == json.loads(first.body)
    assert "key-1" == first.headers["idempotency-key"]
    call = first.headers["x-request-id"].removesuffix("-1")
    numbered = [replace(first, headers={**first.headers, "x-request-id": f"{call}-{number}"}) for number in (2, 3)]
    assert numbered == others


async def test_an_answer_that_does_not_come(scripted: Scripted) -> None:
    scripted.then(SILENT, SILENT, CREATED)
    async with asyncio.timeout(GUARD_S), Usher(scripted.url, "key", patience=IMPATIENT) as usher:
        assert RedemptionStatus.CONFIRMED is (await redeem(usher)).status
    assert 3 == len(scripted.asked)


@pytest.mark.parametrize("code", ANSWERED)
async def test_an_answer_is_never_asked_for_again(scripted: Scripted, quick: Usher, code: str) -> None:
    scripted.then(problem(ANSWERED[code], code, Retry_After="1"))
    with pytest.raises(Problem) as raised:
        await redeem(quick)
    assert (code, 1, False) == (raised.value.code, raised.value.tries, raised.value.answer_lost)
    assert not isinstance(raised.value, TryAgain)
    assert 1 == len(scripted.asked)


async def test_a_refusal_after_a_lost_answer(scripted: Scripted, quick: Usher) -> None:
    scripted.then(LOST, problem(409, "coupon_exhausted"))
    with pytest.raises(CouponExhausted) as raised:
        await redeem(quick)
    assert (2, True) == (raised.value.tries, raised.value.answer_lost)


@pytest.mark.parametrize(
    ("steps", "kind", "answer_lost"),
    [
        ([problem(503, "overloaded")] * 4, Overloaded, False),
        ([LOST, *[problem(503, "unavailable")] * 3], Unavailable, True),
        ([problem(503, "outcome_unknown")] * 4, OutcomeUnknown, True),
        ([says(b"", status=502)] * 4, UnknownFailure, True),
        ([says(b"<html>")] * 4, AnswerNotUnderstood, True),
        ([LOST] * 4, Unreachable, True),
    ],
)
async def test_patience_ends(
    scripted: Scripted, quick: Usher, steps: list[Step], kind: type[TryAgain], answer_lost: bool
) -> None:
    """The exception is of the last try, and still tells that an earlier one may have been carried out."""
    scripted.then(*steps, CREATED)
    with pytest.raises(kind) as raised:
        await redeem(quick)
    assert isinstance(raised.value, TryAgain)
    assert (4, answer_lost, 4) == (raised.value.tries, raised.value.answer_lost, len(scripted.asked))


async def test_nobody_there() -> None:
    """What was never connected was never carried out."""
    async with Scripted() as gone:
        url = gone.url
    async with Usher(url, "key", patience=QUICK) as usher:
        with pytest.raises(Unreachable) as raised:
            await redeem(usher)
    assert (4, False) == (raised.value.tries, raised.value.answer_lost)


async def test_the_deadline_is_kept(scripted: Scripted) -> None:
    """It bounds all tries together, and each of them."""
    patience = Patience(deadline_s=2.0, try_timeout_s=0.9, tries_max=1000, pause_s=0.01, pause_max_s=0.01)
    for tried, limits in ((2, patience), (1, Patience(deadline_s=0.5, try_timeout_s=1000))):
        async with asyncio.timeout(GUARD_S), Usher(scripted.url, "key", patience=limits) as usher:
            scripted.then(*[SILENT] * 5)
            with pytest.raises(Unreachable):
                await redeem(usher)
        assert tried <= len(scripted.asked) <= 3
        scripted.forget()


async def test_a_pause_beyond_the_deadline_is_not_begun(scripted: Scripted, quick: Usher) -> None:
    """Who would have to wait for longer than there is time is told so at once."""
    scripted.then(problem(503, "overloaded", Retry_After="60"), CREATED)
    async with asyncio.timeout(GUARD_S):
        with pytest.raises(Overloaded) as raised:
            await redeem(quick)
    assert (1, 60.0) == (raised.value.tries, raised.value.retry_after_s)


def test_pauses() -> None:
    """They double up to a limit, never fall below Retry-After, and are lengthened at random."""
    patience = Patience(pause_s=0.5, pause_max_s=2.0)
    for tries, retry_after_s, least_s in ((1, None, 0.5), (2, None, 1.0), (3, None, 2.0), (9, None, 2.0), (1, 3.0, 3.0)):
        pauses = [patience.pause_after(tries, retry_after_s) for _ in range(50)]
        assert least_s <= min(pauses) < max(pauses) <= least_s * (1 + JITTER)


# --- Cancelled from outside ----------------------------------------------------------------------------------------


async def test_a_task_that_is_cancelled(scripted: Scripted, quick: Usher) -> None:
    """While it waits for an answer, and while it pauses; the client works on."""
    scripted.then(SILENT, problem(503, "busy", Retry_After="5"), CREATED)
    for asked in (1, 2):
        task = asyncio.ensure_future(redeem(quick))
        await until(partial(scripted.was_asked, asked), what="the request is there")
        # And the answer, if there is one, is with the client.
        await asyncio.sleep(0.05)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert (await redeem(quick)).counts


async def test_a_time_out_of_the_callers_own(scripted: Scripted, quick: Usher) -> None:
    scripted.then(SILENT, CREATED)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.1):
            await redeem(quick)
    assert 1 == len(scripted.asked)


# --- What carries its answer away with it --------------------------------------------------------------------------


@pytest.mark.parametrize("step", [LOST, HALF, problem(503, "unavailable"), says(b"", status=502)])
@pytest.mark.parametrize(
    "write",
    [lambda usher: usher.coupons.create("GOLD20"), lambda usher: usher.coupons.change("GOLD20", status="paused", if_match=1)],
    ids=["create", "change"],
)
async def test_a_coupon_that_may_have_been_written(
    scripted: Scripted, quick: Usher, step: Step, write: Callable[[Usher], Awaitable[object]]
) -> None:
    """Is not written again: nobody could say whose the 409 or the 412 is."""
    scripted.then(problem(503, "overloaded"), step, says(dict(COUPON)))
    with pytest.raises(TryAgain) as raised:
        await write(quick)
    assert (2, True) == (raised.value.tries, raised.value.answer_lost)


async def test_a_coupon_that_was_certainly_not_written(scripted: Scripted, quick: Usher) -> None:
    scripted.then(problem(503, "overloaded"), problem(503, "busy"), says(dict(COUPON), status=201))
    assert 1 == (await quick.coupons.create("GOLD20")).version


@pytest.mark.parametrize(
    ("steps", "newest", "expected"),
    [
        ([LOST], [{"status": "cancelled"}], RedemptionStatus.CANCELLED),
        ([LOST], [{"status": "expired"}], None),
        ([LOST], [], None),
        ([problem(503, "overloaded")], None, None),
    ],
    ids=["was it", "had expired", "never was", "was not sent before"],
)
async def test_cancel_by_order_after_a_lost_answer(
    scripted: Scripted,
    quick: Usher,
    steps: list[Step],
    newest: list[dict[str, str]] | None,
    expected: RedemptionStatus | None,
) -> None:
    """The second try finds nothing to cancel when the first one was carried out."""
    scripted.then(*steps, problem(404, "redemption_not_found"))
    if newest is not None:
        scripted.then(says({"items": [{**REDEMPTION, **one} for one in newest], "next_page_token": None}))
    try:
        status = (await quick.cancel_order("GOLD20", order_id="order-1")).status
    except RedemptionNotFound:
        status = None
    assert expected is status
    assert 2 + (newest is not None) == len(scripted.asked)
