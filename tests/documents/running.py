"""What the tests of the documents have in common: stores that are away, and a block held against what it is shown to answer."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from deploy.local import MariaDB, Store
from deploy.programs import PROJECT
from tests.documents.answers import Pairs
from tests.documents.blocks import Example
from tests.documents.shell import Shell, ShellError
from tests.stores import Admin
from tests.usher_process import Usher, get
from tests.waiting import wait_until


def text_of(document: str) -> str:
    return (PROJECT / document).read_text(encoding="utf-8")


@contextmanager
def away(store: Store, usher: Usher) -> Iterator[Callable[[], None]]:
    """A store is stopped; yields what brings it back earlier. Afterwards the service has both again."""

    def back() -> None:
        if not store.running:
            store.start()

    store.stop()
    try:
        # The last look at the stores may have been a moment ago.
        wait_until(lambda: not is_ready(usher), what="the service notices")
        yield back
    finally:
        back()
        wait_until(lambda: is_ready(usher), what="the service has both stores again")


def is_ready(usher: Usher) -> bool:
    return b'"ready"' in get(usher.port, "/readyz")[1]


def faults(example: Example, shell: Shell, pairs: Pairs) -> list[str]:
    """What is not as it is shown, with the real answer below it."""
    try:
        output = shell.run(example.block)
    except ShellError as error:
        return [str(error)]
    if example.shown is None:
        return [f"prints what is not shown:\n{output}"] if output else []
    try:
        found = pairs.differences(example.shown.language, example.shown.text, output)
    except json.JSONDecodeError as error:
        return [f"cannot be compared ({error}):\n{output}"]
    return [*found, f"the real answer is\n{output}"] if found else []


def wait_for_runs(mariadb: MariaDB) -> None:
    """Until no run of the reconciler waits or is under way."""
    with Admin(mariadb) as admin:
        not_ended = "SELECT COUNT(*) FROM reconcile_run WHERE status IN ('queued', 'running')"
        wait_until(lambda: admin.value(not_ended) == 0, what="all runs have ended")
