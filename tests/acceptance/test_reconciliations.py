"""Asking for runs of the reconciler and reading them, while none runs: the wish waits, and it is said that nobody leads."""

import asyncio
import re
from datetime import UTC, datetime, timedelta

import pytest

from tests.acceptance.conftest import MakeCoupon, Stores
from tests.driver import Client, tally
from tests.stores import Admin
from tests.usher_process import run_usher

PATH = "/v1/reconciliations"
LOCK = "CONCAT(LEFT(DATABASE(), 51), ':usher_leader')"


@pytest.fixture(autouse=True)
def _no_runs(admin: Admin) -> None:
    for table in ("reconcile_run", "reconcile_finding", "leader"):
        admin.run(f"TRUNCATE TABLE {table}")


async def test_a_wish_waits(client: Client, coupon: MakeCoupon) -> None:
    """Whoever asks sees that nobody leads, so that nobody fulfils it."""
    code = await coupon()
    asked = await client.send("POST", PATH, body={"mode": "repair", "code": code.lower()})
    assert 202 == asked.status
    assert f"{PATH}/{asked.id}" == asked.headers["Location"]
    assert re.fullmatch(r"tests-[0-9a-f]{8}", asked.body["who"])
    assert abs(datetime.now(UTC) - datetime.fromisoformat(asked.body["when"])) < timedelta(minutes=1)
    assert {
        "mode": "repair", "code": code, "status": "queued", "cause": "asked", "run_by": None, "begun_at": None,
        "ended_at": None, "coupons_checked": 0, "finding_count": 0, "error": None, "findings": [], "leader": None,
    } == {name: value for name, value in asked.body.items() if name not in ("id", "who", "when")}  # fmt: skip
    found = await client.get(asked.headers["Location"])
    assert (200, asked.body) == (found.status, found.body)
    page = await client.get(PATH)
    assert {
        "items": [{k: v for k, v in asked.body.items() if k not in ("findings", "leader")}],
        "next_page_token": None,
    } == page.body


async def test_the_same_wish_is_there_once(client: Client, coupon: MakeCoupon) -> None:
    """However often it is sent; the next mode and the next coupon are others."""
    code = await coupon()
    bodies = [{"mode": mode, **of} for mode in ("check", "repair", "reseed") for of in ({}, {"code": code})]
    for body in bodies:
        await client.send("POST", PATH, body=body)
    again = await asyncio.gather(*(client.send("POST", PATH, body=body) for body in bodies * 3))
    assert {"202": 18} == tally(again)
    items = (await client.get(PATH)).body["items"]
    assert 6 == len(items)
    assert {answer.id for answer in again} == {item["id"] for item in items}


async def test_unknown_ones(client: Client) -> None:
    unknown = await client.send("POST", PATH, body={"mode": "check", "code": "NO-SUCH"})
    assert (404, "coupon_not_found") == (unknown.status, unknown.code)
    for one in ("00000000-0000-7000-8000-000000000000", "x"):
        missing = await client.get(f"{PATH}/{one}")
        assert (404, "reconciliation_not_found") == (missing.status, missing.code)
    assert [] == (await client.get(PATH)).body["items"]


async def test_too_many_wait(client: Client, admin: Admin) -> None:
    """Then it is refused, and says so; what waits can be asked for again, and what has begun makes room."""
    admin.run(
        "INSERT INTO reconcile_run (id, mode, code, status, cause, asked_by, asked_at, coupons_checked, finding_count) "
        "SELECT UNHEX(LPAD(HEX(seq), 32, '0')), 'check', CONCAT('C', seq), 'queued', 'asked', 'x', UTC_TIMESTAMP(6), 0, 0 "
        "FROM seq_1_to_99"
    )
    assert 202 == (await client.send("POST", PATH, body={"mode": "check"})).status
    full = await client.send("POST", PATH, body={"mode": "repair"})
    assert (503, "overloaded", "1") == (full.status, full.code, full.headers["Retry-After"])
    assert 202 == (await client.send("POST", PATH, body={"mode": "check"})).status
    admin.run("UPDATE reconcile_run SET status = 'running', begun_at = UTC_TIMESTAMP(6) WHERE code = 'C7'")
    assert 202 == (await client.send("POST", PATH, body={"mode": "repair"})).status


