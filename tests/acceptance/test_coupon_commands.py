"""`usher coupon`: the same JSON as the API, plain lines for programs, tables for people, refusals that name the coupon."""

import os
import pwd
import subprocess
import sys
from collections.abc import Callable
from unittest import mock

import pytest

from deploy.programs import PROJECT
from tests.acceptance.conftest import Stores
from tests.driver import Client, orders, tally
from tests.stores import Admin
from tests.terminal import ESCAPE, on_terminal, plain
from tests.usher_process import Finished, environment, run_usher

REFUSED, COULD_NOT = 1, 2
TERMS = ("--max-redemptions", "20", "--max-per-customer", "2", "--ends-at", "2099-12-31T23:59:59Z")

Coupon = Callable[..., Finished]


@pytest.fixture
def coupon(stores: Stores) -> Coupon:
    """Runs `usher coupon …`."""
    return lambda *arguments: run_usher("coupon", *arguments, database_url=stores.mariadb.url, redis_url=stores.redis.url)


@pytest.fixture
def variables(stores: Stores) -> dict[str, str]:
    return environment(database_url=stores.mariadb.url, redis_url=stores.redis.url)


async def test_json_is_that_of_the_api(coupon: Coupon, client: Client) -> None:
    made = coupon("create", " same ", *TERMS, "--metadata", '{"campaign": "été"}', "--json").check().json
    await client.redeem("SAME", "ann", "o-1")
    shown = coupon("show", "same", "--json").check().json
    changed = coupon("update", "SAME", "--status", "paused", "--ends-at", "none", "--json").check().json
    listed = coupon("list", "--prefix", "same", "--json").check().json

    read = (await client.get("/v1/coupons/SAME")).body
    usage = {"reserved": 0, "confirmed": 1, "remaining": 19, "source": "ledger"}
    assert usage == {name: value for name, value in shown["usage"].items() if name != "as_of"}
    assert set(read) == set(shown)
    assert {name: value for name, value in read.items() if name != "usage"} == changed
    assert ("2099-12-31T23:59:59.000000Z", None, 2) == (made["ends_at"], changed["ends_at"], changed["version"])
    assert (await client.get("/v1/coupons", prefix="SAME")).body == listed


async def test_list_tells_that_there_are_more(coupon: Coupon, client: Client) -> None:
    """On standard error, so that the list stays a list; a token of the one is good for the other."""
    for number in range(3):
        coupon("create", f"MORE-{number}", "--status", "paused" if number else "active").check()

    first = coupon("list", "--prefix", "more", "--limit", "2", "--json").check()
    token = first.json["next_page_token"]
    rest = coupon("list", "--prefix", "MORE", "--page-token", token, "--json").check()
    same = (await client.get("/v1/coupons", prefix="MORE", page_token=token)).body
    paused = coupon("list", "--prefix", "MORE", "--status", "paused").check()
    other = coupon("list", "--prefix", "M", "--page-token", token)

    assert f"usher: there are more than these 2: --limit shows more of them, --page-token {token} goes on\n" == first.errors
    assert ["MORE-0", "MORE-1"] == [item["code"] for item in first.json["items"]]
    assert (same, "") == (rest.json, rest.errors)
    assert ["code", "MORE-1", "MORE-2"] == [line.partition("\t")[0] for line in paused.output.splitlines()]
    assert (COULD_NOT, "usher: --page-token is no token of this list with these filters\n") == (other.status, other.errors)


def test_refusals_name_the_coupon(coupon: Coupon) -> None:
    """With status 1; what was typed is shown as it is understood."""
    coupon("create", "taken", *TERMS).check()
    refused = {
        ("create", "taken"): "coupon TAKEN exists; `usher coupon update TAKEN` changes it",
        ("show", "nope"): "there is no coupon NOPE; `usher coupon list` shows all",
        ("update", "nope", "--status", "paused"): "there is no coupon NOPE; `usher coupon list` shows all",
        ("update", "taken", "--status", "paused", "--if-version", "2"): (
            "coupon TAKEN was changed meanwhile: it is not of the version that --if-version names. "
            "`usher coupon show TAKEN` shows it as it is now"
        ),
        ("update", "taken", "--max-redemptions", "none"): "coupon TAKEN: whether it has a limit is fixed when it is created",
        ("update", "taken", "--max-per-customer", "1"): "coupon TAKEN: --max-per-customer can be raised, not lowered",
        ("update", "taken", "--starts-at", "2100-01-01T00:00:00Z"): "coupon TAKEN: --ends-at must be after --starts-at",
    }
    said = {arguments: coupon(*arguments) for arguments in refused}
    assert {arguments: (REFUSED, "", f"usher: {text}\n") for arguments, text in refused.items()} == {
        arguments: (done.status, done.output, done.errors) for arguments, done in said.items()
    }
    assert 1 == coupon("show", "taken", "--json").check().json["version"]


