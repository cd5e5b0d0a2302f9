"""The API over HTTP: routes, headers, problems, and what is no HTTP at all."""

import asyncio
import json
import re
from datetime import datetime
from functools import partial
from typing import Any

import aiohttp
import pytest
from multidict import CIMultiDictProxy

from service import errors
from service.api import requests
from service.ledger.coupon_changes import Change
from service.model import CouponStatus, Ending, Order, Redeemed, Refusal
from tests.api.fakes import CASHIER, KEY, NOW, READER, REDEMPTION, Served, serving
from tests.waiting import until_async

BODY = {"code": " gold20", "customer_id": "ann", "order_id": "o-1"}
ID = "00010203-0405-0607-0809-0a0b0c0d0e0f"
ALLOWED = 200, 201


async def ask(
    client: aiohttp.ClientSession,
    method: str,
    path: str,
    **more: Any,  # noqa: ANN401 - whatever aiohttp takes
) -> tuple[int, Any, CIMultiDictProxy[str]]:
    """Status, decoded body and headers."""
    async with client.request(method, path, **more) as response:
        data = await response.read()
        return response.status, json.loads(data) if data else None, response.headers


async def raw(served: Served, data: bytes) -> bytes:
    """What comes back for bytes that no client library sends."""
    reader, writer = await asyncio.open_connection("127.0.0.1", served.port)
    try:
        writer.write(data)
        async with asyncio.timeout(5):
            head = await reader.readuntil(b"\r\n\r\n")
            length = re.search(rb"Content-Length: (\d+)", head)
            assert length
            return head + await reader.readexactly(int(length[1]))
    finally:
        writer.close()
        await writer.wait_closed()


# --- Redeeming ------------------------------------------------------------------------------------------------------


async def test_created(served: Served, client: aiohttp.ClientSession) -> None:
    """201 with the redemption; the flow gets the folded code and the caller's key."""
    status, body, headers = await ask(client, "POST", "/v1/redemptions", json=BODY)
    assert (201, f"/v1/redemptions/{ID}", "application/json") == (status, headers["Location"], headers["Content-Type"])
    assert {
        "id": ID,
        "code": "GOLD20",
        "customer_id": "ann",
        "order_id": "o-1",
        "status": "confirmed",
        "seat": 7,
        "expires_at": None,
        "created_at": "2026-11-22T10:15:30.123456Z",
        "confirmed_at": "2026-11-22T10:15:30.123456Z",
        "ended_at": None,
        "end_reason": None,
    } == body
    assert [Order("GOLD20", "ann", "o-1", 1)] == served.redeemer.orders


async def test_a_whole_second_is_written_with_its_microseconds(served: Served, client: aiohttp.ClientSession) -> None:
    served.redeemer.answer = Redeemed(Ending.CREATED, REDEMPTION._replace(created_at=NOW.replace(microsecond=0)))
    _, body, _ = await ask(client, "POST", "/v1/redemptions", json=BODY)
    assert "2026-11-22T10:15:30.000000Z" == body["created_at"]


async def test_replayed(served: Served, client: aiohttp.ClientSession) -> None:
    served.redeemer.answer = Redeemed(Ending.REPLAYED, REDEMPTION)
    status, body, headers = await ask(client, "POST", "/v1/redemptions", json=BODY)
    assert (200, ID, "true") == (status, body["id"], headers["Idempotent-Replayed"])


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        *((Redeemed(Ending.REFUSED, refusal=refusal), (status, refusal.value)) for refusal, status in zip(
            Refusal, (404, 422, 422, 422, 409, 409), strict=True)),
        (Redeemed(Ending.ORDER_MISMATCH), (422, "order_mismatch")),
        (Redeemed(Ending.LIMITED, retry_after_s=42), (429, "too_many_attempts")),
        (Redeemed(Ending.UNAVAILABLE), (503, "unavailable")),
        (Redeemed(Ending.OUTCOME_UNKNOWN), (503, "outcome_unknown")),
        (errors.Overloaded(), (503, "overloaded")),
        (RuntimeError("secret"), (500, "internal")),
    ],
    ids=str,
)  # fmt: skip
async def test_other_endings(
    served: Served, client: aiohttp.ClientSession, answer: Redeemed | Exception, expected: tuple[int, str]
) -> None:
    """Each is a problem of its own; a defect tells nothing of itself."""
    served.redeemer.answer = answer
    status, body, headers = await ask(client, "POST", "/v1/redemptions", json=BODY)
    assert expected == (status, body["code"])
    assert "application/problem+json" == headers["Content-Type"]
    assert {429: "42", 503: "1"}.get(status) == headers.get("Retry-After")
    assert "secret" not in str(body)


