"""What deploy/ says, as data: compose.yaml, the Kubernetes manifests with their kustomizations, systemd's units."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from deploy.programs import PROJECT

DEPLOY = PROJECT / "deploy"
KUBERNETES = DEPLOY / "kubernetes"
APPLIED = ("namespace", "service", "migration", "trial-stores")
"""What a person applies with `kubectl apply -k`."""
WITH_PODS = ("Deployment", "StatefulSet", "Job")

Manifest = dict[str, Any]
"""A Kubernetes object, or a kustomization."""


def read(path: Path) -> str:
    """A file's text."""
    return path.read_text(encoding="utf-8")


@cache
def compose() -> dict[str, Any]:
    """deploy/compose.yaml, with its variables not yet filled in."""
    content: dict[str, Any] = yaml.safe_load(read(DEPLOY / "compose.yaml"))
    return content


def kustomization(folder: Path) -> Manifest:
    """A folder's kustomization."""
    content: Manifest = yaml.safe_load(read(folder / "kustomization.yaml"))
    return content


def files_of(folder: Path) -> Iterator[Path]:
    """The manifests' files that a kustomization names, through all others that it builds on."""
    for name in kustomization(folder).get("resources", []):
        path = (folder / name).resolve()
        yield from files_of(path) if path.is_dir() else [path]


def applied(name: str) -> list[Manifest]:
    """All objects that `kubectl apply -k deploy/kubernetes/<name>` makes, but generated ConfigMaps; names are not changed."""
    return [one for path in files_of(KUBERNETES / name) for one in yaml.safe_load_all(read(path))]


def everything() -> list[Manifest]:
    """All objects, each once."""
    files = dict.fromkeys(path for name in APPLIED for path in files_of(KUBERNETES / name))
    return [one for path in files for one in yaml.safe_load_all(read(path))]


def generated(folder: Path) -> dict[str, list[str]]:
    """The ConfigMaps that a kustomization and its components generate: name → keys."""
    made = {}
    content = kustomization(folder)
    for generator in content.get("configMapGenerator", []):
        literals = [literal.partition("=")[0] for literal in generator.get("literals", [])]
        made[generator["name"]] = [*literals, *generator.get("files", [])]
    for component in content.get("components", []):
        made |= generated((folder / component).resolve())
    return made


def find(kind: str, name: str) -> Manifest:
    """The one object of that kind and name."""
    (one,) = [one for one in everything() if (one["kind"], one["metadata"]["name"]) == (kind, name)]
    return one


def pods(objects: list[Manifest]) -> list[Manifest]:
    """The pod templates among objects."""
    return [one["spec"]["template"] for one in objects if one["kind"] in WITH_PODS]


def container(manifest: Manifest) -> dict[str, Any]:
    """The one container of an object with pods."""
    (only,) = manifest["spec"]["template"]["spec"]["containers"]
    content: dict[str, Any] = only
    return content


def unit(name: str) -> dict[str, list[str]]:
    """A unit's options: name → its values, in order."""
    options: dict[str, list[str]] = {}
    for option, value in re.findall(r"^(\w+)=(.*)$", read(DEPLOY / "systemd" / name), re.MULTILINE):
        options.setdefault(option, []).append(value)
    return options


@dataclass(frozen=True)
class Instruction:
    """One instruction of the Dockerfile, its lines joined. `stage`: how many FROM were before it, itself included."""

    stage: int
    word: str
    text: str


@cache
def dockerfile() -> tuple[Instruction, ...]:
    """The instructions of deploy/Dockerfile."""
    lines = [line for line in read(DEPLOY / "Dockerfile").splitlines() if line and not line.startswith("#")]
    stage = 0
    found = []
    for line in re.sub(r"\\\n\s*", "", "\n".join(lines)).splitlines():
        word, _, text = line.partition(" ")
        stage += word == "FROM"
        found.append(Instruction(stage, word, text))
    return tuple(found)


def said(word: str) -> str:
    """The text of the last instruction of this name, which is the one of the image."""
    return [one.text for one in dockerfile() if one.word == word][-1]
