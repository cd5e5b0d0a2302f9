import asyncio
import hashlib
import itertools
import random
import struct
import time
from collections.abc import AsyncIterator, Callable, Sequence

import pytest
from pydantic import SecretStr

from deploy.local import MariaDB
from service.config import Settings
from service.errors import LedgerUnavailable
from service.ledger import Ledger, migrations, sql
from service.ledger.clock import Clock
from service.ledger.connections import connections
from service.ledger.guesses import (
    CUSTOMERS_MAX,
    LIMITED,
    Guesses,
    Naming,
    _place,
    count,
    digest,
    limited_until_us,
    pack,
    unpack,
)
from service.ledger.sql import Migration
from service.model import GUESSES_MAX, Guess, Noted
from tests.faults import Proxy
from tests.ledger import given
from tests.stores import Admin
from tests.unit.scripted import COUPON

MINUTE_US = 60_000_000
SHORT_S = 1.5
"""A minute for those who have to wait for its end."""
NAMINGS = tuple(Naming(number * 1_000_000, bytes([number]) * 8) for number in range(GUESSES_MAX))
NEW = b"new"

OpenGuesses = Callable[..., Guesses]


@pytest.fixture
async def open_guesses(database_url: str) -> AsyncIterator[OpenGuesses]:
    """Makes gateways, each with connections of its own, as processes have them."""
    opened = []

    def make(window_s: float = 60.0, url: str = database_url) -> Guesses:
        own = connections(SecretStr(url), Clock(), size=2)
        opened.append(own)
        return Guesses(own, own, window_s)

    yield make
    for own in opened:
        await own.close()


def guesses(numbers: Sequence[int], customer: str = "c", key: int = 1) -> list[Guess]:
    return [Guess(key, customer, f"CODE-{number}") for number in numbers]


def counted(answers: Sequence[Noted]) -> list[bool]:
    return [noted.counted for noted in answers]


async def note(gateway: Guesses, named: Sequence[Guess]) -> list[Noted]:
    return await gateway.note(named, given.soon())


# --- Counting alone ----------------------------------------------------------------------------------------------


def test_a_new_code_counts_until_there_are_as_many_as_there_may_be() -> None:
    """The twentieth counts, the twenty-first does not."""
    nineteen = NAMINGS[:-1]
    assert ((*nineteen, Naming(30_000_000, NEW)), True) == count(nineteen, NEW, now_us=30_000_000, window_us=MINUTE_US)
    assert (NAMINGS, False) == count(NAMINGS, NEW, now_us=30_000_000, window_us=MINUTE_US)


def test_a_naming_counts_for_one_window_to_the_microsecond() -> None:
    """When the oldest of twenty is a minute old, and not before, another one may be named."""
    assert (NAMINGS, False) == count(NAMINGS, NEW, now_us=MINUTE_US - 1, window_us=MINUTE_US)
    assert ((*NAMINGS[1:], Naming(MINUTE_US, NEW)), True) == count(NAMINGS, NEW, now_us=MINUTE_US, window_us=MINUTE_US)
    assert MINUTE_US == limited_until_us(NAMINGS, MINUTE_US)
    assert limited_until_us(NAMINGS[1:], MINUTE_US) is None


def test_the_same_code_counts_once_by_its_latest_naming() -> None:
    few = NAMINGS[:3]
    assert ((*few[1:], Naming(9_000_000, bytes(8))), True) == count(few, bytes(8), now_us=9_000_000, window_us=MINUTE_US)


def test_while_limited_nothing_moves_and_what_is_counted_stays_so() -> None:
    """A code of the twenty, told to be unknown before, is told so again; the limit ends when it was said to."""
    assert (NAMINGS, True) == count(NAMINGS, bytes(8), now_us=30_000_000, window_us=MINUTE_US)


def test_a_clock_that_was_set_back_limits_nobody_for_ever() -> None:
    """Namings of the future count for a minute at most before the clock reaches them, and then for their own."""
    later = tuple(Naming(naming.at_us + 3_600_000_000, naming.code) for naming in NAMINGS)
    assert ((Naming(0, NEW),), True) == count(later, NEW, now_us=0, window_us=MINUTE_US)
    assert (NAMINGS, False) == count(NAMINGS, NEW, now_us=-1, window_us=MINUTE_US)


