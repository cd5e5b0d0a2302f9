from collections.abc import Mapping
from typing import Any

import pytest

from bench.figures import Figure, figures, nearest, ratio, ratio_by_empty
from bench.plan import Step, Wanted, plan
from tests.bench.records import record, whole_run


def test_each_measurement_is_compared_with_those_just_before_and_after_it_in_its_turn() -> None:
    step = Step("strategies", "hot", "usher", 100, 5)
    drifting = [record(1, step, rate=200), record(3, step, rate=100), record(5, step, rate=50), record(7, step, rate=10)]
    others = [{**one, "turn": 0 if one["number"] < 7 else 1} for one in drifting]
    assert 150.0 == nearest(record(2, step), others, rate_of)
    assert 75.0 == nearest(record(4, step), others, rate_of)
    assert 50.0 == nearest(record(6, step), others, rate_of)
    assert nearest({**record(2, step), "turn": 2}, others, rate_of) is None


def test_a_ratio_is_the_median_over_the_turns() -> None:
    above = [record(n, Step("loads", "hot", "usher", 100, 5, turn=n), rate=rate) for n, rate in ((1, 50), (2, 60), (3, 400))]
    below = [record(n, Step("loads", "hot", "empty", 100, 5, turn=n), rate=100) for n in (1, 2, 3)]
    below = [{**one, "number": one["number"] + 0.5} for one in below]
    assert 0.6 == ratio(above, below, rate_of)
    assert ratio(above, [], rate_of) is None


def test_strategies_that_were_measured_minutes_apart_are_compared_by_the_empty_handler_beside_each() -> None:
    """The machine is half as fast when the rival has its turn: the rival is not half as good for that."""
    records = [
        record(number, Step("strategies", "hot", name, 1_000, 5), rate=rate)
        for number, (name, rate) in enumerate(
            [("empty", 1_000), ("usher", 600), ("empty", 1_000), ("empty", 500), ("row-lock", 30), ("empty", 500)], 1
        )
    ]
    assert pytest.approx(10) == ratio_by_empty(records, "usher", "row-lock")
    assert ratio_by_empty([one for one in records if one["strategy"] != "empty"], "usher", "row-lock") is None


def test_what_was_answered_and_is_not_durable_is_not_counted_beside_the_empty_handler() -> None:
    steps = plan(Wanted(strategies=["empty", "usher"], sections=["loads"], loads=["hot"], users=[100]))
    records = [record(number, step) for number, step in enumerate(steps, 1)]
    for one in records:
        if one["strategy"] == "usher":
            one["durable"] //= 2
    found = {one.name: one.measured for one in figures(records, 0) if one.measured is not None}
    assert {
        "Usher / empty handler, 100 users, one worker": 0.5,
        "service CPU per redemption / per empty request": 2.0,
    } == found


def test_errors_are_not_measured_where_a_measurement_of_usher_failed() -> None:
    failed = [{"strategy": "usher", "users": 1_000}]
    (errors,) = [one for one in figures(whole_run(), 0, failed) if one.name.startswith("errors")]
    assert "not measured" == errors.reached
    (errors,) = [
        one for one in figures(whole_run(), 0, [{"strategy": "naive", "users": 1_000}]) if one.name.startswith("errors")
    ]
    assert "yes" == errors.reached


def rate_of(one: Mapping[str, Any]) -> float:
    return float(one["durable_per_s"])


def test_a_whole_run_measures_every_figure() -> None:
    found = figures(whole_run(), 10_000_000)
    assert [] == [one.name for one in found if one.measured is None]
    assert {1.0} == {one.measured for one in found if not one.name.startswith("errors")}


def test_any_error_at_1000_users_is_counted_and_those_of_rivals_are_not() -> None:
    records = whole_run()
    (errors,) = [one for one in figures(records, 0) if one.name.startswith("errors")]
    assert (0.0, "yes") == (errors.measured, errors.reached)
    last = next(one for one in records if one["strategy"] == "usher" and one["section"] == "last")
    last["answers"] = {"201 ": 99, "503 overloaded": 1}
    rival = next(one for one in records if one["strategy"] == "row-lock" and one["section"] == "last")
    rival["answers"] = {"503 lock_wait": 1}
    (errors,) = [one for one in figures(records, 0) if one.name.startswith("errors")]
    assert (1.0, "no") == (errors.measured, errors.reached)


def test_a_part_of_a_run_measures_what_it_can() -> None:
    steps = plan(Wanted(strategies=["empty", "usher"], sections=["loads"], loads=["hot"], users=[100]))
    found = {one.name: one.measured for one in figures([record(n, step) for n, step in enumerate(steps, 1)], 0)}
    assert {"Usher / empty handler, 100 users, one worker", "service CPU per redemption / per empty request"} == {
        name for name, measured in found.items() if measured is not None
    }


@pytest.mark.parametrize(
    ("at_least", "at_most", "measured", "reached"),
    [
        (0.65, None, 0.65, "yes"),
        (0.65, None, 0.64, "no"),
        (None, 3, 3.0, "yes"),
        (None, 3, 3.1, "no"),
        (12, None, None, "not measured"),
    ],
)
def test_a_figure_says_whether_it_is_reached(
    at_least: float | None, at_most: float | None, measured: float | None, reached: str
) -> None:
    assert reached == Figure("any", at_least, at_most, measured).reached