async def test_authentication_comes_first(served: Served) -> None:
    """A body that is wrong is nobody's business without a key; nor is one without the scope."""
    async with aiohttp.ClientSession(served.url) as nobody:
        status, _, headers = await ask(nobody, "POST", "/v1/redemptions", data=b"{")
        assert (401, True) == (status, "WWW-Authenticate" in headers)
        reader = {"Authorization": f"Bearer {READER}"}
        assert 403 == (await ask(nobody, "POST", "/v1/redemptions", data=b"{", headers=reader))[0]
        cashier = {"Authorization": f"Bearer {CASHIER}"}
        assert 201 == (await ask(nobody, "POST", "/v1/redemptions", json=BODY, headers=cashier))[0]
        assert 403 == (await ask(nobody, "GET", "/v1/coupons/GOLD20", headers=cashier))[0]
        assert 200 == (await ask(nobody, "GET", f"/v1/redemptions/{ID}", headers=cashier))[0]
    assert 1 == len(served.redeemer.orders)


async def test_nothing_reaches_the_flow_that_is_not_valid(served: Served, client: aiohttp.ClientSession) -> None:
    headers = {"Content-Type": "application/json"}
    for data in (b"", b"[]", b"{", b'{"code":"A"}', json.dumps(BODY | {"hold_s": 86_401}).encode()):
        assert 400 == (await ask(client, "POST", "/v1/redemptions", data=data, headers=headers))[0]
    assert 400 == (await ask(client, "POST", "/v1/redemptions?x=1", json=BODY))[0]
    assert [] == served.redeemer.orders


@pytest.mark.parametrize(
    ("sent", "expected"),
    [
        ("application/json", 201), ("Application/JSON", 201), ("application/json; charset=utf-8", 201),
        ('application/json;charset="UTF-8"; v=1', 201), ("application/json; charset=latin-1", 415), ("text/json", 415),
        ("application/problem+json", 415), ("", 415),
    ],
)  # fmt: skip
async def test_media_types(client: aiohttp.ClientSession, sent: str, expected: int) -> None:
    headers = {"Content-Type": sent}
    assert expected == (await ask(client, "POST", "/v1/redemptions", data=json.dumps(BODY).encode(), headers=headers))[0]


# --- Requests and answers in general --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "path", "status", "code", "allow"),
    [
        ("PUT", "/v1/redemptions", 405, "method_not_allowed", "GET, HEAD, POST"),
        ("OPTIONS", "/v1/coupons/GOLD20", 405, "method_not_allowed", "GET, HEAD, PATCH"),
        ("DELETE", "/readyz", 405, "method_not_allowed", "GET, HEAD"),
        ("GET", "/", 404, "route_not_found", None),
        ("GET", "/v1/coupons/", 404, "route_not_found", None),
        ("GET", "/v1/coupons/A/B", 404, "route_not_found", None),
        ("POST", "/v1/redemptions/", 404, "route_not_found", None),
        ("PROPFIND", "/v1/redemptions", 405, "method_not_allowed", "GET, HEAD, POST"),
    ],
)
async def test_routes_that_are_not_there(
    client: aiohttp.ClientSession, method: str, path: str, status: int, code: str, allow: str | None
) -> None:
    found, body, headers = await ask(client, method, path)
    assert (status, code, allow) == (found, body["code"], headers.get("Allow"))
    assert headers["X-Request-Id"] == body["request_id"]


async def test_head(client: aiohttp.ClientSession) -> None:
    """As GET, without the body."""
    status, body, headers = await ask(client, "HEAD", "/v1/coupons/GOLD20")
    assert (200, None, '"3"') == (status, body, headers["ETag"])


