"""Who calls: known at once, looked up together, refused soon after."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import timedelta

import pytest

from service.api import authentication
from service.api.authentication import ADMIN, READ, REDEEM, Authenticator
from service.api.problems import Problem
from service.config import Settings
from service.errors import LedgerUnavailable, Overloaded
from service.ledger import Ledger
from service.ledger.keys import digest
from service.model import ApiKey, Scope
from tests.api.fakes import CASHIER, KEY, NOW, FakeKeys, key_of
from tests.stores import Admin
from tests.waiting import until_async

HEADER = f"Bearer {KEY}"


@pytest.fixture
def keys() -> FakeKeys:
    return FakeKeys()


@pytest.fixture
async def authenticator(keys: FakeKeys) -> AsyncIterator[Authenticator]:
    one = Authenticator(keys, lambda: NOW)
    one.start()
    yield one
    await one.stop()


async def code_of(authenticator: Authenticator, header: str | None, allowed: frozenset[Scope] = ADMIN) -> str:
    """The code of the problem, or `ok`."""
    try:
        await authenticator.authorize(header, allowed)
    except Problem as problem:
        return problem.code
    return "ok"


async def test_a_known_key_waits_for_nothing(authenticator: Authenticator, keys: FakeKeys) -> None:
    """The first request looks it up; later ones do not even yield to the loop."""
    assert 1 == (await authenticator.authorize(HEADER, ADMIN)).id
    again = authenticator.authorize(HEADER, ADMIN)
    with pytest.raises(StopIteration) as done:
        again.send(None)
    assert isinstance(done.value.value, ApiKey)
    assert [[digest(KEY)]] == keys.asked


@pytest.mark.parametrize(
    "header",
    [
        None, "", "Bearer", "Bearer ", KEY, f"Basic {KEY}", f"Bearer {KEY} x", f"Bearer {KEY}\n", f"Bearer{KEY}",
        "Bearer short", "Bearer " + "x" * 257, "Bearer usher_é" + "x" * 40, f"Bearer {KEY}, Bearer {KEY}",
    ],
)  # fmt: skip
async def test_what_is_no_key_is_not_looked_up(authenticator: Authenticator, keys: FakeKeys, header: str | None) -> None:
    assert "unauthorized" == await code_of(authenticator, header)
    assert [] == keys.asked


async def test_the_scheme_is_not_case_sensitive(authenticator: Authenticator) -> None:
    assert "ok" == await code_of(authenticator, f"bEARER  {KEY}")


async def test_scopes(authenticator: Authenticator) -> None:
    """Admin includes the others; no other scope includes anything."""
    assert ["ok", "ok", "ok"] == [await code_of(authenticator, HEADER, allowed) for allowed in (ADMIN, READ, REDEEM)]
    cashier = f"Bearer {CASHIER}"
    assert ["forbidden", "forbidden", "ok"] == [
        await code_of(authenticator, cashier, allowed) for allowed in (ADMIN, READ, REDEEM)
    ]


async def test_unknown_keys_are_looked_up_together(authenticator: Authenticator, keys: FakeKeys) -> None:
    """A thousand guesses cost a few statements, and the same ones again within a second none."""
    guesses = [f"Bearer usher_{number:043}" for number in range(1_000)]
    answers = await asyncio.gather(*(code_of(authenticator, guess) for guess in guesses))
    statements = len(keys.asked)
    again = await asyncio.gather(*(code_of(authenticator, guess) for guess in guesses))

    assert {"unauthorized"} == {*answers, *again}
    assert statements <= 4
    assert statements == len(keys.asked)


async def test_unknown_keys_are_remembered_in_bounds(
    authenticator: Authenticator, keys: FakeKeys, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(authentication, "UNKNOWN_MAX", 10)
    monkeypatch.setattr(authentication, "WAITING_MAX", 50)
    guesses = [f"Bearer usher_{number:043}" for number in range(60)]
    answers = await asyncio.gather(*(code_of(authenticator, guess) for guess in guesses), return_exceptions=True)
    assert 10 == sum(isinstance(answer, Overloaded) for answer in answers)
    assert 10 == len(authenticator._unknown)
    assert {} == authenticator._waiting
    assert 50 == sum(map(len, keys.asked))


async def test_a_new_key_works_within_a_second(
    authenticator: Authenticator, keys: FakeKeys, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was asked for before it was made, and was remembered as unknown."""
    monkeypatch.setattr(authentication, "UNKNOWN_S", 0.05)
    known = keys.keys.pop(digest(KEY))
    assert "unauthorized" == await code_of(authenticator, HEADER)
    keys.keys[digest(KEY)] = known
    await asyncio.sleep(0.06)
    assert "ok" == await code_of(authenticator, HEADER)