def test_the_window_slides() -> None:
    """At any moment, no more than twenty different codes were counted within the minute before it."""
    chance = random.Random(7)
    recent: tuple[Naming, ...] = ()
    named: list[Naming] = []
    now_us = 0
    for _ in range(5_000):
        now_us += chance.randrange(4_000_000)
        code = bytes([chance.randrange(60)])
        recent, counts = count(recent, code, now_us=now_us, window_us=MINUTE_US)
        if Naming(now_us, code) in recent:
            named.append(Naming(now_us, code))
        within = {naming.code for naming in named[-100:] if now_us - naming.at_us < MINUTE_US}
        assert counts or len(within) == GUESSES_MAX
        assert within == {naming.code for naming in recent}


# --- In the ledger -----------------------------------------------------------------------------------------------


async def test_twenty_codes_and_no_more(open_guesses: OpenGuesses) -> None:
    """One after the other: twenty count, the last of them reaches the limit, and the next is told how long to wait."""
    gateway = open_guesses()
    answers = [(await note(gateway, [guess]))[0] for guess in guesses(range(22))]

    assert [True] * 20 + [False] * 2 == counted(answers)
    assert [False] * 19 + [True, False, False] == [noted.reached for noted in answers]
    assert [0.0] * 19 == [noted.limited_s for noted in answers[:19]]
    assert all(50 < noted.limited_s <= 60 for noted in answers[19:])


async def test_twenty_at_once(open_guesses: OpenGuesses) -> None:
    """Of thirty in one transaction the first twenty count."""
    assert [True] * 20 + [False] * 10 == counted(await note(open_guesses(), guesses(range(30))))


async def test_one_code_for_ever(open_guesses: OpenGuesses) -> None:
    """Who repeats one typing error does not guess."""
    gateway = open_guesses()
    for _ in range(3):
        assert [True] * 40 == counted(await note(gateway, guesses([7] * 40)))
    assert {} == await gateway.limited(given.soon())


async def test_customers_and_keys_are_apart(open_guesses: OpenGuesses, admin: Admin) -> None:
    """Another customer of the key, and the customer of another key, are somebody else; names are compared byte by byte."""
    gateway = open_guesses()
    await note(gateway, guesses(range(20)))
    others = [("C", 1), ("c ", 1), ("c", 2), ("1:c", 1), ("ç", 1), ("c" * 128, 1)]
    for customer, key in others:
        assert [True] == counted(await note(gateway, guesses([21], customer, key)))
    assert [digest(1, "c")] == list(await gateway.limited(given.soon()))
    assert len(others) + 1 == admin.value("SELECT COUNT(*) FROM guess")


async def test_repeating_a_note_changes_nothing(open_guesses: OpenGuesses) -> None:
    """As after a lost reply: what was counted is counted, and nothing twice."""
    gateway = open_guesses()
    for _ in range(3):
        assert [True] * 19 == counted(await note(gateway, guesses(range(19))))
    assert [True, False] == counted(await note(gateway, guesses([19, 20])))
    assert [True] * 20 == counted(await note(gateway, guesses(range(20))))


async def test_the_limit_ends(open_guesses: OpenGuesses) -> None:
    """When the time that was told is over, a code counts again; refused ones meanwhile have prolonged nothing."""
    gateway = open_guesses(SHORT_S)
    no_sooner = given.soon(SHORT_S - 0.1)
    (*_, last) = await note(gateway, guesses(range(20)))
    end = given.soon(last.limited_s)
    while True:
        answers, limited = counted(await note(gateway, guesses([99]))), list(await gateway.limited(given.soon()))
        if asyncio.get_running_loop().time() > no_sooner:
            break  # It may have ended before these answers.
        assert ([False], [digest(1, "c")]) == (answers, limited)
    await asyncio.sleep(max(0.0, end - asyncio.get_running_loop().time()))
    assert {} == await gateway.limited(given.soon())
    assert [True] == counted(await note(gateway, guesses([99])))


async def test_processes_on_one_place(open_guesses: OpenGuesses) -> None:
    """Four processes note 100 codes of one customer, in pieces and side by side: exactly twenty count."""
    gateways = [open_guesses() for _ in range(4)]
    pieces = [guesses(range(at, at + 5)) for at in range(0, 100, 5)]
    answers = await asyncio.gather(*(note(gateways[at % 4], piece) for at, piece in enumerate(pieces)))
    assert 20 == sum(counted(list(itertools.chain(*answers))))


