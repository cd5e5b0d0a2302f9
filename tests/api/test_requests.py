"""What a request may be: its body, what may be left out, its headers, and the time that it has from the first byte on."""

import asyncio
import json
from typing import Any

import aiohttp
import pytest
from structlog.testing import capture_logs

from service import errors
from service.config import Settings
from service.flights import ANSWER_SHARE
from service.transition import TransitionEnding
from service.validations import Validated
from tests.api.fakes import KEY, REDEMPTION, Served, serving
from tests.api.test_http import BODY, ID, ask
from tests.waiting import until

DEADLINE_S = 1.0
HASTY = Settings(request_deadline_ms=int(DEADLINE_S * 1000))
GUARD_S = 10.0
"""Far from every deadline that is tested."""
OPTIONAL = [f"/v1/redemptions/{ID}/confirm", f"/v1/redemptions/{ID}/cancel"]
NEEDED = [
    ("POST", "/v1/redemptions"),
    ("POST", f"/v1/redemptions/{ID}/extend"),
    ("POST", "/v1/redemptions/cancel"),
    ("POST", "/v1/validations"),
    ("POST", "/v1/coupons"),
    ("PATCH", "/v1/coupons/GOLD20"),
]


async def send(served: Served, method: str, path: str, *lines: str, data: bytes = b"") -> tuple[int, Any]:
    """Status and body of the answer to a request with exactly these headers."""
    reader, writer = await asyncio.open_connection("127.0.0.1", served.port)
    head = [f"{method} {path} HTTP/1.1", "Host: x", f"Authorization: Bearer {KEY}", "Connection: close", *lines, "", ""]
    writer.write("\r\n".join(head).encode() + data)
    async with asyncio.timeout(GUARD_S):
        answer = await reader.read()
    writer.close()
    await writer.wait_closed()
    return int(answer.split()[1]), json.loads(answer.partition(b"\r\n\r\n")[2])


# --- Bodies that are not there --------------------------------------------------------------------------------------

NO_BODY = [
    ((), b""),
    (("Content-Length: 0",), b""),
    (("Content-Length: 0", "Content-Type: application/json"), b""),
    (("Transfer-Encoding: chunked",), b"0\r\n\r\n"),
    (("Transfer-Encoding: chunked", "Content-Type: application/json"), b"0\r\n\r\n"),
    (("Transfer-Encoding: chunked", "Content-Type: text/plain", "Content-Encoding: gzip"), b"0\r\n\r\n"),
]
no_body = pytest.mark.parametrize(
    ("lines", "data"), NO_BODY, ids=["none", "empty", "empty JSON", "no chunk", "no chunk of JSON", "no chunk of text"]
)


@no_body
@pytest.mark.parametrize("path", OPTIONAL)
async def test_no_body_is_as_good_as_an_empty_object(served: Served, path: str, lines: tuple[str, ...], data: bytes) -> None:
    """However it is announced: libraries send a type or a framing for what is not there."""
    assert 200 == (await send(served, "POST", path, *lines, data=data))[0]


@no_body
@pytest.mark.parametrize(("method", "path"), NEEDED)
async def test_where_a_body_is_needed_none_is_invalid(
    served: Served, method: str, path: str, lines: tuple[str, ...], data: bytes
) -> None:
    status, body = await send(served, method, path, *lines, data=data)
    assert (400, [{"pointer": "", "detail": "is empty: a JSON object is needed"}]) == (status, body["errors"])


@pytest.mark.parametrize("path", OPTIONAL)
@pytest.mark.parametrize(
    ("lines", "data", "expected"),
    [
        (("Content-Length: 2",), b"{}", 415),
        (("Content-Length: 2", "Content-Type: text/plain"), b"{}", 415),
        (("Content-Length: 2", "Content-Type: application/json", "Content-Encoding: gzip"), b"{}", 415),
        (("Content-Length: 1", "Content-Type: application/json"), b" ", 400),
        (("Content-Length: 4", "Content-Type: application/json"), b"null", 400),
        (("Content-Length: 2", "Content-Type: application/json"), b"{}", 200),
    ],
)
async def test_a_body_that_is_there_is_json(
    served: Served, path: str, lines: tuple[str, ...], data: bytes, expected: int
) -> None:
    assert expected == (await send(served, "POST", path, *lines, data=data))[0]


