import os
import subprocess
import sys
import zipfile
from pathlib import Path

from deploy.programs import PROJECT
from service.counters import SCRIPTS
from service.ledger.sql import migrations

USE = """
import lua
from service.ledger import migrations
from service.counters import SCRIPTS
import service, sys
assert service.__file__.startswith(sys.argv[1]), service.__file__
print(len(SCRIPTS), len(list(migrations.migrations())))
"""


def test_the_wheel_brings_scripts_and_statements(tmp_path: Path) -> None:
    """What the code loads beside itself is there when it is installed from a wheel, and nothing else is."""
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    subprocess.run(build, cwd=PROJECT, capture_output=True, timeout=100, check=True)
    (wheel,) = tmp_path.glob("usher_coupons-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        tops = {name.partition("/")[0] for name in archive.namelist()}
        archive.extractall(tmp_path / "site")

    used = subprocess.run(
        [sys.executable, "-c", USE, str(tmp_path / "site")],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(tmp_path / "site")},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert {"service", "reconciler", "lua"} == {top for top in tops if not top.endswith(".dist-info")}
    assert (0, f"{len(SCRIPTS)} {len(migrations())}\n") == (used.returncode, used.stdout), used.stderr
