"""Runs one program for an owner and never outlives it: the process between `deploy.local` and a server.

The owner holds the other end of this process's standard input. A letter there is an order: `K` kills the program
(SIGKILL), `P` pauses it (SIGSTOP), `C` continues it (SIGCONT); each is answered by a line. The end of the input, which
also comes when the owner was killed, asks the program to stop (SIGTERM) and after a while makes it (SIGKILL).

Being the program's parent makes this exact: a process number cannot be given to another process before its parent has
seen it end. If this process is killed itself, the kernel kills the program (PR_SET_PDEATHSIG). That works here and not
in the owner: the kernel watches the thread that started the program, and an owner's threads come and go.

Arguments: seconds to wait after SIGTERM, argv[0] for the program, its file, then its arguments.
"""

import ctypes
import os
import select
import signal
import subprocess
import sys
from collections.abc import Callable

PR_SET_PDEATHSIG = 1
SIGNALS = {b"K": signal.SIGKILL, b"P": signal.SIGSTOP, b"C": signal.SIGCONT}


def main() -> int:
    """Runs the program to its end; returns its exit status, or 128 and the signal's number."""
    grace_s, name, path = float(sys.argv[1]), sys.argv[2], sys.argv[3]
    # The owner decides when it is over, by closing the input; a signal meant for the terminal's programs does not.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    ended, wake_up = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(wake_up)
    program = subprocess.Popen(
        [name, *sys.argv[4:]],
        executable=path,
        stdin=subprocess.DEVNULL,
        stdout=sys.stderr,
        close_fds=False,  # what the owner handed down on purpose, such as a lock, goes to the program as well
        preexec_fn=_die_with_parent(os.getpid()),  # noqa: PLW1509 - this process has one thread
    )
    answer(f"started {program.pid}")
    obey_until_over(program, ended)
    if program.poll() is None:
        end(program, grace_s)
    status = program.wait()
    return 128 - status if status < 0 else status


def _die_with_parent(parent: int) -> Callable[[], None]:
    prctl = ctypes.CDLL(None, use_errno=True).prctl

    def prepare() -> None:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_DFL)
        prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # It died before the line above.
            os.kill(os.getpid(), signal.SIGKILL)

    return prepare


def obey_until_over(program: "subprocess.Popen[bytes]", ended: int) -> None:
    """Carries out the owner's orders until the program has ended or the owner wants no more of it.

    Something can be read from `ended` when a child of this process has ended or was paused.
    """
    while program.poll() is None:
        readable, _, _ = select.select([0, ended], [], [])
        if ended in readable:
            os.read(ended, 4096)
        if 0 not in readable:
            continue
        order = os.read(0, 1)
        if order not in SIGNALS:
            return
        program.send_signal(SIGNALS[order])
        answer(f"sent {SIGNALS[order].name}")


def end(program: "subprocess.Popen[bytes]", grace_s: float) -> None:
    """Stops the program, gently first. A paused one hears nothing until it is continued."""
    program.terminate()
    program.send_signal(signal.SIGCONT)
    try:
        program.wait(grace_s)
    except subprocess.TimeoutExpired:
        program.kill()


def answer(line: str) -> None:
    """Tells the owner, if there still is one."""
    try:
        os.write(1, f"{line}\n".encode())
    except BrokenPipeError:
        return


if __name__ == "__main__":
    sys.exit(main())
