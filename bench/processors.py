"""CPU time of programs, as the kernel counts it."""

import os
from pathlib import Path

TICKS_PER_S = os.sysconf("SC_CLK_TCK")
PROC = Path("/proc")


def used_s(pid: int) -> float:
    """Seconds of a processor that a process, its children and theirs have used; ended ones count when waited for."""
    return sum(_own_s(one) for one in tree(pid))


def tree(pid: int) -> list[int]:
    """The process and all below it that are there now."""
    found, at = [pid], 0
    while at < len(found):
        found += _children(found[at])
        at += 1
    return found


def _children(pid: int) -> list[int]:
    try:
        threads = list((PROC / str(pid) / "task").iterdir())
        return [int(child) for thread in threads for child in (thread / "children").read_text().split()]
    except (FileNotFoundError, ProcessLookupError):
        return []


def _own_s(pid: int) -> float:
    """User and system time, its own and that of the children that it has waited for."""
    try:
        # The name in parentheses may contain anything.
        fields = (PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return 0.0
    return sum(int(ticks) for ticks in fields[11:15]) / TICKS_PER_S
