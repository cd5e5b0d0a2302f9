"""What Kustomize and the cluster would find: each file listed, each name that is referred to there, each pod confined."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from deploy.programs import PROJECT
from tests.deploy.manifests import (
    APPLIED,
    DEPLOY,
    KUBERNETES,
    Manifest,
    applied,
    container,
    everything,
    files_of,
    find,
    generated,
    kustomization,
    pods,
    read,
)

every_folder = pytest.mark.parametrize(
    "folder", sorted(path.parent for path in KUBERNETES.rglob("kustomization.yaml")), ids=str
)
every_applied = pytest.mark.parametrize("name", APPLIED)
every_pod = pytest.mark.parametrize("pod", pods(everything()), ids=lambda pod: pod["spec"]["containers"][0]["name"])
SECRET = re.compile(r"kubectl create secret generic (\S+)(.*?)(?<!\\)\n", re.DOTALL)


def matches(selector: Manifest, labels: dict[str, str]) -> bool:
    """Whether a selector with matchLabels and matchExpressions (operator In) chooses a pod."""
    chosen = all(labels.get(key) == value for key, value in selector.get("matchLabels", {}).items())
    return chosen and all(labels.get(one["key"]) in one["values"] for one in selector.get("matchExpressions", []))


def labels(pod: Manifest) -> dict[str, str]:
    """A pod's labels."""
    found: dict[str, str] = pod["metadata"]["labels"]
    return found


def secrets_of_the_document() -> dict[str, set[str]]:
    """The Secrets that an operator is told to create: name → keys."""
    text = read(PROJECT / "docs" / "deployment.md")
    found: dict[str, set[str]] = {}
    for name, arguments in SECRET.findall(text):
        found.setdefault(name, set()).update(re.findall(r"--from-(?:literal|file)=([\w.-]+)=", arguments))
    return found


def references(pod: Manifest) -> tuple[set[tuple[str, str]], set[str]]:
    """(Secret, key) and ConfigMap names that a pod needs."""
    (one,) = pod["spec"]["containers"]
    keys = [variable["valueFrom"]["secretKeyRef"] for variable in one.get("env", []) if "valueFrom" in variable]
    maps = {source["configMapRef"]["name"] for source in one.get("envFrom", [])}
    maps |= {volume["configMap"]["name"] for volume in pod["spec"].get("volumes", []) if "configMap" in volume}
    return {(key["name"], key["key"]) for key in keys}, maps


@every_folder
def test_a_kustomization_lists_what_lies_beside_it(folder: Path) -> None:
    beside = {path.name for path in folder.glob("*.yaml")} - {"kustomization.yaml"}
    assert beside == {name for name in kustomization(folder).get("resources", []) if not name.startswith("..")}


def test_the_stores_component_lists_all_settings() -> None:
    folder = DEPLOY / "stores"
    beside = {path.name for path in folder.iterdir() if path.is_file()} - {"kustomization.yaml"}
    assert beside == {name for names in generated(folder).values() for name in names}


@every_applied
def test_what_a_kustomization_builds_on_is_there(name: str) -> None:
    content = kustomization(KUBERNETES / name)
    assert "usher" == content["namespace"]
    assert [] == [path for path in files_of(KUBERNETES / name) if not path.is_file()]
    for component in content.get("components", []):
        assert "Component" == kustomization((KUBERNETES / name / component).resolve())["kind"]


@every_applied
def test_config_maps_that_pods_need_are_generated(name: str) -> None:
    needed = {needs for pod in pods(applied(name)) for needs in references(pod)[1]}
    assert needed == set(generated(KUBERNETES / name))


def test_files_of_config_maps_that_pods_mount_are_in_them() -> None:
    for name in APPLIED:
        for pod in pods(applied(name)):
            volumes = {volume["name"]: volume for volume in pod["spec"].get("volumes", [])}
            for mount in pod["spec"]["containers"][0].get("volumeMounts", []):
                volume = volumes.get(mount["name"], {})
                if "subPath" in mount:
                    assert mount["subPath"] in generated(KUBERNETES / name)[volume["configMap"]["name"]]


def test_the_secrets_that_pods_need_are_those_that_the_document_creates() -> None:
    needed: dict[str, set[str]] = {}
    for pod in pods(everything()):
        for name, key in references(pod)[0]:
            needed.setdefault(name, set()).add(key)
    assert needed == secrets_of_the_document()


def test_no_manifest_contains_a_secret() -> None:
    assert [] == [one["metadata"]["name"] for one in everything() if one["kind"] == "Secret"]


def test_services_lead_to_pods_and_their_ports() -> None:
    services = [one for one in everything() if one["kind"] == "Service"]
    assert {"usher", "mariadb", "redis"} == {one["metadata"]["name"] for one in services}
    for service in services:
        (pod,) = [pod for pod in pods(everything()) if matches({"matchLabels": service["spec"]["selector"]}, labels(pod))]
        names = {port["name"] for port in pod["spec"]["containers"][0]["ports"]}
        assert {port["targetPort"] for port in service["spec"]["ports"]} <= names


def test_selectors_choose_their_own_pods() -> None:
    with_selectors = [one for one in everything() if one["kind"] in {"Deployment", "StatefulSet"}]
    assert 4 == len(with_selectors)
    for one in with_selectors:
        chosen = [pod for pod in pods(everything()) if matches(one["spec"]["selector"], labels(pod))]
        assert [one["spec"]["template"]] == chosen


