"""docs/runbook.md, from top to bottom: each situation is made, shows as the page says, and ends as the page says."""

import http.client
import json
import re
import stat
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import redis

from deploy.local import MariaDB, Redis, free_port
from deploy.programs import MARIADB_DUMP, PROJECT, REDIS, provide
from deploy.run import COUPON, ENVIRONMENT, KEY, environment_file
from deploy.run import RUN as RUN_FOLDER
from service.counters import key
from tests.documents.answers import Pairs
from tests.documents.blocks import ANSWERS, NOT_RUN, RUN, Example, blocks, examples
from tests.documents.running import faults, is_ready, text_of, wait_for_runs
from tests.documents.shell import Shell
from tests.reconciler_process import Reconciler
from tests.stores import Admin, flush
from tests.usher_process import Usher, environment, get
from tests.waiting import wait_until

PAGE = "docs/runbook.md"
ON_HOSTS = ["$ set -a; . /etc/usher/usher.env"]
"""How the blocks begin that are shown and not pasted here."""
SHOWN_WATCH = "127.0.0.1:8081"
SIGN = re.compile(r"^\| (log of `usher serve`|log of the reconciler|metrics) \| (.+) \|$", re.MULTILINE)


@dataclass
class Night:
    """What can happen, and to whom. `since`: how much each had logged when the section began."""

    usher: Usher
    reconciler: Reconciler
    mariadb: MariaDB
    redis: Redis
    watch_port: int
    api_key: str
    since: dict[Path, int] = field(default_factory=dict)

    def begin(self) -> None:
        """A section begins."""
        self.since = {log: log.stat().st_size for log in (self.usher.log, self.reconciler.log)}

    def events(self, log: Path) -> list[str]:
        """What was logged there since then."""
        lines = log.read_bytes()[self.since[log] :].decode().splitlines()
        return [json.loads(line)["event"] for line in lines if line.startswith("{")]

    def wait_for(self, log: Path, event: str) -> None:
        wait_until(lambda: event in self.events(log), what=lambda: f"{event!r} in {self.events(log)}")

    def post(self, path: str, body: Mapping[str, str | int]) -> None:
        """As a client does; it must succeed."""
        connection = http.client.HTTPConnection("127.0.0.1", self.usher.port, timeout=30)
        try:
            headers = {"Authorization": f"Bearer {self.api_key}", "Content-Type": "application/json"}
            connection.request("POST", path, json.dumps(body), headers)
            answer = connection.getresponse()
            assert answer.status < 300, answer.read()
        finally:
            connection.close()

    def metrics(self) -> str:
        """What both tell whoever watches."""
        return "".join(get(port, "/metrics")[1].decode() for port in (self.usher.port, self.watch_port))


def mariadb_is_away(night: Night) -> None:
    night.mariadb.stop()
    wait_until(lambda: b'"unavailable"' in get(night.usher.port, "/readyz")[1], what="the service notices")
    night.wait_for(night.reconciler.log, "this reconciler leads no longer")
    night.wait_for(night.usher.log, "keys not refreshed until the ledger is back")


def mariadb_may_only_be_read(night: Night) -> None:
    night.mariadb.start()
    with Admin(night.mariadb) as admin:
        admin.run("SET GLOBAL read_only = 1")
    wait_until(lambda: is_ready(night.usher), what="it can be read")


def mariadb_is_back(night: Night) -> None:
    with Admin(night.mariadb) as admin:
        admin.run("SET GLOBAL read_only = 0")
    night.wait_for(night.reconciler.log, "this reconciler leads")


def redis_is_away(night: Night) -> None:
    """And customers come."""
    night.redis.stop()
    for number in range(3):
        night.post("/v1/redemptions", {"code": "ONCALL", "customer_id": "oncall", "order_id": f"meanwhile-{number}"})
    wait_until(lambda: b'"degraded"' in get(night.usher.port, "/readyz")[1], what="the service notices")
    night.wait_for(night.reconciler.log, "Redis is away")


