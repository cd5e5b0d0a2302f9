"""What check and repair ask of counters, and the two scripts that mend, against a real Redis."""

import pytest
import redis.asyncio

from service.comparing import BEGIN, Comparing, Inspected, SeatState
from service.counters import PARTS, Counters, fields, key
from tests.counters.given import CODE, claim, loaded, now_ms, wishes

COUNTER, FREE, PENDING, CUSTOMERS = (key(CODE, part) for part in PARTS)
ALL_TYPES = {"counter": "hash", "free": "set", "pending": "hash", "customers": "hash"}
UNTYPED = dict.fromkeys(("free", "pending", "customers"), "none")

Raw = redis.asyncio.Redis


@pytest.fixture
async def comparing(counters: Counters) -> Comparing:
    """Looks at a counter with limit 5, one per customer: seats 1 to 3 are claimed, and 2 is free."""
    await counters.load([loaded(5, 1)])
    await claim(counters, wishes("a", "b", "c"))
    return Comparing(counters)


async def test_inspect(comparing: Comparing, counters: Counters, raw: Raw) -> None:
    """A counter as it is written, several in one call; one that is missing is None."""
    await counters.load([loaded(None, code="SILVER", coupon_id=78)])
    await raw.sadd(FREE, 2)
    found, missing, other = await comparing.inspect([CODE, "NOTHING", "SILVER"])
    assert missing is None
    assert found is not None
    assert other is not None
    written = {name: str(value) for name, value in fields(loaded(5, 1).coupon).items()}
    loaded_at = found.values["loaded"]
    values = {**written, "loaded": loaded_at, "next": "3", "searched": "0"}
    wanted = Inspected(
        is_right=True, types=ALL_TYPES, values=values, free_count=1, customer_count=3, pending_count=3, unsearched=0
    )
    assert wanted == found
    assert 3 == found.number("next")
    assert (True, {"counter": "hash"} | UNTYPED, 0) == (other.is_right, other.types, other.free_count)


async def test_seats_that_were_not_looked_for_yet(comparing: Comparing, counters: Counters, raw: Raw) -> None:
    """Up to where the counter began, or was shrunk; no more once it has searched. What cannot be right counts as none."""

    async def unsearched() -> int:
        (found,) = await comparing.inspect([CODE])
        assert found is not None
        return found.unsearched

    assert 0 == await unsearched()
    await raw.delete(COUNTER)
    await counters.load([loaded(9, 1, seat_max=4)])
    await claim(counters, wishes("d"))
    assert 4 == await unsearched()
    await counters.shrink(CODE, 7)
    assert 7 == await unsearched()
    for wrong in ("10", "-1", "x", "07"):
        await raw.hset(COUNTER, "unsearched", wrong)
        assert 0 == await unsearched()
    await counters.shrink(CODE, 0)
    assert 7 == await unsearched()
    look = await counters.look(CODE)
    assert look is not None
    await counters.refill(CODE, look, seats=[2], complete=None)
    assert 7 == await unsearched()
    await counters.refill(CODE, look, seats=[], complete=True)
    assert 0 == await unsearched()
    await counters.refill(CODE, look, seats=[], complete=False)
    assert 0 == await unsearched(), "what it does not know now it knew once"


@pytest.mark.parametrize("field", ["next", "status", "loaded", "coupon_id"])
async def test_inspect_what_cannot_be_right(comparing: Comparing, raw: Raw, field: str) -> None:
    """It is shown as it is, and stays."""
    await raw.hset(COUNTER, field, b"\xff7")
    (found,) = await comparing.inspect([CODE])
    assert found is not None
    assert (False, "\udcff7") == (found.is_right, found.values[field])
    await raw.hdel(COUNTER, field)
    (found,) = await comparing.inspect([CODE])
    assert found is not None
    assert (False, None) == (found.is_right, found.values.get(field))


@pytest.mark.parametrize("part", PARTS)
async def test_keys_of_a_wrong_type(comparing: Comparing, raw: Raw, part: str) -> None:
    """No look stumbles over one, and none removes it."""
    await raw.delete(key(CODE, part))
    await raw.set(key(CODE, part), "text")
    (found,) = await comparing.inspect([CODE])
    assert found is not None
    assert (False, "string") == (found.is_right, found.types[part])
    assert {CODE: None} == await comparing.seat_states({CODE: [1, 2]})
    assert {CODE: []} == await comparing.in_flight([CODE], age_min_ms=0, orders_max=10)
    if part == "free":
        assert {CODE: (BEGIN, [])} == await comparing.free_page({CODE: BEGIN})
    if part == "customers":
        assert {CODE: (BEGIN, {})} == await comparing.customers_page({CODE: BEGIN})
        assert {CODE: [None, None]} == await comparing.customer_counts({CODE: ["a", "b"]})
    assert "text" == await raw.get(key(CODE, part))


async def test_pages(comparing: Comparing, raw: Raw) -> None:
    """A walk sees every entry, whatever its bytes are."""
    members = {str(seat) for seat in range(1, 5_000)} | {"\udcff", "x", ""}
    await raw.sadd(FREE, *map(as_bytes, members))
    counts = {f"customer-{n}": str(n) for n in range(5_000)} | {"\udcff": "\udcff"}
    await raw.hset(CUSTOMERS, mapping={as_bytes(name): as_bytes(count) for name, count in counts.items()})
    assert members == await walked_free(comparing)
    assert counts.items() <= (await walked_customers(comparing)).items()


