from bench.plan import SECTIONS, Wanted, plan, with_empty
from bench.strategies import KINDS


def test_the_empty_handler_comes_first_last_and_after_every_third() -> None:
    assert ["empty", "a", "b", "c", "empty", "d", "empty"] == with_empty(["a", "b", "c", "d"])


def test_everybody_has_as_many_turns_with_as_many_users() -> None:
    steps = [step for step in plan(Wanted(rounds=3)) if step.section == "strategies"]
    for name in KINDS:
        if name != "empty":
            own = sorted((step.turn, step.users) for step in steps if step.strategy == name)
            assert [(turn, users) for turn in range(3) for users in (10, 100, 1_000)] == own


def test_rivals_are_tried_with_every_pool_before_they_are_measured() -> None:
    steps = plan(Wanted(strategies=["row-lock", "usher"], users=[10]))
    assert [("row-lock", 4), ("row-lock", 16), ("row-lock", 64)] == [
        (step.strategy, step.pool) for step in steps if step.section == "trial"
    ]
    assert "trial" == steps[0].section


def test_sections_come_in_their_order_and_only_those_that_are_wanted() -> None:
    assert list(SECTIONS) == list(dict.fromkeys(step.section for step in plan(Wanted())))
    assert {"last", "flush"} == {step.section for step in plan(Wanted(sections=["flush", "last"]))}


def test_a_long_run_is_longer_for_all_but_the_empty_handler() -> None:
    steps = [step for step in plan(Wanted(duration=600, rounds=3)) if step.section == "strategies"]
    assert {"empty": 20.0, "usher": 200.0} == {
        step.strategy: step.seconds for step in steps if step.strategy in ("empty", "usher")
    }


def test_who_was_first_in_one_turn_is_last_in_the_next() -> None:
    steps = plan(Wanted(strategies=["empty", "usher"], users=[100], rounds=2))
    for section in ("loads", "open", "ledgers"):
        shares = [step for step in steps if step.section == section and step.share in (None, 0.5)]
        first, second = ([(one.strategy, one.load, one.ledger) for one in shares if one.turn == turn] for turn in (0, 1))
        assert first == second[::-1]
        assert len(first) > 1


def test_a_turn_is_never_shorter_than_a_second() -> None:
    assert 1 == Wanted(duration=1, rounds=3).each_s