def redis_is_back(night: Night) -> None:
    night.redis.start()
    wait_until(lambda: is_ready(night.usher), what="the service has it again")
    night.wait_for(night.usher.log, "breaker closed")
    night.wait_for(night.reconciler.log, "counters reseeded")


def redis_was_flushed(night: Night) -> None:
    flush(night.redis)
    night.wait_for(night.reconciler.log, "counters reseeded")


def somebody_has_edited_redis(night: Night) -> None:
    """After three redemptions: two seats are gone from the counter, and a taken one is among the free."""
    for number in (1, 2, 3):
        night.post("/v1/redemptions", {"code": COUPON, "customer_id": f"customer-{number}", "order_id": f"order-{number}"})
    with redis.Redis.from_url(night.redis.operator_url) as operator:
        operator.hincrby(key(COUPON, "counter"), "next", 2)
        operator.sadd(key(COUPON, "free"), 2)


def a_moment_later(night: Night) -> None:
    wait_for_runs(night.mariadb)


def a_row_was_written_past_usher(night: Night) -> None:
    """On the seat above the limit; the reconciler finds it."""
    with Admin(night.mariadb) as admin:
        admin.run(
            "INSERT INTO redemption (id, coupon_id, customer_id, order_id, status, seat, customer_seat, live_order_id, "
            "api_key_id, created_at, confirmed_at) SELECT UNHEX(REPLACE(UUID(), '-', '')), id, 'x', 'by-hand', 'confirmed', "
            "max_redemptions + 1, 1, 'by-hand', 0, UTC_TIMESTAMP(6), UTC_TIMESTAMP(6) FROM coupon WHERE code = %s",
            COUPON,
        )
    night.post("/v1/reconciliations", {"mode": "check"})
    a_moment_later(night)


def all_uses_are_held(night: Night) -> None:
    for number in range(4, 21):
        order: dict[str, str | int] = {
            "code": COUPON,
            "customer_id": f"customer-{number}",
            "order_id": f"order-{number}",
            "hold_s": 600,
        }
        night.post("/v1/redemptions", order)


def an_older_ledger_was_restored(night: Night) -> None:
    """Older by two holds; the reconciler finds it, but for the seats that are mended below."""
    with Admin(night.mariadb) as admin:
        admin.run("DELETE FROM redemption WHERE order_id IN ('order-19', 'order-20')")
    night.post("/v1/reconciliations", {"mode": "check"})
    a_moment_later(night)


GIVEN: dict[str, Callable[[Night], None]] = {
    "MariaDB is away": mariadb_is_away,
    "MariaDB may only be read": mariadb_may_only_be_read,
    "MariaDB is back": mariadb_is_back,
    "Redis is away": redis_is_away,
    "Redis is back": redis_is_back,
    "Redis was flushed": redis_was_flushed,
    "somebody has edited Redis": somebody_has_edited_redis,
    "a moment later": a_moment_later,
    "a row was written past Usher": a_row_was_written_past_usher,
    "all uses are held": all_uses_are_held,
    "an older ledger was restored": an_older_ledger_was_restored,
}


@pytest.fixture
def night(
    tmp_path: Path,
    usher: Usher,
    shell: Shell,
    database_url: str,
    migration_url: str,
    mariadb_server: MariaDB,
    redis_server: Redis,
) -> Iterator[Night]:
    """The service and a reconciler that leads, on the stores of this test process, which both run again afterwards."""
    folder, port = tmp_path / "checkout", free_port()
    variables = environment(database_url=database_url, migration_url=migration_url, redis_url=redis_server.url)
    (folder / ENVIRONMENT.relative_to(PROJECT)).write_text(environment_file(variables, redis_server.operator_url))
    socket = folder / RUN_FOLDER.relative_to(PROJECT) / "mariadb" / "mysql.sock"
    socket.parent.mkdir()
    socket.symlink_to(mariadb_server.socket)
    shell.lead(SHOWN_WATCH, f"127.0.0.1:{port}")
    watched = {"USHER_RECONCILER_LISTEN_PORT": str(port)}
    reconciler = Reconciler(tmp_path / "reconciler.log", {**variables, **watched})
    api_key = (folder / KEY.relative_to(PROJECT)).read_text().strip()
    night = Night(usher, reconciler, mariadb_server, redis_server, port, api_key)
    try:
        night.begin()
        night.wait_for(reconciler.log, "counters reseeded")
        yield night
    finally:
        for store in (mariadb_server, redis_server):
            if not store.running:
                store.start()
        with Admin(mariadb_server) as admin:
            admin.run("SET GLOBAL read_only = 0")
        reconciler.kept.stop()


