"""What `make run` does, in a folder of its own, so that a run of the person at the keyboard is not disturbed."""

import json
import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import redis

from deploy.ports import free_port
from deploy.programs import PROJECT
from tests.waiting import wait_until

UP = """
import sys
from pathlib import Path
from deploy import run
run.RUN = Path(sys.argv[1])
run.LOCK, run.KEY, run.ENVIRONMENT = (run.RUN / name for name in ("lock", "demo-key", "env"))
sys.exit(run.main(["up"]))
"""
END_TIMEOUT_S = 60.0


@contextmanager
def run_up(
    folder: Path, port: int, settings: Mapping[str, str] | None = None
) -> Iterator[tuple["subprocess.Popen[bytes]", Path]]:
    """A `make run` that serves on this port, and where its words go; ended afterwards, if it has not ended."""
    output = folder / "output"
    with output.open("ab") as words:
        process = subprocess.Popen(
            [sys.executable, "-c", UP, str(folder / "run")],
            cwd=PROJECT,
            env={**os.environ, "USHER_LISTEN_PORT": str(port), **(settings or {})},
            stdin=subprocess.DEVNULL,
            stdout=words,
            stderr=words,
            start_new_session=True,
        )
    try:
        yield process, output
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
            process.wait(END_TIMEOUT_S)


def curl_line(output: Path) -> str:
    """The line to paste, with those that it is continued on; empty until it is there."""
    _, found, rest = output.read_text().partition("curl ")
    return found + rest.partition("\n\n")[0] if found and "\n\n" in rest else ""


def paste(line: str) -> str:
    """What a shell makes of it: the status line of the answer."""
    done = subprocess.run(["bash", "-c", line], cwd=PROJECT, capture_output=True, text=True, timeout=30, check=True)
    return done.stdout.splitlines()[0]


def exported(environment: Path) -> dict[str, str]:
    """What a shell knows that has sourced the file."""
    done = subprocess.run(
        ["bash", "-c", f". {shlex.quote(str(environment))} && env -0"],
        env={"PATH": os.environ["PATH"]},
        capture_output=True,
        text=True,
        check=True,
    )
    return dict(entry.split("=", 1) for entry in done.stdout.split("\0") if entry)


def check_accounts(run: Path) -> list[str]:
    """The passwords of a run, whose service works with the accounts that may do least."""
    known = exported(run / "env")
    urls = {name: urlsplit(known[name]) for name in known if name.endswith("_URL")}
    assert {
        "USHER_DATABASE_URL": "usher",
        "USHER_MIGRATION_DATABASE_URL": "usher_migrate",
        "USHER_REDIS_URL": "usher",
        "REDIS_OPERATOR_URL": "operator",
    } == {name: url.username for name, url in urls.items()}
    with redis.Redis.from_url(known["REDIS_OPERATOR_URL"]) as operator:
        assert {"usher", "operator"} == {client["user"] for client in operator.client_list()}
    assert (run / "log-hash-key").read_text() == known["USHER_LOG_HASH_KEY"]
    assert 0 == (run / "env").stat().st_mode & 0o077
    return [str(url.password) for url in urls.values()]


def test_the_printed_line_redeems_and_ctrl_c_ends_all(tmp_path: Path) -> None:
    """Pasted twice it redeems twice; Ctrl-C ends with status 0; the next run knows what the first has redeemed.

    Also from a shell that has sourced the first one's environment: the stores of a run that is over are no given ones.
    """
    port = free_port()
    with run_up(tmp_path, port) as (process, output):
        wait_until(lambda: process.poll() is not None or bool(curl_line(output)), timeout_s=90, what=output.read_text)
        line = curl_line(output)
        assert ["HTTP/1.1 201 Created"] * 2 == [paste(line), paste(line)]
        passwords = check_accounts(tmp_path / "run")
        process.send_signal(signal.SIGINT)
        assert 0 == process.wait(END_TIMEOUT_S)
    assert "Traceback" not in output.read_text()
    key = (tmp_path / "run" / "demo-key").read_text()

    before = len(output.read_text())
    sourced = {name: value for name, value in exported(tmp_path / "run" / "env").items() if name.startswith("USHER_")}
    with run_up(tmp_path, port, sourced) as (process, output):
        wait_until(lambda: "uses left" in output.read_text()[before:], timeout_s=90, what=output.read_text)
        assert "GOLD20: 18 uses left." in output.read_text()[before:]
        assert key == (tmp_path / "run" / "demo-key").read_text()
        assert "HTTP/1.1 201 Created" == paste(line)
        assert passwords == check_accounts(tmp_path / "run")
    assert [] == [password for password in passwords if password in output.read_text()]