@pytest.mark.parametrize("sent", ["a", "A.b_c:d/e+f=g@h-1", "x" * 128])
async def test_a_sane_request_id_comes_back(client: aiohttp.ClientSession, sent: str) -> None:
    assert sent == (await ask(client, "GET", "/livez", headers={"X-Request-Id": sent}))[2]["X-Request-Id"]


@pytest.mark.parametrize("sent", ["", "a b", "x" * 129, "é", "a,b", '"a"', "<a>"])
async def test_another_request_id_is_replaced(client: aiohttp.ClientSession, sent: str) -> None:
    answers = [(await ask(client, "GET", "/livez", headers={"X-Request-Id": sent}))[2]["X-Request-Id"] for _ in range(2)]
    assert 2 == len({*answers, sent} - {sent})


@pytest.mark.parametrize(
    "data",
    [
        b"GARBAGE\r\n\r\n", b"\x16\x03\x01\x02\x00\x01\x00\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n",
        b"GET / HTTP/1.1\r\nBad Header: x\r\n\r\n", b"GET / HTTP/1.1\r\nA: \x00\r\n\r\n", b"GET / HTTP/1.1\r\n: x\r\n\r\n",
        b"GET /" + b"x" * 10_000 + b" HTTP/1.1\r\n\r\n", b"GET / HTTP/1.1\r\nA: " + b"x" * 10_000 + b"\r\n\r\n",
        b"GET / HTTP/1.1\r\n" + b"A: x\r\n" * 1_000 + b"\r\n",
        b"POST / HTTP/1.1\r\nContent-Length: -1\r\n\r\n", b"POST / HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
        b"POST / HTTP/1.1\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
    ],
)  # fmt: skip
async def test_what_is_no_http(served: Served, data: bytes) -> None:
    """400 with a problem, on a connection that then ends."""
    answer = await raw(served, data)
    head, _, body = answer.partition(b"\r\n\r\n")
    assert (b"400", "invalid_request") == (head.split()[1], json.loads(body)["code"])
    assert b"application/problem+json" in head
    assert json.loads(body)["request_id"].encode() in head


async def post_raw(served: Served, more: bytes) -> tuple[bytes, bytes]:
    """Status and head of the answer to a POST whose head goes on with `more`."""
    start = b"POST /v1/redemptions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nAuthorization: Bearer "
    answer = await raw(served, start + KEY.encode() + b"\r\n" + more)
    return answer.split()[1], answer


async def test_bodies_in_broken_chunks(served: Served) -> None:
    status, answer = await post_raw(served, b"Transfer-Encoding: chunked\r\n\r\nnonsense\r\n\r\n")
    assert b"400" == status
    assert b"invalid_request" in answer


@pytest.mark.parametrize("rest", [b"", b"nonsense\r\n"])
async def test_a_body_that_does_not_come(served: Served, monkeypatch: pytest.MonkeyPatch, rest: bytes) -> None:
    """While the handler waits for the rest of it: 400 after a time, and nothing is redeemed."""
    monkeypatch.setattr(requests, "BODY_TIMEOUT_S", 0.2)
    reader, writer = await asyncio.open_connection("127.0.0.1", served.port)
    start = b"POST /v1/redemptions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nAuthorization: Bearer "
    writer.write(start + KEY.encode() + b"\r\nTransfer-Encoding: chunked\r\n\r\n1\r\n{\r\n")
    await asyncio.sleep(0.05)
    writer.write(rest)
    answer = await reader.read()
    assert b"400" == answer.split()[1]
    assert b"invalid_request" in answer
    assert [] == served.redeemer.orders
    writer.close()
    await writer.wait_closed()


@pytest.mark.parametrize("header", ["Content-Type: application/json", "Authorization: Bearer x", "Host: y"])
async def test_headers_that_come_once(served: Served, header: str) -> None:
    """Whoever reads the first one and whoever reads the last one would differ."""
    assert b"400" == (await post_raw(served, f"{header}\r\nContent-Length: 2\r\n\r\n{{}}".encode()))[0]


