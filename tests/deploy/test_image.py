"""The Dockerfile's build stage, run here: its own commands, in an empty folder, with nothing but what .dockerignore lets in."""

import json
import os
import shutil
import subprocess
import venv
from pathlib import Path

import pytest

from deploy.ports import free_port
from deploy.programs import PROJECT
from tests.deploy.manifests import dockerfile, said
from tests.waiting import wait_until

EVERYWHERE = "0.0.0.0"  # noqa: S104  (what the image says, and this test does not do)
STEP_TIMEOUT_S = 300
"""For one RUN; the longest gets all packages."""


def run(command: str, folder: Path, path: str) -> None:
    """Runs a shell command as the engine would: only with these variables."""
    variables = {"PATH": path, "HOME": str(folder), **pip_of_this_machine()}
    done = subprocess.run(
        ["sh", "-c", command], cwd=folder, env=variables, capture_output=True, text=True, timeout=STEP_TIMEOUT_S, check=False
    )
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"


def pip_of_this_machine() -> dict[str, str]:
    """Where pip finds packages, which is this machine's business and not the image's."""
    names = {"SSL_CERT_FILE", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY"}
    return {name: value for name, value in os.environ.items() if name.startswith("PIP_") or name.upper() in names}


def files(folder: Path) -> set[str]:
    """All files below a folder."""
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


@pytest.fixture
def built(tmp_path: Path) -> Path:
    """What the build stage leaves in /opt/usher, somewhere else."""
    target = tmp_path / "opt/usher"
    workdir = tmp_path / "build"
    workdir.mkdir()
    python = tmp_path / "python"
    venv.EnvBuilder(symlinks=True, with_pip=True).create(python)
    path = f"{python / 'bin'}:/usr/bin:/bin"
    for instruction in dockerfile():
        here = instruction.text.replace("/opt/usher", str(target))
        if instruction.stage == 1 and instruction.word == "RUN":
            run(here, workdir, path)
        elif instruction.stage == 1 and instruction.word == "COPY":
            *sources, to = here.split()
            for source in sources:
                copy(PROJECT / source, workdir / to, into_folder=to.endswith("/"))
    return target


def copy(source: Path, to: Path, *, into_folder: bool) -> None:
    """COPY, for a file or a folder without its bytecode."""
    if source.is_dir():
        shutil.copytree(source, to, ignore=shutil.ignore_patterns("__pycache__"))
    else:
        to.mkdir(parents=True, exist_ok=True) if into_folder else to.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(source, to)


@pytest.mark.long
@pytest.mark.timeout(900)
def test_the_build_stage_makes_an_usher_that_serves(
    built: Path, bare_database_url: str, bare_migration_url: str, redis_url: str, tmp_path: Path
) -> None:
    variables = {
        "PATH": "/usr/bin:/bin",
        "PYTHONDONTWRITEBYTECODE": "1",
        "USHER_DATABASE_URL": bare_database_url,
        "USHER_MIGRATION_DATABASE_URL": bare_migration_url,
        "USHER_REDIS_URL": redis_url,
        "USHER_LISTEN_PORT": str(free_port()),
    }
    # On this machine, nobody else is to reach it.
    arguments_of_the_image = ["127.0.0.1" if word == EVERYWHERE else word for word in json.loads(said("CMD"))]
    before = files(built)

    def usher(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [str(built / "bin/usher"), *arguments]
        return subprocess.run(command, cwd="/", env=variables, capture_output=True, text=True, timeout=60, check=False)

    def healthy(path: str) -> bool:
        command = [str(built / "bin/python"), str(built / "probe.py"), path]
        return subprocess.run(command, env=variables, capture_output=True, timeout=30, check=False).returncode == 0

    migrated = usher("migrate")
    assert 0 == migrated.returncode, migrated.stderr
    checked = subprocess.run(
        [str(built / "bin/usher-reconciler"), "check"], cwd="/", env=variables, capture_output=True, timeout=60, check=False
    )
    assert 0 == checked.returncode, checked.stderr
    with (tmp_path / "log").open("w") as log:
        serving = subprocess.Popen(
            [str(built / "bin/usher"), *arguments_of_the_image], cwd="/", env=variables, stdout=log, stderr=log
        )
    try:
        wait_until(lambda: healthy("/readyz"), what="ready", timeout_s=60)
        assert healthy("/livez")
    finally:
        serving.terminate()
        status = serving.wait(60)

    assert 0 == status, (tmp_path / "log").read_text(encoding="utf-8")
    assert not healthy("/livez")
    assert before == files(built), "something was written while it ran"
    assert not (built / "bin/pip").exists()
