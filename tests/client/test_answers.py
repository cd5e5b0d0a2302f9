"""Answers as records and exceptions: each code its class, what is new is let pass, and what counts."""

import pickle
from datetime import UTC, datetime, timedelta
from types import ModuleType

import pytest

import usher_client
from service.api.problems import KINDS, Code
from service.model import Refusal
from tests.client.scripted import COUPON, REDEMPTION, Scripted, problem, says
from usher_client import (
    AnswerNotUnderstood,
    InvalidRequest,
    Patience,
    Problem,
    Redemption,
    RedemptionStatus,
    Refused,
    TooManyAttempts,
    TryAgain,
    UnknownFailure,
    UnknownProblem,
    UnknownRefusal,
    UsherError,
)
from usher_client.problems import BY_CODE, of_answer
from usher_client.transport import clock_ahead

NOW = datetime(2026, 11, 22, 16, 0, 0, tzinfo=UTC)
ONCE = Patience(tries_max=1)


@pytest.mark.parametrize("code", KINDS)
def test_each_code_has_a_class(code: Code) -> None:
    status, title, detail = KINDS[code]
    raised = of_answer(status, {"code": str(code), "title": title, "detail": detail, "request_id": "r-1"})
    assert BY_CODE[code] is type(raised)
    assert (status, str(code), title, detail, "r-1") == (
        raised.status,
        raised.code,
        raised.title,
        raised.detail,
        raised.request_id,
    )
    assert f"{status} {code}: {detail} (request r-1)" == str(raised)
    assert (status >= 500) == isinstance(raised, TryAgain)
    assert (code in {*Refusal, Code.TOO_MANY_ATTEMPTS}) == isinstance(raised, Refused)


def test_no_class_is_for_a_code_that_is_none() -> None:
    assert {str(code) for code in KINDS} == set(BY_CODE)


@pytest.mark.parametrize(
    ("status", "code", "kind"),
    [
        (409, "coupon_melted", UnknownRefusal),
        (422, "coupon_melted", UnknownRefusal),
        (429, "too_many_wishes", UnknownRefusal),
        (404, "planet_not_found", UnknownProblem),
        (503, "asleep", UnknownFailure),
        (599, "asleep", UnknownFailure),
        (429, None, UnknownProblem),
        (302, None, UnknownProblem),
        (502, None, UnknownFailure),
    ],
)
def test_an_unknown_code_goes_by_its_status(status: int, code: str | None, kind: type[Problem]) -> None:
    assert kind is type(of_answer(status, {"code": code} if code else {}))


async def test_what_is_wrong_is_told(scripted: Scripted) -> None:
    fault = {"pointer": "/code", "detail": "must be a code", "more": 1}
    scripted.then(
        says({"code": "invalid_request", "detail": "No.", "errors": [fault]}, status=400, headers={"X-Request-Id": "r"})
    )
    async with usher_client.Usher(scripted.url, "key", patience=ONCE) as usher:
        with pytest.raises(InvalidRequest) as raised:
            await usher.get("id")
    assert [("/code", "must be a code")] == [(one.pointer, one.detail) for one in raised.value.errors]
    assert "400 invalid_request: No.; /code must be a code (request r)" == str(raised.value)


async def test_retry_after_is_told(scripted: Scripted) -> None:
    scripted.then(problem(429, "too_many_attempts", Retry_After="17"), problem(429, "too_many_attempts", Retry_After="soon"))
    async with usher_client.Usher(scripted.url, "key", patience=ONCE) as usher:
        for expected in (17.0, None):
            with pytest.raises(TooManyAttempts) as raised:
                await usher.validate("GOLD20")
            assert expected == raised.value.retry_after_s


async def test_new_fields_are_let_pass(scripted: Scripted) -> None:
    usage = {"reserved": 1, "confirmed": 2, "remaining": None, "source": "ledger", "as_of": REDEMPTION["created_at"], "new": 1}
    scripted.then(
        says({**REDEMPTION, "colour": "gold"}),
        says({**COUPON, "colour": "gold", "usage": usage}),
        says({"valid": True, "remaining": 3, "colour": "gold"}),
        says({"items": [{**REDEMPTION, "colour": "gold"}], "next_page_token": None, "total": 1}),
    )
    async with usher_client.Usher(scripted.url, "key", patience=ONCE) as usher:
        redemption = await usher.get("id")
        coupon = await usher.coupons.get("GOLD20")
        assert (await usher.validate("GOLD20")).valid
        assert [redemption] == [one async for one in usher.list(code="GOLD20")]
    assert datetime(2026, 11, 22, 16, 43, 48, 300380, tzinfo=UTC) == redemption.created_at
    assert coupon.usage is not None
    assert (2, None) == (coupon.usage.confirmed, coupon.usage.remaining)


