"""Idempotency keys: what each stands for, in whatever order and however parallel it comes."""

import asyncio

from service.ledger import Ledger
from service.model import Coupon, FoundKey, LookUp, NewRedemption, RecordEnding
from tests.ledger import given
from tests.stores import Admin
from tests.waiting import until


async def recorded(ledger: Ledger, coupon: Coupon, **values: object) -> NewRedemption:
    new = given.row(ledger, coupon, **values)
    assert [RecordEnding.RECORDED] == await given.endings(ledger, new)
    return new


def found(of: NewRedemption, key: str, api_key_id: int = 1) -> FoundKey:
    return FoundKey(of.coupon_id, api_key_id, key, of.id)


async def remember(ledger: Ledger, *keys: FoundKey) -> list[bytes]:
    return [redemption.id for redemption in await ledger.redemptions.remember(keys, given.soon())]


async def test_what_a_key_has_made_or_found(ledger: Ledger, admin: Admin) -> None:
    """It stands for that for ever, per API key and coupon, whatever became of it; nothing is recorded with it."""
    # Given
    coupon, other = [await given.coupon(ledger, code) for code in ("A", "B")]
    made = await recorded(ledger, coupon, seat=1, idempotency_key="made")
    plain = await recorded(ledger, coupon, seat=2)
    # When
    assert [plain.id, made.id, plain.id] == await remember(
        ledger, found(plain, "found"), found(plain, "made"), found(made, "found", api_key_id=2)._replace(redemption_id=plain.id)
    )
    assert [plain.id] == await remember(ledger, found(made, "found"))
    given.cancel(admin, plain.id)
    # Then
    rows = [
        given.row(ledger, coupon, seat=3, idempotency_key=key, api_key_id=api_key_id)
        for key, api_key_id in (("made", 1), ("found", 1), ("found", 2), ("FOUND", 1), ("made", 2))
    ]
    records = await given.records(ledger, rows[:3])
    assert [(RecordEnding.KEY_KNOWN, one.id) for one in (made, plain, plain)] == [
        (record.ending, record.redemption and record.redemption.id) for record in records
    ]
    for row, seat in zip(rows[3:], (4, 5), strict=True):
        assert [RecordEnding.RECORDED] == await given.endings(ledger, row._replace(seat=seat))
    await recorded(ledger, other, seat=1, idempotency_key="found")
    questions = [LookUp("A", "c", "o", 1, key) for key in ("made", "found", "unknown", None)]
    standings = await ledger.redemptions.look_up(questions, given.soon())
    assert [made.id, plain.id, None, None] == [one.known and one.known.id for one in standings]


async def test_two_of_one_batch_with_one_key(ledger: Ledger) -> None:
    """One of them is recorded, the other finds it."""
    coupon = await given.coupon(ledger)
    rows = [given.row(ledger, coupon, seat=seat, idempotency_key="k") for seat in (1, 2)]
    first, second = await given.records(ledger, rows)
    assert [RecordEnding.RECORDED, RecordEnding.KEY_KNOWN] == [first.ending, second.ending]
    assert second.redemption is not None
    assert rows[0].id == second.redemption.id


async def test_races(ledger: Ledger, admin: Admin) -> None:
    """A key that makes a redemption here and finds one there at once stands for one of them, as everybody is told."""
    coupon = await given.coupon(ledger, max_redemptions=200)
    plain = await recorded(ledger, coupon, seat=200)
    rows = [given.row(ledger, coupon, seat=seat, idempotency_key=f"k{seat}") for seat in range(1, 101)]

    async def make(row: NewRedemption) -> bytes:
        (record,) = await given.records(ledger, [row])
        assert record.ending in (RecordEnding.RECORDED, RecordEnding.KEY_KNOWN)
        return record.redemption.id if record.redemption else row.id

    async def find(row: NewRedemption) -> bytes:
        return (await remember(ledger, found(plain, str(row.idempotency_key))))[0]

    made = asyncio.gather(*map(make, rows))
    told = asyncio.gather(*map(find, rows))
    assert await made == await told
    twice = "SELECT COUNT(*) FROM found_key f JOIN redemption r USING (coupon_id, api_key_id, idempotency_key)"
    assert 0 == admin.value(twice)


async def test_a_key_remembered_while_a_statement_waits(ledger: Ledger, admin: Admin, other: Admin) -> None:
    """A statement of several coupons that has begun sees what was remembered since: each coupon's keys are those of now."""
    # Given: the statement waits for a seat of the first coupon, and has read its keys.
    coupons = [await given.coupon(ledger, code) for code in ("A", "B")]
    plain = await recorded(ledger, coupons[1], seat=9)
    other.run("BEGIN")
    given.insert(other, given.row(ledger, coupons[0], seat=1))
    rows = [given.row(ledger, coupon, seat=1, idempotency_key="k") for coupon in coupons]
    recording = asyncio.create_task(given.endings(ledger, *rows))
    await until(lambda: admin.status("Innodb_row_lock_current_waits") == 1, what="the record statement waits")
    # When
    assert [plain.id] == await remember(ledger, found(plain, "k"))
    other.run("ROLLBACK")
    # Then
    assert [RecordEnding.RECORDED, RecordEnding.KEY_KNOWN] == await recording
