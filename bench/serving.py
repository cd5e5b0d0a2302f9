"""The servers of the strategies: which command serves which, and which of them stay up beside each other."""

import sys
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

import redis

from bench.plan import Step
from bench.servers import server
from bench.stores import Stores
from bench.strategies import KINDS
from bench.strategies.preparation import Places, prepare
from deploy.local import free_port

WITHOUT_REDIS = "usher-without-redis"
BESIDE = ("loads", "open", "ledgers")
"""Sections that measure Usher and the empty handler in turns: both stay up. Elsewhere there is one at a time."""


class Serving(NamedTuple):
    """A server that is up."""

    port: int
    pid: int


class Servers:
    """The servers that are up.

    Args:
        ledgers: the stores, by the step's `ledger`.
        log: what all servers say.
    """

    def __init__(self, ledgers: Mapping[str, Stores], log: Path) -> None:
        self._ledgers, self._log = ledgers, log
        self._up: dict[tuple[object, ...], Serving] = {}
        self._life = ExitStack()

    def serving(self, step: Step, codes: Sequence[str]) -> Serving:
        """The server for a step on these coupons, started unless it is up; those that must not be up beside it are ended."""
        named = (step.section, step.strategy, step.workers, step.pool, step.ledger)
        if named in self._up:
            return self._up[named]
        if any(other[0] != step.section for other in self._up) or step.section not in BESIDE:
            self.end()
        stores = self._ledgers[step.ledger]
        if step.strategy != "empty":
            make_ready(step, codes, stores)
        port = free_port()
        environment = {**stores.environment, "USHER_LOG_LEVEL": "warning"}
        if KINDS[step.strategy].served_by_front:
            # What the rivals do in Redis, Usher's own account may not.
            environment["USHER_REDIS_URL"] = stores.redis.operator_url
        pid = self._life.enter_context(server(command(step, port), environment, port, self._log))
        if step.strategy == WITHOUT_REDIS:
            stores.redis.pause()
            self._life.callback(stores.redis.resume)
        self._up[named] = Serving(port, pid)
        return self._up[named]

    def end(self) -> None:
        """Ends all of them."""
        self._up.clear()
        self._life.close()


def make_ready(step: Step, codes: Sequence[str], stores: Stores) -> None:
    """Redis without a key, and the rivals' counters of these coupons as the ledger has them."""
    with redis.Redis.from_url(stores.redis.operator_url) as client:
        client.flushall()
    prepare(step.strategy, codes, Places(stores.mariadb.migration_url, stores.redis.operator_url))


def command(step: Step, port: int) -> list[str]:
    """What serves a step's strategy."""
    workers = ["--port", str(port), "--workers", str(step.workers)]
    if not KINDS[step.strategy].served_by_front:
        return [sys.executable, "-m", "service.cli", "serve", *workers]
    pool = ["--pool", str(step.pool)] if step.pool else []
    return [sys.executable, "-m", "bench.front", step.strategy, *workers, *pool]
