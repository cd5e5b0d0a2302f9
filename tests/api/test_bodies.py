"""Bodies: bounds, folding, pointers."""

from typing import Any

import pytest

from service.api.bodies import Body, CouponBody, CouponChangeBody, RedemptionBody, parse, parse_code, parse_name, pointer
from service.api.problems import Problem

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


def test_holds_are_not_known_yet() -> None:
    assert {"/hold_s": "unknown field"} == faults_of(RedemptionBody, GOOD | {"hold_s": 600})


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("max_redemptions", 0), ("max_redemptions", 2_000_000_001), ("max_redemptions", 20.0), ("max_redemptions", True),
        ("max_redemptions", "20"), ("max_per_customer", 0), ("max_per_customer", 1_001), ("starts_at", 1), ("ends_at", "x"),
        ("status", None), ("status", "ACTIVE"), ("metadata", []), ("metadata", "x"), ("version", 1),
    ],
)  # fmt: skip
def test_what_is_no_coupon(field: str, value: object) -> None:
    assert [f"/{field}"] == list(faults_of(CouponBody, {"code": "A", field: value}))
    assert [f"/{field}"] == list(faults_of(CouponChangeBody, {field: value}))


def test_a_change_names_what_was_sent() -> None:
    """Null clears; what was not sent is not touched."""
    body = parse(CouponChangeBody, {"max_redemptions": None, "metadata": None, "ends_at": None})
    assert {"max_redemptions": None, "metadata": {}, "ends_at": None} == body.changes()
    assert {} == parse(CouponChangeBody, {}).changes()


def test_pointer() -> None:
    assert "/a~1b/0/~0" == pointer(("a/b", 0, "~"))
