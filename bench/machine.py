"""The machine and the versions that a run was measured on."""

import os
import platform
import subprocess
from importlib.metadata import version
from pathlib import Path

from bench.stores import Stores
from deploy.programs import NEEDS, PROJECT, provide

PACKAGES = ("aiohttp", "uvloop", "orjson", "redis", "aiomysql")
GB = 1_000_000_000


def machine(stores: Stores) -> dict[str, str]:
    """Facts by name, for a table."""
    ((server,),) = stores.rows("SELECT VERSION()")
    return {
        "processor": f"{os.cpu_count()} cores, {_processor()}",
        "memory": f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / GB:.0f} GB",
        "kernel": f"{platform.system()} {platform.release().partition('-')[0]}, {platform.machine()}",
        "MariaDB": str(server).partition("-")[0],
        "Redis": _first_number(_output("redis", "--version")),
        "Python": platform.python_version(),
        "libraries": ", ".join(f"{name} {version(name)}" for name in PACKAGES),
        "wrk": _first_number(_output("wrk", "-v")),
        "commit": _commit(),
    }


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


def _output(need: str, argument: str) -> str:
    program = provide(NEEDS[need])
    done = subprocess.run(
        program.command(argument),
        executable=program.path,
        env=program.full_environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    return done.stdout + done.stderr


def _first_number(text: str) -> str:
    """The first word that looks like a version: v=7.0.15, debian/4.1.0-3."""
    words = (word.rpartition("=")[2].rpartition("/")[2] for word in text.split())
    return next((word for word in words if word[:1].isdigit() and "." in word), "unknown")


def _commit() -> str:
    """Of this checkout; with a + where files differ from it."""
    command = ["git", "-C", str(PROJECT), "describe", "--always", "--dirty=+", "--abbrev=10"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stdout.strip() or "unknown"
