"""A terminal such as the documents' readers paste into."""

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.documents.blocks import Block

CURL_MAX_S = 30
END_TIMEOUT_S = 10.0


class ShellError(Exception):
    """A block could not be run, or failed; the message has what it printed."""


class Shell:
    """One bash: what a block sets, the next ones have.

    Args:
        folder: where it is; becomes its home as well, so that nobody's own settings matter.
        environment: added to this process' own.
        shown, real: the service's address in the documents, and where it is. curl is led from one to the other unnoticed;
            a program in Python finds the real one in the variable URL.
    """

    def __init__(self, folder: Path, environment: Mapping[str, str], *, shown: str, real: str) -> None:
        self._folder = folder
        self._real = real
        self._output = folder / "output"
        # Without a terminal curl would print its progress, and a server that hangs must not hang the tests.
        settings = (f'connect-to = "{shown}:{real}"', "no-progress-meter", f"max-time = {CURL_MAX_S}", "")
        (folder / ".curlrc").write_text("\n".join(settings), encoding="utf-8")
        outside = {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}
        self._process = subprocess.Popen(
            ["bash", "--noprofile", "--norc"],
            cwd=folder,
            env={**outside, "HOME": str(folder), **environment},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None) -> None:
        try:
            self._process.communicate("exit\n" if self._process.poll() is None else None, timeout=END_TIMEOUT_S)
        finally:
            self._process.kill()

    def lead(self, shown: str, real: str) -> None:
        """Leads curl from another address of the documents to where it really is."""
        with (self._folder / ".curlrc").open("a", encoding="utf-8") as settings:
            settings.write(f'connect-to = "{shown}:{real}"\n')

    def run(self, block: Block) -> str:
        """What the terminal shows after the block was pasted. Raises ShellError when it ends with another status than 0."""
        script = self._folder / f"block.{block.language}"
        script.write_text(block.text, encoding="utf-8")
        program = f"URL=http://{self._real} {sys.executable} {script.name}"
        command = f". ./{script.name}" if block.language == "sh" else program
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{command} >output 2>&1 </dev/null; echo $?\n")
        self._process.stdin.flush()
        status = self._process.stdout.readline().strip()
        output = self._output.read_text(encoding="utf-8")
        if status != "0":
            raise ShellError(f"ended with status {status or 'unknown, and so did bash'}:\n{output}")
        return output
