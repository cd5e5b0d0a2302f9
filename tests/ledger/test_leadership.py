"""Who leads among reconcilers, by the server's word."""

import asyncio
import time
from functools import partial

import pytest
from pydantic import SecretStr

from service.config import Settings
from service.errors import LedgerRefusedAccess, LedgerUnavailable
from service.ledger import Ledger, leadership
from service.ledger.clock import Clock
from service.ledger.connections import Address
from service.ledger.leadership import Leadership
from tests.faults import Proxy
from tests.stores import Admin
from tests.waiting import until_async


@pytest.fixture
async def far_ledger(settings: Settings, proxy: Proxy) -> Ledger:
    """The same ledger, behind `proxy`."""
    return await Ledger.connect(
        settings.model_copy(update={"database_url": SecretStr(proxy.url(settings.database_url.get_secret_value()))})
    )


async def leads(one: Leadership) -> bool:
    """Whether it leads now; one whose session has just ended finds that out first."""
    try:
        return await one.seek()
    except LedgerUnavailable:
        return False


def row(admin: Admin) -> tuple[str, int]:
    (found,) = admin.run("SELECT name, session_id FROM leader")
    return found["name"], found["session_id"]


def holder(admin: Admin) -> int | None:
    """The session that has the lock."""
    held: int | None = admin.value("SELECT IS_USED_LOCK('usher:usher_leader')")
    return held


async def test_one_leads(ledger: Ledger, admin: Admin) -> None:
    """The first that asks, as often as all of them ask; and the table says who, and by which session."""
    candidates = [ledger.leadership(f"host:{number}") for number in range(5)]
    begun_at = time.monotonic()
    for _ in range(3):
        assert [True, False, False, False, False] == [await one.seek() for one in candidates]
    assert [True, False, False, False, False] == [await one.is_leading() for one in candidates]
    assert ("host:0", holder(admin)) == row(admin)
    since = admin.value("SELECT since FROM leader")
    since_s = admin.value("SELECT TIMESTAMPDIFF(SECOND, %s, UTC_TIMESTAMP())", since)
    assert -1 <= since_s <= time.monotonic() - begun_at + 1
    for one in candidates:
        await one.give_back()


async def test_many_at_once(settings: Settings) -> None:
    """Exactly one of them, also when all begin in the same moment."""
    ledgers = [await Ledger.connect(settings) for _ in range(5)]
    candidates = [one.leadership(f"host:{number}") for number, one in enumerate(ledgers)]
    assert 1 == sum(await asyncio.gather(*(one.seek() for one in candidates)))
    for one, its in zip(candidates, ledgers, strict=True):
        await one.give_back()
        await its.close()


async def test_what_is_given_back_is_had_at_once(ledger: Ledger, admin: Admin) -> None:
    first, second = ledger.leadership("host:1"), ledger.leadership("host:2")
    assert await first.seek()
    assert not await second.seek()
    await first.give_back()
    assert not first.leads
    assert await second.seek()
    assert ("host:2", holder(admin)) == row(admin)
    await second.give_back()
    assert holder(admin) is None


async def test_a_session_that_was_ended(ledger: Ledger, admin: Admin) -> None:
    """Whoever led by it hears at the next step that it leads no longer, and stands by; the other one leads at once."""
    first, second = ledger.leadership("host:1"), ledger.leadership("host:2")
    await first.seek()
    admin.kill(row(admin)[1])
    await until_async(partial(leads, second), what="the other one leads")
    assert first.leads, "it has not asked yet"
    assert not await first.is_leading()
    assert not await first.seek()
    assert await second.is_leading()
    for one in (first, second):
        await one.give_back()


async def test_a_leader_that_is_silent(
    ledger: Ledger, far_ledger: Ledger, proxy: Proxy, admin: Admin, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server ends its session, so that another one leads; who was silent finds that out by itself."""
    monkeypatch.setattr(leadership, "SILENCE_MAX_S", 1)
    silent, other = far_ledger.leadership("host:1"), ledger.leadership("host:2")
    assert await silent.seek()
    assert not await other.seek()
    # Nothing is asked: it was stopped, or hangs.
    await until_async(partial(leads, other), what="the other one leads")
    assert not await silent.is_leading()
    assert not await silent.seek()
    assert ("host:2", holder(admin)) == row(admin)
    proxy.heal()
    for one in (silent, other):
        await one.give_back()
    await far_ledger.close()


async def test_a_leader_that_is_cut_off(far_ledger: Ledger, proxy: Proxy) -> None:
    """It does not lead as far as it knows, whatever the server thinks; later on it leads again, or another one does."""
    cut_off = far_ledger.leadership("host:1")
    assert await cut_off.seek()
    proxy.refuse()
    proxy.cut()
    assert not await cut_off.is_leading()
    with pytest.raises(LedgerUnavailable):
        await cut_off.seek()
    proxy.heal()
    await until_async(partial(leads, cut_off), what="it leads again")
    await cut_off.give_back()
    await far_ledger.close()


async def test_who_takes_over_again_says_so(ledger: Ledger, admin: Admin) -> None:
    """`since` is the moment at which it took over, not the one at which it was asked last."""
    leader = ledger.leadership("host:1")
    await leader.seek()
    admin.run("UPDATE leader SET since = '2026-01-01'")
    await leader.seek()
    assert 1 == admin.value("SELECT COUNT(*) FROM leader WHERE since = '2026-01-01'")
    admin.kill(row(admin)[1])
    await until_async(partial(leads, leader), what="it leads again")
    assert 0 == admin.value("SELECT COUNT(*) FROM leader WHERE since = '2026-01-01'")
    await leader.give_back()


async def test_another_installation_on_the_same_server(ledger: Ledger, bare_database_url: str) -> None:
    """It has a leader of its own: it gets as far as its table, which is missing here."""
    leader = ledger.leadership("host:1")
    await leader.seek()
    elsewhere = Leadership(Address.of(SecretStr(bare_database_url)), Clock(), "host:2")
    with pytest.raises(LedgerRefusedAccess, match="it has no tables"):
        await elsewhere.seek()
    assert await leader.is_leading()
    for one in (elsewhere, leader):
        await one.give_back()
