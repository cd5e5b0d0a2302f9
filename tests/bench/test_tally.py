from dataclasses import replace

import pytest

from bench.tally import Tally
from bench.wrk import parsed, tally

OUTPUT = """Running 4s test @ http://127.0.0.1:1
Requests/sec:  13946.23

RESULT {"requests": 100, "duration_us": 2000000, "p50_us": 4133, "p95_us": 7733, "p99_us": 11855, "p999_us": 18835,
"max_us": 23757, "not_2xx": 24, "socket_errors": 2, "timeouts": 1, "under_way": 7,
"answers": {"201 ": 70, "200 ": 6, "409 coupon_exhausted": 15, "503 deadlock": 4, "503 pool": 3, "503 overloaded": 1,
"500 ": 1}}
"""


def test_what_wrk_prints_is_a_tally() -> None:
    found = tally(parsed(OUTPUT))
    assert {"p50": 4.133, "p95": 7.733, "p99": 11.855, "p99.9": 18.835, "max": 23.757} == found.latency_ms
    assert (70, 76, 24, 100) == (found.made, found.good, found.others, found.replies)
    assert (7, 1) == (found.under_way, found.late)
    assert 38.0 == found.rate


def test_errors_are_counted_by_kind_and_nothing_is_left_out() -> None:
    found = tally(parsed(OUTPUT))
    # Two answers of no known kind, two connections that broke. What wrk saw pass its time-out is answered, or under way.
    assert {"deadlock": 4, "pool": 3, "refused": 15, "other": 4} == found.errors
    assert pytest.approx(26 / (76 + 26)) == found.error_rate


@pytest.mark.parametrize("load", ["exhausted", "last"])
def test_a_refusal_is_no_error_where_the_coupon_is_exhausted(load: str) -> None:
    found = replace(tally(parsed(OUTPUT)), load=load)
    assert 15 == found.refused
    assert "refused" not in found.errors


def test_a_conflict_of_another_kind_is_an_error_everywhere() -> None:
    found = Tally(1.0, {"409 coupon_exhausted": 3, "409 order_conflict": 2, "409 ": 1}, {}, load="last")
    assert (3, {"other": 3}) == (found.refused, found.errors)


def test_a_use_of_a_coupon_without_any_is_an_error() -> None:
    found = Tally(1.0, {"409 coupon_exhausted": 3, "201 ": 2}, {}, load="exhausted")
    assert (0, 3, {"oversold": 2}) == (found.good, found.refused, found.errors)


def test_output_without_a_result_is_an_error() -> None:
    with pytest.raises(ValueError, match="no result"):
        parsed("unable to connect to 127.0.0.1:1 Connection refused\n")


def test_a_tally_comes_back_from_its_document() -> None:
    found = tally(parsed(OUTPUT))
    assert found == Tally.of(found.document())
