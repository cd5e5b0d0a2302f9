"""A key's life: two are in force while clients change over, and the first is taken back when nobody uses it any more."""

import asyncio
import secrets
import time
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest

from tests.acceptance.conftest import StartUsher, Stores
from tests.driver import Client, Json
from tests.stores import Admin
from tests.usher_process import Finished, Usher, run_usher
from tests.waiting import stalls, until, until_async

KeyCommand = Callable[..., Finished]
CLIENTS = 6
REVOCATION_MAX_S = 2.0
"""What is promised: after this, every process refuses the key."""
CHANGING = {"x-request-id", "date", "content-length"}
"""Headers that differ from answer to answer."""
CONNECTIONS_PER_SERVER = 24
"""Each asked on a connection of its own: of a server's two workers, none is missed."""


@pytest.fixture(scope="module")
def ushers(start_usher: StartUsher) -> list[Usher]:
    """Two servers with two workers each: four processes that know keys."""
    return [start_usher(workers=2), start_usher(workers=2)]


@pytest.fixture
def key_command(stores: Stores) -> KeyCommand:
    return lambda *arguments: run_usher("key", *arguments, migration_url=stores.mariadb.migration_url)


@pytest.fixture
def name() -> str:
    """A name that no key has yet."""
    return f"shop-{secrets.token_hex(4)}x"


def listed(key_command: KeyCommand) -> dict[str, Json]:
    """The keys by name, as `usher key list --json` shows them."""
    return {key["name"]: key for key in key_command("list", "--json").check().json["keys"]}


class Shop:
    """Clients that redeem without a pause, each with a key of its own choice, and every answer counted."""

    def __init__(self, ushers: list[Usher], code: str, key: str) -> None:
        self.keys = [key] * CLIENTS
        self.answers: Counter[tuple[str, int]] = Counter()
        self.stop = asyncio.Event()
        self._urls = [one.url for one in ushers]
        self._code = code

    async def run(self) -> None:
        await asyncio.gather(*(self._serve(number) for number in range(CLIENTS)))

    async def _serve(self, number: int) -> None:
        async with Client(*self._urls, key=None) as client:
            while not self.stop.is_set():
                key, order = self.keys[number], secrets.token_hex(8)
                body = {"code": self._code, "customer_id": f"customer-{order}", "order_id": f"order-{order}"}
                answer = await client.send("POST", "/v1/redemptions", body=body, headers={"Authorization": f"Bearer {key}"})
                self.answers[key, answer.status] += 1


async def statuses(ushers: list[Usher], key: str) -> Counter[int]:
    """How all processes answer this key, each request on a new connection."""
    found: Counter[int] = Counter()
    for one in ushers:
        async with Client(one.url, key=key) as client:
            asked = (
                client.send("GET", "/v1/redemptions?code=NONE", headers={"Connection": "close"})
                for _ in range(CONNECTIONS_PER_SERVER)
            )
            found.update(answer.status for answer in await asyncio.gather(*asked))
    return found


async def become(expected: int, ushers: list[Usher], key: str) -> None:
    """Until all processes answer this key with this status: whenever they are asked later than is promised, from now on."""
    began_at = asked_at = time.monotonic()
    async with stalls() as stood_still:

        async def are_told() -> bool:
            nonlocal asked_at
            asking_at = time.monotonic()
            if {expected: 2 * CONNECTIONS_PER_SERVER} == await statuses(ushers, key):
                return True
            asked_at = asking_at
            return False

        await until_async(are_told, what=f"everybody says {expected}")
    assert asked_at - began_at < REVOCATION_MAX_S + stood_still.total_s


async def test_rotation_fails_no_request(
    ushers: list[Usher], key_command: KeyCommand, name: str, api_key: str, admin: Admin
) -> None:
    """While clients redeem, a key is rotated, they change over one by one, and the old key is revoked."""
    # Given
    code = f"ROTATE-{secrets.token_hex(4).upper()}"
    async with Client(ushers[0].url, key=api_key) as boss:
        assert 201 == (await boss.create_coupon(code)).status
    old = admin.make_key(name, "redeem")
    shop = Shop(ushers, code, old)
    running = asyncio.create_task(shop.run())
    # When
    new = (await asyncio.to_thread(key_command, "rotate", name)).check().output.strip()
    for number in range(CLIENTS):
        shop.keys[number] = new
        before = shop.answers[new, 201]
        await until(lambda before=before: shop.answers[new, 201] > before, what="clients use the new key")  # type: ignore[misc]
    before = shop.answers[new, 201]
    await until(lambda: shop.answers[new, 201] >= before + 2 * CLIENTS, what="all clients use the new key")
    (await asyncio.to_thread(key_command, "revoke", name)).check()
    await become(401, ushers, old)
    in_force = await statuses(ushers, new)
    shop.stop.set()
    await running
    # Then
    assert {(old, 201), (new, 201)} == set(shop.answers)
    assert {200: 2 * CONNECTIONS_PER_SERVER} == in_force