def as_bytes(text: str) -> bytes:
    return text.encode(errors="surrogateescape")


async def walked_free(comparing: Comparing) -> set[str]:
    cursor, found = BEGIN, set()
    while True:
        cursor, members = (await comparing.free_page({CODE: cursor}))[CODE]
        found.update(members)
        if cursor == BEGIN:
            return found


async def walked_customers(comparing: Comparing) -> dict[str, str]:
    cursor, found = BEGIN, {}
    while True:
        cursor, counts = (await comparing.customers_page({CODE: cursor}))[CODE]
        found.update(counts)
        if cursor == BEGIN:
            return found


async def test_seat_states(comparing: Comparing, raw: Raw) -> None:
    """Pending until it is settled or too old; free before all else."""
    await raw.sadd(FREE, 2, "x", 9)
    await raw.hset(PENDING, "c", "3 1 1")
    states = (await comparing.seat_states({CODE: [1, 2, 3, 4, 9, "x", "y"]}))[CODE]
    assert states is not None
    assert (77, 3, 3) == (states.coupon_id, states.version, states.next)
    above, handed_out, is_free, pending = SeatState
    assert [pending, is_free, handed_out, above, is_free, is_free, above] == states.states
    assert {"NOTHING": None} == await comparing.seat_states({"NOTHING": [1]})


async def test_customer_counts(comparing: Comparing, raw: Raw) -> None:
    await raw.hset(CUSTOMERS, b"\xff", "x")
    found = await comparing.customer_counts({CODE: ["customer of a", "nobody", "\udcff"]})
    assert {CODE: ["1", None, "x"]} == found


async def test_in_flight(comparing: Comparing, raw: Raw) -> None:
    """Orders that have been pending for a while; those that are young, too old or malformed are left out."""
    since_ms = await now_ms(raw) - 4_000
    await raw.hset(PENDING, mapping={"old": "1 1 1", "waits": f"2 1 {since_ms}", "junk": "junk"})
    (found,) = (await comparing.in_flight([CODE], age_min_ms=3_500, orders_max=10)).values()
    assert ["waits"] == [order for order, _ in found]
    assert 4_000 <= found[0][1] <= await now_ms(raw) - since_ms
    (found,) = (await comparing.in_flight([CODE], age_min_ms=0, orders_max=2)).values()
    assert 2 == len(found)


async def test_withdraw(comparing: Comparing, raw: Raw) -> None:
    """These members leave, whatever they are, and a search is due if any has left."""
    await raw.sadd(FREE, 1, 2, 3, b"\xff")
    await raw.hset(COUNTER, "searched", 12345)
    assert 0 == await comparing.withdraw(CODE, 77, [4])
    assert "12345" == await raw.hget(COUNTER, "searched")
    assert 3 == await comparing.withdraw(CODE, 77, [1, 3, "\udcff"])
    assert {"2"} == await raw.smembers(FREE)
    assert "0" == await raw.hget(COUNTER, "searched")
    assert 0 == await comparing.withdraw(CODE, 78, [2])
    assert 0 == await comparing.withdraw("NOTHING", 77, [2])
    assert {"2"} == await raw.smembers(FREE)


async def test_recount(comparing: Comparing, counters: Counters, raw: Raw) -> None:
    """Only what is still as it was seen is set; who has no live redemption leaves."""
    await raw.hset(CUSTOMERS, mapping={"ann": 1, "bob": "x", "cy": 0, b"\xff": 1})
    wanted = [("ann", "1", 0), ("bob", "x", 1), ("cy", "1", 1), ("dan", "1", 1), ("\udcff", "1", 0)]
    assert 3 == await comparing.recount(CODE, 77, wanted)
    assert [None, "1", "0", None, None] == await raw.hmget(CUSTOMERS, "ann", "bob", "cy", "dan", "nobody")
    assert 0 == await comparing.recount(CODE, 78, [("bob", "1", 0)])
    assert 0 == await comparing.recount("NOTHING", 77, [("bob", "1", 0)])
    assert "1" == await raw.hget(CUSTOMERS, "bob")


async def test_what_mends_keeps_the_keys_together(comparing: Comparing, raw: Raw) -> None:
    """All of a coupon's keys leave at one time."""
    await raw.persist(COUNTER)
    await comparing.withdraw(CODE, 77, [4])
    await raw.persist(CUSTOMERS)
    await comparing.recount(CODE, 77, [("nobody", "1", 0)])
    assert min(await raw.ttl(COUNTER), await raw.ttl(CUSTOMERS)) > 0


@pytest.mark.usefixtures("comparing")
async def test_a_look_writes_nothing(raw: Raw) -> None:
    """Redis itself refuses a script that was declared so."""
    sha = await raw.script_load("#!lua flags=no-writes\nreturn redis.call('HSET', KEYS[1], 'next', 1)")
    with pytest.raises(redis.exceptions.ResponseError, match="read-only"):
        await raw.evalsha(sha, 1, COUNTER)
    assert "3" == await raw.hget(COUNTER, "next")
