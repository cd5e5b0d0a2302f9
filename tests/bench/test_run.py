"""`python -m bench` itself, in small, on real stores."""

import json
import os
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

import bench.__main__ as runner
from bench import plan, results
from bench.measuring import Record
from bench.stores import Stores
from deploy.local import MariaDB, Redis
from tests.stores import Admin

CLIENTS = 150


def of(record: Record) -> tuple[int, int, int]:
    """How many were sold, refused, and neither."""
    answers: Counter[str] = Counter(record["answers"])
    made, refused = answers.pop("201 ", 0), answers.pop("409 coupon_exhausted", 0)
    return made, refused, answers.total() + record["broken"] + record["unanswered"]


def test_a_run_measures_counts_and_reports(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    mariadb_server: MariaDB,
    redis_server: Redis,
    admin: Admin,
    database_url: str,
    redis_url: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    key = admin.make_key("bench", "redeem")
    environment = {**os.environ, "USHER_DATABASE_URL": database_url, "USHER_REDIS_URL": redis_url}

    @contextmanager
    def stores(_folder: Path, _rows: int) -> Iterator[Stores]:
        yield Stores(mariadb_server, redis_server, environment, key)

    monkeypatch.setattr(runner, "private_stores", stores)
    monkeypatch.setattr(results, "RESULTS", tmp_path)
    monkeypatch.setattr(plan, "CLIENTS", CLIENTS)
    arguments = "--rows 2000 --sections last --strategies conditional-update,usher --rounds 1 --workers 1 --no-plots --pool 4"
    runner.run(runner.asked_for(arguments.split()), tmp_path)

    run = results.read(results.newest())
    assert ["conditional-update", "usher"] == [one["strategy"] for one in run.records]
    for one in run.records:
        made, refused, failed = of(one)
        # On a machine that stalls some may miss their time; then as many of the seats may be left.
        assert made + refused + failed == CLIENTS
        assert 100 - failed <= made <= 100
        assert (made, 0) == (one["durable"], one["sold_too_many"])
        assert 0 <= one["sold_too_few"] <= failed
        assert {"service", "redis", "mariadb", "load"} == set(one["cpu_s"])
        assert one["cpu_s"]["load"] > 0
    filled = "SELECT COUNT(*) FROM redemption WHERE coupon_id = 1 AND order_id NOT LIKE 'o-%'"
    assert 1_000 == admin.value(filled)
    made, refused, failed = of(run.records[1])
    few = run.records[1]["sold_too_few"]
    assert f"| usher | 0 | {few} | {made} | {made} | {refused} | {failed} |" in capsys.readouterr().out
    assert json.loads((results.newest() / "run.json").read_text())["machine"]["wrk"][0].isdigit()
