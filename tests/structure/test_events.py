"""What is logged is known beforehand: texts that are not put together, and fields that hold nothing to be kept secret."""

import ast
from collections.abc import Iterator

import pytest

from service.log import HASHED, QUOTING
from tests.structure.source import Module, modules

LEVELS = {"debug", "info", "warning", "error", "exception", "critical"}

HARMLESS = {
    "abandoned", "address", "allowed", "answers", "api_key_id", "at", "bodies", "cause", "clients", "closed", "complete",
    "coupons", "customers", "ended", "ending", "exc_info", "found", "guesses", "heads", "is_same_server", "job",
    "left_out", "library", "limit", "loaded", "mode", "name", "nearest", "pid", "problem", "redemption_id", "refused",
    "releases_lost", "request_id", "requests", "rows", "run", "status", "store", "taken", "under_way", "verb", "wanted",
}  # fmt: skip
"""Numbers, and texts from our own code or from the process' surroundings. Who adds one has thought about what it can hold.
Names that end in `_s` are seconds."""


def logged(module: Module) -> Iterator[ast.Call]:
    for node in ast.walk(module.tree):
        if (
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Attribute)
            and node.func.attr in LEVELS
            and ast.unparse(node.func.value) in {"log", "structlog.get_logger(__name__)"}
        ):
            yield node


@pytest.mark.parametrize("module", modules("service", "reconciler"), ids=lambda module: module.place)
def test_an_event_is_a_constant_text_with_known_fields(module: Module) -> None:
    for call in logged(module):
        where = f"{module.place}:{call.lineno}"
        assert 1 == len(call.args), f"{where}: one text, and fields"
        assert isinstance(call.args[0], ast.Constant | ast.Name), f"{where}: values go into fields"
        named = {str(field.arg) for field in call.keywords if not str(field.arg).endswith("_s")}
        unknown = named - HARMLESS - HASHED - QUOTING
        assert not unknown, f"{where} logs {unknown}: can a code, a customer, an order or a key be in it?"


def test_the_events_are_found() -> None:
    assert sum(1 for module in modules("service") for _ in logged(module)) > 20
