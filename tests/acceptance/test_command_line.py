"""The command line as its user sees it: standard output, standard error, exit status."""

import json
import os
import re
import secrets
import socket
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from pathlib import Path

import pytest

from deploy.ports import free_port
from deploy.programs import PROJECT
from tests.acceptance.conftest import StartUsher, Stores
from tests.driver import Json
from tests.stores import Admin
from tests.usher_process import Finished, Usher, environment, get, run_usher
from tests.waiting import wait_until

TRACEBACK = "Traceback (most recent call last)"
NOBODY_LISTENS = "mysql://usher:Sekr3t-Passw0rd@127.0.0.1:19/usher"


@pytest.fixture
def server(stores: Stores, tmp_path: Path) -> Iterator[Usher]:
    """A server that is not started yet."""
    server = Usher(tmp_path / "log", environment(database_url=stores.mariadb.url, redis_url=stores.redis.url), workers=1)
    yield server
    server.stop()


def usher(stores: Stores, *arguments: str) -> Finished:
    return run_usher(
        *arguments,
        database_url=stores.mariadb.url,
        migration_url=stores.mariadb.migration_url,
        redis_url=stores.redis.url,
    )


def create_key(stores: Stores, *more: str) -> Finished:
    return usher(stores, "key", "create", "--name", f"key-{secrets.token_hex(4)}", "--scope", "redeem", *more)


def one_line(finished: Finished) -> str:
    """The only line of a failure; a person reads it."""
    lines = finished.errors.strip().splitlines()
    assert (1, "") == (len(lines), finished.output), finished
    return lines[0]


# --- migrate --------------------------------------------------------------------------------------------------------


def test_migrate_by_several_at_once(bare_migration_url: str, admin: Admin) -> None:
    """Four that start together all succeed, and the schema is made once."""
    with ThreadPoolExecutor(4) as pool:
        done = list(pool.map(lambda _: run_usher("migrate", migration_url=bare_migration_url), range(4)))

    for one in done:
        one.check()
    names = [next(iter(row.values())) for row in admin.run("SHOW TABLES FROM usher_bare")]
    assert {"coupon", "redemption", "api_key", "schema_migration"} <= set(names)
    run_usher("migrate", migration_url=bare_migration_url).check()


def test_serve_without_a_schema(bare_database_url: str, stores: Stores) -> None:
    """It says what to run, and does not serve."""
    done = run_usher("serve", "--port", "0", database_url=bare_database_url, redis_url=stores.redis.url)
    assert done.status not in (0, -9)
    assert "usher migrate" in done.errors
    assert TRACEBACK not in done.errors


@pytest.mark.parametrize("arguments", [["migrate"], ["key", "list"], ["key", "create", "--name", "x", "--scope", "read"]])
def test_ledger_that_is_not_there(arguments: list[str]) -> None:
    """The message names the address, without the password."""
    done = run_usher(*arguments, database_url=NOBODY_LISTENS)
    assert 0 != done.status
    assert "127.0.0.1:19" in done.errors
    assert "Sekr3t" not in done.errors + done.output
    assert TRACEBACK not in done.errors


# --- key ------------------------------------------------------------------------------------------------------------


def test_key_create_prints_the_key_and_nothing_else(stores: Stores) -> None:
    """Fit for `KEY=$(usher key create …)`."""
    made = create_key(stores).check()
    assert made.output == made.output.strip() + "\n"
    assert 1 == len(made.output.split())
    assert made.output.startswith("usher_")
    assert made.output.strip() not in made.errors


def test_key_list_and_revoke(stores: Stores) -> None:
    """A list of names and scopes, without any key; what was revoked is marked."""
    name = f"key-{secrets.token_hex(4)}"
    key = usher(stores, "key", "create", "--name", name, "--scope", "redeem", "--scope", "read").check().output.strip()
    before = find_key(stores, name)
    usher(stores, "key", "revoke", name).check()
    after = find_key(stores, name)

    assert {"redeem", "read"} == set(before["scopes"])
    assert (None, False) == (before["revoked_at"], after["revoked_at"] is None)
    plain = usher(stores, "key", "list").check().output
    assert name in plain
    assert key not in plain


def find_key(stores: Stores, name: str) -> dict[str, Json]:
    document = usher(stores, "key", "list", "--json").check().json
    keys = document if isinstance(document, list) else document["keys"]
    (key,) = [key for key in keys if key["name"] == name]
    assert isinstance(key, dict)
    return key


def test_key_of_a_name_that_is_taken(stores: Stores) -> None:
    name = f"key-{secrets.token_hex(4)}"
    usher(stores, "key", "create", "--name", name, "--scope", "read").check()
    again = usher(stores, "key", "create", "--name", name, "--scope", "read")
    assert 0 != again.status
    assert "" == again.output
    assert TRACEBACK not in again.errors


