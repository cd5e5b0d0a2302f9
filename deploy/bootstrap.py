"""Makes the virtual environment `.venv`: the locked packages, checked by their hashes, this checkout and its client, editable.

It needs a bare Python 3.11 or later: neither pip nor ensurepip nor python3-venv. Calling it again costs a few
milliseconds; it works only when the lock file, pyproject.toml or Python changed, or the last attempt was cut short.
`python -m deploy.bootstrap bench` adds what the benchmark needs beside that.
"""

import hashlib
import json
import os
import subprocess
import sys
import venv
from collections.abc import Sequence
from pathlib import Path

from deploy.programs import LOCAL, PIP_WHEEL, PROJECT, ProgramMissingError, locked, provide, say

ENVIRONMENT = PROJECT / ".venv"
PYTHON = ENVIRONMENT / "bin" / "python"
STAMP = ENVIRONMENT / "usher-stamp.json"
BENCH_STAMP = ENVIRONMENT / "usher-bench-stamp.json"
OWN_PIP = [str(PYTHON), "-m", "pip"]
INPUTS = ("pyproject.toml", "client/pyproject.toml", "requirements/pip.txt", "requirements/dev.txt")
"""A change of one of these makes the environment out of date."""
BENCH_LOCK = "requirements/bench.txt"


class BootstrapError(Exception):
    """The environment could not be made; the message says why and what to do."""


def ensure() -> None:
    """Makes or mends the environment if it is not what the checkout asks for.

    Raises:
        BootstrapError: pip failed; its own words are above, on standard error.
        ProgramMissingError: there is no pip and none can be had.
    """
    with locked(LOCAL / "bootstrap.lock"):
        wanted = _fingerprint(INPUTS)
        made = _read_stamp(STAMP)
        if made == wanted:
            return
        # The stamp goes first and comes back last: an environment without one is half-made and starts from nothing.
        STAMP.unlink(missing_ok=True)
        fresh = made.get("interpreter") != wanted["interpreter"]
        say(f"{'making' if fresh else 'updating'} the environment .venv (a minute, three on a busy machine; once)")
        if fresh:
            venv.EnvBuilder(clear=True, symlinks=True, with_pip=False).create(ENVIRONMENT)
        _install(_any_pip(), "--requirement", "requirements/pip.txt", "--require-hashes")
        _install(OWN_PIP, "--requirement", "requirements/dev.txt", "--require-hashes")
        _install(OWN_PIP, "--no-deps", "--no-build-isolation", "--editable", ".", "--editable", "./client")
        STAMP.write_text(json.dumps(wanted))


def ensure_bench() -> None:
    """Adds what the benchmark needs to the environment, if it is not there. Raises as `ensure`."""
    ensure()
    with locked(LOCAL / "bootstrap.lock"):
        wanted = _fingerprint((*INPUTS, BENCH_LOCK))
        if _read_stamp(BENCH_STAMP) != wanted:
            say("adding what plots need to the environment .venv (once)")
            _install(OWN_PIP, "--requirement", BENCH_LOCK, "--require-hashes")
            BENCH_STAMP.write_text(json.dumps(wanted))


def _fingerprint(inputs: Sequence[str]) -> dict[str, str]:
    """What the environment depends on. Its place is part of it: a copied or moved environment does not work."""
    digest = hashlib.sha256(b"".join((PROJECT / name).read_bytes() for name in inputs))
    base = Path(getattr(sys, "_base_executable", sys.executable)).resolve()
    return {"files": digest.hexdigest(), "interpreter": f"{base} {sys.version} {ENVIRONMENT}"}


def _read_stamp(path: Path) -> dict[str, str]:
    """The stamp of the finished environment; empty if there is none, or its Python is gone."""
    try:
        stamp = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return stamp if isinstance(stamp, dict) and os.access(PYTHON, os.X_OK) else {}


def _any_pip() -> list[str]:
    """The beginning of a pip command for the environment: its own pip, the machine's, or Debian's wheel."""
    if _works([*OWN_PIP, "--version"]) or _works([str(PYTHON), "-m", "ensurepip", "--default-pip"]):
        return OWN_PIP
    # From 22.3 on pip can work on an environment from outside.
    machine = [sys.executable, "-m", "pip", "--python", str(PYTHON)]
    if _works([*machine, "--version"]):
        return machine
    return [str(PYTHON), str(provide(PIP_WHEEL).path)]


def _works(command: list[str]) -> bool:
    return subprocess.run(command, env=_environment(), capture_output=True, check=False).returncode == 0


def _install(pip: list[str], *arguments: str) -> None:
    quiet = ("-qq", "--no-input", "--disable-pip-version-check", "--no-warn-script-location")
    done = subprocess.run([*pip, "install", *quiet, *arguments], env=_environment(), cwd=PROJECT, check=False)
    if done.returncode != 0:
        raise BootstrapError("pip could not install the packages (see above); the next run starts anew")


def _environment() -> dict[str, str]:
    """This process's environment without what turns pip away from the environment's folder."""
    foreign = ("PYTHONHOME", "PYTHONPATH", "PIP_USER", "PIP_TARGET", "PIP_PREFIX", "PIP_REQUIRE_VIRTUALENV")
    return {**{name: value for name, value in os.environ.items() if name not in foreign}, "PIP_USER": "0"}


if __name__ == "__main__":
    try:
        ensure_bench() if sys.argv[1:] == ["bench"] else ensure()
    except (BootstrapError, ProgramMissingError) as failed:
        say(str(failed))
        sys.exit(1)
    except KeyboardInterrupt:
        say("interrupted; the next run starts anew")
        sys.exit(130)
