"""The closed loop: wrk with so many connections, each of which sends its next request when it has its answer."""

import json
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bench.tally import PERCENTILES, Tally
from deploy.programs import NEEDS, provide

HERE = Path(__file__).parent
CODE = "HOT"
TIMEOUT_S = 10
"""Twice what Usher takes at most."""
RESULT = "RESULT "


def wrk(
    port: int,
    key: str,
    run: str,
    *,
    connections: int,
    seconds: int,
    code: str = CODE,
    options: Mapping[str, int] | None = None,
) -> Tally:
    """One run of wrk on a coupon. `run`: a word that no other run has used; `options`: those of redeem.lua, see there."""
    named = [f"{name}={value}" for name, value in (options or {}).items()]
    return tally(run_wrk(port, "redeem.lua", [key, code, run, *named], connections=connections, seconds=seconds))


def run_wrk(port: int, script: str, arguments: Sequence[str], *, connections: int, seconds: int) -> dict[str, Any]:
    """What a script has found: the document after the word RESULT."""
    program = provide(NEEDS["wrk"])
    command = program.command(
        "-t1", f"-c{connections}", f"-d{seconds}", f"--timeout={TIMEOUT_S}s", "-s", str(HERE / script),
        f"http://127.0.0.1:{port}", "--", *arguments,
    )  # fmt: skip
    done = subprocess.run(
        command, executable=program.path, env=program.full_environment(), capture_output=True, text=True, check=True
    )
    return parsed(done.stdout)


def parsed(output: str) -> dict[str, Any]:
    """The document in wrk's output.

    Raises:
        ValueError: there is none.
    """
    _, found, text = output.partition(RESULT)
    if not found:
        raise ValueError(f"wrk has printed no result: {output!r}")
    document: dict[str, Any] = json.loads(text)
    return document


def tally(document: Mapping[str, Any]) -> Tally:
    """As the other loads have it."""
    latency_ms = {name: document[f"{name.replace('.', '')}_us"] / 1_000 for name in PERCENTILES}
    return Tally(
        seconds=document["duration_us"] / 1_000_000,
        answers=document["answers"],
        latency_ms={**latency_ms, "max": document["max_us"] / 1_000},
        broken=document["socket_errors"],
        under_way=document["under_way"],
        late=document["timeouts"],
    )