async def test_processes_on_many_places(open_guesses: OpenGuesses, admin: Admin) -> None:
    """Three processes note codes of the same 300 customers in orders of their own: each is exact, none waits in a circle."""
    gateways = [open_guesses() for _ in range(3)]
    deadlocks = admin.status("Innodb_deadlocks")
    customers = [f"customer-{number}" for number in range(300)]

    async def name(process: int) -> list[Noted]:
        found = []
        for number in range(10):
            shuffled = random.Random(process).sample(customers, len(customers))
            named = [Guess(1, customer, f"CODE-{process}-{number}") for customer in shuffled]
            found += await note(gateways[process], named)
        return found

    answers = await asyncio.gather(*map(name, range(3)))

    assert 20 * len(customers) == sum(counted(list(itertools.chain(*answers))))
    assert deadlocks == admin.status("Innodb_deadlocks")
    assert len(customers) == sum(noted.reached for noted in itertools.chain(*answers))


def neighbours(number: int) -> list[str]:
    """So many customers of key 1 who share a place."""
    places: dict[int, list[str]] = {}
    for name in map("customer-{}".format, itertools.count()):
        place = places.setdefault(_place(digest(1, name)), [])
        place.append(name)
        if len(place) == number:
            return place
    raise AssertionError("unreachable")


async def test_customers_who_share_a_place(open_guesses: OpenGuesses, admin: Admin) -> None:
    """Four are counted apart from each other, in one row."""
    gateway = open_guesses()
    four = neighbours(CUSTOMERS_MAX)
    named = [Guess(1, customer, f"CODE-{number}") for number in range(22) for customer in four]

    answers = [(await note(gateway, [guess]))[0] for guess in named[:40]] + await note(gateway, named[40:])

    assert [True] * 80 + [False] * 8 == counted(answers)
    assert {digest(1, customer) for customer in four} == set(await gateway.limited(given.soon()))
    assert 1 == admin.value("SELECT COUNT(*) FROM guess")
    assert 4 * 337 == admin.value("SELECT LENGTH(customers) FROM guess")


async def test_a_fifth_customer_of_a_place(open_guesses: OpenGuesses) -> None:
    """Whoever has the fewest namings makes room, and begins at nothing; who guesses stays limited."""
    gateway = open_guesses()
    *four, fifth = neighbours(CUSTOMERS_MAX + 1)
    for customer, number in zip(four, (20, 19, 3, 20), strict=True):
        await note(gateway, guesses(range(number), customer))

    assert [True] == counted(await note(gateway, guesses([1], fifth)))

    assert {digest(1, four[0]), digest(1, four[3])} == set(await gateway.limited(given.soon()))
    assert [True, False] == counted(await note(gateway, guesses([19, 20], four[1])))
    assert [True] * 20 + [False] == counted(await note(gateway, guesses(range(30, 51), four[2])))


def test_what_is_no_whole_row_is_left_out() -> None:
    """A row that somebody has cut off or written nonsense to stops nobody."""
    customers = {b"a" * 16: NAMINGS[:3], b"b" * 16: NAMINGS}
    packed = pack(customers)
    assert customers == unpack(packed, now_us=MINUTE_US - 1, window_us=MINUTE_US)
    assert {b"b" * 16: NAMINGS[3:]} == unpack(packed, now_us=MINUTE_US + 2_000_000, window_us=MINUTE_US)
    for length in range(len(packed)):
        assert len(unpack(packed[:length], now_us=0, window_us=MINUTE_US)) <= 2
    assert {} == unpack(b"x" * 100, now_us=0, window_us=MINUTE_US)
    (recent,) = unpack(b"a" * 16 + bytes([60]) + bytes(60 * 16), now_us=0, window_us=MINUTE_US).values()
    assert GUESSES_MAX == len(recent)


async def test_a_lost_commit(open_guesses: OpenGuesses, proxy: Proxy, database_url: str) -> None:
    """The reply to COMMIT is lost: noted again, counted once, and all are told that they count."""
    gateway = open_guesses(url=proxy.url(database_url))
    assert [True] == counted(await note(gateway, guesses([0])))
    lost = proxy.lose_reply(lambda request: b"COMMIT" in request)

    assert [True] * 19 == counted(await note(gateway, guesses(range(1, 20))))

    assert 1 == lost.hits
    assert [False] == counted(await note(gateway, guesses([20])))


