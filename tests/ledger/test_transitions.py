import asyncio
from datetime import timedelta

import pytest

from service.ledger import Ledger
from service.model import RedemptionStatus
from service.transition import Freed, Transition, Transitioned, TransitionEnding, Verb
from tests.ledger import given
from tests.stores import Admin

DONE = TransitionEnding.DONE


async def carry_out(ledger: Ledger, *wishes: Transition) -> list[Transitioned]:
    """The answers of one batch in which every wish has one."""
    answers = await ledger.transitions.carry_out(wishes, given.soon())
    assert None not in answers
    return [answer for answer in answers if answer is not None]


async def ending(ledger: Ledger, verb: Verb, redemption_id: bytes, reason: str | None = None) -> TransitionEnding:
    (answer,) = await carry_out(ledger, Transition(verb, redemption_id, given.HOLD_S, reason))
    return answer.ending


def seats(admin: Admin) -> list[int]:
    return [row["seat"] for row in admin.run("SELECT seat FROM redemption WHERE seat IS NOT NULL ORDER BY seat")]


async def test_life(ledger: Ledger, admin: Admin) -> None:
    """A hold is extended, confirmed and cancelled; each again changes nothing."""
    # Given
    coupon = await given.coupon(ledger, max_per_customer=2)
    new = await given.hold(ledger, coupon, seat=7, customer_seat=2)
    # When, Then
    (extended,) = await carry_out(ledger, Transition(Verb.EXTEND, new.id, 3600))
    assert extended.redemption is not None
    assert extended.redemption.expires_at is not None
    assert timedelta(seconds=3599) < extended.redemption.expires_at - ledger.now() <= timedelta(seconds=3600, milliseconds=50)
    (confirmed,) = await carry_out(ledger, Transition(Verb.CONFIRM, new.id))
    assert confirmed.redemption is not None
    assert (RedemptionStatus.CONFIRMED, None, 7) == (
        confirmed.redemption.status,
        confirmed.redemption.expires_at,
        confirmed.redemption.seat,
    )
    assert TransitionEnding.UNCHANGED is await ending(ledger, Verb.CONFIRM, new.id)
    assert TransitionEnding.ALREADY_CONFIRMED is await ending(ledger, Verb.EXTEND, new.id)
    (cancelled,) = await carry_out(ledger, Transition(Verb.CANCEL, new.id, reason="declined"))
    assert Freed(coupon.code, new.customer_id, new.order_id, 7) == cancelled.freed
    (again,) = await carry_out(ledger, Transition(Verb.CANCEL, new.id, reason="other"))
    assert Transitioned(TransitionEnding.UNCHANGED, cancelled.redemption) == again
    assert TransitionEnding.ALREADY_CANCELLED is await ending(ledger, Verb.CONFIRM, new.id)
    assert cancelled.redemption == await ledger.redemptions.get(new.id, given.soon())
    (row,) = admin.run("SELECT * FROM redemption")
    assert (None, None, None, 7, "declined") == (
        row["seat"],
        row["customer_seat"],
        row["live_order_id"],
        row["was_seat"],
        row["end_reason"],
    )


@pytest.mark.parametrize("verb", list(Verb))
async def test_a_hold_past_its_time(ledger: Ledger, admin: Admin, verb: Verb) -> None:
    """It is expired with whatever is asked of it, and its seat is free."""
    # Given
    coupon = await given.coupon(ledger)
    new = await given.hold(ledger, coupon, seat=3)
    given.overdue(admin, new.id)
    expected = {
        Verb.CONFIRM: TransitionEnding.RESERVATION_EXPIRED,
        Verb.EXTEND: TransitionEnding.RESERVATION_EXPIRED,
        Verb.CANCEL: TransitionEnding.UNCHANGED,
        Verb.EXPIRE: DONE,
    }
    # When
    before = await ledger.redemptions.get(new.id, given.soon())
    (answer,) = await carry_out(ledger, Transition(verb, new.id, given.HOLD_S, "late"))
    # Then
    assert before is not None
    assert (
        Transitioned(expected[verb], before.as_of(ledger.now()), Freed(coupon.code, new.customer_id, new.order_id, 3)) == answer
    )
    assert answer.redemption == await ledger.redemptions.get(new.id, given.soon())
    assert [] == seats(admin)


async def test_a_hold_in_time_does_not_expire(ledger: Ledger, admin: Admin) -> None:
    coupon = await given.coupon(ledger)
    new = await given.hold(ledger, coupon, seat=3)
    assert TransitionEnding.UNCHANGED is await ending(ledger, Verb.EXPIRE, new.id)
    assert [3] == seats(admin)


async def test_what_is_not_there(ledger: Ledger) -> None:
    """An id that nobody made, and one that was abandoned, are no redemptions."""
    coupon = await given.coupon(ledger)
    rows = [given.row(ledger, coupon, seat=seat) for seat in (1, 2)]
    await ledger.redemptions.abandon(rows[:1], given.soon())
    answers = await carry_out(ledger, *(Transition(Verb.CANCEL, row.id) for row in rows))
    assert [TransitionEnding.NOT_FOUND] * 2 == [answer.ending for answer in answers]