def test_the_autoscaler_and_the_disruption_limit_are_for_the_service() -> None:
    deployment = find("Deployment", "usher")
    target = find("HorizontalPodAutoscaler", "usher")["spec"]["scaleTargetRef"]
    assert (deployment["apiVersion"], deployment["kind"], "usher") == (target["apiVersion"], target["kind"], target["name"])
    assert 2 == find("HorizontalPodAutoscaler", "usher")["spec"]["minReplicas"]
    assert "replicas" not in deployment["spec"]
    assert deployment["spec"]["selector"] == find("PodDisruptionBudget", "usher")["spec"]["selector"]
    assert "usher" == find("ServiceAccount", deployment["spec"]["template"]["spec"]["serviceAccountName"])["metadata"]["name"]


def test_two_reconcilers_run_by_the_services_settings() -> None:
    """One of them leads, also while nodes are drained."""
    service, reconciler = find("Deployment", "usher"), find("Deployment", "usher-reconciler")
    assert 2 == reconciler["spec"]["replicas"]
    assert reconciler["spec"]["selector"] == find("PodDisruptionBudget", "usher-reconciler")["spec"]["selector"]
    assert 1 == find("PodDisruptionBudget", "usher-reconciler")["spec"]["maxUnavailable"]
    assert (["usher-reconciler"], ["run"]) == (container(reconciler)["command"], container(reconciler)["args"])
    for what in ("env", "envFrom", "image"):
        assert container(service)[what] == container(reconciler)[what]
    pod = reconciler["spec"]["template"]["spec"]
    assert service["spec"]["template"]["spec"]["serviceAccountName"] == pod["serviceAccountName"]


def test_every_pod_has_a_network_policy_and_the_rest_is_closed() -> None:
    policies = [one["spec"] for one in everything() if one["kind"] == "NetworkPolicy"]
    assert {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]} in policies
    for pod in pods(everything()):
        own = [one for one in policies if one["podSelector"] and matches(one["podSelector"], labels(pod))]
        assert 1 == len(own), labels(pod)


def test_stores_let_in_who_needs_them() -> None:
    service = labels(find("Deployment", "usher")["spec"]["template"])
    reconciler = labels(find("Deployment", "usher-reconciler")["spec"]["template"])
    migration = labels(find("Job", "usher-migration")["spec"]["template"])
    let_in = {
        store: [
            matches(find("NetworkPolicy", store)["spec"]["ingress"][0]["from"][0]["podSelector"], caller)
            for caller in (service, reconciler, migration)
        ]
        for store in ("mariadb", "redis")
    }
    assert {"mariadb": [True, True, True], "redis": [True, True, False]} == let_in
    out = {
        name: {port["port"] for rule in find("NetworkPolicy", name)["spec"]["egress"] for port in rule["ports"]}
        for name in ("usher", "usher-reconciler", "usher-migration")
    }
    both = {53, 3306, 6379}
    assert {"usher": both, "usher-reconciler": both, "usher-migration": {53, 3306}} == out


@every_pod
def test_a_pod_is_confined(pod: Manifest) -> None:
    spec = pod["spec"]
    (only,) = spec["containers"]
    assert {
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
    }.items() <= spec.items()
    assert {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}}.items() <= spec["securityContext"].items()
    assert spec["securityContext"]["runAsUser"] > 0
    assert {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    } == only["securityContext"]
    assert {"cpu", "memory"} == set(only["resources"]["requests"]) == set(only["resources"]["limits"])


@pytest.mark.parametrize("name", ["usher", "usher-reconciler"])
def test_probes_ask_what_is_served(name: str) -> None:
    service = container(find("Deployment", name))
    probes = {probe: service[probe]["httpGet"] for probe in ("livenessProbe", "readinessProbe", "startupProbe")}
    asked = {probe: get["path"] for probe, get in probes.items()}
    assert {"livenessProbe": "/livez", "readinessProbe": "/readyz", "startupProbe": "/livez"} == asked
    assert {service["ports"][0]["name"]} == {get["port"] for get in probes.values()}


@pytest.mark.skipif(shutil.which("kubectl") is None, reason="kubectl, which contains Kustomize, is not here")
@every_applied
def test_kustomize_makes_the_same_of_it(name: str, tmp_path: Path) -> None:
    """Kustomize itself, where it is: it finds all files, makes the ConfigMaps, and the linter is content with the result."""
    rendered = subprocess.run(
        ["kubectl", "kustomize", KUBERNETES / name], capture_output=True, text=True, timeout=60, check=False
    )
    assert (0, "") == (rendered.returncode, rendered.stderr)
    file = tmp_path / "rendered.yaml"
    file.write_text(rendered.stdout, encoding="utf-8")
    linter = Path(sys.executable).with_name("kubernetes-validate")
    linted = subprocess.run([linter, "--strict", "--quiet", file], capture_output=True, text=True, timeout=60, check=False)
    assert (0, "", "") == (linted.returncode, linted.stdout, linted.stderr)
    kinds = re.findall(r"^kind: (\w+)$", rendered.stdout, re.MULTILINE)
    made = [*(one["kind"] for one in applied(name)), *("ConfigMap" for _ in generated(KUBERNETES / name))]
    assert sorted(made) == sorted(kinds)
    assert "image: usher-coupons\n" not in rendered.stdout