async def test_a_large_body_is_not_waited_for(served: Served) -> None:
    """It is refused by what it announces, or as soon as it is too much, while the client has not sent it all."""
    assert b"413" == (await post_raw(served, b"Content-Length: 99999999\r\n\r\n{"))[0]
    assert b"413" == (await post_raw(served, b"Transfer-Encoding: chunked\r\n\r\n5000\r\n" + b" " * 0x5000))[0]


async def test_expect(served: Served) -> None:
    """100 for what may go on; what may not is refused before it is sent."""
    body = json.dumps(BODY).encode()
    head = b"Expect: 100-continue\r\nContent-Length: %d\r\n\r\n"
    assert b"413" == (await post_raw(served, head % 99_999))[0]
    assert b"400" == (await post_raw(served, b"Expect: tea\r\nContent-Length: 2\r\n\r\n{}"))[0]
    reader, writer = await asyncio.open_connection("127.0.0.1", served.port)
    start = b"POST /v1/redemptions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nAuthorization: Bearer "
    writer.write(start + KEY.encode() + b"\r\n" + head % len(body))
    assert b"HTTP/1.1 100 Continue\r\n\r\n" == await reader.readuntil(b"\r\n\r\n")
    writer.write(body)
    assert b"HTTP/1.1 201" == (await reader.readexactly(12))
    writer.close()
    await writer.wait_closed()


# --- Coupons --------------------------------------------------------------------------------------------------------


async def test_create_a_coupon(served: Served, client: aiohttp.ClientSession) -> None:
    """201 with Location and ETag; whoever was told that there is none is told otherwise at once."""
    status, body, headers = await ask(client, "POST", "/v1/coupons", json={"code": "new", "max_redemptions": None})
    assert (201, "/v1/coupons/NEW", '"3"') == (status, headers["Location"], headers["ETag"])
    assert ("NEW", None, {}) == (body["code"], body["max_redemptions"], body["metadata"])
    assert ["NEW"] == served.redeemer.changed


async def test_change_a_coupon(served: Served, client: aiohttp.ClientSession) -> None:
    """Only what was sent is changed, and the counter follows before the answer."""
    changes = {"status": "paused", "ends_at": None}
    status, body, headers = await ask(client, "PATCH", "/v1/coupons/gold20", json=changes)
    assert (200, "paused", '"4"') == (status, body["status"], headers["ETag"])
    expected = Change("GOLD20", {"status": CouponStatus.PAUSED, "ends_at": None}, by="key-1")
    assert [("change", expected)] == served.coupons.calls
    assert ["GOLD20"] == served.redeemer.changed


@pytest.mark.parametrize(
    ("tag", "status", "if_version"),
    [
        ('"3"', 200, 3), ("*", 200, None), ('"2", "3"', 200, 3), ('"2"', 412, None), ('W/"3"', 412, None), ('"03"', 412, None),
        ('"x"', 412, None), ("3", 400, None), ('"3', 400, None), ("", 400, None), ('"3" "4"', 400, None), ('*, "3"', 400, None),
        ('"' + "9" * 5_000 + '"', 412, None),
    ],
)  # fmt: skip
async def test_if_match(served: Served, client: aiohttp.ClientSession, tag: str, status: int, if_version: int | None) -> None:
    found, _, _ = await ask(client, "PATCH", "/v1/coupons/GOLD20", json={"status": "paused"}, headers={"If-Match": tag})
    assert status == found
    expected = Change("GOLD20", {"status": CouponStatus.PAUSED}, "key-1", if_version)
    assert ([("change", expected)] if status == 200 else []) == served.coupons.calls


@pytest.mark.parametrize(
    ("failure", "status", "code", "pointer"),
    [
        (errors.WindowEmpty(), 400, "invalid_request", "/ends_at"),
        (errors.LimitKindFixed(), 422, "limit_kind_fixed", None),
        (errors.CustomerLimitLowered(), 422, "customer_limit_lowered", None),
        (errors.VersionMismatch(), 412, "version_mismatch", None),
        (errors.CouponNotFound(), 404, "coupon_not_found", None),
        (errors.CouponBusy(), 503, "busy", None),
        (errors.LedgerContended(), 503, "busy", None),
        (errors.LedgerReplyLost(), 503, "unavailable", None),
    ],
)
async def test_changes_that_are_refused(
    served: Served, client: aiohttp.ClientSession, failure: Exception, status: int, code: str, pointer: str | None
) -> None:
    served.coupons.failure = failure
    changes = {"max_redemptions": 5, "ends_at": None}
    found, body, _ = await ask(client, "PATCH", "/v1/coupons/GOLD20", json=changes)
    assert (status, code) == (found, body["code"])
    assert pointer == (body["errors"][0]["pointer"] if "errors" in body else None)
    assert [] == served.redeemer.changed