async def test_several_wishes_about_one(ledger: Ledger) -> None:
    """They are carried out in their order; the use is freed once."""
    coupon = await given.coupon(ledger)
    new = await given.hold(ledger, coupon, seat=3)
    verbs = (Verb.CONFIRM, Verb.CANCEL, Verb.CANCEL, Verb.CONFIRM)
    answers = await carry_out(ledger, *(Transition(verb, new.id) for verb in verbs))
    assert [DONE, DONE, TransitionEnding.UNCHANGED, TransitionEnding.ALREADY_CANCELLED] == [one.ending for one in answers]
    assert [None, 3, None, None] == [one.freed and one.freed.seat for one in answers]
    assert answers[2].redemption is not None
    assert answers[2].redemption.confirmed_at is not None


async def test_again_after_a_lost_reply(ledger: Ledger) -> None:
    """Who may have ended it before is told what it has freed."""
    coupon = await given.coupon(ledger)
    new = await given.hold(ledger, coupon, seat=3)
    first, second = [(await carry_out(ledger, Transition(Verb.CANCEL, new.id, again=again)))[0] for again in (False, True)]
    assert first.freed == second.freed


async def test_a_coupon_that_is_being_changed(ledger: Ledger, admin: Admin) -> None:
    """Its redemptions are left out; others' are not held up."""
    first, second = [await given.coupon(ledger, code) for code in ("A", "B")]
    rows = [await given.hold(ledger, coupon, seat=1) for coupon in (first, second)]
    admin.run("BEGIN")
    admin.run("SELECT * FROM coupon WHERE id = %s FOR UPDATE", first.id)
    answers = await ledger.transitions.carry_out([Transition(Verb.CANCEL, row.id) for row in rows], given.soon())
    admin.run("ROLLBACK")
    assert [None, DONE] == [answer and answer.ending for answer in answers]


async def test_over(ledger: Ledger, admin: Admin) -> None:
    """While redemptions sit above a lowered limit, seats that are left go to them: the limit is reached from above."""
    # Given: 8 of 10, and the limit lowered to 5.
    coupon = await given.coupon(ledger, max_redemptions=10)
    rows = [await given.hold(ledger, coupon, seat=seat) for seat in range(1, 9)]
    admin.run("UPDATE coupon SET max_redemptions = 5, version = version + 1")
    left = []
    # When
    for row in (rows[0], rows[7], rows[2], rows[3], rows[4]):
        (answer,) = await carry_out(ledger, Transition(Verb.CANCEL, row.id))
        assert answer.freed is not None
        left.append((answer.freed.seat, seats(admin)))
    # Then
    assert [
        (None, [1, 2, 3, 4, 5, 6, 7]),
        (None, [1, 2, 3, 4, 5, 6]),
        (None, [1, 2, 3, 4, 5]),
        (4, [1, 2, 3, 5]),
        (5, [1, 2, 3]),
    ] == left


async def test_leaving_a_seat_reads_a_few_rows_however_many_there_are(ledger: Ledger, admin: Admin) -> None:
    """Whether others sit above the limit is one look-up; as a search it read 300 rows here, and all of a large coupon's."""
    # Given
    coupon = await given.coupon(ledger, max_redemptions=1_000)
    rows = [given.row(ledger, coupon, seat=seat) for seat in range(1, 301)]
    await given.endings(ledger, *rows)
    names = ("Handler_read_next", "Handler_read_prev", "Handler_read_rnd_next")
    unasked = [sum(admin.status(name) for name in names) for _ in range(2)]
    before = sum(admin.status(name) for name in names)
    # When
    assert DONE is await ending(ledger, Verb.CANCEL, rows[7].id)
    # Then: less what asking costs.
    read = sum(admin.status(name) for name in names) - before - (unasked[1] - unasked[0])
    assert read < 50


async def test_batches_side_by_side(ledger: Ledger, admin: Admin) -> None:
    """However many confirm, extend and cancel the same redemptions at once: one cancel frees each, and none deadlocks."""
    coupons = [await given.coupon(ledger, code, max_redemptions=100) for code in ("A", "B")]
    new = [given.row(ledger, coupon, seat=seat) for coupon in coupons for seat in range(1, 51)]
    await given.endings(ledger, *new)
    wishes = [Transition(verb, row.id, given.HOLD_S) for verb in (Verb.CONFIRM, Verb.CANCEL, Verb.EXTEND) for row in new]
    freed: list[Freed] = []

    async def carry_out_all(left: list[Transition]) -> None:
        while left:
            answers = await ledger.transitions.carry_out(left, given.soon())
            freed.extend(answer.freed for answer in answers if answer is not None and answer.freed is not None)
            # What another batch held just then.
            left = [wish for wish, answer in zip(left, answers, strict=True) if answer is None]

    await asyncio.gather(*(carry_out_all(wishes[start::7]) for start in [*range(7), *range(7)]))
    assert 100 == len(freed) == len(set(freed))
    assert [] == seats(admin)
