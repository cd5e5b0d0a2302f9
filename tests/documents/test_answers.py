"""The comparing itself: what is right passes, and whatever is shown wrongly is found."""

import pytest

from tests.documents.answers import Pairs

ID, OTHER_ID = "01a20424-7ee8-757b-ad93-e61419225a8e", "01a20424-8a01-7c3e-9d12-5b7740e1c2aa"
REAL_ID, OTHER_REAL_ID = "019aa111-0000-7000-8000-00000000000a", "019aa111-0000-7000-8000-00000000000b"
SHOWN = f"""HTTP/1.1 201 Created
Location: /v1/redemptions/{ID}

{{"id": "{ID}", "customer_id": "ann", "seat": 1,
 "at": "2026-11-22T16:43:50.376121Z", "ended_at": null}}
"""
REAL = f"""HTTP/1.1 201 Created\r
Location: /v1/redemptions/{REAL_ID}\r
X-Request-Id: 0011223344556677-1\r
\r
{{"id":"{REAL_ID}","customer_id":"ann","seat":1,"at":"2030-01-01T00:00:00.000001Z","ended_at":null}}"""


def test_ids_times_and_white_space_may_differ() -> None:
    assert [] == Pairs().differences("http", SHOWN, REAL)


@pytest.mark.parametrize(
    ("old", "new", "where"),
    [
        ("201 Created", "200 OK", "status line"),
        ("Location: ", "ETag: ", "etag"),
        ("/v1/redemptions/", "/v1/coupons/", "location"),
        (f"redemptions/{ID}", f"redemptions/{OTHER_ID}", "/id"),
        (f'"id": "{ID}"', '"id": "2026-11-22T16:43:50.376121Z"', "/id"),
        ('"ann"', '"Ann"', "/customer_id"),
        ('"seat": 1', '"seat": 2', "/seat"),
        ('"seat": 1', '"seat": true', "/seat"),
        ('"seat": 1', '"seat": "1"', "/seat"),
        ('"seat": 1,', "", "body"),
        ('"seat": 1,', '"seat": 1, "more": 1,', "body"),
        ("null", '""', "/ended_at"),
        ("50.376121Z", "50Z", "/at"),
    ],
)
def test_what_is_shown_wrongly_is_found(old: str, new: str, where: str) -> None:
    assert 1 == SHOWN.count(old)
    assert [where] == [found.partition(":")[0] for found in Pairs().differences("http", SHOWN.replace(old, new), REAL)]


def test_a_body_that_is_not_shown_is_found() -> None:
    head = SHOWN.partition("\n\n")[0]
    assert 1 == len(Pairs().differences("http", head, REAL))


def test_an_id_stands_for_one_in_the_whole_document() -> None:
    pairs = Pairs()
    assert [] == pairs.differences("text", ID, REAL_ID)
    assert 1 == len(pairs.differences("text", ID, OTHER_REAL_ID))
    assert 1 == len(pairs.differences("text", OTHER_ID, REAL_ID))
    assert [] == pairs.differences("text", OTHER_ID, OTHER_REAL_ID)


@pytest.mark.parametrize(
    ("shown", "real", "right"), [("1", "1", True), ("60", "58", True), ("1", "2", False), ("1", "0", False)]
)
def test_a_wait_is_as_long_as_shown_or_shorter(shown: str, real: str, right: bool) -> None:
    found = Pairs().differences(
        "http", f"HTTP/1.1 503 Away\nRetry-After: {shown}", f"HTTP/1.1 503 Away\nRetry-After: {real}\n\n"
    )
    assert right == (not found)


def test_lists_are_compared_whole() -> None:
    assert [] == Pairs().differences("json", '{"items": [1, {"a": 2}]}', '{"items":[1,{"a":2}]}')
    assert 1 == len(Pairs().differences("json", '{"items": [1]}', '{"items":[1,{"a":2}]}'))
    assert 1 == len(Pairs().differences("json", '{"items": [1, {"a": 3}]}', '{"items":[1,{"a":2}]}'))


@pytest.mark.parametrize(
    ("shown", "real", "is_right"),
    [
        ("2 coupons compared in 0.7 s: nothing found", "2 coupons compared in 12.0 s: nothing found", True),
        ("2 coupons compared in 0.7 s: nothing found", "3 coupons compared in 0.7 s: nothing found", False),
        ("1 in 0.7 s\n2 in 0.7 s", "1 in 0.8 s\n2 in 0.9 s", True),
        ("db-3:17", "vm:31525", True),
        ("db-3:17", "vm", False),
        ("on db-3:17", "on vm:31525", False),
    ],
)
def test_how_long_something_took_and_who_did_it_may_differ(shown: str, real: str, *, is_right: bool) -> None:
    assert is_right == (Pairs().differences("text", shown, real) == [])


def test_one_reconciler_is_one() -> None:
    shown, real = '["db-3:17", "db-3:17"]', '["vm:1", "vm:2"]'
    assert 1 == len(Pairs().differences("json", shown, real))
