"""A command on a terminal of its own, as a person sees it."""

import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import termios
from collections.abc import Mapping

from deploy.programs import PROJECT

ESCAPE = re.compile(r"\r|\x1b\[[0-9;?]*[A-Za-z]")


def on_terminal(*arguments: str, columns: int, variables: Mapping[str, str], module: str = "service.cli") -> tuple[int, str]:
    """Runs `usher`, or another program, on a terminal so wide; its exit status, and what the terminal got, with colours."""
    near, far = pty.openpty()
    fcntl.ioctl(far, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    environment = {name: value for name, value in os.environ.items() if name not in {"NO_COLOR", "COLUMNS", "LINES"}}
    with subprocess.Popen(
        [sys.executable, "-m", module, *arguments],
        cwd=PROJECT,
        env={**environment, "TERM": "xterm-256color", **variables},
        stdin=far,
        stdout=far,
        stderr=far,
    ) as process:
        os.close(far)
        data = b"".join(iter(lambda: _read(near), b""))
        os.close(near)
        return process.wait(), data.decode().replace("\r\n", "\n")


def _read(descriptor: int) -> bytes:
    try:
        return os.read(descriptor, 65_536)
    except OSError:  # Linux' way of saying that nobody writes any more.
        return b""


def plain(text: str) -> list[str]:
    """Lines without colours, movements, and blanks at their ends."""
    return [line.rstrip() for line in ESCAPE.sub("", text).splitlines()]
