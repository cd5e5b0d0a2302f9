"""`usher-reconciler` check, repair and reseed, as processes: what they print, and how they end."""

import asyncio
import json
import os
import re
import signal
import sys
import uuid
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import pytest
import redis.asyncio

from deploy.local import free_port
from deploy.programs import PROJECT
from reconciler.carrying import Result
from reconciler.terminal import summary
from service.config import Settings
from service.counters import Counters, key
from service.errors import CounterUnavailable
from service.ledger import Ledger
from service.model import Coupon, LoadedCoupon
from service.reconciling import Cause, Kind, Mode, Run, RunStatus
from tests.faults import Proxy, holding
from tests.ledger import given
from tests.reconciler_process import COMMAND, END_S, Json, run_reconciler
from tests.stores import Admin
from tests.terminal import on_terminal, plain
from tests.usher_process import Finished, environment
from tests.waiting import until

SEATS = 5


@pytest.fixture
def variables(settings: Settings) -> dict[str, str]:
    """The environment of a command for these stores."""
    return environment(database_url=settings.database_url.get_secret_value(), redis_url=settings.redis_url.get_secret_value())


@pytest.fixture
async def coupon(ledger: Ledger, counters: Counters) -> Coupon:
    """One with SEATS of its 20 uses live, and a counter that says so."""
    made = await given.coupon(ledger, max_redemptions=20)
    await given.endings(ledger, *(given.row(ledger, made, seat=seat) for seat in range(1, SEATS + 1)))
    await counters.load([LoadedCoupon(made, SEATS)])
    return made


async def command(*arguments: str, variables: Mapping[str, str]) -> Finished:
    return await asyncio.to_thread(run_reconciler, *arguments, variables=variables)


async def leak(raw: redis.asyncio.Redis, coupon: Coupon, seats: int = 1) -> None:
    """Seats that were handed out and recorded by nobody."""
    await raw.hincrby(key(coupon.code, "counter"), "next", seats)


def stored(admin: Admin) -> Sequence[Mapping[str, Any]]:
    """The runs, the oldest first."""
    return admin.run(
        "SELECT id, mode, code, status, cause, asked_by, run_by, coupons_checked, finding_count, error FROM reconcile_run "
        "ORDER BY id"
    )


async def test_counters_that_are_right(coupon: Coupon, variables: dict[str, str], admin: Admin) -> None:
    """One document, status 0, and a run that is stored: when, who, and that nothing was found."""
    done = await command("check", "--json", variables=variables)
    assert 0 == done.status, done.errors
    assert {"run_id", "mode", "coupons_checked", "took_s", "findings"} == set(done.json)
    assert ("check", 1, []) == (done.json["mode"], done.json["coupons_checked"], done.json["findings"])
    (run,) = stored(admin)
    assert uuid.UUID(done.json["run_id"]).bytes == run["id"]
    assert ("check", None, "done", "asked", 1, 0) == tuple(
        run[name] for name in ("mode", "code", "status", "cause", "coupons_checked", "finding_count")
    )
    assert run["asked_by"].endswith(f"@{os.uname().nodename}")
    assert "" == done.errors


async def test_found_and_mended(coupon: Coupon, variables: dict[str, str], raw: redis.asyncio.Redis, admin: Admin) -> None:
    """Check says what differs and changes nothing, 1; repair mends it, 0; check is clean, 0."""
    await leak(raw, coupon, 2)
    await raw.sadd(key(coupon.code, "free"), 3)
    found = await command("check", "--json", variables=variables)
    assert 1 == found.status, found.errors
    kinds = [(one["code"], one["kind"], one.get("seat"), one["before"], one["after"]) for one in found.json["findings"]]
    ghost, *leaked = sorted(kinds, key=str)
    assert ("GOLD20", "ghost", 3, "free", "taken") == ghost
    assert [("GOLD20", "leaked", seat, "handed out", "free") for seat in (6, 7)] == leaked
    assert {"3"} == await raw.smembers(key(coupon.code, "free"))

    mended = await command("repair", "--code", "gold20 ", "--json", variables=variables)
    assert (0, 0) == (mended.status, mended.json["not_mended"]), mended.errors
    assert found.json["findings"] == mended.json["findings"]
    assert {"6", "7"} == await raw.smembers(key(coupon.code, "free"))
    assert (0, []) == ((clean := await command("check", "--json", variables=variables)).status, clean.json["findings"])
    assert [("check", None, 3), ("repair", "GOLD20", 3), ("check", None, 0)] == [
        (run["mode"], run["code"], run["finding_count"]) for run in stored(admin)
    ]
    assert 6 == admin.value("SELECT COUNT(*) FROM reconcile_finding")