@pytest.mark.parametrize("more", [[], ["--scope", "everything"], ["--name", "", "--scope", "read"]], ids=str)
def test_key_create_asked_wrongly(stores: Stores, more: list[str]) -> None:
    done = usher(stores, "key", "create", "--name", "x", *more)
    assert (True, "") == (done.status not in (0, 1), done.output) or (0 != done.status and done.output == "")
    assert TRACEBACK not in done.errors


def test_json_documents(stores: Stores) -> None:
    """`--json` prints one document on standard output, and it can be parsed."""
    for arguments in (
        ["key", "list"],
        ["key", "create", "--name", f"key-{secrets.token_hex(4)}", "--scope", "read"],
        ["migrate"],
    ):
        done = usher(stores, *arguments, "--json").check()
        json.loads(done.output)


# --- serve ----------------------------------------------------------------------------------------------------------


def test_version() -> None:
    assert f"usher {version('usher-coupons')}\n" == run_usher("--version").check().output


@pytest.mark.parametrize(
    ("typed", "offered"),
    [
        ("usher ", {"serve", "migrate", "key", "coupon", "log-hash"}),
        ("usher co", {"coupon"}),
        ("usher coupon ", {"create", "show", "list", "update", "history"}),
        ("usher coupon create A --status ", {"active", "paused", "archived"}),
        ("usher coupon list --status p", {"paused"}),
        ("usher coupon update A --if", {"--if-version"}),
        ("usher key create --name n --scope ", {"redeem", "read", "admin"}),
    ],
)
@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion(shell: str, typed: str, offered: set[str]) -> None:
    """What the shell asks for when somebody presses the tabulator."""
    words = typed.split(" ")
    variables = {
        "_USHER_COMPLETE": f"complete_{shell}",
        "COMP_WORDS": typed,
        "COMP_CWORD": str(len(words) - 1),
        "_TYPER_COMPLETE_ARGS": typed,
        "_TYPER_COMPLETE_FISH_ACTION": "get-args",
    }
    answer = run_usher(settings=variables).check().output
    if shell == "zsh":
        found = re.findall(r'[(\s]"([\w-]+)"', answer)
    else:
        found = [line.partition("\t")[0] for line in answer.splitlines()]
    assert offered == {*found}


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_script_of_completion(shell: str) -> None:
    script = run_usher(settings={"_USHER_COMPLETE": f"source_{shell}"}).check().output
    assert f"_USHER_COMPLETE=complete_{shell}" in script


def test_completion_can_be_installed(tmp_path: Path) -> None:
    """For the shell that asks: what it reads at its start leads to the script."""
    command = f"{sys.executable} -m service.cli --install-completion; exit $?"
    subprocess.run(["bash", "-c", command], cwd=PROJECT, env={**os.environ, "HOME": str(tmp_path)}, check=True, timeout=60)
    (script,) = re.findall(r"^source '?([^'\n]+)", (tmp_path / ".bashrc").read_text(), re.MULTILINE)
    assert "_USHER_COMPLETE=complete_bash" in Path(script).read_text()


def test_help(stores: Stores) -> None:
    for arguments in ([], ["serve"], ["migrate"], ["key"], ["key", "create"]):
        done = usher(stores, *arguments, "--help").check()
        assert "Usage" in done.output


def test_port_that_a_stranger_listens_on(stores: Stores) -> None:
    """One clear line with the port, and nothing is served."""
    with socket.socket() as stranger:
        stranger.bind(("127.0.0.1", 0))
        stranger.listen()
        port = stranger.getsockname()[1]
        for workers in ("1", "2"):
            done = usher(stores, "serve", "--port", str(port), "--workers", workers)
            assert 0 != done.status
            assert str(port) in one_line(done)
            assert "in use" in done.errors


def test_port_that_another_usher_listens_on(stores: Stores, start_usher: StartUsher) -> None:
    """Two services on one port would share the customers; the second one is told so instead."""
    running = start_usher(workers=2)
    for workers in ("1", "2"):
        done = usher(stores, "serve", "--port", str(running.port), "--workers", workers)
        assert 0 != done.status
        assert str(running.port) in one_line(done)
    assert 200 == running.readiness()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("USHER_WORKERS", "many"), ("USHER_WORKERS", "0"), ("USHER_LISTEN_PORT", "99999"), ("USHER_REQUEST_DEADLINE_MS", "5s"),
        ("USHER_REQUEST_DEADLINE_MS", "-1"), ("USHER_QUEUE_MAX_REQUESTS", "0"), ("USHER_DATABASE_URL", "postgres://u@h/n"),
        ("USHER_DATABASE_URL", "mysql://Sekr3t-Passw0rd"),
        ("USHER_REDIS_URL", "http://Sekr3t-Passw0rd@h"), ("USHER_LOG_LEVEL", "loud"),
    ],
)  # fmt: skip
def test_bad_variable(stores: Stores, name: str, value: str) -> None:
    """It stops with the variable's name and what is allowed, and never repeats an address with its password."""
    urls = {"USHER_DATABASE_URL": stores.mariadb.url, "USHER_REDIS_URL": stores.redis.url}
    done = run_usher("serve", "--port", "0", settings={**urls, name: value})
    assert 0 != done.status
    assert name in done.errors
    assert "Sekr3t" not in done.errors + done.output
    assert TRACEBACK not in done.errors


