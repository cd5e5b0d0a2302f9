"""systemd's units: what systemd itself says of them where it is, and what the document tells to write."""

import shutil
import subprocess
from pathlib import Path

import pytest

from deploy.programs import PROJECT
from tests.deploy.manifests import DEPLOY, read, unit

COMMANDS = {
    "usher.service": "usher serve",
    "usher-migrate.service": "usher migrate",
    "usher-reconciler.service": "usher-reconciler run",
}
UNITS = tuple(COMMANDS)
EXPOSURE_MAX = 20
"""Tenths, as systemd counts: 0 is nothing reachable, 10.0 is everything; it calls up to 2 OK."""

with_systemd = pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not here")


def analyze(folder: Path, *arguments: str) -> tuple[int, str]:
    """systemd-analyze's exit status and words about copies of the units whose program exists."""
    for name in UNITS:
        copy = folder / name
        if not copy.exists():
            program = COMMANDS[name].partition(" ")[0]
            text = read(DEPLOY / "systemd" / name).replace(f"/opt/usher/bin/{program} ", "/bin/true ")
            copy.write_text(text, encoding="utf-8")
    units = [str(folder / name) for name in UNITS]
    done = subprocess.run(
        ["systemd-analyze", *arguments, *units],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=60,
        check=False,
    )
    return done.returncode, done.stdout


@with_systemd
def test_systemd_understands_the_units(tmp_path: Path) -> None:
    assert (0, "") == analyze(tmp_path, "verify", "--man=no")


@with_systemd
@pytest.mark.parametrize(
    ("right", "wrong", "told"),
    [
        ("NoNewPrivileges=yes", "NoNewPrivilges=yes", "NoNewPrivilges"),
        ("Type=exec", "Type=execute", "execute"),
        ("TimeoutStopSec=25", "TimeoutStopSec=25 moments", "moments"),
    ],
)
def test_systemd_says_what_is_wrong(right: str, wrong: str, told: str, tmp_path: Path) -> None:
    text = read(DEPLOY / "systemd/usher.service").replace("/opt/usher/bin/usher ", "/bin/true ")
    assert right in text
    (tmp_path / "usher.service").write_text(text.replace(right, wrong), encoding="utf-8")
    assert told in analyze(tmp_path, "verify", "--man=no")[1]


@with_systemd
def test_little_is_exposed(tmp_path: Path) -> None:
    status, words = analyze(tmp_path, "security", "--offline=true", f"--threshold={EXPOSURE_MAX}", "--no-pager")
    assert 0 == status, words


@pytest.mark.parametrize("name", UNITS)
def test_a_unit_runs_a_command_of_usher_as_nobody(name: str) -> None:
    options = unit(name)
    assert [f"/opt/usher/bin/{COMMANDS[name]}"] == options["ExecStart"]
    assert (["yes"], ["strict"], ["yes"]) == (options["DynamicUser"], options["ProtectSystem"], options["NoNewPrivileges"])
    assert [""] == options["CapabilityBoundingSet"]
    assert ["on-failure"] == options["Restart"]


def test_all_units_are_confined_alike() -> None:
    def confinement(name: str) -> list[str]:
        _, _, after = read(DEPLOY / "systemd" / name).partition("DynamicUser=")
        return [line for line in after.partition("\n\n[")[0].splitlines() if not line.startswith("#")]

    assert [confinement("usher.service")] * len(UNITS) == [confinement(name) for name in UNITS]


def test_the_template_is_the_service_on_a_port_of_its_own() -> None:
    service, template = (
        [line for line in read(DEPLOY / "systemd" / name).splitlines() if not line.startswith("#")]
        for name in ("usher.service", "usher@.service")
    )
    assert [
        ("Description=Usher, the coupon redemption service", "Description=Usher, the coupon redemption service, on port %i"),
        ("ExecStart=/opt/usher/bin/usher serve", "ExecStart=/opt/usher/bin/usher serve --port %i"),
    ] == [pair for pair in zip(service, template, strict=True) if pair[0] != pair[1]]
    assert "deploy/systemd/usher@.service" in read(PROJECT / "docs/deployment.md")


@pytest.mark.parametrize("name", ["usher.service", "usher-reconciler.service"])
def test_the_migration_is_waited_for_and_done_without(name: str) -> None:
    options = unit(name)
    assert "usher-migrate.service" in " ".join(options["After"]).split()
    assert "usher-migrate.service" in " ".join(options["Wants"]).split()
    assert "Requires" not in options


def test_the_document_writes_the_files_that_the_units_read() -> None:
    text = read(PROJECT / "docs/deployment.md")
    for name in UNITS:
        (file,) = unit(name)["EnvironmentFile"]
        assert f"install -m 600 /dev/null {file}" in text
        assert f"deploy/systemd/{name}" in text
