"""Bodies: bounds, folding, pointers."""

from typing import Any

import pytest

from service.api.bodies import (
    RULES,
    Body,
    CancelBody,
    CouponBody,
    CouponChangeBody,
    ReconciliationBody,
    RedemptionBody,
    parse,
    parse_code,
    parse_name,
    parse_prefix,
    parse_status,
    pointer,
)
from service.api.problems import Problem
from service.model import CouponStatus

GOOD = {"code": "GOLD20", "customer_id": "ann", "order_id": "o-1"}


def faults_of(kind: type[Body], members: dict[str, Any]) -> dict[str, str]:
    """Pointer and detail of each fault."""
    with pytest.raises(Problem) as raised:
        parse(kind, members)
    return {fault.pointer: fault.detail for fault in raised.value.faults}


@pytest.mark.parametrize(("sent", "code"), [(" gold20\t", "GOLD20"), ("a", "A"), ("x_-y", "X_-Y"), ("L" * 64, "L" * 64)])
def test_codes_are_trimmed_and_folded(sent: str, code: str) -> None:
    """The same in a body as in a path or a query."""
    assert code == parse(RedemptionBody, GOOD | {"code": sent}).code == parse_code(sent, "?code")


@pytest.mark.parametrize(
    "code",
    [
        "",
        " ",
        "-A",
        "_A",
        "A B",
        "É",
        "ß",
        "\u0131",
        "\u017f",
        "\u212a",
        "\u00a0A",
        "A\u2003",
        "{A}",
        "A\0",
        "L" * 65,
        "A\nB",
        "A\r\n",
        "A\n",
        "\nA",
    ],
)
def test_what_is_no_code(code: str) -> None:
    """Nothing outside ASCII is trimmed or folded into a code."""
    assert ["/code"] == list(faults_of(RedemptionBody, GOOD | {"code": code}))
    with pytest.raises(Problem):
        parse_code(code, "?code")


@pytest.mark.parametrize("name", [" ", "a ", "é", "😀" * 128, "\u2028", "\u202e", "'; --", "\u00a0", "\u0600"])
def test_names_are_taken_as_they_are(name: str) -> None:
    assert name == parse(RedemptionBody, GOOD | {"order_id": name}).order_id == parse_name(name, "?order_id")


@pytest.mark.parametrize("name", ["", "a\n", "\0", "\x1f", "\x7f", "\x80", "\x9f", "a" * 129, "😀" * 129])
def test_what_is_no_name(name: str) -> None:
    assert ["/customer_id"] == list(faults_of(RedemptionBody, GOOD | {"customer_id": name}))
    with pytest.raises(Problem):
        parse_name(name, "?customer_id")


def test_every_fault_is_named() -> None:
    """Missing, unknown and wrong fields in one answer, with pointers, and without the values."""
    faults = faults_of(RedemptionBody, {"code": 7, "order_id": "secret\0", "a/b~c": "secret"})
    assert {"/code", "/customer_id", "/order_id", "/a~1b~0c"} == set(faults)
    assert "is required" == faults["/customer_id"]
    assert "unknown field" == faults["/a~1b~0c"]
    assert "secret" not in "".join(faults.values())


def test_whole_numbers_are_integers_however_they_are_written() -> None:
    """As JSON Schema has it, and so the OpenAPI document."""
    assert 600 == parse(RedemptionBody, GOOD | {"hold_s": 600.0}).hold_s
    assert 20 == parse(CouponBody, {"code": "A", "max_redemptions": 20.0}).max_redemptions


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("max_redemptions", 0), ("max_redemptions", 2_000_000_001), ("max_redemptions", 20.5), ("max_redemptions", True),
        ("max_redemptions", "20"), ("max_per_customer", 0), ("max_per_customer", 1_001), ("starts_at", 1), ("ends_at", "x"),
        ("status", None), ("status", "ACTIVE"), ("metadata", []), ("metadata", "x"), ("version", 1),
    ],
)  # fmt: skip
def test_what_is_no_coupon(field: str, value: object) -> None:
    assert [f"/{field}"] == list(faults_of(CouponBody, {"code": "A", field: value}))
    assert [f"/{field}"] == list(faults_of(CouponChangeBody, {field: value}))


CODE_RULE = "must be 1 to 64 of A-Z, 0-9, _ and -, beginning with a letter or a digit"
NAME_RULE = "must be a string of 1 to 128 characters, none of them a control character"
LIMIT_RULE = "must be an integer from 1 to 2,000,000,000, or null for unlimited"
HOLD_RULE = "must be an integer from 1 to 86,400: seconds"
CUSTOMER_LIMIT_RULE = "must be an integer from 1 to 1,000, or null for unlimited"


@pytest.mark.parametrize(
    ("kind", "field", "values", "detail"),
    [
        (RedemptionBody, "code", ["", "A B", 7, None, []], CODE_RULE),
        (RedemptionBody, "customer_id", ["", "a" * 129, "a\0", 7, None, {}], NAME_RULE),
        (RedemptionBody, "hold_s", [0, -1, 86_401, 1.5, 1e300, "600", True, None], HOLD_RULE),
        (RedemptionBody, "order_id", ["", "a" * 129, "a\n", True], NAME_RULE),
        (CouponBody, "max_redemptions", [0, -1, 2_000_000_001, 2**63 - 1, 1.5, "1", True, []], LIMIT_RULE),
        (CouponChangeBody, "max_per_customer", [0, 1_001, 1.5, "1", False, {}], CUSTOMER_LIMIT_RULE),
        (CouponBody, "status", ["ACTIVE", "", None, 1, []], "must be one of active, paused, archived"),
        (CouponChangeBody, "metadata", [[], "x", 1, True], "must be an object, or null"),
        (
            CouponBody,
            "starts_at",
            ["x", 1, "2026-11-22", []],
            "must be an RFC 3339 time with an offset, such as 2026-11-22T10:15:30.123456Z",
        ),
    ],
)
def test_what_is_said_of_a_field(kind: type[Body], field: str, values: list[Any], detail: str) -> None:
    """What is allowed, in the words of the contract, the same for whatever is wrong."""
    sent = {RedemptionBody: GOOD, CouponBody: {"code": "A"}}.get(kind, {})
    assert [{f"/{field}": detail}] * len(values) == [faults_of(kind, sent | {field: value}) for value in values]


def test_every_field_has_a_rule() -> None:
    """All but times, which are read by words of their own."""
    fields = {
        name
        for kind in (RedemptionBody, CancelBody, CouponBody, CouponChangeBody, ReconciliationBody)
        for name in kind.model_fields
    }
    assert fields == {*RULES, "starts_at", "ends_at"}


def test_parts_of_queries() -> None:
    """Folded as codes are; what is no beginning of a code and no status is refused."""
    assert ("A_-", CouponStatus.PAUSED) == (parse_prefix(" a_- ", "?prefix"), parse_status("paused", "?status"))
    for prefix in ("", "é", "\u0131", "{", "A" * 65):
        with pytest.raises(Problem):
            parse_prefix(prefix, "?prefix")
    with pytest.raises(Problem):
        parse_status("PAUSED", "?status")


def test_a_change_names_what_was_sent() -> None:
    """Null clears; what was not sent is not touched."""
    body = parse(CouponChangeBody, {"max_redemptions": None, "metadata": None, "ends_at": None})
    assert {"max_redemptions": None, "metadata": {}, "ends_at": None} == body.changes()
    assert {} == parse(CouponChangeBody, {}).changes()


def test_pointer() -> None:
    assert "/a~1b/0/~0" == pointer(("a/b", 0, "~"))
