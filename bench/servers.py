"""Servers to measure: started, waited for, ended; and Usher's commands."""

import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path

START_S = 30
END_S = 30


def usher(environment: Mapping[str, str], *arguments: str) -> str:
    """Run an `usher` command; its standard output."""
    command = [sys.executable, "-m", "service.cli", *arguments]
    return subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True).stdout


@contextmanager
def server(command: Sequence[str], environment: Mapping[str, str], port: int, log: Path | None = None) -> Iterator[int]:
    """A server that listens on this port, ended afterwards; yields its process number. `log`: where what it says is added."""
    with log.open("ab") if log else nullcontext() as output:
        process = subprocess.Popen(command, env=environment, stderr=output)
    try:
        until = time.monotonic() + START_S
        while not answers(port):
            if process.poll() is not None or time.monotonic() > until:
                raise SystemExit(f"{' '.join(command)} did not start")
            time.sleep(0.1)
        yield process.pid
    finally:
        process.terminate()
        try:
            process.wait(END_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def answers(port: int) -> bool:
    """Whether somebody answers HTTP there, with whatever status."""
    try:
        urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=1)
    except urllib.error.HTTPError:
        return True
    except OSError:
        return False
    return True