# --- What may be left out may not be null ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "body", "pointer"),
    [
        ("/v1/redemptions", BODY | {"hold_s": None}, "/hold_s"),
        (f"/v1/redemptions/{ID}/cancel", {"reason": None}, "/reason"),
        ("/v1/redemptions/cancel", {"code": "GOLD20", "order_id": "o-1", "reason": None}, "/reason"),
        (f"/v1/redemptions/{ID}/cancel", {"reason": ""}, "/reason"),
        ("/v1/validations", {"code": "GOLD20", "customer_id": None}, "/customer_id"),
        ("/v1/validations", {"code": "GOLD20", "customer_id": ""}, "/customer_id"),
    ],
)
async def test_null_is_no_value(
    served: Served, client: aiohttp.ClientSession, path: str, body: dict[str, Any], pointer: str
) -> None:
    """Only of a coupon can something be cleared."""
    status, answer, _ = await ask(client, "POST", path, json=body)
    assert (400, [pointer]) == (status, [fault["pointer"] for fault in answer["errors"]])
    assert ([], [], []) == (served.redeemer.orders, served.life.wishes, served.validations.questions)


async def test_what_is_left_out_is_nothing(served: Served, client: aiohttp.ClientSession) -> None:
    await ask(client, "POST", f"/v1/redemptions/{ID}/cancel", json={})
    await ask(client, "POST", "/v1/validations", json={"code": "GOLD20"})
    assert [None] == [wish.reason for wish in served.life.wishes]
    assert [None] == [question.customer_id for question in served.validations.questions]


# --- Headers and ids ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sent", "expected"),
    [
        ([], None), (["k"], "k"), (["!~"], "!~"), (["k" * 255], "k" * 255), (["a,b"], "a,b"),
        ([""], 400), (["k" * 256], 400), (["a b"], 400), (["a\tb"], 400), (["\u00e9"], 400), (["k", "l"], 400),
        (["k", "k"], 400),
    ],
)  # fmt: skip
async def test_idempotency_keys(served: Served, sent: list[str], expected: str | int | None) -> None:
    """One, of 1 to 255 visible characters; of two nobody could say which one is remembered."""
    data = json.dumps(BODY).encode()
    lines = [f"Idempotency-Key: {key}" for key in sent]
    status, body = await send(
        served, "POST", "/v1/redemptions", "Content-Type: application/json", f"Content-Length: {len(data)}", *lines, data=data
    )
    if expected == 400:
        assert (400, ["Idempotency-Key"]) == (status, [fault["pointer"] for fault in body["errors"]])
        assert [] == served.redeemer.orders
    else:
        assert (201, [expected]) == (status, [order.idempotency_key for order in served.redeemer.orders])


@pytest.mark.parametrize(
    "text",
    [
        ID.replace("-", ""), ID[:8] + ID[9:], ID[:13] + ID[14:], "{" + ID + "}", "urn:uuid:" + ID, ID[:-1], ID + "0",
        "0" + ID[:-1], ID[:-1] + "g", ID.replace("0", "\u0660"), "-".join(["0" * 8, "0" * 4, "0" * 4, "0" * 12]), "%20" + ID,
    ],
)  # fmt: skip
async def test_what_is_no_id_is_the_id_of_none(served: Served, client: aiohttp.ClientSession, text: str) -> None:
    """An id has one spelling, but for capitals."""
    for method, path in (("GET", ""), ("POST", "/confirm"), ("POST", "/cancel")):
        status, body, _ = await ask(client, method, f"/v1/redemptions/{text}{path}")
        assert (404, "redemption_not_found") == (status, body["code"])
    assert [] == served.life.wishes


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("POST", "/v1/coupons", {"code": "NEW"}),
        ("PATCH", "/v1/coupons/GOLD20", {"status": "paused"}),
        ("POST", "/v1/validations", {"code": "GOLD20"}),
        ("POST", "/v1/redemptions", BODY),
        ("POST", f"/v1/redemptions/{ID}/confirm", {}),
        ("GET", f"/v1/redemptions/{ID}", None),
        ("GET", "/v1/coupons/GOLD20", None),
    ],
)
async def test_a_query_where_there_is_none(
    served: Served, client: aiohttp.ClientSession, method: str, path: str, body: dict[str, Any] | None
) -> None:
    status, answer, _ = await ask(client, method, f"{path}?dry_run=1", json=body)
    assert (400, ["?dry_run"]) == (status, [fault["pointer"] for fault in answer["errors"]])
    assert ([], [], [], []) == (
        served.coupons.calls,
        served.validations.questions,
        served.redeemer.orders,
        served.life.wishes,
    )


async def test_a_customer_who_guesses_is_told_how_long(served: Served, client: aiohttp.ClientSession) -> None:
    served.validations.answer = Validated(None, None, limited_s=42)
    status, body, headers = await ask(client, "POST", "/v1/validations", json={"code": "GOLD20", "customer_id": "eve"})
    assert (429, "too_many_attempts", "42") == (status, body["code"], headers["Retry-After"])
    assert ["eve"] == [question.customer_id for question in served.validations.questions]


