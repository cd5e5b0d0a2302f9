"""Problems: one kind for each code and each error."""

import orjson
import pytest

from service import errors
from service.api.problems import BY_REFUSAL, FAULTS_MAX, KINDS, Code, Fault, Problem, Problems, invalid, of_error
from service.model import Refusal

PROBLEMS = Problems("https://example.org/p/")


def test_members() -> None:
    """RFC 9457's members and the contract's, and nothing else."""
    response = PROBLEMS.answered(Problem(Code.COUPON_EXHAUSTED), "r-1")
    assert (409, "application/problem+json") == (response.status, response.content_type)
    assert {
        "type": "https://example.org/p/coupon_exhausted",
        "title": "The coupon is exhausted",
        "status": 409,
        "detail": "All uses of this coupon are taken.",
        "code": "coupon_exhausted",
        "request_id": "r-1",
    } == orjson.loads(response.body)


def test_the_beginning_that_is_kept() -> None:
    """Each body is what is written from its members; the part before the request's id is made once."""
    for code in Code:
        for request_id in ("r-1", "r-2"):
            assert PROBLEMS.body(Problem(code), request_id) == orjson.loads(PROBLEMS.answered(Problem(code), request_id).body)


def test_every_code_has_a_kind() -> None:
    assert set(Code) == set(KINDS)


def test_refusals_have_the_statuses_of_the_contract() -> None:
    assert [404, 422, 422, 422, 409, 409] == [KINDS[BY_REFUSAL[refusal]][0] for refusal in Refusal]


def test_503_says_when_to_come_back() -> None:
    for code in (Code.OVERLOADED, Code.UNAVAILABLE, Code.BUSY, Code.OUTCOME_UNKNOWN):
        answer = PROBLEMS.answered(Problem(code), "r")
        assert (503, "1") == (answer.status, answer.headers["Retry-After"])


def test_401_says_what_is_needed() -> None:
    assert PROBLEMS.answered(Problem(Code.UNAUTHORIZED), "r").headers["WWW-Authenticate"].startswith("Bearer")


def test_400_names_its_faults() -> None:
    """Each with a pointer; not thousands of them, and not pages long."""
    many = [Fault("/" + "x" * 1_000, "unknown field")] * 1_000
    named = PROBLEMS.body(Problem(Code.INVALID_REQUEST, faults=many), "r")["errors"]
    assert FAULTS_MAX == len(named)
    assert len(named[0]["pointer"]) < 300
    assert [{"pointer": "/a", "detail": "b"}] == PROBLEMS.body(invalid("/a", "b"), "r")["errors"]
    assert [{"pointer": "", "detail": "why"}] == PROBLEMS.body(Problem(Code.INVALID_REQUEST, "why"), "r")["errors"]


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (errors.Overloaded(), Code.OVERLOADED),
        (errors.LedgerUnavailable(), Code.UNAVAILABLE),
        (errors.LedgerReplyLost(), Code.UNAVAILABLE),
        (errors.LedgerContended(), Code.BUSY),
        (errors.CouponExists(), Code.COUPON_EXISTS),
        (errors.CouponNotFound(), Code.COUPON_NOT_FOUND),
        (errors.VersionMismatch(), Code.VERSION_MISMATCH),
        (errors.LimitKindFixed(), Code.LIMIT_KIND_FIXED),
        (errors.CustomerLimitLowered(), Code.CUSTOMER_LIMIT_LOWERED),
    ],
)
def test_operational_failures(error: errors.UsherError, code: Code) -> None:
    problem = of_error(error)
    assert problem is not None
    assert code == problem.code


def test_refused_data_is_a_defect() -> None:
    """What was validated and is refused by the ledger all the same was validated wrongly."""
    assert of_error(errors.LedgerRefusedData()) is None
