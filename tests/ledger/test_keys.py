import asyncio
import hmac
import re
from datetime import timedelta

import pytest

from service.errors import KeyExists, KeyNotInForce, LedgerRefusedData, UsherError
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


async def test_rotate(ledger: Ledger) -> None:
    """The new key may do what the old one may; the old one expires after the overlap, never later than it would have."""
    # Given
    both = frozenset({Scope.READ, Scope.REDEEM})
    old, _ = await ledger.keys.create("shop", both, deadline=given.soon())
    # When
    second, plain = await ledger.keys.rotate(old, overlap=timedelta(days=7), deadline=given.soon())
    third, _ = await ledger.keys.rotate(second, overlap=timedelta(hours=1), expires_at=old.created_at, deadline=given.soon())
    earlier = (await ledger.keys.list(given.soon()))[1]
    await ledger.keys.rotate(earlier, overlap=timedelta(days=9), deadline=given.soon())
    # Then
    assert [("shop-2", both, None), ("shop-3", both, old.created_at)] == [
        (key.name, key.scopes, key.expires_at) for key in (second, third)
    ]
    assert ["shop-2"] == [key.name for key in (await ledger.keys.find([keys.digest(plain)], given.soon())).values()]
    ends = {key.name: key.expires_at for key in await ledger.keys.list(given.soon())}
    assert ["shop", "shop-2", "shop-3", "shop-4"] == list(ends)
    assert timedelta(0) <= (ends["shop"] or old.created_at) - old.created_at - timedelta(days=7) < timedelta(seconds=30)
    assert earlier.expires_at == ends["shop-2"]


async def test_rotation_is_done_whole_or_not_at_all(ledger: Ledger, admin: Admin) -> None:
    """Where the old key's end cannot be written, there is no new key either."""
    old, _ = await ledger.keys.create("shop", REDEEM, deadline=given.soon())
    admin.run("CREATE TRIGGER refuse BEFORE UPDATE ON api_key FOR EACH ROW SIGNAL SQLSTATE '22003'")
    try:
        with pytest.raises(UsherError):
            await ledger.keys.rotate(old, overlap=timedelta(days=7), deadline=given.soon())
    finally:
        # Beside the loop: it still has to close the connection whose transaction uses the table.
        await asyncio.to_thread(admin.run, "DROP TRIGGER refuse")
    assert [old] == await ledger.keys.list(given.soon())


@pytest.mark.parametrize(
    ("name", "taken", "expected"),
    [
        ("shop", {"shop"}, "shop-2"),
        ("shop", {"shop", "shop-2", "shop-3"}, "shop-4"),
        ("shop-9", {"shop-9"}, "shop-10"),
        ("shop-x", {"shop-x"}, "shop-x-2"),
        ("x" * 64, {"x" * 64}, "x" * 62 + "-2"),
    ],
)
def test_the_next_name(name: str, taken: set[str], expected: str) -> None:
    assert expected == keys.next_name(name, taken)


async def test_expire(ledger: Ledger) -> None:
    """A key's end can be moved either way; not that of a revoked one."""
    # Given
    for name in ("shop", "gone"):
        await ledger.keys.create(name, REDEEM, deadline=given.soon())
    gone = await ledger.keys.revoke("gone", given.soon())
    until = ledger.now() - timedelta(days=1)
    # When
    expired = await ledger.keys.expire("shop", until, given.soon())
    # Then
    assert until == (expired and expired.expires_at)
    endless = await ledger.keys.expire("shop", None, given.soon())
    assert endless is not None
    assert endless.expires_at is None
    assert gone == await ledger.keys.expire("gone", until, given.soon())
    assert await ledger.keys.expire("none", until, given.soon()) is None


async def test_another_digest_is_no_key(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the ledger returns is compared with what was asked for, whatever an index believed to be equal."""
    _, plain = await ledger.keys.create("shop", REDEEM, deadline=given.soon())
    compared = []

    def refuse(one: bytes, other: bytes) -> bool:
        compared.append((one, other))
        return False

    monkeypatch.setattr(hmac, "compare_digest", refuse)
    assert {} == await ledger.keys.find([keys.digest(plain)], given.soon())
    assert [(keys.digest(plain), keys.digest(plain))] == compared


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


async def test_rotation_beside_other_hands(ledger: Ledger) -> None:
    """An end that somebody else has set meanwhile is not put off, and what was revoked meanwhile gets no successor."""
    old, _ = await ledger.keys.create("checkout", REDEEM, deadline=given.soon())
    sooner = ledger.now() + timedelta(minutes=1)
    await ledger.keys.expire("checkout", sooner, given.soon())
    await ledger.keys.rotate(old, overlap=timedelta(days=7), deadline=given.soon())
    first, second = await ledger.keys.list(given.soon())
    assert (sooner, "checkout-2") == (first.expires_at, second.name)

    await ledger.keys.revoke("checkout-2", given.soon())
    with pytest.raises(KeyNotInForce):
        await ledger.keys.rotate(second, overlap=timedelta(days=7), deadline=given.soon())
    assert 2 == len(await ledger.keys.list(given.soon()))
