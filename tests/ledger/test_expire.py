"""Transitions that end overdue holds: what they leave alone, and how the holds are found."""

from datetime import UTC, datetime, timedelta

import pytest

from service.errors import LedgerReplyLost
from service.ledger import Ledger
from service.ledger.sql import Query
from service.model import Coupon, NewRedemption, RecordEnding
from service.transition import Overdue, Transition, TransitionEnding, Verb
from tests.ledger import given
from tests.stores import Admin


async def held(ledger: Ledger, coupon: Coupon, *seats: int, overdue_s: float = 1.0) -> list[NewRedemption]:
    """Holds whose time has been over for so long; each further one a millisecond less."""
    begin = ledger.now() - timedelta(seconds=overdue_s)
    new = [given.row(ledger, coupon, seat=seat, expires_at=begin + timedelta(milliseconds=n)) for n, seat in enumerate(seats)]
    assert [RecordEnding.RECORDED] * len(new) == await given.endings(ledger, *new)
    return new


async def test_overdue_in_pages(ledger: Ledger) -> None:
    """The oldest first, each page after the last one of the page before."""
    first, second = [await given.coupon(ledger, code) for code in ("A", "B")]
    younger = await held(ledger, first, 1, 2, 3)
    older = await held(ledger, second, 1, 2, overdue_s=60)
    await held(ledger, second, 3, overdue_s=-60)
    confirmed = given.row(ledger, second, seat=4)
    assert [RecordEnding.RECORDED] == await given.endings(ledger, confirmed)
    page = await ledger.redemptions.overdue(limit=4, deadline=given.soon())
    assert [Overdue(new.id, new.expires_at) for new in (*older, *younger[:2]) if new.expires_at] == page
    rest = await ledger.redemptions.overdue(after=page[-1], limit=4, deadline=given.soon())
    assert [younger[2].id] == [one.id for one in rest]
    assert [] == await ledger.redemptions.overdue(after=rest[-1], limit=4, deadline=given.soon())


async def test_who_only_expires_waits_for_nobody(ledger: Ledger, admin: Admin) -> None:
    """A redemption that somebody holds is left out."""
    first, second = await held(ledger, await given.coupon(ledger), 1, 2)
    admin.run("BEGIN")
    admin.run("SELECT * FROM redemption WHERE id = %s FOR UPDATE", first.id)
    wishes = [Transition(Verb.EXPIRE, one.id) for one in (first, second)]
    answers = await ledger.transitions.carry_out(wishes, given.soon())
    admin.run("ROLLBACK")
    assert [None, TransitionEnding.DONE] == [answer and answer.ending for answer in answers]


async def test_what_somebody_holds_is_left_out(ledger: Ledger, admin: Admin) -> None:
    """It stops nobody else's wish; its own can be carried out afterwards."""
    first, second = await held(ledger, await given.coupon(ledger), 1, 2)
    admin.run("BEGIN")
    admin.run("SELECT * FROM redemption WHERE id = %s FOR UPDATE", first.id)
    wishes = [Transition(Verb.CANCEL, first.id), Transition(Verb.CANCEL, second.id)]
    answers = await ledger.transitions.carry_out(wishes, given.soon())
    admin.run("ROLLBACK")
    answers += await ledger.transitions.carry_out(wishes[:1], given.soon())
    assert [None, TransitionEnding.UNCHANGED, TransitionEnding.UNCHANGED] == [answer and answer.ending for answer in answers]


async def test_a_batch_that_ends_halfway(ledger: Ledger, admin: Admin) -> None:
    """One coupon's uses are freed, and another's, which is over, cannot be: the next try tells of all of them."""
    # Given: two live redemptions above B's limit, and somebody who looks at B without changing it.
    coupon, over = [await given.coupon(ledger, code) for code in ("A", "B")]
    rows = [given.row(ledger, coupon, seat=1), given.row(ledger, over, seat=1), given.row(ledger, over, seat=2)]
    assert [RecordEnding.RECORDED] * 3 == await given.endings(ledger, *rows)
    admin.run("UPDATE coupon SET max_redemptions = 1, version = version + 1 WHERE id = %s", over.id)
    admin.run("BEGIN")
    admin.run("SELECT * FROM coupon WHERE id = %s LOCK IN SHARE MODE", over.id)
    wishes = [Transition(Verb.CANCEL, row.id) for row in rows[:2]]
    # When
    with pytest.raises(LedgerReplyLost):
        await ledger.transitions.carry_out(wishes, given.soon())
    admin.run("ROLLBACK")
    answers = await ledger.transitions.carry_out([wish._replace(again=True) for wish in wishes], given.soon())
    # Then
    freed = [answer and answer.freed for answer in answers]
    assert [("A", 1), ("B", None)] == [(one.code, one.seat) for one in freed if one]


async def test_overdue_is_read_by_its_key_alone(ledger: Ledger, admin: Admin) -> None:
    """In its order, without a look at the table, whether the server has counted the rows lately or not."""
    coupon = await given.coupon(ledger, max_redemptions=1_000)
    await held(ledger, coupon, *range(1, 201))
    statement = Query("overdue")(id=bytes(16), expires_at=datetime(2020, 1, 1, tzinfo=UTC), limit=256)
    for _ in range(2):
        ((*_, kind, _, key, _, _, _, extra),) = await ledger._reading.fetch("EXPLAIN " + statement, given.soon())
        assert ("range", "redemption_expiry") == (kind, key)
        assert {"Using where", "Using index"} == {part.strip() for part in extra.split(";")}
        admin.run("ANALYZE TABLE redemption")
