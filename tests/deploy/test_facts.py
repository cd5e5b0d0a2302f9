"""One fact, one value: what several files of deploy/ say, and what the code says about it, is the same."""

import re
import tomllib
from typing import Any

import pytest

from deploy import probe
from deploy.programs import PROJECT
from service.api import operations
from service.config import PREFIX, Settings
from service.ledger import Ledger
from service.ledger.connections import Connections
from service.workers import WORKERS_GRACE_S
from tests.deploy.manifests import (
    DEPLOY,
    KUBERNETES,
    compose,
    container,
    dockerfile,
    find,
    kustomization,
    pods,
    read,
    said,
    unit,
)

VERSION = tomllib.loads(read(PROJECT / "pyproject.toml"))["project"]["version"]
KNOWN = {PREFIX + name.upper() for name in Settings.model_fields}
CONFIG_MAP = dict(
    literal.split("=", 1) for literal in kustomization(KUBERNETES / "service")["configMapGenerator"][0]["literals"]
)
BY_COMPOSE = ("usher", "reconciler")
UNITS_OF_MEMORY = {"K": 2**10, "M": 2**20, "G": 2**30}


def service_of_compose(name: str) -> dict[str, Any]:
    found: dict[str, Any] = compose()["services"][name]
    return found


def seconds(text: str) -> int:
    """`25s` or `25`."""
    return int(text.removesuffix("s"))


def memory(text: str) -> int:
    """`512M`, `512Mi`, `512mb`: bytes."""
    number, unit_of_it = re.fullmatch(r"(\d+)([KMG])[iB]?", text.upper().replace("I", "")).groups()  # type: ignore[union-attr]
    return int(number) * UNITS_OF_MEMORY[unit_of_it]


def setting_of(file: str, name: str) -> str:
    """A line of a store's settings file."""
    found = re.search(rf"^{name}(?: = | )(\S+)$", read(DEPLOY / "stores" / file), re.MULTILINE)
    assert found, f"{file} does not say {name}"
    return found[1]


def test_the_port_is_the_same_everywhere() -> None:
    published = service_of_compose("usher")["ports"]
    ports = {
        "image": said("EXPOSE"),
        "compose": published[0].rpartition(":")[2],
        "kubernetes": str(container(find("Deployment", "usher"))["ports"][0]["containerPort"]),
    }
    assert dict.fromkeys(ports, str(Settings.model_fields["listen_port"].default)) == ports
    assert ["127.0.0.1:${HOST_PORT:-8080}:8080"] == published
    watched = {
        "compose": service_of_compose("reconciler")["healthcheck"]["test"][-1],
        "kubernetes": str(container(find("Deployment", "usher-reconciler"))["ports"][0]["containerPort"]),
    }
    assert dict.fromkeys(watched, str(Settings.model_fields["reconciler_listen_port"].default)) == watched


def test_health_is_asked_where_it_is_answered() -> None:
    paths = {route.path for route in operations.ROUTES}
    asked = [said("HEALTHCHECK").rpartition('", "')[2].rstrip('"]'), service_of_compose("usher")["healthcheck"]["test"][-1]]
    assert ["/livez", "/readyz"] == asked
    assert set(asked) <= paths
    programs = [said("HEALTHCHECK"), *(" ".join(service_of_compose(name)["healthcheck"]["test"]) for name in BY_COMPOSE)]
    copied = next(one.text.split()[-1] for one in dockerfile() if one.text.startswith("deploy/probe.py"))
    assert [True, True, True] == [copied in program for program in programs]
    assert [] == [n for n in BY_COMPOSE if probe.TIMEOUT_S >= seconds(service_of_compose(n)["healthcheck"]["timeout"])]