def test_a_reconciler_that_ends_by_itself_is_said(tmp_path: Path) -> None:
    """In the last line, and everything else ends with it."""
    with run_up(tmp_path, free_port()) as (process, output):
        wait_until(lambda: process.poll() is not None or bool(curl_line(output)), timeout_s=90, what=output.read_text)
        wait_until(lambda: bool(reconcilers(output)), timeout_s=90, what=output.read_text)
        (pid,) = reconcilers(output)
        os.kill(pid, signal.SIGKILL)
        assert 1 == process.wait(END_TIMEOUT_S)
    last = output.read_text().splitlines()[-1]
    assert "usher-reconciler run ended, killed by SIGKILL, so everything else was stopped" in last
    assert "`make run` starts everything again" in last


def reconcilers(output: Path) -> list[int]:
    """The process numbers of the reconcilers that have begun."""
    text = output.read_text()
    events = [json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines() if line.startswith("{")]
    return [one["pid"] for one in events if one.get("event") == "the reconciler runs"]


def test_a_port_in_use_is_said_in_one_line(tmp_path: Path) -> None:
    """Before anything slow is done."""
    port = free_port()
    code = f"import socket; s = socket.create_server(('127.0.0.1', {port})); input()"
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE) as other:
        try:
            wait_until(lambda: is_taken(port), timeout_s=30, what=lambda: "nobody listens")
            with run_up(tmp_path, port) as (process, output):
                assert 1 == process.wait(END_TIMEOUT_S)
        finally:
            other.kill()

    (line,) = output.read_text().splitlines()
    assert f"port {port}" in line
    assert "USHER_LISTEN_PORT=" in line


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"USHER_LISTEN_HOST": "nonsense"}, ["USHER_LISTEN_HOST is 'nonsense'", "127.0.0.1"]),
        ({"USHER_LISTEN_HOST": "192.0.2.1"}, ["USHER_LISTEN_HOST is '192.0.2.1'", "127.0.0.1"]),
        ({"USHER_LISTEN_PORT": "0"}, ["USHER_LISTEN_PORT is 0", "would not know"]),
        ({"USHER_LISTEN_PORT": "99999"}, ["USHER_LISTEN_PORT is '99999'", "1 to 65535"]),
        ({"USHER_WORKERS": "many"}, ["USHER_WORKERS", "1 to 256"]),
        ({"USHER_DATABASE_URL": "postgres://u:Sekr3t@127.0.0.1/n"}, ["USHER_DATABASE_URL", "mysql://"]),
    ],
)
def test_a_setting_that_cannot_be_is_said_before_a_store_starts(
    tmp_path: Path, settings: dict[str, str], words: list[str]
) -> None:
    """In one line, with what to set instead."""
    with run_up(tmp_path, free_port(), settings) as (process, output):
        assert 1 == process.wait(END_TIMEOUT_S)

    (line,) = output.read_text().splitlines()
    assert [] == [word for word in words if word not in line]
    assert "USHER_LISTEN_PORT=" not in line
    assert "Sekr3t" not in line
    assert ["lock"] == [path.name for path in (tmp_path / "run").iterdir()]


def is_taken(port: int) -> bool:
    """Whether somebody listens there."""
    return f":{port:04X} " in Path("/proc/net/tcp").read_text()
