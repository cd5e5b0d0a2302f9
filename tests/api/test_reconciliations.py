"""`/v1/reconciliations` over fakes: who may, what is asked of the ledger, and what is shown."""

from dataclasses import replace
from typing import Any

import aiohttp
import pytest

from service import errors
from service.api.reconciliations import LEDGER_UNCERTAIN, TOO_MANY
from service.api.views import FINDINGS_MAX
from service.reconciling import Cause, Mode, Run, RunStatus
from tests.api.fakes import CASHIER, FINDING, NOW, READER, RUN, Served

PATH = "/v1/reconciliations"
ID = "00010203-0405-0607-0809-0a0b0c0d0e0f"
TIME = "2026-11-22T10:15:30.123456Z"
SHOWN = {
    "id": ID,
    "mode": "repair",
    "code": "GOLD20",
    "status": "failed",
    "cause": "asked",
    "who": "office",
    "when": TIME,
    "run_by": "db-3:17",
    "begun_at": TIME,
    "ended_at": TIME,
    "coupons_checked": 1,
    "finding_count": 2,
    "error": "Redis is away",
}
FULL = {
    **SHOWN,
    "findings": [{"code": "GOLD20", "kind": "leaked", "seat": 7, "before": "handed out", "after": "free"}],
    "leader": {"name": "db-3:17", "since": TIME},
}


async def ask(client: aiohttp.ClientSession, method: str, path: str, **more: Any) -> tuple[int, Any]:  # noqa: ANN401
    async with client.request(method, path, **more) as response:
        return response.status, await response.json()


async def test_a_wish(served: Served, client: aiohttp.ClientSession) -> None:
    """It is stored with the folded code and the caller's name, and answered with where to look for it."""
    async with client.post(PATH, json={"mode": "repair", "code": " gold20"}) as response:
        assert 202 == response.status
        body = await response.json()
        assert f"{PATH}/{body['id']}" == response.headers["Location"]
    (wish,) = served.runs.wishes
    assert wish == Run(wish.id, Mode.REPAIR, "GOLD20", RunStatus.QUEUED, Cause.ASKED, asked_by="key-1", asked_at=NOW)
    begun = {"run_by": None, "begun_at": None, "ended_at": None, "coupons_checked": 0, "finding_count": 0, "error": None}
    expected = {**FULL, "id": wish.id.hex(), "status": "queued", "who": "key-1", "findings": [], **begun}
    assert expected == body | {"id": body["id"].replace("-", "")}


@pytest.mark.parametrize("body", [{"mode": "check"}, {"mode": "check", "code": None}])
async def test_a_wish_for_all_coupons(served: Served, client: aiohttp.ClientSession, body: dict[str, Any]) -> None:
    served.runs.leading = None
    status, said = await ask(client, "POST", PATH, json=body)
    assert (202, None, None) == (status, said["code"], said["leader"])
    assert [None] == [wish.code for wish in served.runs.wishes]


@pytest.mark.parametrize(
    ("body", "pointer", "detail"),
    [
        ({}, "/mode", "is required"),
        ({"mode": "mend"}, "/mode", "must be one of check, repair, reseed"),
        ({"mode": None}, "/mode", "must be one of check, repair, reseed"),
        ({"mode": "check", "code": "a b"}, "/code", "must be 1 to 64 of A-Z, 0-9, _ and -, beginning with a letter or a digit"),
        ({"mode": "check", "code": 7}, "/code", "must be 1 to 64 of A-Z, 0-9, _ and -, beginning with a letter or a digit"),
        ({"mode": "check", "force": True}, "/force", "unknown field"),
    ],
)
async def test_what_is_no_wish(
    served: Served, client: aiohttp.ClientSession, body: dict[str, Any], pointer: str, detail: str
) -> None:
    status, said = await ask(client, "POST", PATH, json=body)
    assert (400, [{"pointer": pointer, "detail": detail}]) == (status, said["errors"])
    assert [] == served.runs.wishes


async def test_an_unknown_coupon(served: Served, client: aiohttp.ClientSession) -> None:
    status, said = await ask(client, "POST", PATH, json={"mode": "check", "code": "NONE"})
    assert (404, "coupon_not_found") == (status, said["code"])
    assert [] == served.runs.wishes


