"""What nobody should send: refused with a problem document, nothing touched, never a 500."""

import gzip
import json
from collections.abc import AsyncIterator
from datetime import datetime, timedelta
from typing import Any

import pytest
import redis.asyncio

from tests.acceptance.conftest import MakeCoupon
from tests.auditor import Auditor
from tests.driver import Answer, Client, orders
from tests.stores import Admin

TABLES = ("coupon", "redemption")
MEMBERS = {"type", "title", "status", "detail", "code", "request_id"}
DEPTH = 7_500
"""Fits into the 16 KiB of a body, and is deeper than an interpreter's stack."""


def redemption(**changes: object) -> bytes:
    """A redemption's body that would be fine but for the changes; None takes a member out."""
    members = {"code": "POISON", "customer_id": "customer", "order_id": "order"} | changes
    return json.dumps({name: value for name, value in members.items() if value is not ...}).encode()


def text(code: str = '"POISON"', customer: str = '"customer"', order: str = '"order"', more: str = "") -> bytes:
    """As `redemption`, of JSON texts that `json.dumps` would not write."""
    return f'{{"code": {code}, "customer_id": {customer}, "order_id": {order}{more}}}'.encode("utf-8", "surrogatepass")


MALFORMED: dict[str, bytes] = {
    "nothing": b"",
    "blanks": b" \n ",
    "half an object": b'{"code": "POISON"',
    "a trailing comma": b'{"code": "POISON",}',
    "single quotes": b"{'code': 'POISON'}",
    "a comment": b'{"code": "POISON" /* hello */}',
    "two documents": redemption() * 2,
    "a tail": redemption() + b"x",
    "a NUL tail": redemption() + b"\x00",
    "bytes that are no UTF-8": redemption().replace(b"POISON", b"\xff\xfe"),
    "an overlong encoding": redemption().replace(b'customer"', b'\xc0\xaf"', 1),
    "an encoded surrogate": redemption().replace(b'"order"}', b'"\xed\xa0\x80"}'),
    "UTF-16": redemption().decode().encode("utf-16"),
    "UTF-32": redemption().decode().encode("utf-32"),
    "a byte order mark": b"\xef\xbb\xbf" + redemption(),
    "a control character": redemption().replace(b'customer"', b'cust\nomer"', 1),
    "an array": b"[" + redemption() + b"]",
    "a text": b'"POISON"',
    "a number": b"1",
    "null": b"null",
    "true": b"true",
    "an empty array": b"[]",
    "an empty object": b"{}",
    "a form": b"code=POISON&customer_id=customer&order_id=order",
    "XML": b"<code>POISON</code>",
    "deep arrays": b"[" * DEPTH + b"]" * DEPTH,
    "deep arrays, unclosed": b"[" * 16_000,
    "deep objects": b'{"a":' * 2_500 + b"1" + b"}" * 2_500,
    "deep in a member": text(more=', "metadata": ' + "[" * DEPTH + "]" * DEPTH),
    "a long number": text(customer="9" * 10_000),
    "a long fraction": text(customer="0." + "9" * 10_000),
    "a huge number": text(customer="1e400"),
    "a huge exponent": text(customer="1e999999999"),
    "a negative huge number": text(more=', "hold_s": -1e400'),
    "NaN": text(customer="NaN"),
    "Infinity": text(customer="Infinity"),
    "minus Infinity": text(more=', "hold_s": -Infinity'),
    "a duplicate key": text(more=', "order_id": "another"'),
    "a duplicate key with the same value": text(more=', "order_id": "order"'),
    "a duplicate key, escaped": text(more=', "order\\u005fid": "another"'),
    "an empty key": text(more=', "": "x"'),
    "a lone high surrogate": text(customer='"\\ud800"'),
    "a lone low surrogate": text(order='"\\udc00x"'),
    "surrogates in the wrong order": text(order='"\\udc00\\ud800"'),
    "a lone surrogate in a key": text(more=', "\\ud800": 1'),
    "a bad escape": text(order='"\\x41"'),
    "a short escape": text(order='"\\u12"'),
}  # fmt: skip

