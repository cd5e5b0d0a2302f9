"""The documents are true: settings as they are, links that lead somewhere, nothing of the machine they were written on."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from service.api.problems import BY_REFUSAL, KINDS
from service.config import Settings
from tests.structure import settings_table
from tests.structure.source import ROOT, documents, modules, tracked_files

LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
CODE_BLOCK = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)
VARIABLE = re.compile(r"\bUSHER_[A-Z][A-Z_]*[A-Z]\b")
NO_SETTINGS = {"USHER_SERVICE", "USHER_PORT"}
"""What Kubernetes sets beside a Service of that name."""

UNWANTED = {
    "a path of one machine": r"(?<![\w.$~}])/(home|root|Users|work|workspace|mnt)/\w",
    "a folder that is not part of the repository": r"\.\./shared\b",
    "the address of a package index": r"--(extra-)?index-url[= ]|--trusted[-]host|\bhttps?://[\w.-]*(artifactory|nexus|pypi|mirror)[\w.-]*/",
    "an API key": r"\busher_[A-Za-z0-9_-]{43}\b",
    "a private key": r"-----BEGIN [A-Z ]*PRIVATE KEY",
    "a key of a cloud": r"\b(AKIA|ASIA)[A-Z0-9]{16}\b",
    "a token of a code host": r"\bgh[pousr]_[A-Za-z0-9]{30,}\b|\bglpat-[\w-]{20}",
    "a password for another machine": r"\b\w+://[\w.-]+:(?!password@)[\w.-]{6,}@(?!127\.0\.0\.1|localhost)",
}
"""What no tracked file contains."""


def test_the_table_of_settings_is_that_of_the_code() -> None:
    assert list(settings_table.rows()) == settings_table.shown()


def of_the_stores_scripts() -> Iterator[str]:
    """What the scripts read with which the stores get their accounts; a password may be in a file, too."""
    for path in (ROOT / "deploy" / "stores").glob("*.sh"):
        for name in VARIABLE.findall(path.read_text(encoding="utf-8")):
            yield from (name, f"{name}_FILE") if name.endswith("_PASSWORD") else (name,)


def test_documents_name_only_variables_that_exist() -> None:
    known = {f"USHER_{name.upper()}" for name in Settings.model_fields} | NO_SETTINGS | set(of_the_stores_scripts())
    named = {(path.name, name) for path in documents() for name in VARIABLE.findall(path.read_text(encoding="utf-8"))}
    assert not sorted((path, name) for path, name in named if name not in known)


def test_the_table_of_problems_is_that_of_the_code() -> None:
    text = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
    shown = re.findall(r"^\| (\d{3}) \| `(\w+)` \|", text, re.MULTILINE)
    assert sorted((str(status), str(code)) for code, (status, _, _) in KINDS.items()) == sorted(shown)


def test_the_checkout_is_told_what_each_refusal_means() -> None:
    text = (ROOT / "docs" / "checkout.md").read_text(encoding="utf-8")
    shown = re.findall(r"^\| (\d{3}) `(\w+)` \|", text, re.MULTILINE)
    assert {(str(KINDS[code][0]), str(code)) for code in BY_REFUSAL.values()} <= set(shown)


def test_the_events_that_operators_look_for_are_logged() -> None:
    text = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (`.*`) \| (?:info|warning|error) \|", text, re.MULTILINE)
    named = {event for row in rows for event in re.findall(r"`([^`]+)`", row)}
    used = {value for module in modules("service", "reconciler") for _, value in module.texts()}
    assert named
    assert not named - used


@pytest.mark.parametrize("document", documents(), ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(document: Path) -> None:
    text = CODE_BLOCK.sub("", document.read_text(encoding="utf-8"))
    for target in LINK.findall(text):
        if "://" not in target and not target.startswith("mailto:"):
            path, _, anchor = target.partition("#")
            found = (document.parent / path).resolve() if path else document
            assert found.is_relative_to(ROOT), f"{document.name} → {target} is outside"
            assert found.exists(), f"{document.name} → {target} is not there"
            assert not anchor or anchor in anchors(found), f"{document.name} → {target}: no such heading"


def anchors(document: Path) -> set[str]:
    """The headings of a document as its links name them: lower case, no punctuation, hyphens for blanks."""
    headings = re.findall(r"^#+ (.+)$", CODE_BLOCK.sub("", document.read_text(encoding="utf-8")), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_commands_of_make_in_the_documents_exist() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    named = {
        (path.name, target)
        for path in documents()
        for target in re.findall(r"(?:`|^\s*)make ([a-z-]+)", path.read_text(encoding="utf-8"), re.MULTILINE)
    }
    assert not sorted((path, target) for path, target in named if target not in targets)


@pytest.mark.parametrize("what", UNWANTED)
def test_no_file_contains(what: str) -> None:
    pattern = re.compile(UNWANTED[what])
    found = []
    for path in tracked_files():
        text = path.read_bytes().decode("utf-8", errors="replace")
        found += [
            f"{path.relative_to(ROOT)}:{text.count(chr(10), 0, hit.start()) + 1} {hit[0]}" for hit in pattern.finditer(text)
        ]
    assert not found


def test_public_things_are_explained() -> None:
    """Ruff's rules D see to it, unless somebody switches them off for a part of the product."""
    configuration = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    assert re.search(r'select = \[[^\]]*"D",', configuration)
    unexplained = [
        module.place for module in modules("lua", "service", "reconciler") if re.search(r"noqa: .*\bD1", module.text)
    ]
    assert not unexplained
