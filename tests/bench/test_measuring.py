import subprocess
from pathlib import Path

import pytest

from bench import measuring
from bench.loading import Target
from bench.measuring import Measuring, counted, first_requests
from bench.plan import Step
from bench.stores import Stores
from bench.tally import Tally
from deploy.local import MariaDB, Redis
from tests.stores import Admin

ROW = """
INSERT INTO redemption (id, coupon_id, customer_id, order_id, status, live_order_id, api_key_id, created_at, confirmed_at)
SELECT UNHEX(LPAD(HEX({first} + seq), 32, '0')), 1, CONCAT('c-{run}-', seq), CONCAT('o-{run}-0-', seq), 'confirmed',
    CONCAT('o-{run}-0-', seq), 1, UTC_TIMESTAMP(6), UTC_TIMESTAMP(6)
FROM seq_1_to_{count}
"""
KEY = "usk_secret"


@pytest.fixture
def stores(mariadb_server: MariaDB, redis_server: Redis, admin: Admin, database_url: str) -> Stores:
    """With one coupon."""
    assert database_url  # There is the schema.
    admin.make_key("bench", "redeem")
    admin.run(
        "INSERT INTO coupon (id, code, max_redemptions, status, metadata, version, created_at, updated_at) "
        "VALUES (1, 'HOT', 1000, 'active', '{}', 1, UTC_TIMESTAMP(6), UTC_TIMESTAMP(6))"
    )
    return Stores(mariadb_server, redis_server, {}, KEY)


def test_a_row_that_is_missing_is_not_made_up_for_by_the_first_requests(
    stores: Stores, admin: Admin, monkeypatch: pytest.MonkeyPatch
) -> None:
    step, target = Step("trial", "hot", "usher", 10, 1), Target(1, stores, "HOT", "r00012")
    first = list[str]()
    monkeypatch.setattr(measuring, "wrk", lambda _port, _key, run, **_: first.append(run))
    first_requests(step, target)
    (word,) = first
    admin.run(ROW.format(run=word, first=0, count=5))
    admin.run(ROW.format(run=target.run, first=100, count=10))
    admin.run("DELETE FROM redemption WHERE order_id = 'o-r00012-0-3'")
    assert 9 == counted(step, target, Tally(1.0, {"201 ": 10}, {}))["durable"]


def test_a_failure_tells_what_the_program_said_and_never_the_key(stores: Stores, tmp_path: Path) -> None:
    found = Measuring({"full": stores}, tmp_path / "log")
    failure = subprocess.CalledProcessError(1, ["python", "-m", "bench.burst", "--key", KEY], stderr=f"refused\n  {KEY}\n")
    assert "python -m bench.burst ended with 1: refused KEY" == found.why(failure)
    assert KEY not in found.why(ValueError(KEY))