WRONG_TYPES: list[object] = [None, True, 0, 7, 1.5, [], ["POISON"], {}, {"a": 1}]

NO_CODES = [
    "", " ", "\t", "GOLD \u00c9", "GOLD\u00c9", "GOLD\u0301", "STRA\u00dfE", "\u0131STANBUL", "\u017fALE", "\u212aELVIN",
    "\uff2720", "GOLD\u0662\u0660", "GO LD", "GO\tLD", "GO\u00a0LD", "GOLD\u200b", "{GOLD}", "GO{LD", "GOLD}",
    "GO\x00LD", "\x00", "GOLD\x00", "GO\r\nLD", "GO\nLD", "GO\rLD", "-GOLD", "_GOLD", "GOLD!", "GOLD:20", "GOLD*", "GOLD%",
    "GOLD'", 'GOLD"',
    "GOLD;--", "GOLD\\", "GOLD/20", "GOLD.20", "GOLD,20", "\U0001f600", "A" * 65, "A" * 1_000, "\ufeffGOLD", "GOLD\u2028",
    "\u202eGOLD",
]  # fmt: skip

NO_LIMITS: list[object] = [0, -1, 2_000_000_001, 10**30, 2e9 + 1, 1e30, 0.0, -1.0, 1.5, 20.5, "20", "20.0", True, [], {}]
NO_CUSTOMER_LIMITS: list[object] = [0, -1, 1_001, 1.5, "1", False]
NO_TIMES: list[object] = [
    0, 1_700_000_000, "", "tomorrow", "2026-11-22", "2026-11-22T10:15:30", "2026-13-01T00:00:00Z", "2026-02-30T00:00:00Z",
    "0000-01-01T00:00:00Z", "9999-12-31T23:59:59-01:00", "2026-11-22T25:00:00Z", "2026-11-22T10:15:60Z",
    "\u0662026-11-22T10:15:30Z",
]  # fmt: skip
NO_STATUSES: list[object] = ["on", "ACTIVE", 1, None]
NO_METADATA: list[object] = ["x", [], 1, True]
NO_NAMES = ["", "\x00", "a\x00b", "a\nb", "a\r\nb", "\t", "a\x1fb", "\x7f", "a\x85b", "\x9f", "a" * 129, "é" * 129, "😀" * 129]

Touched = tuple[Any, ...]


@pytest.fixture
async def untouched(admin: Admin, redis_client: "redis.asyncio.Redis") -> AsyncIterator[None]:
    """After the test both stores hold as many things as before."""

    async def count() -> Touched:
        rows = [admin.value(f"SELECT COUNT(*) FROM {table}") for table in TABLES]
        return *rows, admin.value("SELECT COALESCE(SUM(version), 0) FROM coupon"), await redis_client.dbsize()

    before = await count()
    yield
    assert before == await count()


@pytest.fixture(autouse=True)
async def _coupon(client: Client) -> None:
    """The coupon that the poison names is there and unlimited: whatever gets through is seen."""
    assert (await client.create_coupon("POISON")).status in (201, 409)


def check_refused(answer: Answer, *statuses: int) -> None:
    """A problem document, whole and of this status."""
    assert answer.status in statuses, (answer.status, answer.text[:500])
    assert "application/problem+json" == answer.headers["Content-Type"].partition(";")[0]
    assert set(answer.body) >= MEMBERS
    assert answer.status == answer.body["status"]
    assert answer.body["request_id"] == answer.headers["X-Request-Id"]
    assert answer.body["type"].endswith("/" + answer.body["code"])


def check_invalid(answer: Answer) -> None:
    """400 `invalid_request`, which says where and what."""
    check_refused(answer, 400)
    assert "invalid_request" == answer.code
    assert answer.body["errors"]
    assert all({"pointer", "detail"} == set(error) for error in answer.body["errors"])


async def post(client: Client, body: bytes, path: str = "/v1/redemptions") -> Answer:
    return await client.send("POST", path, data=body)