def test_whoever_stops_usher_waits_longer_than_it_takes() -> None:
    """The stop deadline, what the supervisor adds to it for workers that are stuck, and a second to end."""
    deployment = find("Deployment", "usher")["spec"]["template"]["spec"]
    before = int(container(find("Deployment", "usher"))["lifecycle"]["preStop"]["exec"]["command"][-1])
    default_ms = Settings.model_fields["stop_deadline_ms"].default
    usher, reconciler = map(service_of_compose, BY_COMPOSE)
    pod = find("Deployment", "usher-reconciler")["spec"]["template"]["spec"]
    waits = {
        "compose": (usher["environment"]["USHER_STOP_DEADLINE_MS"], seconds(usher["stop_grace_period"])),
        "compose, reconciler": (
            reconciler["environment"]["USHER_STOP_DEADLINE_MS"],
            seconds(reconciler["stop_grace_period"]),
        ),
        "kubernetes, reconciler": (CONFIG_MAP["USHER_STOP_DEADLINE_MS"], pod["terminationGracePeriodSeconds"]),
        "systemd, reconciler": (default_ms, seconds(unit("usher-reconciler.service")["TimeoutStopSec"][0])),
        "kubernetes": (CONFIG_MAP["USHER_STOP_DEADLINE_MS"], deployment["terminationGracePeriodSeconds"] - before),
        "systemd": (default_ms, seconds(unit("usher.service")["TimeoutStopSec"][0])),
    }
    assert [] == [where for where, (ms, wait) in waits.items() if wait < int(ms) / 1000 + WORKERS_GRACE_S + 1]


def test_usher_is_given_only_settings_that_it_has() -> None:
    services = ("usher", "migration", "reconciler")
    given = [*CONFIG_MAP, *(variable for name in services for variable in service_of_compose(name)["environment"])]
    for pod in pods([find("Deployment", "usher"), find("Deployment", "usher-reconciler"), find("Job", "usher-migration")]):
        given += [variable["name"] for variable in pod["spec"]["containers"][0]["env"]]
    for name in ("usher.service", "usher-migrate.service", "usher-reconciler.service"):
        given += re.findall(rf"\b{PREFIX}\w+(?==)", " ".join(unit(name)["Environment"]))
    assert [] == [name for name in given if name not in KNOWN]


@pytest.mark.parametrize("name", sorted(CONFIG_MAP))
def test_a_setting_in_the_config_map_has_a_value_that_is_allowed(name: str) -> None:
    field = name.removeprefix(PREFIX).lower()
    assert CONFIG_MAP[name] == str(getattr(Settings(**{field: CONFIG_MAP[name]}), field))


def test_the_service_never_sees_the_account_that_changes_the_schema() -> None:
    variable = "USHER_MIGRATION_DATABASE_URL"
    assert [] == [name for name in BY_COMPOSE if variable in service_of_compose(name)["environment"]]
    for name in ("usher", "usher-reconciler"):
        assert variable not in [one["name"] for one in container(find("Deployment", name))["env"]]
        assert unit(f"{name}.service")["EnvironmentFile"] != unit("usher-migrate.service")["EnvironmentFile"]


def test_the_version_is_the_same_everywhere() -> None:
    label = re.search(r'image\.version="([^"]+)"', said("LABEL"))
    (image,) = kustomization(KUBERNETES / "image")["images"]
    images = {service_of_compose(name)["image"] for name in ("usher", "migration", "reconciler")}
    assert label
    assert (VERSION, f"{image['name']}:{VERSION}", {f"usher-coupons:{VERSION}"}) == (
        label[1],
        f"{image['newName']}:{image['newTag']}",
        images,
    )


def test_stores_are_the_same_images() -> None:
    kubernetes = {
        "mariadb": container(find("StatefulSet", "mariadb"))["image"],
        "redis": container(find("Deployment", "redis"))["image"],
    }
    assert {name: service_of_compose(name)["image"] for name in kubernetes} == kubernetes
    assert [True, True] == [bool(re.search(r":\d+\.\d+", image)) for image in kubernetes.values()]


