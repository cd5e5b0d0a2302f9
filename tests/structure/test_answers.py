"""The closed sets agree: what the ledger refuses, how the flow ends, what can fail, and what a client is told."""

import inspect
import re

from service import errors
from service.api import problems
from service.api.problems import BY_ERROR, BY_REFUSAL, KINDS, Code
from service.api.redemptions import BY_ENDING
from service.model import Ending, Refusal
from tests.structure.source import ROOT, modules

REFUSED_WITH = {
    Refusal.COUPON_NOT_FOUND: 404,
    Refusal.COUPON_PAUSED: 422,
    Refusal.COUPON_NOT_STARTED: 422,
    Refusal.COUPON_ENDED: 422,
    Refusal.CUSTOMER_LIMIT_REACHED: 409,
    Refusal.COUPON_EXHAUSTED: 409,
}
"""The statuses that the API promises, in the order in which refusals are decided."""

NOT_FOR_CLIENTS = {
    errors.UsherError: "the base of all",
    errors.ConfigurationError: "ends the program before it serves",
    errors.AddressUnavailable: "ends the program before it serves",
    errors.MigrationChanged: "ends `usher migrate`",
    errors.KeyExists: "ends `usher key`",
    errors.KeyNotInForce: "ends `usher key`",
    errors.LedgerRefusedData: "a value that passed validation: a defect",
}
"""Failures that are no problem of their own, and why."""


def test_each_refusal_is_the_problem_of_the_same_name_with_its_status() -> None:
    assert [(refusal, refusal.value, status) for refusal, status in REFUSED_WITH.items()] == [
        (refusal, BY_REFUSAL[refusal].value, KINDS[BY_REFUSAL[refusal]][0]) for refusal in Refusal
    ]


def test_each_ending_has_an_answer() -> None:
    """Those that carry a redemption or a refusal are made by hand, the others are looked up."""
    assert set(Ending) == {Ending.CREATED, Ending.REPLAYED, Ending.REFUSED} | set(BY_ENDING)


def test_each_problem_has_a_status_a_title_and_a_detail() -> None:
    assert list(Code) == list(KINDS)
    assert all(title and detail.endswith(".") for _, title, detail in KINDS.values())


def test_only_a_defect_is_a_500() -> None:
    failing = {code: status for code, (status, _, _) in KINDS.items() if status >= 500 and code is not Code.INTERNAL}
    assert set(failing.values()) == {503}
    assert KINDS[Code.INTERNAL][0] == 500


def test_each_failure_is_a_problem_or_caught_on_the_way() -> None:
    """One that nobody maps and nobody catches by name would be a 500."""
    kinds = [kind for _, kind in inspect.getmembers(errors, inspect.isclass) if kind.__module__ == errors.__name__]
    catching = "\n".join(
        module.text for module in modules("service") if module.name not in {"service.errors", problems.__name__}
    )
    caught = set(re.findall(r"\w+", " ".join(re.findall(r"^ *except (.+):", catching, re.MULTILINE))))
    forgotten = [
        kind.__name__
        for kind in kinds
        if kind not in NOT_FOR_CLIENTS and not issubclass(kind, tuple(k for k, _ in BY_ERROR)) and kind.__name__ not in caught
    ]
    assert not forgotten


def test_a_failure_stands_before_its_base() -> None:
    """The first that fits is taken."""
    kinds = [kind for kind, _ in BY_ERROR]
    late = [(kind, later) for at, kind in enumerate(kinds) for later in kinds[at + 1 :] if issubclass(later, kind)]
    assert not late


def test_the_api_document_lists_every_problem_with_its_status() -> None:
    text = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
    listed = {code: int(status) for status, code in re.findall(r"^\| (\d{3}) \| `(\w+)` \|", text, re.MULTILINE)}
    assert {code.value: status for code, (status, _, _) in KINDS.items()} == listed