@pytest.mark.parametrize(
    ("failure", "expected"),
    [
        (errors.Overloaded(), (503, "overloaded", TOO_MANY)),
        (errors.LedgerReplyLost(), (503, "unavailable", LEDGER_UNCERTAIN)),
        (
            errors.LedgerUnavailable(),
            (503, "unavailable", "A store cannot be reached; this request has changed nothing. Try again."),
        ),
    ],
    ids=repr,
)
async def test_what_stops_a_wish(
    served: Served, client: aiohttp.ClientSession, failure: Exception, expected: tuple[int, str, str]
) -> None:
    served.runs.failure = failure
    status, said = await ask(client, "POST", PATH, json={"mode": "check"})
    assert expected == (status, said["code"], said["detail"])


async def test_who_may(served: Served) -> None:
    async with aiohttp.ClientSession(served.url) as nobody:
        for key, statuses in ((READER, (403, 200, 200)), (CASHIER, (403, 403, 403)), ("", (401, 401, 401))):
            headers = {"Authorization": f"Bearer {key}"}
            calls = (("POST", PATH), ("GET", PATH), ("GET", f"{PATH}/{ID}"))
            body = {"mode": "check"}
            found = [(await ask(nobody, method, path, headers=headers, json=body))[0] for method, path in calls]
            assert statuses == tuple(found), key
    assert [] == served.runs.wishes


async def test_one(served: Served, client: aiohttp.ClientSession) -> None:
    assert (200, FULL) == await ask(client, "GET", f"{PATH}/{ID}")
    served.runs.leading = None
    served.runs.run = replace(RUN, run_by=None, begun_at=None, ended_at=None, error=None, status=RunStatus.QUEUED, code=None)
    served.runs.found = []
    changed = {"run_by": None, "begun_at": None, "ended_at": None, "error": None, "status": "queued", "code": None}
    assert (200, {**FULL, **changed, "findings": [], "leader": None}) == await ask(client, "GET", f"{PATH}/{ID.upper()}")
    assert (400, "invalid_request") == refused(await ask(client, "GET", f"{PATH}/{ID}?page_size=1"))


async def test_so_many_findings_are_shown(served: Served, client: aiohttp.ClientSession) -> None:
    served.runs.found = [FINDING._replace(seat=seat) for seat in range(1, FINDINGS_MAX + 2)]
    _, said = await ask(client, "GET", f"{PATH}/{ID}")
    assert list(range(1, FINDINGS_MAX + 1)) == [finding["seat"] for finding in said["findings"]]


@pytest.mark.parametrize("text", ["11111111-1111-1111-1111-111111111111", "x", ID[:-1], f"{ID}0", "%00", "0" * 2_000])
async def test_there_is_none(client: aiohttp.ClientSession, text: str) -> None:
    assert (404, "reconciliation_not_found") == refused(await ask(client, "GET", f"{PATH}/{text}"))


def refused(answer: tuple[int, Any]) -> tuple[int, str]:
    """Status and code of a problem."""
    return answer[0], answer[1]["code"]


async def test_pages(client: aiohttp.ClientSession) -> None:
    """Without what was found; newest first, each once."""
    seen: list[str] = []
    token: str | None = None
    for size in (2, 2, 1):
        status, said = await ask(client, "GET", PATH, params={"page_size": 2, **({"page_token": token} if token else {})})
        assert (200, size) == (status, len(said["items"]))
        assert all(item.keys() == SHOWN.keys() for item in said["items"])
        seen += [item["id"][-2:] for item in said["items"]]
        token = said["next_page_token"]
    assert (["05", "04", "03", "02", "01"], None) == (seen, token)
    other = (await ask(client, "GET", "/v1/redemptions", params={"code": "GOLD20", "page_size": 2}))[1]["next_page_token"]
    for query in ({"page_token": other}, {"page_token": "x"}, {"page_size": 0}, {"status": "queued"}):
        assert 400 == (await ask(client, "GET", PATH, params=query))[0]