# --- Time -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("POST", "/v1/coupons", {"code": "NEW"}),
        ("PATCH", "/v1/coupons/GOLD20", {"status": "paused"}),
        ("POST", f"/v1/redemptions/{ID}/confirm", {}),
        ("POST", f"/v1/redemptions/{ID}/extend", {"hold_s": 60}),
        ("POST", f"/v1/redemptions/{ID}/cancel", {}),
        ("POST", "/v1/redemptions/cancel", {"code": "GOLD20", "order_id": "o-1"}),
    ],
)
async def test_the_time_for_the_body_is_taken_from_the_answers(method: str, path: str, body: dict[str, Any]) -> None:
    """What the stores get is what is left of the deadline since the head came."""
    data = json.dumps(body).encode()
    loop = asyncio.get_running_loop()
    deadline_s = 20.0
    async with serving(Settings(request_deadline_ms=int(deadline_s * 1_000))) as served:
        reader, writer = await asyncio.open_connection("127.0.0.1", served.port)
        writer.write(
            f"{method} {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {KEY}\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(data)}\r\n\r\n".encode()
        )
        # The handler has begun when it has asked for the key.
        await until(lambda: bool(served.keys.asked), what="the request is there")
        begun_before = loop.time()
        await asyncio.sleep(0.2)
        writer.write(data)
        async with asyncio.timeout(GUARD_S):
            status = (await reader.readexactly(12))[9:]
        writer.close()
        await writer.wait_closed()
    assert status in {b"200", b"201"}
    (deadline,) = served.coupons.deadlines + served.life.deadlines
    assert begun_before < deadline <= begun_before + ANSWER_SHARE * deadline_s


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [("POST", "/v1/coupons", {"code": "NEW"}), ("PATCH", "/v1/coupons/GOLD20", {"status": "paused"})],
)
async def test_a_counter_that_does_not_follow_in_time(method: str, path: str, body: dict[str, Any]) -> None:
    """The ledger has committed: the answer is the success, in time, and the log says that the counter is behind."""
    async with (
        serving(HASTY) as served,
        aiohttp.ClientSession(served.url, headers={"Authorization": f"Bearer {KEY}"}) as client,
    ):
        served.redeemer.hangs = True
        with capture_logs() as events:
            async with asyncio.timeout(GUARD_S):
                status, _, headers = await ask(client, method, path, json=body)
    assert (True, True) == (status in {200, 201}, "ETag" in headers)
    assert ["counter not loaded in time after a change"] == [one["event"] for one in events if one["log_level"] == "warning"]


# --- What failed can be found ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "body", "failure", "expected"),
    [
        (f"{ID}/confirm", {}, TransitionEnding.UNAVAILABLE, ("unavailable", "confirm", ID, None, None)),
        (f"{ID}/extend", {"hold_s": 9}, TransitionEnding.OUTCOME_UNKNOWN, ("outcome_unknown", "extend", ID, None, None)),
        (f"{ID}/cancel", {}, TransitionEnding.UNAVAILABLE, ("unavailable", "cancel", ID, None, None)),
        ("cancel", {}, TransitionEnding.UNAVAILABLE, ("unavailable", "cancel", ID, "GOLD20", "o-1")),
        ("cancel", {}, errors.LedgerUnavailable(), ("unavailable", "cancel", None, "GOLD20", "o-1")),
        (f"{ID}/cancel", {}, TransitionEnding.BUSY, None),
        (f"{ID}/cancel", {}, TransitionEnding.NOT_FOUND, None),
    ],
    ids=str,
)
async def test_a_transition_that_failed_is_in_the_log(
    served: Served,
    client: aiohttp.ClientSession,
    path: str,
    body: dict[str, Any],
    failure: TransitionEnding | Exception,
    expected: tuple[str | None, ...] | None,
) -> None:
    """By its request id, as a failed redemption is."""
    if isinstance(failure, TransitionEnding):
        served.life.ending = failure
    else:
        served.redeemer.failure = failure
    if path == "cancel":
        body = {"code": REDEMPTION.code, "order_id": REDEMPTION.order_id}
    with capture_logs() as events:
        status, _, _ = await ask(client, "POST", f"/v1/redemptions/{path}", json=body, headers={"X-Request-Id": "r-7"})
    assert status in {503, 404}
    found = [
        tuple(one[name] for name in ("problem", "verb", "redemption_id", "code", "order_id"))
        for one in events
        if (one["event"], one.get("request_id")) == ("transition failed", "r-7")
    ]
    assert ([] if expected is None else [expected]) == found
