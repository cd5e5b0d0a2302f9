from bench.progress import Pace


def test_time_left_is_by_how_long_the_steps_before_took() -> None:
    pace = Pace([2.0, 2.0, 6.0], begun_at=100.0)
    assert 10.0 == pace.left_s(now=100.0)
    pace.step_done()
    # It took twice as long as expected: so will the others.
    assert 16.0 == pace.left_s(now=104.0)
    assert 13.0 == pace.left_s(into_step_s=3.0, now=107.0)


def test_a_step_that_takes_longer_than_all_that_was_left_leaves_nothing() -> None:
    pace = Pace([1.0], begun_at=100.0)
    assert 0.0 == pace.left_s(into_step_s=5.0, now=105.0)
