"""What a worker needs: connections as the stores count them, memory and open files as the kernel does."""

import os
import resource
import socket
import statistics
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

import redis

from bench.servers import server, usher
from bench.sizing_stores import MILLION, rows_of, table
from bench.wrk import wrk
from deploy.local import MariaDB, Redis, free_port

CLIENTS = 1_000
LOAD_S = 6
POLL_S = 0.2


def measure_workers(mariadb: MariaDB, counters: Redis) -> None:
    """Connections as the stores count them, and the workers' memory: idle, with idle clients, and under load."""
    allow_open_files(4 * CLIENTS)
    environment = {
        **os.environ,
        "USHER_DATABASE_URL": mariadb.url,
        "USHER_MIGRATION_DATABASE_URL": mariadb.migration_url,
        "USHER_REDIS_URL": counters.url,
    }
    usher(environment, "migrate")
    usher(environment, "coupon", "create", "HOT", "--max-redemptions", "2000000000")
    api_key = usher(environment, "key", "create", "--name", "sizing", "--scope", "redeem").strip()
    more = {"USHER_RECORD_CONNECTIONS": "4", "USHER_READ_CONNECTIONS": "8", "USHER_REDIS_CONNECTIONS": "2"}
    trials = [(1, {}), (2, {}), (1, more)]
    found = [worker_row(mariadb, counters, api_key, (workers, environment, given)) for workers, given in trials]
    heads = (
        "workers",
        "settings",
        "MariaDB connections",
        "Redis connections",
        "open files of a worker, idle and under load",
        "memory (PSS) of a worker, idle",
        f"with {CLIENTS:,} idle clients in all",
        f"at most, under load from {CLIENTS:,} clients in all",
    )
    table("A worker's connections and memory", heads, found)


def worker_row(
    mariadb: MariaDB, counters: Redis, api_key: str, trial: tuple[int, Mapping[str, str], Mapping[str, str]]
) -> Sequence[object]:
    """One line: a service with so many workers and these settings."""
    workers, environment, given = trial
    port = free_port()
    command = [sys.executable, "-m", "service.cli", "serve", "--workers", str(workers), "--port", str(port)]
    with ExitStack() as life:
        life.enter_context(server(command, {**environment, **given}, port))
        time.sleep(1)
        pids = serving(port, workers)
        idle, files = [pss(pid) for pid in pids], [open_files(pid) for pid in pids]
        with ExitStack() as clients:
            for _ in range(CLIENTS):
                one = clients.enter_context(socket.create_connection(("127.0.0.1", port)))
                one.sendall(b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n")
                one.recv(4096)
            waiting = [pss(pid) for pid in pids]
        watch = Watch(pids, mariadb, counters)
        with watch:
            wrk(port, api_key, f"sizing-{port}", connections=CLIENTS, seconds=LOAD_S)
    settings = ", ".join(f"`{variable}={value}`" for variable, value in given.items()) or "default"
    return (
        workers, settings, watch.most["mariadb"], watch.most["redis"], f"{max(files)}, {watch.most['files']:,}",
        megabytes(idle), megabytes(waiting), f"{watch.most['pss'] / MILLION:.0f} MB",
    )  # fmt: skip


def megabytes(sizes: Sequence[int]) -> str:
    """The mean, for a table."""
    return f"{statistics.mean(sizes) / MILLION:.0f} MB"


class Watch:
    """The most that was seen between entering and leaving, of what the stores and the kernel count."""

    def __init__(self, pids: Sequence[int], mariadb: MariaDB, counters: Redis) -> None:
        client = redis.Redis.from_url(counters.operator_url)
        self._counts: dict[str, Callable[[], int]] = {
            "mariadb": lambda: rows_of(mariadb, "SELECT COUNT(*) FROM information_schema.PROCESSLIST WHERE USER = 'usher'")[0][
                0
            ],
            # Its own connection is one of them.
            "redis": lambda: len(client.client_list()) - 1,
            "files": lambda: max(open_files(pid) for pid in pids),
            "pss": lambda: max(pss(pid) for pid in pids),
        }
        self.most = dict.fromkeys(self._counts, 0)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._look)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._stop.wait(POLL_S):
            for what, count in self._counts.items():
                self.most[what] = max(self.most[what], count())


def serving(port: int, workers: int) -> list[int]:
    """The processes that serve: the one that was started here last, or its children."""
    children = Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children").read_text().split()
    command = f"--port\0{port}\0"
    (parent,) = [int(pid) for pid in children if command in Path(f"/proc/{pid}/cmdline").read_text()]
    if workers == 1:
        return [parent]
    return [int(pid) for pid in Path(f"/proc/{parent}/task/{parent}/children").read_text().split()]


def pss(pid: int) -> int:
    """Bytes of memory that this process has, what it shares with others by its share."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:"))


def open_files(pid: int) -> int:
    """Its open descriptors."""
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


def allow_open_files(count: int) -> None:
    """Raises the limit of this process and of those that it starts."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = count if hard == resource.RLIM_INFINITY else min(count, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