@pytest.mark.parametrize(
    "body",
    [
        {},
        {**REDEMPTION, "status": "borrowed"},
        {**REDEMPTION, "created_at": "today"},
        {**REDEMPTION, "created_at": 7},
        [],
        b"ok",
    ],
)
async def test_an_answer_that_is_none_of_ushers(scripted: Scripted, body: object) -> None:
    scripted.then(says(body))
    async with usher_client.Usher(scripted.url, "key", patience=ONCE) as usher:
        with pytest.raises(AnswerNotUnderstood) as raised:
            await usher.redeem("GOLD20", customer_id="ann", order_id="order-1")
    assert raised.value.answer_lost


# --- What counts ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "expires_in_s", "expected"),
    [
        ("confirmed", None, True),
        ("confirmed", -60, True),
        ("reserved", 60, True),
        ("reserved", -60, False),
        ("cancelled", 60, False),
        ("cancelled", None, False),
        ("expired", -60, False),
        ("expired", 60, False),
    ],
)
def test_counts(status: str, expires_in_s: int | None, expected: bool) -> None:
    expires_at = None if expires_in_s is None else (datetime.now(UTC) + timedelta(seconds=expires_in_s)).isoformat()
    assert expected is Redemption.read({**REDEMPTION, "status": status, "expires_at": expires_at}).counts


@pytest.mark.parametrize(("wrong_by_s", "hold_s", "expected"), [(3600, 60, True), (-3600, 60, True), (3600, -60, False)])
async def test_a_wrong_clock_does_not_matter(scripted: Scripted, wrong_by_s: int, hold_s: int, expected: bool) -> None:
    """The answer's `Date` says how wrong it is."""
    at_usher = datetime.now(UTC) - timedelta(seconds=wrong_by_s)
    held = {**REDEMPTION, "status": "reserved", "expires_at": (at_usher + timedelta(seconds=hold_s)).isoformat()}
    scripted.then(says(held, headers={"Date": at_usher.strftime("%a, %d %b %Y %H:%M:%S GMT")}))
    async with usher_client.Usher(scripted.url, "key", patience=ONCE) as usher:
        assert expected is (await usher.get("id")).counts


@pytest.mark.parametrize(
    ("date", "ahead_s"),
    [
        ("Sun, 22 Nov 2026 16:00:00 GMT", 0.0),
        ("Sun, 22 Nov 2026 15:59:59 GMT", 0.0),
        ("Sun, 22 Nov 2026 15:59:49 GMT", 10.0),
        ("Sun, 22 Nov 2026 16:00:10 GMT", -10.0),
        ("", 0.0),
        ("yesterday", 0.0),
        ("Sun, 22 Nov 2026 15:00:00 -0000", 0.0),
    ],
)
def test_how_far_a_clock_is_ahead(date: str, ahead_s: float) -> None:
    assert timedelta(seconds=ahead_s) == clock_ahead(date, NOW)


# --- The package ---------------------------------------------------------------------------------------------------


def test_exceptions_and_records_travel() -> None:
    """Between processes, as loggers and task queues send them."""
    raised = of_answer(409, {"code": "coupon_exhausted", "detail": "All."}, request_id="r-1", retry_after_s=2.0)
    raised.tries = 3
    again = pickle.loads(pickle.dumps(raised))  # noqa: S301 — made a moment ago
    assert (str(raised), 2.0, 3) == (str(again), again.retry_after_s, again.tries)
    redemption = Redemption.read(REDEMPTION)
    assert redemption == pickle.loads(pickle.dumps(redemption))  # noqa: S301 — the same
    assert RedemptionStatus.CONFIRMED is redemption.status


def test_all_exceptions_are_at_the_top() -> None:
    def below(kind: type[UsherError]) -> set[type[UsherError]]:
        return {kind}.union(*(below(narrower) for narrower in kind.__subclasses__()))

    module: ModuleType = usher_client
    assert {kind.__name__ for kind in below(UsherError)} <= set(module.__all__)
