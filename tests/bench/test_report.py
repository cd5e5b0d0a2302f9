import json
import sys
from pathlib import Path

import pytest

from bench import gaps, plan, report, results
from bench.results import Run
from bench.strategies import NAMES
from tests.bench.records import ABOUT, whole_run

PAGE = Path(__file__).resolve().parents[2] / "docs" / "benchmarks.md"
ROW_LOCK = "| row-lock |"


def lines(text: str, title: str) -> list[str]:
    """The lines of the table with this title."""
    _, found, rest = text.partition(f"### {title}\n\n")
    assert found, title
    return rest.partition("\n\n")[0].splitlines()


def test_every_strategy_has_its_line_with_each_number_of_users() -> None:
    text = report.markdown(Run(ABOUT, whole_run()))
    for users in ("10", "100", "1,000"):
        table = lines(text, f"One hot coupon, {users} users, workers: 2")
        assert 2 + len(NAMES) == len(table)
        assert (
            "| row-lock | default | 100 | 1.000 | 100 | 1.0 | 2.0 | 3.0 | 4.0 | 0 | 0 | 1.000 | 0.100 | 0.200 | 0.50 |" in table
        )
    assert "| p99 at half of the highest rate, open loop / p99 of the empty handler | at most 3 | 1 | yes |" in lines(
        text, "Figures"
    )


def test_errors_are_told_by_kind_and_of_all_turns() -> None:
    records = whole_run()
    for one in records:
        if (one["section"], one["strategy"], one["users"]) == ("strategies", "row-lock", 1_000):
            one["answers"] = {"201 ": 990, "503 lock_wait": 8, "503 deadlock": 2}
    text = report.markdown(Run(ABOUT, records))
    assert "| row-lock | 6 | 24 | 0 | 0 | 0 | 0 | 0 | 0 | 0 |" in lines(text, "Errors of 1,000 users")
    (own,) = [line for line in lines(text, "One hot coupon, 1,000 users, workers: 2") if line.startswith(ROW_LOCK)]
    assert "| 1.00% |" in own


def test_the_last_seats_are_told_at_their_worst() -> None:
    records = whole_run()
    first = next(one for one in records if (one["section"], one["strategy"]) == ("last", "naive"))
    first["sold_too_many"] = 17
    text = report.markdown(Run(ABOUT, records))
    (own,) = [line for line in lines(text, "The last hundred seats, 1,000 clients at once") if line.startswith("| naive |")]
    assert own.startswith("| naive | 17 | 0 | 1,000 |")


def test_only_gaps_after_a_flush_are_its_own() -> None:
    text = report.markdown(Run(ABOUT, whole_run()))
    assert ["| usher | 100 | 40 |"] == lines(text, "FLUSHALL under load")[2:]


def test_a_pause_longer_than_a_second_belongs_to_its_flush_wherever_it_ends() -> None:
    pause, before, later = [4_700.0, 1_500.0], [2_990.0, 50.0], [4_100.0, 50.0]
    assert [pause] == gaps.of_flush([before, pause, later], 3_000.0)
    assert 1_500.0 == gaps.longest([pause])
    assert [[3_010.0, 50.0]] == gaps.of_flush([[3_010.0, 50.0]], 3_000.0)


def test_a_load_that_used_its_whole_processor_is_marked() -> None:
    records = whole_run()
    text = report.markdown(Run(ABOUT, records))
    (empty,) = [line for line in lines(text, "One hot coupon, 10 users, workers: 2") if line.startswith("| empty |")]
    assert empty.endswith("| 0.95 full |")


def test_plots_that_cannot_be_drawn_are_a_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.delitem(sys.modules, "bench.plots", raising=False)
    report.plots(tmp_path)
    assert capsys.readouterr().err.startswith("no plots: their library")


def test_the_run_says_what_was_chosen_and_what_failed() -> None:
    about = {**ABOUT, "pool": 8, "wanted": {**ABOUT["wanted"], "rounds": 1, "sections": ["loads"]}}
    failed = [{"section": "loads", "strategy": "usher", "load": "hot", "users": 1_000}]
    found = lines(report.markdown(Run(about, whole_run(), failed)), "The run")
    assert {
        "| each figure | 15 s in 1 turn |",
        "| sections | loads |",
        "| workers | 2 where strategies are compared, else 1 |",
        "| pool of a rival's worker | the best of the trial, else 8 |",
        "| not measured | loads: usher, hot, 1,000 users |",
    } <= set(found)


def test_a_report_goes_between_the_pages_marks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, page = tmp_path / "run", tmp_path / "page.md"
    folder.mkdir()
    results.write_about(folder, ABOUT)
    for one in whole_run()[:40]:
        results.write(folder, one)
    page.write_text(f"Before.\n{report.BEGIN}\nold tables\n{report.END}\nAfter.\n")
    monkeypatch.setattr(sys, "argv", ["report", str(folder), "--no-plots", "--into", str(page)])
    report.main()
    text = page.read_text()
    assert text.startswith("Before.\n")
    assert text.endswith("After.\n")
    assert "old tables" not in text
    assert (folder / report.REPORT).read_text() in text


def test_the_page_has_the_marks() -> None:
    text = PAGE.read_text()
    assert 1 == text.count(report.BEGIN) == text.count(report.END)


def test_the_page_explains_every_strategy_section_and_load() -> None:
    text = PAGE.read_text()
    assert [] == [name for name in NAMES if f"| `{name}` |" not in text]
    assert [] == [name for name in plan.SECTIONS if f"| `{name}` |" not in text]
    assert [] == [name for name in plan.LOADS if f"`{name}`: " not in text]


def test_a_run_comes_back_as_it_was_written(tmp_path: Path) -> None:
    results.write_about(tmp_path, ABOUT)
    records = whole_run()[:12]
    for one in reversed(records):
        results.write(tmp_path, one)
    found = results.read(tmp_path)
    assert json.loads(json.dumps(records)) == list(found.records)
    assert ABOUT == found.about
