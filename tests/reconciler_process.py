"""`usher-reconciler` as a user runs it: the scheduled jobs, and its commands, as processes of their own."""

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from deploy.local import Kept
from deploy.programs import PROJECT, Program
from tests.usher_process import Finished

Json = Any
"""Whatever a JSON document says."""
COMMAND = ("-m", "reconciler.cli")
END_S = 30.0
"""For a reconciler that is told to stop, and for a command."""


class Reconciler:
    """A running `usher-reconciler run`, which logs to the file `log`."""

    def __init__(self, log: Path, variables: Mapping[str, str]) -> None:
        self.log = log
        program = Program(Path(sys.executable), sys.executable, before=COMMAND, environment=variables)
        self.kept = Kept(program, ["run"], folder=PROJECT, log=log, grace_s=END_S)

    def logged(self) -> list[Json]:
        """What it has logged, one object an event."""
        text = self.log.read_text()
        return [json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines()]

    def events(self, *names: str) -> list[str]:
        """Its events of these names, or all but where it listens, each with its level."""
        return [
            f"{one['level']} {one['event']}"
            for one in self.logged()
            if (one["event"] in names if names else one["event"] != "listening")
        ]

    @property
    def url(self) -> str:
        """Where it answers; it has said so by now."""
        return next(str(one["address"]) for one in self.logged() if one["event"] == "listening")

    @property
    def leads(self) -> bool:
        """Whether it leads, as far as it has said."""
        told = self.events("this reconciler leads", "this reconciler leads no longer")
        return told[-1:] == ["info this reconciler leads"]


def run_reconciler(*arguments: str, variables: Mapping[str, str], timeout_s: float = END_S) -> Finished:
    """Runs a command of `usher-reconciler` to its end; `variables` in addition to this process' own."""
    done = subprocess.run(
        [sys.executable, *COMMAND, *arguments],
        cwd=PROJECT,
        env={**os.environ, **variables},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=False,
    )
    return Finished(done.returncode, done.stdout, done.stderr)
