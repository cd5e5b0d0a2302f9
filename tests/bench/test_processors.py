import os
import subprocess
from pathlib import Path

from bench.processors import TICKS_PER_S, tree, used_s
from tests.waiting import wait_until

BUSY = 'while [ ! -e "$0" ]; do :; done'
"""Works until there is the file whose name it is given."""
USED_S = 0.1
ROUNDED_S = 3 / TICKS_PER_S
"""Each process' own times are cut to whole ticks."""


def test_what_children_use_counts_while_they_run_and_afterwards(tmp_path: Path) -> None:
    before = used_s(os.getpid())
    enough = tmp_path / "enough"
    with subprocess.Popen(["sh", "-c", 'sh -c "$0" "$1"; :', BUSY, str(enough)]) as child:
        try:
            wait_until(lambda: used_s(child.pid) >= USED_S, what="the child's child has worked")
            assert used_s(os.getpid()) - before >= USED_S - ROUNDED_S
            assert child.pid in tree(os.getpid())
        finally:
            enough.touch()
    assert used_s(os.getpid()) - before >= USED_S - ROUNDED_S
    assert 0.0 == used_s(child.pid)