async def test_good_body_is_not_refused(client: Client) -> None:
    """The bodies below are refused for their poison and not for something else."""
    assert 201 == (await post(client, redemption(order_id="good"))).status
    assert 201 == (await post(client, text(order='"good too"'))).status


@pytest.mark.usefixtures("untouched")
@pytest.mark.parametrize("path", ["/v1/redemptions", "/v1/coupons"])
@pytest.mark.parametrize("body", MALFORMED.values(), ids=MALFORMED.keys())
async def test_malformed(client: Client, path: str, body: bytes) -> None:
    check_invalid(await post(client, body, path))


@pytest.mark.usefixtures("untouched")
@pytest.mark.parametrize("field", ["code", "customer_id", "order_id"])
async def test_wrong_types_and_missing_fields(client: Client, field: str) -> None:
    """Nothing but a text is a code or a name; each is needed, and the answer says which one is wrong."""
    for value in WRONG_TYPES:
        answer = await post(client, redemption(**{field: value}))
        check_invalid(answer)
        assert f"/{field}" == answer.body["errors"][0]["pointer"][: len(field) + 1]
    answer = await post(client, redemption(**{field: ...}))
    check_invalid(answer)
    assert [f"/{field}"] == [error["pointer"] for error in answer.body["errors"]]


@pytest.mark.usefixtures("untouched")
@pytest.mark.parametrize(
    "name", ["Code", "code ", "customer", "id", "status", "seat", "coupon_id", "__proto__", "a" * 1_000, "é", "/~"]
)
async def test_unknown_fields(client: Client, name: str) -> None:
    check_invalid(await post(client, redemption(**{name: "x"})))


@pytest.mark.usefixtures("untouched")
async def test_ten_thousand_unknown_fields(client: Client) -> None:
    """The answer to a body of nothing but mistakes is not larger than the body."""
    answer = await post(client, redemption(**{f"f{number}": 1 for number in range(1_200)}))
    check_invalid(answer)
    assert len(answer.text) < 16_384


@pytest.mark.usefixtures("untouched")
@pytest.mark.parametrize("code", NO_CODES)
async def test_what_is_no_code(client: Client, code: str) -> None:
    """In a redemption, in a new coupon, and in a filter."""
    check_invalid(await post(client, redemption(code=code)))
    check_invalid(await post(client, json.dumps({"code": code}).encode(), "/v1/coupons"))
    check_refused(await client.get("/v1/redemptions", code=code), 400)


@pytest.mark.usefixtures("untouched")
@pytest.mark.parametrize(
    "code", ["GOLD%C3%89", "GO%20LD", "%7BGOLD%7D", "GO%00LD", "GO%0D%0ALD", "%FF", "GOLD%2520", "A" * 65, "%2E%2E"]
)
async def test_what_is_no_code_in_a_path(client: Client, code: str) -> None:
    check_refused(await client.send_raw("GET", f"/v1/coupons/{code}"), 400)


@pytest.mark.usefixtures("untouched")
@pytest.mark.parametrize("field", ["customer_id", "order_id"])
async def test_what_is_no_name(client: Client, field: str) -> None:
    for name in NO_NAMES:
        check_invalid(await post(client, redemption(**{field: name})))


@pytest.mark.usefixtures("untouched")
@pytest.mark.parametrize(
    "fields",
    [
        *({"max_redemptions": value} for value in NO_LIMITS),
        *({"max_per_customer": value} for value in NO_CUSTOMER_LIMITS),
        *({"starts_at": value} for value in NO_TIMES),
        {"starts_at": "2026-11-22T00:00:00Z", "ends_at": "2026-11-22T00:00:00Z"},
        {"starts_at": "2026-11-22T00:00:00Z", "ends_at": "2026-11-21T00:00:00Z"},
        *({"status": value} for value in NO_STATUSES),
        *({"metadata": value} for value in NO_METADATA),
        *({name: 2} for name in ("unknown", "version", "id", "created_at")),
    ],
    ids=str,
)
async def test_what_is_no_coupon(client: Client, fields: dict[str, object]) -> None:
    """As a new coupon and as a change of one that is there."""
    check_invalid(await post(client, json.dumps({"code": "POISONED", **fields}).encode(), "/v1/coupons"))
    check_invalid(await client.send("PATCH", "/v1/coupons/POISON", data=json.dumps(fields).encode()))


