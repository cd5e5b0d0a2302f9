"""What the documents show is pasted into a shell, and what comes back is what they show."""

import itertools
import re
import threading
from collections.abc import Callable, Iterator

import pytest

from deploy.local import MariaDB, Redis
from service.api.calls import CALLS
from tests.documents.answers import Pairs
from tests.documents.blocks import ANSWERS, NOT_RUN, RUN, blocks, examples
from tests.documents.running import away, faults, text_of, wait_for_runs
from tests.documents.shell import Shell
from tests.usher_process import Usher

DOCUMENTS = ("README.md", "client/README.md", "docs/checkout.md", "docs/api.md")
NOT_RUN_HERE = {
    "README.md": ["$ make run", "$ . .local/run/env\n$ usher coupon update GOLD20 --max-redemptions 100", "$ make test"],
    "client/README.md": [],
    "docs/checkout.md": ["$ make run"],
    "docs/api.md": [],
}
"""Commands that are shown and not pasted here; tests of their own run them."""

MOMENT_S = 1.0
"""A client that tries again is told 503 meanwhile, and has tries left afterwards."""

ADDRESS = re.compile(r"\$URL(/[^\s\"'?]*)")
"""The path that a call of curl names."""


@pytest.mark.parametrize("document", DOCUMENTS)
def test_the_answers_are_as_shown(
    document: str,
    shell: Shell,
    usher: Usher,
    mariadb_server: MariaDB,
    redis_server: Redis,
    start_reconciler: Callable[[], None],
) -> None:
    pairs = Pairs()
    wrong = []
    for example in examples(text_of(document)):
        match example.given:
            case "":
                found = faults(example, shell, pairs)
            case "a reconciler runs":
                start_reconciler()
                found = faults(example, shell, pairs)
            case "a moment later":
                wait_for_runs(mariadb_server)
                found = faults(example, shell, pairs)
            case "the ledger is away":
                with away(mariadb_server, usher):
                    found = faults(example, shell, pairs)
            case "the ledger comes back in a moment":
                with away(mariadb_server, usher) as back:
                    later = threading.Timer(MOMENT_S, back)
                    later.start()
                    found = faults(example, shell, pairs)
                    later.join()
            case "Redis is away":
                with away(redis_server, usher):
                    found = faults(example, shell, pairs)
            case "pasted nineteen more times":
                for _ in range(19):
                    shell.run(example.block)
                found = faults(example, shell, pairs)
            case unknown:
                found = [f"nobody knows how to see to it that {unknown}"]
        wrong += [f"{document}:{example.line}: {fault}" for fault in found]
    assert not wrong, "\n".join(["", *wrong])


@pytest.mark.parametrize("document", DOCUMENTS)
def test_each_block_is_run_or_known_not_to_be(document: str) -> None:
    found = list(blocks(text_of(document)))
    assert not [block for block in found if block.language not in RUN | ANSWERS | NOT_RUN]
    assert NOT_RUN_HERE[document] == [block.text.strip() for block in found if block.language in NOT_RUN]


def test_there_is_an_example_of_each_call() -> None:
    shown = set(calls())
    assert not [
        f"{call.method} {call.path}"
        for call in CALLS
        if not any(call.method == method and like(call.path).fullmatch(path) for method, path in shown)
    ]


def calls() -> Iterator[tuple[str, str]]:
    """Method and path of each curl in the documents."""
    for block in itertools.chain.from_iterable(blocks(text_of(document)) for document in DOCUMENTS):
        for call in re.split(r"\bcurl\b", block.text)[1:] if block.language in RUN else []:
            given = re.search(r"-X (\w+)", call)
            method = given[1] if given else "POST" if re.search(r"--json|-d ", call) else "GET"
            yield from ((method, path) for path in ADDRESS.findall(call))


def like(path: str) -> re.Pattern[str]:
    """A call's path as a pattern: `/v1/coupons/{code}`."""
    return re.compile(re.sub(r"\{\w+\}", "[^/]+", path))
