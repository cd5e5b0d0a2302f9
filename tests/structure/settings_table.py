"""The reference in docs/configuration.md, made from the settings; `python -m tests.structure.settings_table` writes it."""

from collections.abc import Iterator

from pydantic import SecretStr
from pydantic.fields import FieldInfo

from service.config import PREFIX, Settings
from service.reference import CONNECTIONS, DEADLINES, LIMITS, LISTENING, LOGS, RECONCILER, STORES, allowed, fact, unit
from tests.structure.source import ROOT

DOCUMENT = ROOT / "docs" / "configuration.md"
BEGIN, END = "<!-- From here on made from service/config.py -->", "<!-- Up to here -->"
SECTIONS = (STORES, LISTENING, LIMITS, DEADLINES, CONNECTIONS, RECONCILER, LOGS)


def rows() -> Iterator[str]:
    """The lines of the reference: a table of all settings, then each section's settings with their words."""
    yield from ("## All settings", "", "| Variable | Unless given | Unit | Allowed |", "|---|---|---|---|")
    for section in SECTIONS:
        for name, field in of_section(section):
            variable = PREFIX + name.upper()
            cells = (f"[`{variable}`](#{variable.lower()})", default(field), unit(name, field), allowed(field))
            yield "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"
    for section in SECTIONS:
        yield from ("", f"## {section}")
        for name, field in of_section(section):
            yield from ("", f"### `{PREFIX}{name.upper()}`", "", field.description or "", "")
            yield facts(name, field)
            yield from ("", f"When to change it: {decapitalised(fact(field, 'when'))}")


def of_section(section: str) -> Iterator[tuple[str, FieldInfo]]:
    """The settings of a section, in the order of the code."""
    return ((name, field) for name, field in Settings.model_fields.items() if fact(field, "section") == section)


def facts(name: str, field: FieldInfo) -> str:
    """Default, range and unit as a sentence."""
    counted = f" {unit(name, field)}" if unit(name, field) else ""
    return f"Unless given: {default(field) or 'not set'}. Allowed: {allowed(field)}{counted}."


def default(field: FieldInfo) -> str:
    value = field.default.get_secret_value() if isinstance(field.default, SecretStr) else field.default
    return f"`{value}`" if value != "" else ""


def decapitalised(text: str) -> str:
    return text[0].lower() + text[1:]


def shown() -> list[str]:
    """The reference that the document shows, without the marks around it."""
    text = DOCUMENT.read_text(encoding="utf-8")
    return text.partition(BEGIN)[2].partition(END)[0].strip("\n").splitlines()


def write() -> None:
    """Puts the reference in the place of the one that is there."""
    before, _, rest = DOCUMENT.read_text(encoding="utf-8").partition(BEGIN)
    reference = "\n".join(rows())
    DOCUMENT.write_text(f"{before}{BEGIN}\n\n{reference}\n\n{END}{rest.partition(END)[2]}", encoding="utf-8")


if __name__ == "__main__":
    write()