@pytest.mark.parametrize(
    ("changes", "pointer"),
    [
        ({"starts_at": "2026-11-23T00:00:00Z"}, "/starts_at"),
        ({"ends_at": "2026-11-23T00:00:00Z"}, "/ends_at"),
        ({"starts_at": "2026-11-23T00:00:00Z", "ends_at": "2026-11-22T00:00:00Z"}, "/ends_at"),
    ],
)
async def test_a_window_that_would_be_empty(
    served: Served, client: aiohttp.ClientSession, changes: dict[str, str], pointer: str
) -> None:
    """The fault is where the change is; of both, where it ends."""
    served.coupons.failure = errors.WindowEmpty()
    status, body, _ = await ask(client, "PATCH", "/v1/coupons/GOLD20", json=changes)
    assert (400, [{"pointer": pointer, "detail": "must be after starts_at"}]) == (status, body["errors"])


async def test_a_new_coupon_whose_window_is_empty(served: Served, client: aiohttp.ClientSession) -> None:
    times = {"starts_at": "2026-11-23T00:00:00Z", "ends_at": "2026-11-23T00:00:00Z"}
    status, body, _ = await ask(client, "POST", "/v1/coupons", json={"code": "NEW", **times})
    assert (400, ["/ends_at"]) == (status, [fault["pointer"] for fault in body["errors"]])
    assert [] == served.coupons.calls


async def test_a_lost_reply_does_not_promise_that_nothing_happened(served: Served, client: aiohttp.ClientSession) -> None:
    served.coupons.failure = errors.LedgerReplyLost()
    _, body, _ = await ask(client, "POST", "/v1/coupons", json={"code": "NEW"})
    assert "nothing" not in body["detail"]


async def test_pages_of_coupons(served: Served, client: aiohttp.ClientSession) -> None:
    """Each once, in order; the filters go to the ledger."""
    codes: list[str] = []
    token: str | None = None
    for _ in range(3):
        more: dict[str, str] = {"page_token": token} if token else {}
        _, body, _ = await ask(client, "GET", "/v1/coupons", params={"prefix": "gold", "page_size": "2", **more})
        codes += [item["code"] for item in body["items"]]
        token = body["next_page_token"]
    assert ([f"GOLD{number}" for number in range(20, 25)], None) == (codes, token)
    assert {("GOLD", 3)} == {(query["prefix"], query["limit"]) for _, query in served.coupons.calls}


async def test_pages_of_redemptions(served: Served, client: aiohttp.ClientSession) -> None:
    ids: list[str] = []
    token: str | None = None
    for _ in range(3):
        more: dict[str, str] = {"page_token": token} if token else {}
        _, body, _ = await ask(client, "GET", "/v1/redemptions", params={"code": "gold20", "page_size": "2", **more})
        ids += [item["id"] for item in body["items"]]
        token = body["next_page_token"]
    assert ([f"00000000-0000-0000-0000-00000000000{n}" for n in range(5, 0, -1)], None) == (ids, token)
    assert {"GOLD20"} == {query["code"] for query in served.redemptions.calls}


@pytest.mark.parametrize(
    ("query", "pointer"),
    [
        ("", "?code"), ("status=confirmed", "?code"),
        ("code=A&code=A", "?code"), ("code=A&x=1", "?x"), ("code=%c3%89", "?code"),
        ("customer_id=", "?customer_id"), ("order_id=%00", "?order_id"), ("order_id=%ff", "?order_id"),
        ("code=A&status=on", "?status"), ("code=A&page_size=0", "?page_size"), ("code=A&page_token=x", "?page_token"),
    ],
)  # fmt: skip
async def test_queries_that_are_refused(served: Served, client: aiohttp.ClientSession, query: str, pointer: str) -> None:
    status, body, _ = await ask(client, "GET", f"/v1/redemptions?{query}")
    assert (400, pointer) == (status, body["errors"][0]["pointer"])
    assert [] == served.redemptions.calls