@pytest.mark.parametrize(
    ("part", "planted", "kind", "told"),
    [
        ("counter", {"max_redemptions": "30"}, "outdated", ({"max_redemptions": 30}, {"max_redemptions": 20})),
        ("counter", {"next": "3"}, "behind", (3, 5)),
        ("customers", {"ann": "1"}, "customer_count", (1, 0)),
    ],
)
async def test_each_other_kind(
    part: str,
    planted: dict[Any, Any],
    kind: str,
    told: tuple[Any, Any],
    ledger: Ledger,
    counters: Counters,
    variables: dict[str, str],
    raw: redis.asyncio.Redis,
) -> None:
    """As above, of one kind alone."""
    made = await given.coupon(ledger, max_redemptions=20, max_per_customer=3)
    await given.endings(ledger, *(given.row(ledger, made, seat=seat, customer_seat=1) for seat in range(1, SEATS + 1)))
    await counters.load([LoadedCoupon(made, SEATS)])
    await raw.hset(key(made.code, part), mapping=planted)
    for mode, status in (("check", 1), ("repair", 0)):
        done = await command(mode, "--json", variables=variables)
        found = [(one["code"], one["kind"], one["before"], one["after"]) for one in done.json["findings"]]
        assert (status, [(made.code, kind, *told)]) == (done.status, found), done.errors
    clean = await command("check", "--json", variables=variables)
    assert (0, []) == (clean.status, clean.json["findings"])


async def test_what_cannot_be_mended(coupon: Coupon, variables: dict[str, str], admin: Admin) -> None:
    """A row above the limit that was always in force: repair says so as often as it is asked, 1."""
    admin.run("UPDATE redemption SET seat = 25 WHERE seat = 5")
    for _ in range(2):
        done = await command("repair", "--json", variables=variables)
        assert 1 == done.status, (done.output, done.errors)
        assert 1 == done.json["not_mended"]
        assert [25] == [one["seat"] for one in done.json["findings"] if one["kind"] == "oversold"]
        assert "docs/runbook.md, Oversold, says what to do" in done.errors


async def test_a_counter_that_is_not_there(coupon: Coupon, variables: dict[str, str], raw: redis.asyncio.Redis) -> None:
    """A note, which leaves the status alone; reseed loads it."""
    await raw.delete(key(coupon.code, "counter"))
    done = await command("check", "--json", variables=variables)
    assert (0, ["missing"]) == (done.status, [one["kind"] for one in done.json["findings"]])
    reseeded = await command("reseed", "--json", variables=variables)
    assert (0, 1, []) == (reseeded.status, reseeded.json["loaded"], reseeded.json["findings"]), reseeded.errors
    assert str(SEATS) == await raw.hget(key(coupon.code, "counter"), "next")
    assert 0 == (await command("reseed", "--json", variables=variables)).json["loaded"]
    forced = await command("reseed", "--force", "--code", coupon.code, "--json", variables=variables)
    assert (0, 1) == (forced.status, forced.json["loaded"])


@pytest.mark.parametrize("mode", ["check", "reseed"])
async def test_a_coupon_that_nobody_knows(mode: str, variables: dict[str, str], admin: Admin) -> None:
    done = await command(mode, "--code", "no\x1bpe", "--json", variables=variables)
    words = "usher-reconciler: there is no coupon NO\\x1bPE; `usher coupon list` shows all\n"
    assert (2, "", words) == (done.status, done.output, done.errors)
    assert [] == stored(admin)


