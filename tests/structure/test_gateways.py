"""One gateway per store: no SQL outside the ledger, no name of a Redis key outside the counters."""

import re
from pathlib import Path

import pytest

from tests.structure.source import PRODUCT, Module, modules, scripts

SQL = re.compile(
    r"\bSELECT\b.+\b(FROM|LOCK\()|\bINSERT\s+(IGNORE\s+)?INTO\b|\bUPDATE\b.+\bSET\b|\bDELETE\s+FROM\b"
    r"|\b(CREATE|ALTER|DROP|TRUNCATE)\s+(OR\s+REPLACE\s+)?(TABLE|INDEX|DATABASE)\b|\bGET_LOCK\s*\(|\bSET\s+SESSION\b",
    re.DOTALL,
)
KEY_NAME = re.compile(r"\busher:(?! )|:(counter|free|pending|customers)\b")


def outside(package: str) -> list[Module]:
    return [module for module in modules(*PRODUCT) if not f"{module.name}.".startswith(f"{package}.")]


@pytest.mark.parametrize("module", outside("service.ledger"), ids=lambda module: module.place)
def test_sql_is_in_the_ledger_only(module: Module) -> None:
    found = [f"{module.place}:{line} {text!r}" for line, text in module.texts() if SQL.search(text)]
    assert not found


@pytest.mark.parametrize("module", outside("service.counters"), ids=lambda module: module.place)
def test_names_of_keys_are_in_the_counters_only(module: Module) -> None:
    found = [f"{module.place}:{line} {text!r}" for line, text in module.texts() if KEY_NAME.search(text)]
    assert not found


def test_there_is_one_key_builder() -> None:
    (gateway,) = (module for module in modules("service") if module.name == "service.counters")
    (builder,) = (function for function, _ in gateway.functions() if function.name == "key")
    last_line = builder.end_lineno or builder.lineno
    found = [line for line, text in gateway.texts() if KEY_NAME.search(text)]
    assert found, "the key builder builds no key that this test recognizes"
    assert all(builder.lineno <= line <= last_line for line in found), f"{gateway.place}:{found}"


@pytest.mark.parametrize("script", scripts(), ids=lambda script: script.name)
def test_scripts_get_their_keys_and_build_none(script: Path) -> None:
    text = re.sub(r"--.*", "", script.read_text(encoding="utf-8"))
    assert not KEY_NAME.search(text)
