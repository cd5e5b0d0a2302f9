"""docs/command-line.md shows the commands and options that there are, all of them and no others."""

import re
from collections.abc import Iterator
from typing import Any

import pytest
from typer.main import get_command

from reconciler import cli as reconciler
from service.cli import PROGRAM, app
from tests.structure.source import ROOT

DOCUMENT = (ROOT / "docs" / "command-line.md").read_text(encoding="utf-8")
SECTIONS = dict(re.findall(r"^## `([a-z -]+)`\n(.*?)(?=^## |\Z)", DOCUMENT, re.MULTILINE | re.DOTALL))
OPTION = re.compile(r"(?<![\w-])--[a-z][a-z-]*[a-z]")


def commands(command: Any, name: str) -> Iterator[tuple[str, Any]]:  # noqa: ANN401  (typer's own class is not public)
    """A command, and those within it, by what is typed."""
    yield name, command
    for inner, within in getattr(command, "commands", {}).items():
        yield from commands(within, f"{name} {inner}")


PROGRAMS = (PROGRAM, reconciler.PROGRAM)
COMMANDS = {
    **dict(commands(get_command(app), PROGRAM)),
    **dict(commands(get_command(reconciler.app), reconciler.PROGRAM)),
}


def options(name: str) -> set[str]:
    """The options of a command, but --help, which all have."""
    return {text for parameter in COMMANDS[name].params for text in parameter.opts if text.startswith("--")} - {"--help"}


def test_every_command_has_a_section() -> None:
    assert set(COMMANDS) == set(SECTIONS)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_is_named_and_exists(name: str) -> None:
    """A group's section may name the options of its commands."""
    own = options(name)
    known = own.union(*(options(other) for other in COMMANDS if other.startswith(f"{name} "))) if name not in PROGRAMS else own
    named = set(OPTION.findall(SECTIONS[name])) - {"--help"}
    assert own <= named
    assert named <= known


@pytest.mark.parametrize("name", COMMANDS)
def test_examples_call_commands_that_exist(name: str) -> None:
    called = re.findall(r"^\$ (?:\w+=\$\()?(usher(?:-reconciler)?(?: [a-z][a-z-]*)*)", SECTIONS[name], re.MULTILINE)
    assert not [line for line in called if not any(line == known or line.startswith(f"{known} ") for known in COMMANDS)]


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_explains_itself(name: str) -> None:
    """And each of its options."""
    assert COMMANDS[name].help
    assert not [parameter.name for parameter in COMMANDS[name].params if not parameter.help]