def test_bad_variables_are_told_together(stores: Stores) -> None:
    """Whoever mends one sees the other ones, too; an option is called by its own name."""
    done = run_usher(
        "serve",
        "--workers",
        "0",
        database_url=stores.mariadb.url,
        settings={"USHER_WORKERS": "zero", "USHER_LISTEN_PORT": "y", "USHER_REDIS_URL": "http://:Sekr3t-Passw0rd@h"},
    )
    assert (2, "") == (done.status, done.output)
    assert [
        "usher: USHER_LISTEN_PORT is 'y'; allowed: 0 to 65,535",
        (
            "usher: USHER_REDIS_URL does not begin with redis:// or rediss://; "
            "allowed: redis://user:password@host:port/number or rediss://…"
        ),
        "usher: USHER_WORKERS is 'zero'; allowed: 1 to 256 (processes)",
        "usher: --workers is '0'; allowed: 1 to 256 (processes)",
    ] == sorted(done.errors.splitlines(), key=lambda line: line.replace("--", "~"))


@pytest.mark.parametrize("workers", [1, 2])
def test_start_tells_what_is_hardly_meant(start_usher: StartUsher, workers: int) -> None:
    """Once, and it serves all the same; Redis away is told as well."""
    nowhere = f"redis://127.0.0.1:{free_port()}/0"
    settings = {"USHER_STOP_DEADLINE_MS": "5000", "USHER_LOG_FORMAT": "json"}
    running = start_usher(redis_url=nowhere, settings=settings, workers=workers)
    events = [json.loads(line) for line in running.output.splitlines()]
    told = [(event["event"], event.get("reason") or event.get("error")) for event in events if event["level"] == "warning"]
    assert [
        (
            "doubtful setting",
            (
                "USHER_STOP_DEADLINE_MS (5000) is not above USHER_REQUEST_DEADLINE_MS (5000): "
                "a stop cuts off requests that have time left"
            ),
        ),
        ("Redis is away; degraded until it is there", "nothing answers there"),
    ] == told


def test_unknown_variable(start_usher: StartUsher) -> None:
    """A warning with the nearest known name; those that Kubernetes sets are passed over."""
    running = start_usher(settings={"USHER_WORKRES": "2", "USHER_SERVICE_HOST": "10.0.0.1", "USHER_PORT": "tcp://10.0.0.1:80"})
    assert [True, True] == [name in running.output for name in ("USHER_WORKRES", "USHER_WORKERS")]
    assert [] == [name for name in ("USHER_SERVICE_HOST", "USHER_PORT", "10.0.0.1") if name in running.output]


@pytest.mark.parametrize("workers", [1, 2])
def test_serve_stops_on_sigterm(stores: Stores, tmp_path: Path, workers: int) -> None:
    """Exit status 0, no worker is left, and the port is free for the next one."""
    server = Usher(tmp_path / "log", environment(database_url=stores.mariadb.url, redis_url=stores.redis.url), workers=workers)
    with server:
        pids = server.workers()
        assert workers == len(pids)
        server.terminate()
        assert 0 == server.wait()
        assert [] == [pid for pid in pids if Path(f"/proc/{pid}").exists()]
        assert TRACEBACK not in server.output
        server.start()
        assert 200 == server.readiness()


def test_workers_do_not_outlive_their_parent(stores: Stores, tmp_path: Path) -> None:
    """When the parent is killed the workers end by themselves: nobody would start them again."""
    server = Usher(tmp_path / "log", environment(database_url=stores.mariadb.url, redis_url=stores.redis.url), workers=2)
    with server:
        pids = server.workers()
        server.kill_parent()
        wait_until(lambda: not [pid for pid in pids if Path(f"/proc/{pid}").exists()], what="the workers have ended")
        assert (0, b"") == get(server.port, "/livez")


def test_serve_starts_before_the_stores(stores: Stores, server: Usher) -> None:
    """A store that is not there yet is no reason not to start: it is alive, not ready, and becomes ready by itself."""
    stores.mariadb.kill()
    try:
        server.start(wait=False)
        wait_until(lambda: get(server.port, "/livez")[0] == 200, what=lambda: f"alive\n{server.output}")
        assert 503 == server.readiness()
    finally:
        stores.mariadb.start()
    server.wait_until_ready()