@pytest.mark.parametrize("number", ["20", "20.0", "2e1", "2.000E+01", "200e-1"])
async def test_a_whole_number_is_an_integer(client: Client, coupon: MakeCoupon, number: str) -> None:
    """However it is written, as JSON Schema says: as a limit of a new coupon and of one that is changed, and for a hold."""
    limits = f'"max_redemptions": {number}, "max_per_customer": {number}'
    code = await coupon("WHOLE", max_redemptions=19, max_per_customer=19)
    made = await client.send("POST", "/v1/coupons", data=f'{{"code": "{code}-NEW", {limits}}}'.encode())
    changed = await client.send("PATCH", f"/v1/coupons/{code}", data=f"{{{limits}}}".encode())
    hold = text(f'"{code}"', more=f', "hold_s": {number}')
    held = await client.send("POST", "/v1/redemptions", data=hold)

    assert [201, 200, 201] == [answer.status for answer in (made, changed, held)]
    for answer in (made, changed):
        assert {"max_redemptions": 20, "max_per_customer": 20}.items() <= answer.body.items()
        assert b"20.0" not in answer.text
    times = [datetime.fromisoformat(held.body[name]) for name in ("created_at", "expires_at")]
    assert timedelta(seconds=20) == times[1] - times[0]


@pytest.mark.usefixtures("untouched")
@pytest.mark.parametrize("hold_s", [0, -1, 86_401, 0.0, 86_400.5, 1.5, "20", True, None, []])
async def test_what_is_no_hold(client: Client, hold_s: object) -> None:
    check_invalid(await post(client, redemption(hold_s=hold_s)))


@pytest.mark.usefixtures("untouched")
async def test_empty_change(client: Client) -> None:
    check_invalid(await client.send("PATCH", "/v1/coupons/POISON", data=b"{}"))


@pytest.mark.usefixtures("untouched")
async def test_large_bodies(client: Client) -> None:
    """More than 16 KiB: 413, announced or in chunks, sense or nonsense; exactly 16 KiB is read."""

    async def chunks(body: bytes) -> AsyncIterator[bytes]:
        for begin in range(0, len(body), 4_096):
            yield body[begin : begin + 4_096]

    megabyte = redemption(customer_id="x" * 1_000_000)
    for body in (megabyte, b"[" * 1_000_000, b"\x00" * 1_000_000, redemption() + b" " * (16_385 - len(redemption()))):
        check_refused(await client.send_once("POST", "/v1/redemptions", data=body), 413)
        check_refused(await client.send_once("POST", "/v1/redemptions", data=chunks(body)), 413)
    check_invalid(await client.send("POST", "/v1/redemptions", data=b"[" + b" " * 16_382 + b"]"))


@pytest.mark.usefixtures("untouched")
@pytest.mark.parametrize(
    "headers",
    [
        {"Content-Type": "text/plain"}, {"Content-Type": "application/xml"},
        {"Content-Type": "application/x-www-form-urlencoded"},
        {"Content-Type": "application/json; charset=utf-16"}, {"Content-Type": ""}, {"Content-Type": "json"},
        {"Content-Encoding": "gzip"}, {"Content-Encoding": "deflate"}, {"Content-Encoding": "br"},
        {"Content-Encoding": "nonsense"},
    ],
    ids=str,
)  # fmt: skip
async def test_other_media_types(client: Client, headers: dict[str, str]) -> None:
    """JSON that is not called so, or says to be packed."""
    check_refused(
        await client.send_once("POST", "/v1/redemptions", data=redemption(order_id="typed"), headers=headers), 400, 415
    )


