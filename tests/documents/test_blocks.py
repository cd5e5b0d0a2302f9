"""Reading documents: which block is run, what is its answer, and what is refused."""

import pytest

from tests.documents.blocks import Block, Example, blocks, examples

DOCUMENT = """
```sh
first
```

```http
answer
```

Again:

<!-- given: tired -->
```http
other answer
```

```console
$ never
```

<!-- given: awake -->
```python
last
```
"""


def test_examples_are_what_is_run_with_its_answers() -> None:
    first, last = Block("sh", "first\n", 2), Block("python", "last\n", 22, "awake")
    answer, other = Block("http", "answer\n", 6), Block("http", "other answer\n", 13, "tired")
    found = list(examples(DOCUMENT))
    assert [Example(first, answer), Example(first, other, again=True), Example(last)] == found
    assert [("", 6), ("tired", 13), ("awake", 22)] == [(example.given, example.line) for example in found]


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("```sh\nfirst\n", "does not end"),
        ("<!-- given: tired -->\n", "nothing follows"),
        ("```http\nanswer\n```\n", "an answer to nothing"),
    ],
)
def test_a_document_that_makes_no_sense_is_refused(text: str, why: str) -> None:
    with pytest.raises(AssertionError, match=why):
        list(examples(text))


def test_blocks_have_the_lines_of_their_fences() -> None:
    assert [2, 6, 13, 17, 22] == [block.line for block in blocks(DOCUMENT)]
