"""What `make check` lints in deploy/ is clean, and each linter catches mistakes that somebody might make."""

import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from deploy.programs import PROJECT

LINT = "deploy/lint.sh"


@dataclass(frozen=True)
class Mistake:
    """A text in a file of deploy/, what somebody makes of it, and what the linter says."""

    path: str
    right: str
    wrong: str
    said: str


MISTAKES = (
    Mistake("Dockerfile", "WORKDIR /build", "WORKDIR build", "DL3000"),
    Mistake("Dockerfile", 'CMD ["serve", "--host", "0.0.0.0"]', "CMD serve --host 0.0.0.0", "DL3025"),
    Mistake("Dockerfile", "COPY deploy/probe.py /opt/usher/probe.py", "RUN apt-get install -y curl", "DL3008"),
    Mistake("Dockerfile", "FROM python:${PYTHON}\n", "FROM python:latest\n", "DL3007"),
    Mistake("Dockerfile", "STOPSIGNAL SIGTERM", "STOPSIGNL SIGTERM", "unexpected"),
    Mistake("compose.yaml", "stop_grace_period: 25s", "stop_grace_periods: 25s", "stop_grace_periods"),
    Mistake("compose.yaml", "condition: service_completed_successfully", "condition: service_completed", "$.services.usher"),
    Mistake("compose.yaml", "read_only: true", "read_only: [always]", "read_only"),
    Mistake("compose.yaml", "networks: [clients, stores]", "networks: 5", "$.services.usher"),
    Mistake("kubernetes/service/deployment.yaml", "livenessProbe:", "livenesProbe:", "livenesProbe"),
    Mistake("kubernetes/service/deployment.yaml", "containerPort: 8080", "containerPort: http", "containerPort"),
    Mistake("kubernetes/service/horizontalpodautoscaler.yaml", "minReplicas: 2", "minReplicas: two", "minReplicas"),
    Mistake("kubernetes/migration/job.yaml", "apiVersion: batch/v1", "apiVersion: batch/v1beta1", "batch/v1beta1"),
    Mistake("kubernetes/trial-stores/services.yaml", "clusterIP: None", "clusterIp: None", "clusterIp"),
    Mistake("kubernetes/service/networkpolicy.yaml", "policyTypes: [Ingress, Egress]", "policyTypes: Ingress", "policyTypes"),
)


@pytest.fixture
def copied(tmp_path: Path) -> Path:
    """A copy of deploy/."""
    return shutil.copytree(PROJECT / "deploy", tmp_path / "deploy", ignore=shutil.ignore_patterns("__pycache__", ".env*"))


def lint(folder: Path) -> tuple[int, str]:
    """The linters' exit status, and what they say."""
    done = subprocess.run(
        [PROJECT / LINT, folder],
        env={**os.environ, "BIN": str(Path(sys.executable).parent)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=100,
        text=True,
        check=False,
    )
    return done.returncode, done.stdout


def test_make_check_runs_the_linters() -> None:
    recipe = re.search(r"^check:.*\n((?:\t.*\n)+)", (PROJECT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    assert recipe
    assert f"@{LINT}" in recipe[1].split()


def test_what_deploys_is_clean(copied: Path) -> None:
    assert (0, "") == lint(copied)


@pytest.mark.parametrize("mistake", MISTAKES, ids=lambda mistake: f"{Path(mistake.path).name}: {mistake.wrong.strip()}")
def test_a_mistake_is_caught(mistake: Mistake, copied: Path) -> None:
    file = copied / mistake.path
    right = file.read_text(encoding="utf-8")
    assert mistake.right in right
    file.write_text(right.replace(mistake.right, mistake.wrong, 1), encoding="utf-8")

    status, said = lint(copied)

    assert 1 == status
    assert mistake.said in said
    assert str(file) in said