@pytest.fixture(scope="session")
def clients(programs: Path) -> Path:
    """`redis-cli` and `mariadb` beside curl."""
    for name, beside in (("redis-cli", provide(REDIS)), ("mariadb", provide(MARIADB_DUMP))):
        variables = " ".join(f"{variable}='{value}'" for variable, value in beside.environment.items())
        script = programs / name
        script.write_text(f'#!/bin/sh\nexec env {variables} {beside.path.parent / name} "$@"\n', encoding="utf-8")
        script.chmod(stat.S_IRWXU)
    return programs


@pytest.mark.usefixtures("clients")
def test_a_night_on_call(shell: Shell, night: Night) -> None:
    pairs = Pairs()
    wrong = []
    for title, text, found in sections():
        night.begin()
        for example in found:
            if example.given:
                GIVEN[example.given](night)
            wrong += [f"{PAGE}:{example.line}: {fault}" for fault in faults(example, shell, pairs)]
        wrong += [f"{title}: {fault}" for fault in unseen(text, night)]
    assert not wrong, "\n".join(["", *wrong])


def sections() -> Iterator[tuple[str, str, list[Example]]]:
    """Title, text and examples of each."""
    lines = text_of(PAGE).splitlines()
    begins = [number for number, line in enumerate(lines) if line.startswith("## ")]
    for begin, end in zip(begins, [*begins[1:], len(lines)], strict=True):
        # The lines before are left empty, so that numbers of lines are those of the page.
        text = "\n".join([""] * begin + lines[begin:end])
        yield lines[begin].removeprefix("## "), text, list(examples(text))


def unseen(text: str, night: Night) -> Iterator[str]:
    """What a section says that shows, and does not."""
    for where, cell in SIGN.findall(text):
        named = re.findall(r"`([^`]+)`", cell)
        if where == "metrics":
            exposed = night.metrics()
            yield from (f"no metric {name}" for name in named if name.startswith("usher_") and f"\n{name}" not in exposed)
            continue
        log = night.usher.log if "serve" in where else night.reconciler.log
        events = night.events(log)
        yield from (
            f"{event!r} is not among {events} in the {where}" for event in named if " " in event and event not in events
        )


def test_each_block_is_run_or_known_not_to_be() -> None:
    found = list(blocks(text_of(PAGE)))
    assert not [block for block in found if block.language not in RUN | ANSWERS | NOT_RUN]
    assert len(ON_HOSTS) == len([block for block in found if block.language in NOT_RUN])
    assert all(
        block.text.startswith(begin) for block, begin in zip((b for b in found if b.language in NOT_RUN), ON_HOSTS, strict=True)
    )


def test_each_situation_has_what_somebody_on_call_needs() -> None:
    """How it shows, what to run, and how to know that it is over."""
    for title, text, found in sections():
        if title not in ("First", "In the morning"):
            assert found, title
            assert re.search(r"^\*\*Over\*\* when ", text, re.MULTILINE), title
            assert re.search(r"\*\*(Do|Nothing has to be done|Then)\b", text), title
            assert SIGN.search(text) or title == "Exhausted too early", title


def test_each_alert_has_its_place() -> None:
    """Whoever is woken by one finds where to begin."""
    alerts = re.findall(r"- alert: (\w+)", text_of("docs/metrics.md"))
    assert alerts
    assert sorted(alerts) == sorted(re.findall(r"`(Usher[A-Z]\w+)`", text_of(PAGE)))
