"""Thousands of requests made from `/openapi.json`, right and wrong ones, each answered as the document says."""

import asyncio
import json
import os
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from deploy.programs import PROJECT
from service.api.calls import CALLS
from tests.driver import Client
from tests.usher_process import Usher

CONFIGURATION = Path(__file__).with_name("schemathesis.toml")
SUITE_TIMEOUT_S = 900
LINES_SHOWN = 150
HOLDS = 200
"""So many that some are still held when it is their turn to be extended, after many have been confirmed."""
SHOWN, TRIED = "GOLD20", "EACH-EXAMPLE"
"""The coupon of the examples, which schemathesis tries as well, and changes; and one that it does not know."""
VERBS = ("confirm", "extend", "cancel")
ENOUGH_OF_A_CALL = 3
"""How many there are depends on the ids, which are others in each run: 6 to 18 have been seen of confirm."""
RUNS_MAX = 3


async def prepare(client: Client, folder: Path) -> None:
    """Coupons and holds by the names that the configuration has, and no other test; the configuration beside the holds' ids."""
    for code in ("MADE", "MADE-TOO", "HELD"):
        assert (await client.create_coupon(code, max_redemptions=1_000)).status in {201, 409}
        # A run before may have changed it.
        await client.change_coupon(code, status="active", starts_at=None, ends_at=None, max_redemptions=1_000)
    bodies = [{"code": "HELD", "customer_id": "ann", "order_id": f"held-{n}", "hold_s": 600} for n in range(HOLDS)]
    held = await asyncio.gather(*(client.send("POST", "/v1/redemptions", body=body) for body in bodies))
    (folder / "ids.txt").write_text("\n".join(f'"{one.id}"' for one in held))
    shutil.copy(CONFIGURATION, folder / "schemathesis.toml")


def run(usher: Usher, api_key: str, folder: Path, *, examples: int) -> dict[str, Any]:
    """Runs schemathesis against the service with `examples` requests for each call and phase; its report, without failures."""
    report = folder / "report.json"
    done = subprocess.run(
        [
            sys.executable, "-m", "schemathesis.cli", "--config-file", str(folder / "schemathesis.toml"),
            "run", f"{usher.url}/openapi.json", "--header", f"Authorization: Bearer {api_key}",
            "--checks", "all", "--max-examples", str(examples), "--report", "json", "--report-json-path", str(report),
        ],
        cwd=PROJECT,
        env={**os.environ, "PYTHONPATH": str(PROJECT), "NO_COLOR": "1"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=SUITE_TIMEOUT_S,
        text=True,
        check=False,
    )  # fmt: skip
    assert report.exists(), done.stdout
    found: dict[str, Any] = json.loads(report.read_text())
    assert ([], [], 0) == (found["failures"], found["errors"], done.returncode), "\n".join(
        done.stdout.splitlines()[-LINES_SHOWN:]
    )
    return found


def check(found: dict[str, Any], *, cases: int) -> None:
    """Every call was tried, in every way, and often enough."""
    assert {"examples", "coverage", "fuzzing", "stateful"} == {
        name for name, phase in found["phases"].items() if phase["status"] == "success"
    }
    assert len(CALLS) == found["operations"]["tested"]
    assert found["test_cases"]["generated"] >= cases, found["test_cases"]


def lives(found: dict[str, Any]) -> Counter[str]:
    """How often each call of a redemption's life was carried out, and how often there was a redemption for it."""
    lived: Counter[str] = Counter()
    for verb in VERBS:
        for tried in found["valid_rates"][f"POST /v1/redemptions/{{id}}/{verb}"].values():
            lived[f"{verb} accepted"] += tried["accepted"]
            lived[verb] += tried["accepted"] + tried["conflicts"]
    return lived


async def test_every_example_of_a_request_works(client: Client) -> None:
    """In the order of a first try: each is answered with a 2xx that is documented, and holds what the model says."""
    await client.create_coupon(TRIED, max_redemptions=20, max_per_customer=1)
    confirmed = await client.redeem(TRIED, "cleo", "order-3")
    held = {"code": TRIED, "customer_id": "dan", "order_id": "order-4", "hold_s": 600}
    hold = (await client.send("POST", "/v1/redemptions", body=held)).id
    run = (await client.send("POST", "/v1/reconciliations", body={"mode": "check"})).id
    # A hold is extended, confirmed and cancelled, in this order; an order is cancelled after it has redeemed.
    last = ("extend", "confirm", "cancel", "cancel_order")
    for call in sorted(CALLS, key=lambda call: (last.index(call.name) if call.name in last else -1, call.method != "POST")):
        path = call.path.replace("{code}", TRIED).replace("{id}", run if call.name == "show_reconciliation" else hold)
        query = {"code": TRIED} if call.name == "find_redemptions" else None
        for example in call.examples.values() if call.examples else [None]:
            body = json.loads(json.dumps(example).replace(SHOWN, TRIED))
            answer = await client.send(call.method, path, body=body, params=query)
            known = {one.status: one for one in call.answers}
            if call.name == "create_coupon" and answer.code == "coupon_exists":
                continue
            assert answer.status in known, (call.name, body, answer)
            view = known[answer.status].view
            if view is not None:
                view.model_validate_json(answer.text)
                assert set(answer.body) <= set(view.model_fields), call.name
            sent = {name.lower() for name in answer.headers}
            assert {name.lower() for name in known[answer.status].headers} <= sent, call.name
    assert confirmed.status == 201


@pytest.mark.timeout(400)
async def test_every_answer_is_documented(usher: Usher, client: Client, api_key: str, tmp_path: Path) -> None:
    """Further runs, with other ids, are made if by chance the calls of a redemption's life have hardly met a redemption."""
    lived: Counter[str] = Counter()
    for number in range(RUNS_MAX):
        folder = tmp_path / str(number)
        folder.mkdir()
        await prepare(client, folder)
        found = run(usher, api_key, folder, examples=100)
        check(found, cases=2_000)
        assert usher.readiness() == 200
        lived += lives(found)
        if all(lived[verb] >= ENOUGH_OF_A_CALL and lived[f"{verb} accepted"] for verb in VERBS):
            return
    raise AssertionError(f"not enough of a redemption's life: {lived}")


@pytest.mark.long
@pytest.mark.timeout(1_000)
async def test_every_answer_is_documented_for_long(usher: Usher, client: Client, api_key: str, tmp_path: Path) -> None:
    await prepare(client, tmp_path)
    found = run(usher, api_key, tmp_path, examples=400)
    check(found, cases=5_000)
    lived = lives(found)
    assert all(lived[verb] >= ENOUGH_OF_A_CALL and lived[f"{verb} accepted"] for verb in VERBS), lived
    assert usher.readiness() == 200
