"""Imports point one way, so that each part can be read with only those below it in mind."""

import ast
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter

import pytest

from tests.structure.source import PRODUCT, PROGRAMS, Module, modules

LAYERS = (
    ("lua", "service.model", "service.reconciling", "service.errors", "service.addresses", "service.reference"),
    ("service.config", "service.transition", "service.redis_reasons", "service.breaker", "service.printing", "service.told"),
    ("service.redis_client", "service.counts"),
    ("service.log", "service.counters", "service.ledger", "service.batcher", "service.once", "service.workers"),
    ("service.metrics", "service.loads", "service.paced", "service.comparing", "service.explaining"),
    ("service.blocks",),
    ("service.claims", "service.attempts", "service.flights", "service.turns"),
    ("service.abandoned", "service.guesses", "service.life", "service.tries"),
    ("service.standings",),
    ("service.redeem", "service.validations"),
    ("service.api",),
    ("service.app",),
    ("service.cli",),
)
"""From the bottom up: a part imports from lower layers and from itself, never from beside or above."""

FOR_RECONCILER = (
    "service.model", "service.reconciling", "service.transition", "service.errors", "service.config", "service.log",
    "service.counters", "service.comparing", "service.ledger", "service.addresses", "service.printing", "service.explaining",
)  # fmt: skip
"""The jobs work with the stores; that there is a web side is nothing to them."""

OWNERS = {
    "aiohttp": ("service.api", "service.app", "service.cli", "reconciler.port"),
    "redis": ("service.counters", "service.redis_client", "service.redis_reasons"),
    "hiredis": ("service.redis_client",),
    "aiomysql": ("service.ledger",),
    "pymysql": ("service.ledger",),
    "typer": ("service.cli", "reconciler.cli"),
    "rich": ("service.printing", "reconciler.terminal"),
    "apscheduler": ("reconciler.periodic",),
    "prometheus_client": ("service.metrics", "reconciler.metrics"),
}
"""A library stays with its owner: behind a gateway it can be exchanged, and its errors have one place to stop."""

ALL = {module.name for module in modules(*PROGRAMS)}


def imported(module: Module) -> Iterator[tuple[int, str]]:
    """Line and dotted name of each import; `from a import b` names `a.b` if that is a module of ours, else `a`."""
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module.place}:{node.lineno} imports relatively: from here nobody sees what"
            within = [f"{node.module}.{alias.name}" for alias in node.names]
            yield from ((node.lineno, name if name in ALL else str(node.module)) for name in within)


def is_within(name: str, part: str) -> bool:
    return name == part or name.startswith(part + ".")


def layer_of(name: str) -> int:
    """The number of its layer, -1 where it is in none."""
    return next((at for at, layer in enumerate(LAYERS) for part in layer if is_within(name, part)), -1)


def part_of(name: str) -> str | None:
    return next((part for layer in LAYERS for part in layer if is_within(name, part)), None)


@pytest.mark.parametrize("module", modules("lua", "service"), ids=lambda module: module.place)
def test_a_part_imports_only_from_below(module: Module) -> None:
    own = layer_of(module.name)
    assert own >= 0 or module.name == "service", f"{module.place} is in no layer: give it its place in LAYERS"
    for line, name in imported(module):
        if name.partition(".")[0] in PROGRAMS and part_of(name) != part_of(module.name):
            assert 0 <= layer_of(name) < own, f"{module.place}:{line} imports {name}"


@pytest.mark.parametrize("module", modules("reconciler"), ids=lambda module: module.place)
def test_the_reconciler_knows_the_stores_and_not_the_web_side(module: Module) -> None:
    for line, name in imported(module):
        if name.partition(".")[0] in PROGRAMS:
            allowed = any(is_within(name, part) for part in ("reconciler", *FOR_RECONCILER))
            assert allowed, f"{module.place}:{line} imports {name}"


@pytest.mark.parametrize("module", modules("deploy"), ids=lambda module: module.place)
def test_what_sets_up_the_environment_does_not_need_it(module: Module) -> None:
    for line, name in imported(module):
        assert name.partition(".")[0] not in (*PRODUCT, *OWNERS, "pydantic", "structlog"), f"{module.place}:{line}: {name}"


@pytest.mark.parametrize("module", modules(*PRODUCT), ids=lambda module: module.place)
def test_a_library_stays_with_its_owner(module: Module) -> None:
    for line, name in imported(module):
        owners = OWNERS.get(name.partition(".")[0])
        if owners is not None:
            assert any(is_within(module.name, owner) for owner in owners), f"{module.place}:{line} imports {name}"


@pytest.mark.parametrize("module", modules(*PRODUCT, "deploy"), ids=lambda module: module.place)
def test_no_import_hides_inside_a_function(module: Module) -> None:
    for function, _ in module.functions():
        hidden = [node.lineno for node in ast.walk(function) if isinstance(node, ast.Import | ast.ImportFrom)]
        assert not hidden, f"{module.place}:{hidden} imports inside {function.name}: an import that must wait hides a cycle"


def test_no_imports_go_round_in_a_circle() -> None:
    graph = {module.name: {name for _, name in imported(module)} & ALL for module in modules(*PROGRAMS)}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(" → ".join(error.args[1]))