def test_rotate_prints_the_new_key_and_nothing_else(key_command: KeyCommand, name: str) -> None:
    """The new key has the old one's scopes and the next number; the old one expires after the overlap."""
    key_command("create", "--name", name, "--scope", "redeem", "--scope", "read").check()
    second = key_command("rotate", name).check()
    third = key_command("rotate", f"{name}-2", "--overlap", "12h", "--expires-in", "90d").check()

    assert ["", ""] == [second.errors, third.errors]
    assert second.output == second.output.strip() + "\n"
    assert second.output.startswith("usher_")
    keys = listed(key_command)
    assert [{"read", "redeem"}] * 3 == [set(keys[one]["scopes"]) for one in (name, f"{name}-2", f"{name}-3")]
    expected = [timedelta(days=7), timedelta(hours=12), timedelta(days=90)]
    for one, span in zip((name, f"{name}-2", f"{name}-3"), expected, strict=True):
        left = datetime.fromisoformat(keys[one]["expires_at"]) - datetime.now(UTC)
        assert span - timedelta(minutes=5) < left <= span + timedelta(minutes=1)


def test_a_key_that_is_not_in_force_is_not_rotated(key_command: KeyCommand, name: str, admin: Admin) -> None:
    admin.make_key(name, "redeem")
    key_command("revoke", name).check()
    done = key_command("rotate", name)
    assert (1, "") == (done.status, done.output)
    assert "revoked" in done.errors


async def test_expiry_is_exact_in_every_process(ushers: list[Usher], key_command: KeyCommand, name: str, admin: Admin) -> None:
    """A key in use works until its moment and not a second longer; `usher key expire` moves it, also backwards."""
    key = key_command("create", "--name", name, "--scope", "redeem", "--expires-in", "1h").check().output.strip()
    assert {200: 2 * CONNECTIONS_PER_SERVER} == await statuses(ushers, key)
    shown = key_command("expire", name, "1s").check()
    assert f"{name}: expires in 0 min\n" == shown.output
    await become(401, ushers, key)
    key_command("expire", name, "never").check()
    await become(200, ushers, key)


@pytest.mark.parametrize(
    "options",
    [
        ["--expires-at", "2020-01-01T00:00:00Z"],
        ["--expires-at", "tomorrow"],
        ["--expires-in", "0d"],
        ["--expires-in", "90"],
        ["--expires-in", "1d", "--expires-at", "2099-01-01T00:00:00Z"],
    ],
)
def test_an_expiry_that_cannot_be(key_command: KeyCommand, name: str, options: list[str]) -> None:
    """A past one is somebody's slip of the pen; nothing is made."""
    done = key_command("create", "--name", name, "--scope", "read", *options)
    assert (2, "") == (done.status, done.output)
    assert options[0] in done.errors
    assert name not in listed(key_command)


def test_the_list_says_what_becomes_of_each_key(key_command: KeyCommand, name: str, admin: Admin) -> None:
    """In force, for how much longer, expired or revoked."""
    for number, span in enumerate(["NULL", "INTERVAL 90 DAY", "INTERVAL 5 HOUR", "INTERVAL 0 SECOND", "NULL"]):
        admin.make_key(f"{name}{number}", "read")
        admin.run(f"UPDATE api_key SET expires_at = created_at + {span} WHERE name = %s", f"{name}{number}")
    admin.run("UPDATE api_key SET revoked_at = created_at WHERE name = %s", f"{name}4")

    lines = [line.split("\t") for line in key_command("list").check().output.splitlines()]
    column = lines[0].index("status")
    shown = [line[column] for line in lines if line[1].startswith(name)]
    assert ["in force", "expires in 89 d", "expires in 4 h", "expired", "revoked"] == shown
    words = [key["status"] for key_name, key in listed(key_command).items() if key_name.startswith(name)]
    assert ["in_force", "in_force", "in_force", "expired", "revoked"] == words


async def test_the_last_use_is_known_when_a_server_has_stopped(
    start_usher: StartUsher, key_command: KeyCommand, name: str, admin: Admin
) -> None:
    """However short ago it was: an operator revokes what is not used any more."""
    server = start_usher()
    async with Client(server.url, key=admin.make_key(name, "redeem")) as client:
        assert 200 == (await client.get("/v1/redemptions", code="NONE")).status
        used_at = "SELECT last_used_at FROM api_key WHERE name = %s"
        await until(lambda: admin.value(used_at, name) is not None, what="the first use is noted soon")
        first = listed(key_command)[name]["last_used_at"]
        await asyncio.sleep(1)
        assert 200 == (await client.get("/v1/redemptions", code="NONE")).status
    server.terminate()
    await asyncio.to_thread(server.wait)
    last = listed(key_command)[name]["last_used_at"]
    assert datetime.fromisoformat(last) - datetime.fromisoformat(first) >= timedelta(seconds=1)
    assert f"revoked {name}, last used {last}\n" == key_command("revoke", name).check().output


async def test_nobody_is_told_why_a_key_is_refused(ushers: list[Usher], name: str, admin: Admin) -> None:
    """Unknown, revoked, expired or no key at all: the same answer, but for the request's id."""
    made = [admin.make_key(f"{name}{n}", "redeem") for n in range(2)]
    for number, column in enumerate(["revoked_at", "expires_at"]):
        admin.run(f"UPDATE api_key SET {column} = created_at WHERE name = %s", f"{name}{number}")
    answers = []
    for key in (*made, "usher_" + "A" * 43, "short", None):
        async with Client(ushers[0].url, key=key) as client:
            answer = await client.get("/v1/redemptions", code="NONE")
            headers = {header: value for header, value in answer.headers.items() if header.lower() not in CHANGING}
            answers.append((answer.status, headers, {**answer.body, "request_id": ""}))
    assert 401 == answers[0][0]
    assert [answers[0]] * len(answers) == [(status, headers, body) for status, headers, body in answers]