@pytest.mark.usefixtures("untouched")
async def test_packed_bomb(client: Client) -> None:
    """10 KB that unpack to 10 MB."""
    bomb = gzip.compress(redemption(customer_id="x" * 10_000_000))
    answer = await client.send_once("POST", "/v1/redemptions", data=bomb, headers={"Content-Encoding": "gzip"})
    check_refused(answer, 400, 413, 415)


@pytest.mark.usefixtures("untouched")
@pytest.mark.parametrize(
    "query",
    [
        {}, {"status": "confirmed"}, {"code": "POISON", "page_size": "0"}, {"code": "POISON", "page_size": "201"},
        {"code": "POISON", "page_size": "-1"}, {"code": "POISON", "page_size": "x"}, {"code": "POISON", "page_size": "1e2"},
        {"code": "POISON", "page_size": "9" * 5_000}, {"code": "POISON", "page_size": "\u0665"},
        {"code": "POISON", "page_token": "x"},
        {"code": "POISON", "page_token": ""}, {"code": "POISON", "page_token": "é\x00"},
        {"code": "POISON", "page_token": "A" * 5_000},
        {"code": "POISON", "status": "on"}, {"code": "POISON", "unknown": "x"}, {"customer_id": ""}, {"order_id": "\x00"},
        {"order_id": "a" * 129},
    ],
    ids=str,
)  # fmt: skip
async def test_bad_queries(client: Client, query: dict[str, str]) -> None:
    check_invalid(await client.get("/v1/redemptions", **query))


@pytest.mark.usefixtures("untouched")
async def test_bytes_in_a_query_that_are_no_text(client: Client) -> None:
    for query in ("customer_id=%ff", "customer_id=%ed%a0%80", "order_id=%00", "code=%c3", "customer_id=a&customer_id=b"):
        check_refused(await client.send_raw("GET", f"/v1/redemptions?{query}"), 400)


@pytest.mark.usefixtures("untouched")
@pytest.mark.parametrize(
    "id_", ["x", "0", "%00", "%ff", "null", "00000000-0000-0000-0000-00000000000g", "a" * 5_000, "1' OR '1'='1"]
)
async def test_what_is_no_redemption(client: Client, id_: str) -> None:
    check_refused(await client.send_raw("GET", f"/v1/redemptions/{id_.replace(' ', '%20')}"), 400, 404)


async def test_texts_that_others_stumble_over(client: Client, coupon: MakeCoupon, auditor: Auditor) -> None:
    """Quotes, wildcards, scripts, four-byte characters and 128 of them: stored and found as they were sent."""
    code = await coupon("TEXTS")
    names = [
        "'", '"', "\\", "%", "_", "a'); DROP TABLE redemption; --", "{}", "${x}", "😀" * 128, "é", "e\u0301", "ß", "\u200b",
        "\ufeff", " ", "null", "0", "\u202e", "\ud7ff", "\U0010ffff", "x'41'", "/*", "`", "a\u2028b",
    ]  # fmt: skip
    made = [await client.redeem(code, name, name) for name in names]

    assert [201] * len(names) == [answer.status for answer in made]
    assert names == [answer.body["customer_id"] for answer in made]
    for name, answer in zip(names, made, strict=True):
        found = await client.get("/v1/redemptions", code=code, customer_id=name)
        assert [answer.id] == [item["id"] for item in found.body["items"]]
    assert len(names) == len(auditor.check(code, made))


async def test_poison_among_good_requests(client: Client, coupon: MakeCoupon, auditor: Auditor) -> None:
    """Requests that share a batch with others are refused or served each for itself."""
    code = await coupon("MIXED", max_redemptions=100)
    odd = ["'", "\\", "😀" * 128, "\U0010ffff", "a'); --", "\\'", "x" * 128, "%s", "%(a)s", "{0}"]

    answers = await client.redeem_all(
        code, [*orders(50), *((name, name) for name in odd), ("\x00", "nul"), ("x" * 129, "long")]
    )

    assert [201] * 60 + [400] * 2 == [answer.status for answer in answers]
    assert 60 == len(auditor.check(code, answers[:60]))
