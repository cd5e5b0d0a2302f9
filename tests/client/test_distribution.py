"""What others install: typed, with one dependency, and nothing of the service in it."""

import ast
import subprocess
import sys
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest

from deploy.programs import PROJECT

FOLDER = PROJECT / "client"
MODULES = sorted((FOLDER / "usher_client").glob("*.py"))
BUILD_TIMEOUT_S = 100


def test_the_wheel(tmp_path: Path) -> None:
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    subprocess.run(build, cwd=FOLDER, capture_output=True, timeout=BUILD_TIMEOUT_S, check=True)
    (wheel,) = tmp_path.glob("usher_client-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        (metadata,) = (name for name in names if name.endswith(".dist-info/METADATA"))
        said = Parser().parsestr(archive.read(metadata).decode())
    inside = {name for name in names if ".dist-info/" not in name}
    assert {"usher_client/py.typed", *(f"usher_client/{path.name}" for path in MODULES)} == inside
    assert "usher-client" == said["Name"]
    assert ["aiohttp<4,>=3.11"] == said.get_all("Requires-Dist")


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.name)
def test_it_imports_aiohttp_and_itself_only(path: Path) -> None:
    allowed = {*sys.stdlib_module_names, "aiohttp", "usher_client"}
    imported = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            imported |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            imported.add(str(node.module).partition(".")[0])
    assert not imported - allowed


def test_it_has_the_licence_of_the_service() -> None:
    assert (PROJECT / "LICENSE").read_bytes() == (FOLDER / "LICENSE").read_bytes()
