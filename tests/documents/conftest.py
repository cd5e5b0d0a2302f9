"""What a reader has who has typed `make run`: the service with its demo coupon and key, and a shell in the checkout."""

import os
import stat
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from deploy.programs import CURL, PROJECT, provide
from deploy.run import COUPON, COUPON_LIMITS, ENVIRONMENT, KEY, environment_file
from tests.documents.shell import Shell
from tests.reconciler_process import Reconciler
from tests.usher_process import Usher, environment, run_usher
from tests.waiting import wait_until

SHOWN_ADDRESS = "127.0.0.1:8080"
"""Where the documents' readers find the service."""


@pytest.fixture
def usher(tmp_path: Path, database_url: str, redis_url: str) -> Iterator[Usher]:
    """A service on stores that were emptied before, with the coupon of `make run`."""
    with Usher(tmp_path / "usher.log", environment(database_url=database_url, redis_url=redis_url)) as serving:
        run_usher("coupon", "create", COUPON, *COUPON_LIMITS, database_url=database_url).check()
        yield serving


@pytest.fixture(scope="session")
def programs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a curl that runs, wherever it is on this machine."""
    folder = tmp_path_factory.mktemp("programs")
    curl = provide(CURL)
    variables = " ".join(f"{name}='{value}'" for name, value in curl.environment.items())
    script = folder / "curl"
    script.write_text(f'#!/bin/sh\nexec env {variables} {curl.path} "$@"\n', encoding="utf-8")
    script.chmod(stat.S_IRWXU)
    return folder


@pytest.fixture
def shell(tmp_path: Path, usher: Usher, migration_url: str, programs: Path) -> Iterator[Shell]:
    """A shell for which the service is where the documents say, and so is the demo key."""
    folder = tmp_path / "checkout"
    key = folder / KEY.relative_to(PROJECT)
    key.parent.mkdir(parents=True)
    made = run_usher("key", "create", "--name", "demo", "--scope", "admin", migration_url=migration_url)
    key.write_text(made.check().output, encoding="utf-8")
    variables = environment_file(environment(migration_url=migration_url))
    (folder / ENVIRONMENT.relative_to(PROJECT)).write_text(variables, encoding="utf-8")
    with Shell(
        folder, {"PATH": f"{programs}:{os.environ['PATH']}"}, shown=SHOWN_ADDRESS, real=f"127.0.0.1:{usher.port}"
    ) as started:
        yield started


@pytest.fixture
def start_reconciler(tmp_path: Path, database_url: str, redis_url: str) -> Iterator[Callable[[], None]]:
    """Starts a reconciler on the same stores, which leads and has loaded all counters; it ends with the test."""
    with ExitStack() as started:

        def start() -> None:
            variables = environment(
                database_url=database_url, redis_url=redis_url, settings={"USHER_RECONCILER_LISTEN_PORT": "0"}
            )
            reconciler = Reconciler(tmp_path / "reconciler.log", variables)
            started.callback(reconciler.kept.stop)
            wait_until(lambda: bool(reconciler.events("counters reseeded")), what="the reconciler leads")

        yield start