def test_if_version(coupon: Coupon) -> None:
    coupon("create", "VERSIONED").check()
    assert 2 == coupon("update", "VERSIONED", "--status", "paused", "--if-version", "1", "--json").check().json["version"]


@pytest.mark.parametrize(
    ("arguments", "lines"),
    [
        (["create", "é"], ["CODE must be 1 to 64 of A-Z, 0-9, _ and -, beginning with a letter or a digit"]),
        (
            ["create", "A", "--max-redemptions", "0", "--starts-at", "now", "--status", "open"],
            [
                "--max-redemptions must be an integer from 1 to 2,000,000,000, or none for unlimited",
                "--starts-at must be an RFC 3339 time with an offset, such as 2026-11-22T10:15:30.123456Z",
                "--status must be one of active, paused, archived",
            ],
        ),
        (
            ["create", "A", "--max-per-customer", "x"],
            ["--max-per-customer must be an integer from 1 to 1,000, or none for unlimited"],
        ),
        (["create", "A", "--metadata", "[1]"], ["--metadata must be a JSON object"]),
        (["list", "--status", "open"], ["--status must be one of active, paused, archived"]),
        (["list", "--prefix", "-é"], ["--prefix must be the beginning of a code: 1 to 64 of A-Z, 0-9, _ and -"]),
        (["update", "A"], ["nothing to change: name what is to change, such as --status paused"]),
    ],
    ids=str,
)  # fmt: skip
def test_options_that_are_wrong(coupon: Coupon, arguments: list[str], lines: list[str]) -> None:
    """A line for each, with status 2."""
    done = coupon(*arguments)
    assert (COULD_NOT, "", [f"usher: {line}" for line in lines]) == (done.status, done.output, done.errors.splitlines())


# --- Limits and who has changed them ---------------------------------------------------------------------------------


async def test_limits_are_lowered_and_raised(coupon: Coupon, client: Client) -> None:
    """A counter that is loaded follows at once."""
    coupon("create", "LIMITS", "--max-redemptions", "5").check()
    assert {"201": 4} == tally(await client.redeem_all("LIMITS", orders(4)))
    assert 3 == coupon("update", "LIMITS", "--max-redemptions", "3", "--json").check().json["max_redemptions"]
    assert {"409 coupon_exhausted": 1} == tally([await client.redeem("LIMITS", "ann", "o-1")])
    assert 0 == coupon("show", "LIMITS", "--json").check().json["usage"]["remaining"]
    coupon("update", "LIMITS", "--max-redemptions", "6", "--max-per-customer", "none").check()
    assert {"201": 2, "409 coupon_exhausted": 2} == tally(await client.redeem_all("LIMITS", orders(4, "more")))


def test_busy(coupon: Coupon, admin: Admin) -> None:
    """While somebody else's large change goes on, with status 2: it can be tried again."""
    coupon("create", "BUSY").check()
    admin.run("UPDATE coupon SET busy_until = UTC_TIMESTAMP(6) + INTERVAL 1 HOUR WHERE code = 'BUSY'")
    done = coupon("update", "BUSY", "--status", "paused")
    text = "usher: coupon BUSY: a large change is under way; try again in some seconds\n"
    assert (COULD_NOT, "", text) == (done.status, done.output, done.errors)


async def test_history(coupon: Coupon, client: Client, variables: dict[str, str]) -> None:
    """That of the API, and a line for each change where there is no terminal."""
    me = f"command line ({pwd.getpwuid(os.getuid()).pw_name})"
    coupon("create", "STORY", *TERMS).check()
    coupon("update", "STORY", "--max-redemptions", "30", "--ends-at", "none", "--metadata", '{"a": "\u009b31m"}').check()
    await client.change_coupon("STORY", status="paused")

    listed = coupon("history", " story").check()
    as_json = coupon("history", "STORY", "--json").check().json
    _, on_screen = on_terminal("coupon", "history", "STORY", columns=160, variables=variables)

    assert (await client.get("/v1/coupons/STORY/history")).body == as_json
    header, *rows = [line.split("\t") for line in listed.output.splitlines()]
    assert ["version", "when", "who", "what"] == header
    assert [["3", "status active -> paused"], ["2", mock.ANY], ["1", "created"]] == [[row[0], row[3]] for row in rows]
    assert [me, me] == [row[2] for row in rows[1:]]
    changes = 'max_redemptions 20 -> 30; ends_at 2099-12-31T23:59:59.000000Z -> none; metadata {} -> {"a":"\\x9b31m"}'
    assert changes == rows[1][3]
    assert [item["when"] for item in as_json["items"]] == [row[1] for row in rows]
    assert ["version  when", "status active -> paused"] == [plain(on_screen)[0][:13], plain(on_screen)[2][-23:]]