async def test_a_replacement_character_that_was_sent_is_one(served: Served, client: aiohttp.ClientSession) -> None:
    """A name may hold it; only what took the place of other bytes is no text."""
    assert 200 == (await ask(client, "GET", "/v1/redemptions?order_id=a%EF%BF%BD"))[0]
    assert ["a\ufffd"] == [query["order_id"] for query in served.redemptions.calls]
    assert 400 == (await ask(client, "GET", "/v1/redemptions?order_id=a%EF%BF%BD&customer_id=%EF%BF"))[0]


@pytest.mark.parametrize(("path", "status"), [(ID, 200), (ID.upper(), 200), ("x", 404), (ID[:-1] + "0", 404), (ID + "0", 404)])
async def test_a_redemption(client: aiohttp.ClientSession, path: str, status: int) -> None:
    """What is no id is the id of no redemption."""
    assert status == (await ask(client, "GET", f"/v1/redemptions/{path}"))[0]


# --- Operations -----------------------------------------------------------------------------------------------------


async def test_operations_need_no_key(served: Served) -> None:
    async with aiohttp.ClientSession(served.url) as nobody:
        assert (200, {"status": "alive"}) == (await ask(nobody, "GET", "/livez"))[:2]
        ready = {"status": "ready", "stores": {"ledger": "up", "redis": "up"}}
        assert (200, ready) == (await ask(nobody, "GET", "/readyz"))[:2]


async def test_not_ready(served: Served, client: aiohttp.ClientSession) -> None:
    served.ledger.failure = errors.LedgerUnavailable()
    status, body, _ = await ask(client, "GET", "/readyz")
    assert (503, {"ledger": "down", "redis": "up"}) == (status, body["stores"])


async def refuses_connections(port: int) -> bool:
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError:
        return True
    writer.transport.abort()
    return False


async def test_draining() -> None:
    """Told to stop: what is under way is answered, `/readyz` says so on connections that are there, nobody new gets in."""
    async with serving() as served, aiohttp.ClientSession(served.url, headers={"Authorization": f"Bearer {KEY}"}) as client:
        assert 200 == (await ask(client, "GET", "/livez"))[0]
        served.redeemer.go.clear()
        under_way = asyncio.create_task(ask(client, "POST", "/v1/redemptions", json=BODY))
        await served.redeemer.started.wait()
        kept = await asyncio.open_connection("127.0.0.1", served.port)
        kept[1].write(b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n")
        await kept[0].readuntil(b"}")

        served.stop.set()
        await until_async(partial(refuses_connections, served.port), what="nobody new gets in")
        kept[1].write(b"GET /readyz HTTP/1.1\r\nHost: x\r\n\r\n")
        draining = await kept[0].read()
        served.redeemer.go.set()

        assert 201 == (await under_way)[0]
        assert b"503" == draining.split()[1]
        assert b"Connection: close" in draining
        assert b'"status":"draining"' in draining
        kept[1].close()
        await kept[1].wait_closed()


async def test_a_client_that_hangs_up_changes_nothing(served: Served) -> None:
    """Its order is redeemed all the same."""
    served.redeemer.go.clear()
    done: list[datetime] = []
    _, writer = await asyncio.open_connection("127.0.0.1", served.port)
    body = json.dumps(BODY).encode()
    writer.write(
        f"POST /v1/redemptions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nAuthorization: Bearer {KEY}\r\n"
        f"Content-Length: {len(body)}\r\n\r\n".encode()
        + body
    )
    await served.redeemer.started.wait()
    original = served.redeemer.go.wait

    async def wait_and_note() -> bool:
        await original()
        done.append(NOW)
        return True

    served.redeemer.go.wait = wait_and_note  # type: ignore[assignment, method-assign]
    writer.transport.abort()
    await asyncio.sleep(0.05)
    served.redeemer.go.set()
    await asyncio.sleep(0.05)
    assert 1 == len(served.redeemer.orders)
