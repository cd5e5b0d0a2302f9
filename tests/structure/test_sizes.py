"""What is read must fit in a head: modules of a few screens, functions that can be seen whole, arguments with names."""

import ast
from pathlib import Path

import pytest

from tests.structure.source import PRODUCT, PROGRAMS, Function, Module, modules, scripts

MODULE_MAX_LINES = 400
"""Beyond that a module holds two things."""
TEST_MODULE_MAX_LINES = 500
"""Tests are read one at a time."""
SCRIPT_MAX_LINES = 250
"""With its header. The longest of them decides about a whole batch before it writes."""
FUNCTION_MAX_LINES = 70
POSITIONAL_MAX = 4
"""Beyond that a call no longer says what is what: the rest is keyword-only."""

every_module = pytest.mark.parametrize("module", modules(*PROGRAMS), ids=lambda module: module.place)


@every_module
def test_a_module_holds_one_thing(module: Module) -> None:
    most = TEST_MODULE_MAX_LINES if module.name.startswith("tests.") else MODULE_MAX_LINES
    assert module.lines <= most, f"{module.place} has {module.lines} lines"


@pytest.mark.parametrize("script", scripts(), ids=lambda script: script.name)
def test_a_script_is_one_verb(script: Path) -> None:
    lines = script.read_text(encoding="utf-8").count("\n")
    assert lines <= SCRIPT_MAX_LINES, f"{script.name} has {lines} lines"


@every_module
def test_a_function_can_be_seen_whole(module: Module) -> None:
    found = [
        f"{module.place}:{function.lineno} {function.name}"
        for function, _ in module.functions()
        if length(function) > FUNCTION_MAX_LINES
    ]
    assert not found


@pytest.mark.parametrize("module", modules(*PRODUCT, "deploy"), ids=lambda module: module.place)
def test_a_call_says_what_is_what(module: Module) -> None:
    found = [
        f"{module.place}:{function.lineno} {function.name}"
        for function, is_method in module.functions()
        if positional(function, is_method=is_method) > POSITIONAL_MAX
    ]
    assert not found


def length(function: Function) -> int:
    return (function.end_lineno or function.lineno) - function.lineno + 1


def positional(function: Function, *, is_method: bool) -> int:
    """Positional parameters, without `self`."""
    is_static = any(isinstance(by, ast.Name) and by.id == "staticmethod" for by in function.decorator_list)
    count = len(function.args.posonlyargs) + len(function.args.args)
    return count - 1 if is_method and not is_static else count