async def test_a_revoked_key_is_refused_after_a_refresh(authenticator: Authenticator, keys: FakeKeys) -> None:
    """One statement reads all keys anew; requests do not wait for it."""
    for key in (KEY, CASHIER):
        assert "ok" == await code_of(authenticator, f"Bearer {key}", REDEEM)
    keys.asked.clear()
    keys.keys[digest(KEY)] = replace(keys.keys[digest(KEY)], revoked_at=NOW)
    await authenticator.refresh()

    assert [{digest(KEY), digest(CASHIER)}] == [set(asked) for asked in keys.asked]
    assert "unauthorized" == await code_of(authenticator, HEADER, REDEEM)
    assert "ok" == await code_of(authenticator, f"Bearer {CASHIER}", REDEEM)


async def test_it_refreshes_by_itself(authenticator: Authenticator, keys: FakeKeys, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(authentication, "REFRESH_INTERVAL_S", 0.02)
    another = Authenticator(keys, lambda: NOW)
    another.start()
    assert "ok" == await code_of(another, HEADER)
    keys.keys.clear()

    async def is_refused() -> bool:
        return "unauthorized" == await code_of(another, HEADER)

    await until_async(is_refused, what="the key is refused")
    await another.stop()


async def test_a_changed_scope_is_noticed(authenticator: Authenticator, keys: FakeKeys) -> None:
    assert "ok" == await code_of(authenticator, HEADER)
    keys.keys[digest(KEY)] = key_of(1, Scope.READ)
    await authenticator.refresh()
    assert "forbidden" == await code_of(authenticator, HEADER)


async def test_a_key_expires_to_the_moment(keys: FakeKeys) -> None:
    """By the ledger's clock, without a refresh."""
    now = NOW
    one = Authenticator(keys, lambda: now)
    one.start()
    keys.keys[digest(KEY)] = key_of(1, Scope.ADMIN, expires_at=NOW + timedelta(seconds=1))
    assert "ok" == await code_of(one, HEADER)
    now = NOW + timedelta(seconds=1)
    assert "unauthorized" == await code_of(one, HEADER)
    await one.stop()


@pytest.mark.parametrize("failure", [LedgerUnavailable(), RuntimeError("a defect")])
async def test_while_the_ledger_is_away(authenticator: Authenticator, keys: FakeKeys, failure: Exception) -> None:
    """Keys that it confirmed stay good; of others nobody knows."""
    assert "ok" == await code_of(authenticator, HEADER)
    keys.failure = failure
    if isinstance(failure, LedgerUnavailable):
        await authenticator.refresh()
    assert "ok" == await code_of(authenticator, HEADER)
    with pytest.raises(type(failure)):
        await authenticator.authorize(f"Bearer {CASHIER}", REDEEM)
    keys.failure = None
    assert "ok" == await code_of(authenticator, f"Bearer {CASHIER}", REDEEM)


async def test_a_key_is_not_good_for_ever_without_the_ledger(
    authenticator: Authenticator, keys: FakeKeys, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(authentication, "CONFIRMED_MAX_S", 0.02)
    assert "ok" == await code_of(authenticator, HEADER)
    keys.failure = LedgerUnavailable()
    await asyncio.sleep(0.03)
    await authenticator.refresh()
    with pytest.raises(LedgerUnavailable):
        await authenticator.authorize(HEADER, ADMIN)


async def test_a_ledger_that_hangs(authenticator: Authenticator, keys: FakeKeys) -> None:
    """Nobody waits longer than the time-out, and the next ones are looked up."""
    authenticator._look_up_timeout_s = 0.05
    keys.hangs = True
    with pytest.raises(LedgerUnavailable):
        await authenticator.authorize(HEADER, ADMIN)
    keys.hangs = False
    authenticator._look_up_timeout_s = 60.0
    assert "ok" == await code_of(authenticator, HEADER)


async def test_a_caller_that_goes_away_takes_nobody_along(authenticator: Authenticator) -> None:
    """Two wait for one look-up; one is cancelled."""
    first = asyncio.create_task(code_of(authenticator, HEADER))
    second = asyncio.create_task(code_of(authenticator, HEADER))
    await asyncio.sleep(0)
    first.cancel()
    assert "ok" == await second


async def test_idle_keys_are_forgotten(authenticator: Authenticator, keys: FakeKeys, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are looked up again at their next use, not read anew every second for ever."""
    monkeypatch.setattr(authentication, "IDLE_MAX_S", 0.02)
    assert "ok" == await code_of(authenticator, HEADER)
    await authenticator.refresh()
    await asyncio.sleep(0.03)
    await authenticator.refresh()
    assert {} == authenticator._known
    assert 2 == len(keys.asked)


async def test_keys_in_use_are_kept(authenticator: Authenticator, keys: FakeKeys, monkeypatch: pytest.MonkeyPatch) -> None:
    """However long ago they were looked up."""
    monkeypatch.setattr(authentication, "IDLE_MAX_S", 0.05)
    for _ in range(4):
        assert "ok" == await code_of(authenticator, HEADER)
        await asyncio.sleep(0.03)
        await authenticator.refresh()
        assert [digest(KEY)] == list(authenticator._known)


async def test_known_keys_are_kept_in_bounds(
    authenticator: Authenticator, keys: FakeKeys, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(authentication, "KNOWN_MAX", 2)
    texts = [f"usher_{number:043}" for number in range(5)]
    keys.keys = {digest(text): key_of(number, Scope.ADMIN) for number, text in enumerate(texts)}
    assert {"ok"} == {await code_of(authenticator, f"Bearer {text}") for text in texts}
    assert 2 == len(authenticator._known)


async def test_use_is_noted(authenticator: Authenticator, keys: FakeKeys, monkeypatch: pytest.MonkeyPatch) -> None:
    """Now and then, and only of keys that were used since."""
    monkeypatch.setattr(authentication, "TOUCH_INTERVAL_S", 0.0)
    assert "ok" == await code_of(authenticator, HEADER)
    await authenticator.refresh()
    await authenticator.note_uses()
    await authenticator.refresh()
    await authenticator.note_uses()
    assert [[1]] == [list(used) for used in keys.touched]


async def test_a_use_is_noted_with_its_own_time(
    authenticator: Authenticator, keys: FakeKeys, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not with that of the note, which may be a minute later: by it an operator decides whether a key is still used."""
    monkeypatch.setattr(authentication, "TOUCH_INTERVAL_S", 0.0)
    assert "ok" == await code_of(authenticator, HEADER)
    await authenticator.refresh()
    await asyncio.sleep(0.2)
    await authenticator.refresh()
    await authenticator.note_uses()
    (used,) = keys.touched
    assert used[1] <= NOW - timedelta(seconds=0.2)


async def test_the_last_use_is_noted_at_the_end(keys: FakeKeys) -> None:
    """A process that stops knows of uses that no other knows of."""
    one = Authenticator(keys, lambda: NOW)
    one.start()
    await one.refresh()
    await one.note_uses()
    assert "ok" == await code_of(one, HEADER)
    await one.stop()
    assert [[1]] == [list(used) for used in keys.touched]


async def test_a_use_that_was_refused_is_none(keys: FakeKeys, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever goes on with an expired key does not make it look used."""
    monkeypatch.setattr(authentication, "TOUCH_INTERVAL_S", 0.0)
    now = NOW
    one = Authenticator(keys, lambda: now)
    one.start()
    keys.keys[digest(KEY)] = key_of(1, Scope.ADMIN, expires_at=NOW + timedelta(seconds=1))
    assert "ok" == await code_of(one, HEADER)
    await one.refresh()
    await one.note_uses()
    now = NOW + timedelta(seconds=1)
    assert "unauthorized" == await code_of(one, HEADER)
    await one.stop()
    assert [[1]] == [list(used) for used in keys.touched]


async def test_the_use_of_a_key_that_was_revoked_is_noted(
    authenticator: Authenticator, keys: FakeKeys, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever takes back a key that leaked wants to know when it was used last; here, while its revocation was being read."""
    monkeypatch.setattr(authentication, "TOUCH_INTERVAL_S", 0.0)
    assert "ok" == await code_of(authenticator, HEADER)
    await authenticator.refresh()
    await authenticator.note_uses()
    keys.touched.clear()
    keys.keys[digest(KEY)] = replace(keys.keys[digest(KEY)], revoked_at=NOW)
    reading = asyncio.create_task(authenticator.refresh())
    await asyncio.sleep(0)
    assert "ok" == await code_of(authenticator, HEADER)
    await reading
    await authenticator.note_uses()
    assert "unauthorized" == await code_of(authenticator, HEADER)
    assert [[1]] == [list(used) for used in keys.touched]


async def test_random_keys_cost_the_ledger_little_and_push_nobody_out(settings: Settings, admin: Admin) -> None:
    """20,000 of them at once: look-ups by the hundred; a key that is known waits for nothing meanwhile."""
    ledger = await Ledger.connect(settings)
    _, plain = await ledger.keys.create("shop", {Scope.ADMIN}, deadline=asyncio.get_running_loop().time() + 10)
    one = Authenticator(ledger.keys, ledger.now)
    one.start()
    assert "ok" == await code_of(one, f"Bearer {plain}")
    selects, begun_at = admin.status("Com_select"), asyncio.get_running_loop().time()

    guesses = asyncio.gather(*(code_of(one, f"Bearer usher_{number:043}") for number in range(20_000)))
    await asyncio.sleep(0)
    known = one.authorize(f"Bearer {plain}", ADMIN)
    with pytest.raises(StopIteration):
        known.send(None)
    assert {"unauthorized"} == set(await guesses)

    refreshes = (asyncio.get_running_loop().time() - begun_at) / authentication.REFRESH_INTERVAL_S
    assert admin.status("Com_select") - selects <= 48 + 2 * refreshes
    assert [digest(plain)] == list(one._known)
    await one.stop()
    await ledger.close()
