"""The fenced blocks of a document: what its reader pastes, what is shown as the answer, and what is neither.

| language | what it is |
|---|---|
| `sh` | run in one bash for the whole document, in order, word for word |
| `python` | run as a program of its own, with the variables that the bash has exported |
| `http`, `json`, `text` | the answer: to the block just above it, or to the last one that was run, run once more |
| `console` | not run; the tests list those |

`<!-- given: … -->` above a block names what the tests see to before, and the reader of the rendered page does not see.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace

RUN = frozenset({"sh", "python"})
ANSWERS = frozenset({"http", "json", "text"})
NOT_RUN = frozenset({"console"})

FENCE = re.compile(r"```(\S*)$")
GIVEN = re.compile(r"<!-- given: (.+) -->$")


@dataclass(frozen=True)
class Block:
    """One fenced block. `line`: of its first fence; `given`: what is so before it, empty without a remark."""

    language: str
    text: str
    line: int
    given: str = ""


@dataclass(frozen=True)
class Example:
    """What is pasted and what it is said to answer; without a `shown` block it is to print nothing.

    `again`: the block is not new but run once more.
    """

    block: Block
    shown: Block | None = None
    again: bool = False

    @property
    def given(self) -> str:
        """What is so before it is run."""
        return self.shown.given if self.again and self.shown else self.block.given

    @property
    def line(self) -> int:
        """Where to look: at the answer, or where there is none at what is run."""
        return self.shown.line if self.shown else self.block.line


def blocks(text: str) -> Iterator[Block]:
    """All blocks of a document, from the top."""
    begun: Block | None = None
    lines: list[str] = []
    given = ""
    for number, line in enumerate(text.splitlines(), 1):
        fence = FENCE.match(line)
        if begun is None:
            if remark := GIVEN.match(line):
                given = remark[1]
            elif fence:
                begun, lines, given = Block(fence[1], "", number, given), [], ""
        elif fence:
            yield replace(begun, text="\n".join(lines) + "\n")
            begun = None
        else:
            lines.append(line)
    assert begun is None, f"the block that begins in line {begun.line} does not end"
    assert not given, f"nothing follows the remark {given!r}"


def examples(text: str) -> Iterator[Example]:
    """What is to be run, in order."""
    waiting: Block | None = None
    last: Block | None = None
    for block in blocks(text):
        if block.language in ANSWERS:
            if waiting is not None and not block.given:
                yield Example(waiting, block)
            else:
                assert last is not None, f"line {block.line}: an answer to nothing"
                if waiting is not None:
                    yield Example(waiting)
                yield Example(last, block, again=True)
            waiting = None
            continue
        if waiting is not None:
            yield Example(waiting)
        waiting = block if block.language in RUN else None
        last = waiting or last
    if waiting is not None:
        yield Example(waiting)
