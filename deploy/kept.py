"""A program under a keeper, seen from its owner."""

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from deploy.programs import Program

KEEPER = Path(__file__).resolve().with_name("keeper.py")

GRACE_S = 30.0
"""MariaDB writes back its pages when it stops; after this time it is killed and recovers at the next start."""


class Kept:
    """A program under a keeper (see `deploy.keeper`): it ends when this process does.

    Args:
        program: what to run.
        arguments: after the program's name.
        folder: its working directory.
        log: where its output goes; this process's own output unless given.
        grace_s: how long `stop` waits before it kills.
        hand_down: file descriptors that the program holds open as well.

    Attributes:
        pid: the program's process number.

    Raises:
        OSError: it could not be run.
    """

    def __init__(
        self,
        program: Program,
        arguments: Sequence[str],
        *,
        folder: Path,
        log: Path | None = None,
        grace_s: float = GRACE_S,
        hand_down: Sequence[int] = (),
    ) -> None:
        keeper = [sys.executable, "-I", "-S", str(KEEPER), str(grace_s)]
        name, *rest = program.command(*arguments)
        # A descriptor of the log's own, so that a log of an earlier start is continued.
        output = log.open("ab") if log else None
        try:
            self._keeper = subprocess.Popen(
                [*keeper, name, str(program.path), *rest],
                cwd=folder,
                env=program.full_environment(),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=output,
                pass_fds=hand_down,
                start_new_session=True,
            )
        finally:
            if output:
                output.close()
        started = self._answer()
        if not started.startswith("started "):
            raise OSError(f"{program.path} could not be run")
        self.pid = int(started.removeprefix("started "))

    @property
    def running(self) -> bool:
        """Whether the program has not ended."""
        return self._keeper.poll() is None

    @property
    def exit_status(self) -> int | None:
        """The program's exit status, 128 + n if signal n ended it; None while it runs."""
        return self._keeper.poll()

    def pause(self) -> None:
        """SIGSTOP: the program stands still, its connections stay open."""
        self._order(b"P")

    def resume(self) -> None:
        """SIGCONT."""
        self._order(b"C")

    def kill(self) -> None:
        """SIGKILL; returns when the program is gone."""
        if self.running:
            self._order(b"K")
        self._over()

    def stop(self) -> None:
        """SIGTERM, and SIGKILL after the grace; returns when the program is gone."""
        self._over()

    def wait(self, timeout_s: float | None = None) -> int:
        """Waits for the program to end by itself; raises `subprocess.TimeoutExpired` if it does not in time."""
        return self._keeper.wait(timeout_s)

    def _order(self, letter: bytes) -> None:
        assert self._keeper.stdin is not None
        try:
            self._keeper.stdin.write(letter)
            self._keeper.stdin.flush()
        except BrokenPipeError:
            return  # The program has ended by itself, and its keeper after it.
        self._answer()

    def _answer(self) -> str:
        assert self._keeper.stdout is not None
        return self._keeper.stdout.readline().decode().strip()

    def _over(self) -> None:
        assert self._keeper.stdin is not None
        assert self._keeper.stdout is not None
        self._keeper.stdin.close()
        self._keeper.wait()
        self._keeper.stdout.close()
