"""Strict JSON and times: what is let in, what is refused, and why the fast way says the same as the slow one."""

import json
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.api import decoding
from service.api.decoding import DEPTH_MAX, format_time, loads_object, parse_time
from service.api.problems import Problem

DEEPEST = b'{"a":' + b"[" * (DEPTH_MAX - 1) + b"]" * (DEPTH_MAX - 1) + b"}"

REFUSED = {
    "not UTF-8": (b'{"a":"\xff"}', "is not UTF-8"),
    "a byte order mark": (b"\xef\xbb\xbf{}", "is not JSON"),
    "NaN": (b'{"a":NaN}', "NaN and Infinity are not JSON"),
    "minus infinity": (b'{"a":-Infinity}', "NaN and Infinity are not JSON"),
    "beyond a double": (b'{"a":-1e999}', "a number is out of range"),
    "beyond 64 bits": (b'{"a":9223372036854775808}', "a number is out of range"),
    "thousands of digits": (b'{"a":' + b"9" * 10_000 + b"}", "a number is out of range"),
    "twice the same name": (b'{"a":"1","a":"1"}', "a name occurs twice"),
    "the same name, escaped": (b'{"a":"1","\\u0061":"1"}', "a name occurs twice"),
    "twice in an inner object": (b'{"a":{"b":1,"b":2}}', "a name occurs twice"),
    "a number, then a text of the same name": (b'{"a":1,"a":"1"}', "a name occurs twice"),
    "a lone surrogate": (b'{"a":"\\ud800"}', "a lone surrogate"),
    "a lone surrogate in a name": (b'{"\\ud800":1}', "a lone surrogate"),
    "a lone surrogate inside": (b'{"a":[{"b":"\\udc00"}]}', "a lone surrogate"),
    "one level too deep": (DEEPEST.replace(b"[]", b"[[]]"), "nested deeper"),
    "very deep": (b'{"a":' + b"[" * 16_000, "nested deeper"),
    "an array": (b"[]", "must be a JSON object"),
    "null": (b"null", "must be a JSON object"),
    "nothing": (b"", "is not JSON"),
    "a tail": (b"{} x", "is not JSON"),
    "a control character": (b'{"a":"\n"}', "is not JSON"),
}


@pytest.mark.parametrize(("data", "detail"), REFUSED.values(), ids=REFUSED.keys())
def test_refused(data: bytes, detail: str) -> None:
    """Each is a problem that says what is wrong."""
    with pytest.raises(Problem) as raised:
        loads_object(data)
    assert "invalid_request" == raised.value.code
    assert detail in raised.value.faults[0].detail


@pytest.mark.parametrize(
    ("data", "value"),
    [
        (b"{}", {}),
        (b' {"a" : "x"}\n', {"a": "x"}),
        (b'{"a":"\\u00e9\\ud83d\\ude00"}', {"a": "é😀"}),
        (b'{"a":9223372036854775807,"b":-9223372036854775807}', {"a": 2**63 - 1, "b": -(2**63) + 1}),
        (b'{"a":1.5,"b":null,"c":[true,{}],"":""}', {"a": 1.5, "b": None, "c": [True, {}], "": ""}),
        (b'{"a":"\\u0000"}', {"a": "\0"}),
        (DEEPEST, json.loads(DEEPEST)),
    ],
)
def test_let_in(data: bytes, value: object) -> None:
    assert value == loads_object(data)


MEMBERS = st.lists(
    st.tuples(st.text('ab"\\é', max_size=2), st.one_of(st.text('x"\\', max_size=3), st.integers(0, 3), st.just({"a": "b"})))
)


@given(MEMBERS)
def test_the_fast_way_agrees_with_the_slow_one(members: list[tuple[str, Any]]) -> None:
    """Flat objects of texts are decoded without a second look; that look would have found nothing."""
    data = ("{" + ",".join(f"{json.dumps(name)}:{json.dumps(value)}" for name, value in members) + "}").encode()
    has_duplicates = len({name for name, _ in members}) != len(members)
    try:
        decoded = loads_object(data)
    except Problem:
        assert has_duplicates
    else:
        assert not has_duplicates
        assert dict(members) == decoded


def test_the_fast_way_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    """A redemption's usual body is not decoded twice."""

    def slow(_: bytes) -> dict[str, Any]:
        raise AssertionError("the slow way was taken")

    monkeypatch.setattr(decoding, "_loads_slowly", slow)
    assert {"code": "A", "order_id": "é"} == loads_object('{"code": "A", "order_id": "é"}'.encode())


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("2026-11-22T10:15:30.123456Z", datetime(2026, 11, 22, 10, 15, 30, 123456, UTC)),
        ("2026-11-22t10:15:30z", datetime(2026, 11, 22, 10, 15, 30, 0, UTC)),
        ("2026-11-22 10:15:30.5+02:00", datetime(2026, 11, 22, 8, 15, 30, 500000, UTC)),
        ("2026-11-22T00:00:00.123456789-00:00", datetime(2026, 11, 22, 0, 0, 0, 123456, UTC)),
        ("1970-01-01T00:00:00Z", datetime(1970, 1, 1, tzinfo=UTC)),
        ("9999-12-31T23:59:59.999999Z", datetime(9999, 12, 31, 23, 59, 59, 999999, UTC)),
    ],
)
def test_times(text: str, moment: datetime) -> None:
    assert moment == parse_time(text)
    assert moment == parse_time(format_time(moment))


@pytest.mark.parametrize(
    "text",
    [
        "", "2026-11-22", "2026-11-22T10:15:30", "2026-11-22T10:15Z", "2026-02-29T00:00:00Z", "2026-11-22T24:00:00Z",
        "2026-11-22T10:15:60Z", "2026-11-22T10:15:30+24:00", "9999-12-31T23:59:59-00:01", "0001-01-01T00:00:00+00:01",
        "1969-12-31T23:59:59Z", "\u0662026-11-22T10:15:30Z", "2026-11-22T10:15:30Z\n", 1_700_000_000, None, True,
    ],
)  # fmt: skip
def test_no_times(text: object) -> None:
    with pytest.raises(ValueError, match=r"must|calendar"):
        parse_time(text)


def test_microseconds_are_always_told() -> None:
    assert "2026-11-22T10:15:30.000000Z" == format_time(datetime(2026, 11, 22, 10, 15, 30, 0, UTC))
