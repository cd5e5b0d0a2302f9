"""compose.yaml beyond its schema: confinement, order, passwords; and the script that writes the passwords."""

import re
import shutil
import stat
import subprocess
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from pydantic import SecretStr

from deploy.programs import PROJECT
from service.config import Settings
from tests.deploy.manifests import DEPLOY, compose, read

VARIABLE = re.compile(r"\$\{(\w+)(?::([-?])([^}]*))?\}")
every_service = pytest.mark.parametrize("name", ["migration", "usher", "reconciler", "mariadb", "redis"])


def service(name: str) -> dict[str, Any]:
    found: dict[str, Any] = compose()["services"][name]
    return found


def write_env(folder: Path) -> tuple[subprocess.CompletedProcess[str], Path]:
    """Runs compose-env.sh on a copy; what it said, and where it writes."""
    for name in ("compose-env.sh", "compose.env.example"):
        shutil.copy(DEPLOY / name, folder)
    command = ["sh", str(folder / "compose-env.sh")]
    return subprocess.run(command, capture_output=True, text=True, timeout=20, check=False), folder / ".env"


def values(text: str) -> dict[str, str]:
    """The variables of an environment file."""
    return dict(re.findall(r"^(\w+)=(.*)$", text, re.MULTILINE))


def test_the_services_are_these() -> None:
    assert {"migration", "usher", "reconciler", "mariadb", "redis"} == set(compose()["services"])


@every_service
def test_a_service_is_confined(name: str) -> None:
    one = service(name)
    assert (True, ["ALL"], ["no-new-privileges:true"]) == (one["read_only"], one["cap_drop"], one["security_opt"])
    assert {"cpus", "memory", "pids"} == set(one["deploy"]["resources"]["limits"])
    assert "cap_add" not in one
    assert "privileged" not in one


def test_the_stores_are_nobody_elses() -> None:
    assert {"internal": True} == compose()["networks"]["stores"]
    assert [["stores"]] * 4 == [service(name)["networks"] for name in ("mariadb", "redis", "migration", "reconciler")]
    assert ["usher"] == [name for name in compose()["services"] if "ports" in service(name)]


def test_migration_comes_first() -> None:
    assert {"mariadb": {"condition": "service_healthy"}} == service("migration")["depends_on"]
    assert "service_completed_successfully" == service("usher")["depends_on"]["migration"]["condition"]
    assert (["migrate"], "no") == (service("migration")["command"], service("migration")["restart"])


def test_two_reconcilers_run_beside_the_service() -> None:
    """By the same settings of the stores and the log; one of the two leads."""
    one, beside = service("reconciler"), service("usher")
    assert (["usher-reconciler"], ["run"], 2) == (one["entrypoint"], one["command"], one["deploy"]["replicas"])
    assert beside["depends_on"] == one["depends_on"]
    own = {"USHER_RECONCILER_LISTEN_HOST": "0.0.0.0"}  # noqa: S104 - within its network
    shared = {name: value for name, value in beside["environment"].items() if name != "USHER_WORKERS"}
    assert {**shared, **own} == one["environment"]


def test_only_the_ledger_is_kept() -> None:
    named = [volume for name in compose()["services"] for volume in service(name).get("volumes", []) if volume[0] != "."]
    assert ["mariadb:/var/lib/mysql"] == named


def test_files_that_are_mounted_are_there() -> None:
    mounted = [
        volume.split(":") for name in compose()["services"] for volume in service(name).get("volumes", []) if volume[0] == "."
    ]
    assert mounted
    assert [] == [source for source, _, _ in mounted if not (DEPLOY / source).is_file()]
    assert {"ro"} == {mode for _, _, mode in mounted}


def test_mariadbs_image_reads_the_accounts_script_in() -> None:
    """An executable script would be run on its own there, without a way to the server."""
    assert not (DEPLOY / "stores/mariadb-accounts.sh").stat().st_mode & stat.S_IXUSR


def test_the_example_names_the_variables_that_compose_reads() -> None:
    used = {name for name, _, _ in VARIABLE.findall(read(DEPLOY / "compose.yaml"))}
    shown = set(re.findall(r"^#?(\w+)=", read(DEPLOY / "compose.env.example"), re.MULTILINE))
    assert used == shown


def test_every_password_must_be_given() -> None:
    found = {(name, mark) for name, mark, _ in VARIABLE.findall(read(DEPLOY / "compose.yaml")) if name.endswith("PASSWORD")}
    assert {
        ("USHER_DATABASE_PASSWORD", "?"),
        ("USHER_MIGRATION_DATABASE_PASSWORD", "?"),
        ("USHER_REDIS_PASSWORD", "?"),
        ("REDIS_OPERATOR_PASSWORD", "?"),
    } == found


def test_the_script_writes_a_password_for_each_that_is_missing(tmp_path: Path) -> None:
    done, env = write_env(tmp_path)
    assert (0, "", "") == (done.returncode, done.stdout, done.stderr)
    written = values(read(env))
    assert set(values(read(DEPLOY / "compose.env.example"))) == set(written)
    assert [] == [value for value in written.values() if not re.fullmatch(r"[A-Za-z0-9_-]{32}", value)]
    assert len(written) == len(set(written.values()))
    assert 0o600 == stat.S_IMODE(env.stat().st_mode)


def test_the_script_leaves_passwords_that_are_there(tmp_path: Path) -> None:
    _, env = write_env(tmp_path)
    before = read(env)
    done, env = write_env(tmp_path)
    assert (1, before) == (done.returncode, read(env))
    assert "stays as it is" in done.stderr


def test_the_urls_with_such_passwords_are_what_usher_takes(tmp_path: Path) -> None:
    _, env = write_env(tmp_path)
    passwords = values(read(env))

    def filled(variable: str, one: str) -> SecretStr:
        url = VARIABLE.sub(lambda found: passwords[found[1]], service(one)["environment"][variable])
        return SecretStr(url)

    settings = Settings(
        database_url=filled("USHER_DATABASE_URL", "usher"),
        redis_url=filled("USHER_REDIS_URL", "usher"),
        migration_database_url=filled("USHER_MIGRATION_DATABASE_URL", "migration"),
    )
    urls = [settings.database_url, settings.migration_database_url, settings.redis_url]
    parts = [urlsplit(url.get_secret_value()) for url in urls]
    assert [
        ("usher", passwords["USHER_DATABASE_PASSWORD"], "mariadb", 3306, "/usher"),
        ("usher_migrate", passwords["USHER_MIGRATION_DATABASE_PASSWORD"], "mariadb", 3306, "/usher"),
        ("usher", passwords["USHER_REDIS_PASSWORD"], "redis", 6379, "/0"),
    ] == [(one.username, one.password, one.hostname, one.port, one.path) for one in parts]


def test_git_and_the_image_never_get_the_passwords() -> None:
    ignored = subprocess.run(
        ["git", "-c", "safe.directory=*", "check-ignore", "deploy/.env"], cwd=PROJECT, capture_output=True, check=False
    )
    assert 0 == ignored.returncode