async def test_redis_is_away(variables: dict[str, str]) -> None:
    """The line names the store, where it is, and what to try; never the password."""
    port = free_port()
    away = {**variables, "USHER_REDIS_URL": f"redis://usher:Sekr3t@127.0.0.1:{port}/0"}
    done = await command("reseed", "--json", variables=away)
    assert (2, "") == (done.status, done.output)
    (line,) = done.errors.splitlines()
    assert line.startswith(f"usher-reconciler: Redis at 127.0.0.1:{port}/0 (USHER_REDIS_URL) cannot be used: nothing answers")
    assert "Check host and port in USHER_REDIS_URL" in line
    assert "Sekr3t" not in line


async def test_wrong_password_of_redis(variables: dict[str, str]) -> None:
    """It is the account that is wrong: nobody is sent to look at host and port."""
    known, _, where = variables["USHER_REDIS_URL"].rpartition("@")
    done = await command("check", variables={**variables, "USHER_REDIS_URL": f"{known}-not@{where}"})
    assert (2, "") == (done.status, done.output)
    assert (
        f"usher-reconciler: Redis at {where} (USHER_REDIS_URL) cannot be used: user or password is wrong. "
        "It was asked as usher, from USHER_REDIS_URL; `ACL LOG` in Redis shows what was refused.\n"
    ) == done.errors


@pytest.mark.parametrize(("mode", "said"), [(Mode.CHECK, "; 2 found (2 ghost) until then"), (Mode.RESEED, "")])
def test_a_store_that_fails_in_the_middle(mode: Mode, said: str) -> None:
    """Nobody knows how many coupons it had been, so none is named."""
    now = datetime.now(UTC)
    run = Run(b"", mode, None, RunStatus.RUNNING, Cause.ASKED, asked_by="ann", asked_at=now, begun_at=now)
    away = CounterUnavailable("no answer in time")
    result = Result(RunStatus.FAILED, "Redis could not be used", away, counts={Kind.GHOST: 2}, took_s=4.6)
    assert f"not done: broken off after 4.6 s{said}" == summary(run, result)


async def test_a_code_that_is_empty(variables: dict[str, str]) -> None:
    """As of a variable that was not set."""
    done = await command("check", "--code", "", variables=variables)
    assert (2, "usher-reconciler: there is no coupon without a name; `usher coupon list` shows all\n") == (
        done.status,
        done.errors,
    )


async def test_mariadb_is_away(variables: dict[str, str]) -> None:
    port = free_port()
    away = {**variables, "USHER_DATABASE_URL": f"mysql://usher:Sekr3t@127.0.0.1:{port}/usher"}
    done = await command("check", "--json", variables=away)
    assert (2, "") == (done.status, done.output)
    (line,) = done.errors.splitlines()
    assert line.startswith(f"usher-reconciler: the ledger (MariaDB) at 127.0.0.1:{port}/usher cannot be used: ")
    assert "Check host and port in USHER_DATABASE_URL" in line
    assert "Sekr3t" not in line


async def test_a_store_that_goes_in_the_middle(
    coupon: Coupon, variables: dict[str, str], settings: Settings, redis_proxy: Proxy, admin: Admin
) -> None:
    """It says which, and how far it came; the run is stored as failed."""
    redis_proxy.lose_reply(holding(b"EVALSHA"), times=None)
    through = {**variables, "USHER_REDIS_URL": redis_proxy.url(settings.redis_url.get_secret_value())}
    done = await command("check", "--json", variables=through)
    assert 2 == done.status
    assert "Redis at 127.0.0.1" in done.errors
    assert "It had come to 0 %." in done.errors
    assert done.json["error"].startswith("Redis could not be used: ")
    (run,) = stored(admin)
    assert ("failed", done.json["error"]) == (run["status"], run["error"])