def test_usher_runs_as_the_account_of_its_image() -> None:
    ours = [find("Deployment", "usher"), find("Deployment", "usher-reconciler"), find("Job", "usher-migration")]
    specs = [pod["spec"]["securityContext"] for pod in pods(ours)]
    assert [said("USER")] * 3 == [f"{spec['runAsUser']}:{spec['runAsGroup']}" for spec in specs]


def connections_of_a_worker() -> int:
    """To MariaDB, at most, unless set."""
    return sum(len(one._all) for one in vars(Ledger(Settings())).values() if isinstance(one, Connections))


@pytest.mark.parametrize(
    ("file", "says"),
    [
        ("deploy/stores/mariadb.cnf", r"A worker opens up to (\d+) connections"),
        ("deploy/kubernetes/service/horizontalpodautoscaler.yaml", r"Each pod opens up to (\d+) connections to MariaDB"),
        ("docs/deployment.md", r"Each pod opens up to (\d+) connections to MariaDB"),
        ("docs/operations.md", r"Each worker opens up to (\d+) connections to MariaDB"),
        ("docs/sizing.md", r"MariaDB's connections \| (\d+) for each worker, at most"),
        ("docs/configuration.md", r"That is (\d+) in all unless set"),
    ],
)
def test_who_speaks_of_connections_counts_them_all(file: str, says: str) -> None:
    assert [str(connections_of_a_worker())] == re.findall(says, read(PROJECT / file))


def test_the_workers_that_there_is_room_for() -> None:
    """Twenty connections are left for others."""
    (said_workers,) = re.findall(r"is room for (\d+) workers", read(DEPLOY / "stores" / "mariadb.cnf"))
    assert (int(setting_of("mariadb.cnf", "max_connections")) - 20) // connections_of_a_worker() == int(said_workers)


def test_the_stores_have_room_for_all_pods() -> None:
    """Connections: at the autoscaler's maximum, during an update, with the same number again for people and jobs."""
    scaler = find("HorizontalPodAutoscaler", "usher")["spec"]
    surge = find("Deployment", "usher")["spec"]["strategy"]["rollingUpdate"]["maxSurge"]
    used = (scaler["maxReplicas"] + surge) * int(CONFIG_MAP["USHER_WORKERS"]) * connections_of_a_worker()
    assert 2 * used <= int(setting_of("mariadb.cnf", "max_connections"))


def test_the_stores_memory_fits_their_limits() -> None:
    """A half more than keys take in Redis, and than pages take in MariaDB, for everything else."""
    limits = {
        "mariadb": [service_of_compose("mariadb"), container(find("StatefulSet", "mariadb"))],
        "redis": [service_of_compose("redis"), container(find("Deployment", "redis"))],
    }
    needed = {
        "mariadb": memory(setting_of("mariadb.cnf", "innodb_buffer_pool_size")),
        "redis": memory(setting_of("redis.conf", "maxmemory")),
    }
    for store, (with_compose, with_kubernetes) in limits.items():
        given = [
            memory(with_compose["deploy"]["resources"]["limits"]["memory"]),
            memory(with_kubernetes["resources"]["limits"]["memory"]),
        ]
        assert [] == [limit for limit in given if limit < needed[store] * 1.5], store


def test_the_build_gets_what_the_dockerfile_copies_and_nothing_else() -> None:
    let_in = {line[1:] for line in read(PROJECT / ".dockerignore").splitlines() if line.startswith("!")}
    copies = [one.text.split()[:-1] for one in dockerfile() if one.word == "COPY" and "--from" not in one.text]
    assert let_in == {source for sources in copies for source in sources}
    assert "*" in read(PROJECT / ".dockerignore").splitlines()


def test_the_python_of_the_image_is_one_that_the_project_names() -> None:
    version = re.search(r"PYTHON=(\d+\.\d+)-", said("ARG"))
    assert version
    classifiers = tomllib.loads(read(PROJECT / "pyproject.toml"))["project"]["classifiers"]
    assert f"Programming Language :: Python :: {version[1]}" in classifiers