async def test_history_tells_that_there_is_more(coupon: Coupon, client: Client) -> None:
    """A token of the one is good for the other. No coupon is refused."""
    await client.create_coupon("LONG-STORY")
    for number in range(3):
        await client.change_coupon("LONG-STORY", metadata={"n": number})
    first = coupon("history", "LONG-STORY", "--limit", "2", "--json").check()
    token = first.json["next_page_token"]
    rest = coupon("history", "LONG-STORY", "--page-token", token, "--json").check()
    assert f"usher: there are more than these 2: --limit shows more of them, --page-token {token} goes on\n" == first.errors
    assert [[4, 3], [2, 1]] == [[item["version"] for item in page.json["items"]] for page in (first, rest)]
    assert (await client.get("/v1/coupons/LONG-STORY/history", page_token=token)).body == rest.json
    other, none = coupon("history", "LONG", "--page-token", token), coupon("history", "NOPE")
    assert (COULD_NOT, "usher: --page-token is no token of this list with these filters\n") == (other.status, other.errors)
    assert (REFUSED, "usher: there is no coupon NOPE; `usher coupon list` shows all\n") == (none.status, none.errors)


# --- On a terminal ---------------------------------------------------------------------------------------------------


def test_show_on_a_terminal(coupon: Coupon, variables: dict[str, str]) -> None:
    """As it is asked about, times readable, and what metadata holds does not move the cursor."""
    coupon("create", "NEAT", *TERMS, "--metadata", '{"note": "[red]a\\u009b31m\\u202eb[/red]"}').check()
    status, text = on_terminal("coupon", "show", "NEAT", columns=80, variables=variables)
    assert 0 == status
    assert [
        "code           NEAT",
        "status         active",
        "used           0 of 20 (0 of them on hold)",
        "remaining      20",
        "per customer   2",
        "starts         at once",
        "ends           2099-12-31 23:59:59 UTC",
        "metadata note  [red]a\\x9b31m\\u202eb[/red]",
    ] == plain(text)[:8]


def test_list_on_a_terminal(coupon: Coupon, variables: dict[str, str]) -> None:
    """A table that fits 80 columns, whatever is in it; on a narrow terminal a block for each."""
    code = "WIDE-" + "X" * 59
    coupon("create", code, "--max-redemptions", "2000000000", "--max-per-customer", "1000", *TERMS[4:]).check()
    _, wide = on_terminal("coupon", "list", "--prefix", "WIDE-", columns=160, variables=variables)
    _, usual = on_terminal("coupon", "list", "--prefix", "WIDE-", columns=80, variables=variables)
    _, narrow = on_terminal("coupon", "list", "--prefix", "WIDE-", columns=40, variables=variables)
    _, none = on_terminal("coupon", "list", "--prefix", "NO-SUCH", columns=80, variables=variables)

    assert f"{code}  active  2,000,000,000         1,000  -             2099-12-31 23:59:59        1" == plain(wide)[2]
    assert max(map(len, plain(usual))) <= 80
    assert code == "".join(line.split()[0] for line in plain(usual)[3:])
    assert ["active", "2,000,000,000", "1,000", "-", "2099-12-31", "1"] == plain(usual)[3].split()[1:]
    assert [f"code          {code[:26]}", f"              {code[26:52]}", f"              {code[52:]}"] == plain(narrow)[:3]
    assert "version       1" == plain(narrow)[-1]
    assert ["no coupons"] == plain(none)


def test_colours(coupon: Coupon, variables: dict[str, str]) -> None:
    """On a terminal, unless NO_COLOR says otherwise; never in a pipe."""
    coupon("create", "COLOURED", "--status", "paused").check()
    green = "\x1b[33mpaused"
    assert green in on_terminal("coupon", "show", "COLOURED", columns=80, variables=variables)[1]
    assert green not in on_terminal("coupon", "show", "COLOURED", columns=80, variables={**variables, "NO_COLOR": "1"})[1]
    assert not ESCAPE.search(coupon("show", "COLOURED").check().output)


# --- In a pipe -------------------------------------------------------------------------------------------------------


def test_output_that_nobody_reads(coupon: Coupon, variables: dict[str, str]) -> None:
    """Such as by `head`: no traceback, no complaint."""
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(
        [sys.executable, "-m", "service.cli", "coupon", "list"],
        cwd=PROJECT, env={**os.environ, **variables}, stdout=writing, stderr=subprocess.PIPE, check=False, timeout=60,
    )  # fmt: skip
    os.close(writing)
    assert (COULD_NOT, b"") == (done.returncode, done.stderr)


def test_terminal_without_unicode(coupon: Coupon, stores: Stores) -> None:
    """Text that cannot be written is escaped; JSON is UTF-8 in any case."""
    coupon("create", "ACCENT", "--metadata", '{"a": "é"}').check()
    ascii_only = {"PYTHONIOENCODING": "ascii"}
    shown = run_usher("coupon", "show", "ACCENT", database_url=stores.mariadb.url, settings=ascii_only).check()
    as_json = run_usher("coupon", "show", "ACCENT", "--json", database_url=stores.mariadb.url, settings=ascii_only).check()
    assert 'metadata          {"a":"\\xe9"}' in shown.output.splitlines()
    assert {"a": "é"} == as_json.json["metadata"]