async def test_ctrl_c(coupon: Coupon, variables: dict[str, str], settings: Settings, redis_proxy: Proxy, admin: Admin) -> None:
    """The step at hand is finished, and it says how far it came: status 2, and a run that has failed."""
    held = redis_proxy.hold(holding(b"EVALSHA"), times=1)
    through = {
        **variables,
        "USHER_REDIS_URL": redis_proxy.url(settings.redis_url.get_secret_value()),
        "USHER_REQUEST_DEADLINE_MS": "60000",
        "USHER_REDIS_TIMEOUT_MS": "10000",
    }
    process = await asyncio.create_subprocess_exec(
        sys.executable, *COMMAND, "check", "--json",
        cwd=PROJECT, env={**os.environ, **through}, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    await until(lambda: held.hits == 1, what="it compares")
    process.send_signal(signal.SIGINT)
    await asyncio.sleep(0.2)
    held.release()
    async with asyncio.timeout(END_S):
        output, wrong = await process.communicate()
    assert 2 == process.returncode, wrong
    assert b"it was stopped before it was done. It had come to " in wrong
    document: Json = json.loads(output)
    assert document["error"] == "it was stopped before it was done"
    (run,) = stored(admin)
    assert ("failed", document["error"]) == (run["status"], run["error"])


async def test_lines_for_programs(coupon: Coupon, ledger: Ledger, variables: dict[str, str], raw: redis.asyncio.Redis) -> None:
    """Tabs between, then a sentence. Coupons without a counter are named when they are asked for by name."""
    await given.coupon(ledger, "UNUSED", max_redemptions=5)
    one = await command("check", "--code", "UNUSED", variables=variables)
    assert ["UNUSED\tmissing\t-\t-\t-\t-"] == one.output.splitlines()[1:-1]
    clean = await command("check", variables=variables)
    (line,) = clean.output.splitlines()
    expected = r"1 coupon compared in \d+\.\d s: nothing found; 1 coupon without a counter, which is no fault"
    assert re.fullmatch(expected, line), line
    await leak(raw, coupon)
    found = await command("repair", variables=variables)
    *lines, line = found.output.splitlines()
    assert ["code\tkind\tseat\tcustomer_id\tbefore\tafter", "GOLD20\tleaked\t6\t-\thanded out\tfree"] == lines
    assert " s: 1 found (1 leaked), 1 mended; " in line
    reseeded = await command("reseed", variables=variables)
    assert reseeded.output.startswith("2 coupons looked at, 1 counter loaded in ")


async def test_thousands_of_findings(coupon: Coupon, variables: dict[str, str], raw: redis.asyncio.Redis, admin: Admin) -> None:
    """The first hundred, and how many more; --json shows all."""
    admin.run("UPDATE coupon SET max_redemptions = 5000, version = version + 1")
    await raw.hset(key(coupon.code, "counter"), mapping={"max_redemptions": 5000, "version": 2, "next": 2_505})
    found = await command("check", variables=variables)
    *lines, more, line = found.output.splitlines()
    assert (1, 1 + 100) == (found.status, len(lines))
    assert "and 2,400 more: --json shows all" == more
    assert line.endswith("2,500 found (2,500 leaked)")
    document = (await command("check", "--json", variables=variables)).json
    assert list(range(6, 2_506)) == sorted(one["seat"] for one in document["findings"])


async def test_a_terminal(coupon: Coupon, variables: dict[str, str], raw: redis.asyncio.Redis) -> None:
    """A table, and a bar while it works."""
    await leak(raw, coupon)
    status, shown = await asyncio.to_thread(on_terminal, "check", columns=100, variables=variables, module="reconciler.cli")
    lines = plain(shown)
    assert 1 == status
    assert any(line.split() == ["code", "kind", "seat", "customer", "id", "before", "after"] for line in lines), lines
    assert any(line.split() == ["GOLD20", "leaked", "6", "-", "handed", "out", "free"] for line in lines), lines
    assert lines[-1].endswith("1 found (1 leaked)")