async def test_a_row_that_somebody_has_written_to(open_guesses: OpenGuesses, admin: Admin) -> None:
    """Whatever it holds, it is read as far as it goes and counted on from there."""
    gateway = open_guesses()
    now = f"{time.time_ns() // 1_000:016x}"
    crowd = "".join(f"{number:032x}01{now}{number:016x}" for number in range(1, 41))
    for content in ("", "ff", "00" * 1348, "ff" * 1348, crowd, digest(1, "c").hex() + "ff" + (now + "ab" * 8) * 80):
        admin.run("REPLACE INTO guess (place, customers) VALUES (%s, UNHEX(%s))", _place(digest(1, "c")), content)
        (*_, last) = await note(gateway, guesses(range(30)))
        assert not last.counted
        assert [digest(1, "c")] == list(await gateway.limited(given.soon()))


async def test_no_ledger(open_guesses: OpenGuesses) -> None:
    """Nothing is counted, and the caller hears of it soon."""
    gateway = open_guesses(url="mysql://usher@127.0.0.1:1/usher")
    with pytest.raises(LedgerUnavailable):
        await note(gateway, guesses([1]))
    with pytest.raises(LedgerUnavailable):
        await gateway.limited(given.soon())


async def test_a_namings_form_is_kept(open_guesses: OpenGuesses, admin: Admin) -> None:
    """Processes of all versions must agree: place and digest by BLAKE2b, at most twenty namings, when the limit ends."""
    (*_, noted) = await note(open_guesses(), guesses(range(30)))
    (row,) = admin.run("SELECT * FROM guess")
    customer = hashlib.blake2b(b"1:c", digest_size=16).digest()
    assert int.from_bytes(customer[:2]) == row["place"]
    assert customer + bytes([20]) == row["customers"][:17]
    named = list(struct.iter_unpack(">Q8s", row["customers"][17:]))
    assert [hashlib.blake2b(f"CODE-{number}".encode(), digest_size=8).digest() for number in range(20)] == [
        code for _, code in named
    ]
    assert 60_000_000 + named[0][0] == admin.value("SELECT ROUND(UNIX_TIMESTAMP(limited_until) * 1000000) FROM guess")
    assert 59 < noted.limited_s <= 60


async def test_the_limited_are_found_by_their_index(open_guesses: OpenGuesses, admin: Admin) -> None:
    """However many have guessed before: only places where somebody is limited are read."""
    gateway = open_guesses()
    await note(gateway, [guess for number in range(500) for guess in guesses([1], f"customer-{number}")])
    await note(gateway, guesses(range(20)))
    (step,) = admin.run("EXPLAIN " + LIMITED(limit=10_000))
    assert ("range", "guess_limited_until") == (step["type"], step["key"])


async def test_upgrade(mariadb_server: MariaDB, bare_migration_url: str, admin: Admin, monkeypatch: pytest.MonkeyPatch) -> None:
    """A ledger of the first version, with redemptions in it, gets the table; nothing else changes."""
    assert mariadb_server.running
    known = sql.migrations()
    with monkeypatch.context() as earlier:
        earlier.setattr(migrations, "migrations", lambda: known[:1])
        await migrations.run(SecretStr(bare_migration_url))
    ledger = await Ledger.connect(Settings(database_url=SecretStr(bare_migration_url)))
    try:
        admin.run("USE usher_bare")
        for seat in (1, 2, 3):
            given.insert(admin, given.row(ledger, COUPON, seat=seat))
        before = admin.run("SELECT * FROM redemption ORDER BY id")

        names = await migrations.run(SecretStr(bare_migration_url))

        assert "0002_guesses" == names[0]
        assert 3 == len(before)
        assert before == admin.run("SELECT * FROM redemption ORDER BY id")
        assert [True] * 20 + [False] == counted(await ledger.guesses.note(guesses(range(21)), given.soon()))
    finally:
        await ledger.close()


def test_the_migration_is_one_table() -> None:
    """It takes no lock that a running service of the version before would notice."""
    (guess,) = (migration for migration in sql.migrations() if migration.name == "guesses")
    assert isinstance(guess, Migration)
    assert [True] == [statement.startswith("CREATE TABLE IF NOT EXISTS guess") for statement in guess.statements]
