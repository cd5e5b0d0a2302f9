"""A store that runs has every value of its settings file: none is misspelt, shadowed, or unknown to this version."""

import re
from pathlib import Path

import redis

from deploy.local import MARIADB_FOR_TESTS, MariaDB, Redis
from deploy.programs import PROJECT
from tests.stores import Admin

STORES = PROJECT / "deploy" / "stores"
OTHER_NAMES = {"transaction_isolation": "tx_isolation", "default_time_zone": "time_zone"}
"""Settings whose variables are called otherwise in some versions."""
UNITS = {"k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "kb": 1 << 10, "mb": 1 << 20, "gb": 1 << 30}


def plain(value: str) -> str:
    """A value in one form: sizes in bytes, switches as 1 and 0, without quotes."""
    size = re.fullmatch(r"(\d+)([kmg]b?)", value.lower())
    if size:
        return str(int(size[1]) * UNITS[size[2]])
    return {"on": "1", "off": "0", '""': ""}.get(value.lower(), value)


def lines(path: Path, separator: str) -> dict[str, str]:
    """Names and values of a settings file."""
    written = [line for line in path.read_text(encoding="utf-8").splitlines() if line and line[0] not in "#["]
    pairs = [(name.strip(), value.strip()) for name, _, value in (line.partition(separator) for line in written)]
    found = dict(pairs)
    assert len(found) == len(written), "a name is there twice"
    return found


def test_every_line_has_its_reason() -> None:
    """A comment stands above each line, or above the group of lines that it belongs to."""
    for path in (STORES / "mariadb.cnf", STORES / "redis.conf"):
        groups = path.read_text(encoding="utf-8").replace("[mariadbd]\n", "").strip().split("\n\n")
        assert [] == [group for group in groups if not group.startswith("# ")]


def test_mariadb_has_the_values_of_its_file(mariadb_server: MariaDB, admin: Admin) -> None:
    written = {**lines(STORES / "mariadb.cnf", "="), **MARIADB_FOR_TESTS}
    wanted = {OTHER_NAMES.get(name, name): plain(value) for name, value in written.items()}
    rows = admin.run("SHOW GLOBAL VARIABLES")
    running = {row["Variable_name"]: plain(row["Value"]) for row in rows if row["Variable_name"] in wanted}
    for values in (wanted, running):
        values["sql_mode"] = ",".join(sorted(values["sql_mode"].split(",")))
    assert wanted == running
    assert mariadb_server.settings == MARIADB_FOR_TESTS


def test_redis_has_the_values_of_its_file(redis_server: Redis) -> None:
    wanted = {name: plain(value) for name, value in lines(STORES / "redis.conf", " ").items()}
    with redis.Redis.from_url(redis_server.operator_url, decode_responses=True) as operator:
        running = {name: operator.config_get(name).get(name) for name in wanted}
    assert wanted == running