async def test_pages(client: Client, coupon: MakeCoupon) -> None:
    """Newest first, each once, also while more come."""
    asked = [(await client.send("POST", PATH, body={"mode": "check", "code": await coupon()})).id for _ in range(7)]
    first = (await client.get(PATH, page_size=3)).body
    await client.send("POST", PATH, body={"mode": "reseed"})
    second = (await client.get(PATH, page_size=3, page_token=first["next_page_token"])).body
    third = (await client.get(PATH, page_size=3, page_token=second["next_page_token"])).body
    assert asked[::-1] == [item["id"] for page in (first, second, third) for item in page["items"]]
    assert third["next_page_token"] is None


async def test_what_was_found_and_who_leads(client: Client, coupon: MakeCoupon, admin: Admin) -> None:
    """As the reconciler has written it; it leads as long as its session holds the lock."""
    code = await coupon()
    asked = await client.send("POST", PATH, body={"mode": "check", "code": code})
    run_id = bytes.fromhex(asked.id.replace("-", ""))
    admin.run(
        "UPDATE reconcile_run SET status = 'done', run_by = 'db-3:17', begun_at = %s, ended_at = %s, coupons_checked = 1, "
        "finding_count = 2 WHERE id = %s",
        "2026-11-22 10:15:30.123456", "2026-11-22 10:15:31", run_id,
    )  # fmt: skip
    admin.run(
        "INSERT INTO reconcile_finding VALUES (%s, 0, %s, 'leaked', 7, NULL, '\"handed out\"', '\"free\"'), "
        "(%s, 1, %s, 'customer_count', NULL, 'été', '2', '1')",
        run_id, code, run_id, code,
    )  # fmt: skip
    admin.run("INSERT INTO leader VALUES (1, 'db-3:17', CONNECTION_ID(), '2026-11-22 10:00:00')")
    admin.run(f"DO GET_LOCK({LOCK}, 0)")
    found = await client.get(f"{PATH}/{asked.id}")
    assert {
        **asked.body, "status": "done", "run_by": "db-3:17", "begun_at": "2026-11-22T10:15:30.123456Z",
        "ended_at": "2026-11-22T10:15:31.000000Z", "coupons_checked": 1, "finding_count": 2,
        "findings": [
            {"code": code, "kind": "leaked", "seat": 7, "before": "handed out", "after": "free"},
            {"code": code, "kind": "customer_count", "customer_id": "été", "before": 2, "after": 1},
        ],
        "leader": {"name": "db-3:17", "since": "2026-11-22T10:00:00.000000Z"},
    } == found.body  # fmt: skip
    admin.run(f"DO RELEASE_LOCK({LOCK})")
    assert (await client.get(f"{PATH}/{asked.id}")).body["leader"] is None


async def test_who_may(client: Client, stores: Stores) -> None:
    """Reading needs `read`, asking `admin`."""
    asked = await client.send("POST", PATH, body={"mode": "check"})
    for scope, statuses in (("read", (403, 200, 200)), ("redeem", (403, 403, 403))):
        made = run_usher("key", "create", "--name", scope, "--scope", scope, migration_url=stores.mariadb.migration_url)
        headers = {"Authorization": f"Bearer {made.check().output.strip()}"}
        answers = [
            await client.send("POST", PATH, body={"mode": "check"}, headers=headers),
            await client.send("GET", PATH, headers=headers),
            await client.send("GET", f"{PATH}/{asked.id}", headers=headers),
        ]
        assert statuses == tuple(answer.status for answer in answers), scope
