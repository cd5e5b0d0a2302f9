import re
from datetime import timedelta

import pytest

from service.errors import KeyExists, LedgerRefusedData
from service.ledger import Ledger, keys
from service.model import ApiKey, Scope
from tests.faults import Proxy, holding
from tests.ledger import given
from tests.stores import Admin

REDEEM = frozenset({Scope.REDEEM})


async def test_a_key_is_stored_as_its_digest(ledger: Ledger, admin: Admin) -> None:
    """The key is told once; the ledger holds its digest and finds it by that."""
    # Given, When
    expires_at = ledger.now() + timedelta(days=1)
    key, plain = await ledger.keys.create("shop", {Scope.READ, Scope.REDEEM}, expires_at=expires_at, deadline=given.soon())
    # Then
    assert re.fullmatch(r"usher_[A-Za-z0-9_-]{43}", plain)
    digest = keys.digest(plain)
    assert {digest: key} == await ledger.keys.find([digest, b"x" * 32], given.soon())
    expected = ApiKey(
        key.id, "shop", frozenset({Scope.READ, Scope.REDEEM}), key.created_at, expires_at, revoked_at=None, last_used_at=None
    )
    assert expected == key
    assert plain not in str(admin.run("SELECT * FROM api_key"))


async def test_names_are_there_once(ledger: Ledger) -> None:
    """A name is one key's; names differ by every byte."""
    await ledger.keys.create("shop", REDEEM, deadline=given.soon())
    with pytest.raises(KeyExists):
        await ledger.keys.create("shop", REDEEM, deadline=given.soon())
    for name in ("Shop", "shop ", "shöp"):
        await ledger.keys.create(name, REDEEM, deadline=given.soon())
    assert ["shop", "Shop", "shop ", "shöp"] == [key.name for key in await ledger.keys.list(given.soon())]


async def test_a_name_that_is_too_long(ledger: Ledger) -> None:
    """A name has 64 characters at most."""
    with pytest.raises(LedgerRefusedData):
        await ledger.keys.create("x" * 65, REDEEM, deadline=given.soon())


async def test_revoke(ledger: Ledger) -> None:
    """A revoked key is found as revoked, for good; the first revocation counts; an unknown name is none."""
    # Given
    _, plain = await ledger.keys.create("shop", REDEEM, deadline=given.soon())
    # When
    revoked = await ledger.keys.revoke("shop", given.soon())
    # Then
    assert revoked is not None
    assert revoked.revoked_at is not None
    assert revoked == await ledger.keys.revoke("shop", given.soon())
    assert [revoked] == list((await ledger.keys.find([keys.digest(plain)], given.soon())).values())
    assert await ledger.keys.revoke("none", given.soon()) is None


async def test_find_is_one_statement(far: Ledger, proxy: Proxy) -> None:
    """Many digests are looked up at once; none are no statement."""
    # Given
    plains = [(await far.keys.create(f"key-{n}", REDEEM, deadline=given.soon()))[1] for n in range(5)]
    statements = proxy.count(holding(b"api_key"))
    # When
    found = await far.keys.find([keys.digest(plain) for plain in plains], given.soon())
    # Then
    assert 1 == statements.hits
    assert [keys.digest(plain) for plain in plains] == sorted(found, key=lambda digest: found[digest].id)
    assert {} == await far.keys.find([], given.soon())
    assert 1 == statements.hits


async def test_touch(ledger: Ledger) -> None:
    """The latest use stays, in whatever order uses are noted."""
    # Given
    made = [(await ledger.keys.create(name, REDEEM, deadline=given.soon()))[0] for name in ("a", "b", "c")]
    late, early = ledger.now() + timedelta(seconds=9), ledger.now() + timedelta(seconds=5)
    # When
    await ledger.keys.touch({made[0].id: late, made[1].id: early}, given.soon())
    await ledger.keys.touch({made[0].id: early, made[1].id: late}, given.soon())
    await ledger.keys.touch({}, given.soon())
    # Then
    assert [late, late, None] == [key.last_used_at for key in await ledger.keys.list(given.soon())]
