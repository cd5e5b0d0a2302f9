"""Page tokens open the page they were made for, and nothing else does."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.api.pages import PAGE_SIZE_DEFAULT, Tokens, page_size
from service.api.problems import Problem

FILTERS = {"status": "active", "prefix": "GO"}


@given(st.binary(min_size=1, max_size=64))
def test_a_token_comes_back_as_its_position(position: bytes) -> None:
    token = Tokens("coupons", FILTERS).make(position)
    assert position == Tokens("coupons", dict(reversed(FILTERS.items()))).read({"page_token": token})


@pytest.mark.parametrize(
    ("of", "filters"),
    [
        ("redemptions", FILTERS), ("coupons", {}), ("coupons", {"status": "active"}),
        ("coupons", {"status": "paused", "prefix": "GO"}), ("coupons", {"status": "activ", "prefix": "eGO"}),
    ],
)  # fmt: skip
def test_a_token_of_another_list(of: str, filters: dict[str, str | None]) -> None:
    token = Tokens("coupons", FILTERS).make(b"GOLD20")
    with pytest.raises(Problem):
        Tokens(of, filters).read({"page_token": token})


@given(st.text(max_size=300))
def test_garbage_is_refused(text: str) -> None:
    with pytest.raises(Problem):
        Tokens("coupons", FILTERS).read({"page_token": text})


@given(st.integers(0, 17), st.sampled_from("ABab01-_=é "))
def test_a_changed_token_is_refused(place: int, other: str) -> None:
    """Also one that decodes to the same bytes."""
    token = Tokens("coupons", FILTERS).make(b"G")
    changed = token[:place] + other + token[place + 1 :]
    if changed != token:
        with pytest.raises(Problem):
            Tokens("coupons", FILTERS).read({"page_token": changed})


def test_the_first_page_needs_none() -> None:
    assert Tokens("coupons", FILTERS).read({}) is None


def test_page_size() -> None:
    assert [PAGE_SIZE_DEFAULT, 1, 200, 7] == [
        page_size({}), page_size({"page_size": "1"}), page_size({"page_size": "200"}), page_size({"page_size": "007"}),
    ]  # fmt: skip


@pytest.mark.parametrize("text", ["", "0", "201", "-1", "+1", "1.0", "1e1", " 1", "x", "\u0665", "\u00b2", "9" * 5_000])
def test_no_page_size(text: str) -> None:
    with pytest.raises(Problem):
        page_size({"page_size": text})
