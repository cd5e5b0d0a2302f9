"""One word per thing: those of docs/architecture.md, the same in Python, Lua, SQL and the documents."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.structure.source import PRODUCT, ROOT, documents, modules, scripts

SYNONYMS = {
    "coupon": r"voucher|promo|promotion|gift_?card",
    "redemption": r"redeemal|usage_record|burn",
    "code": r"coupon_?code_?name|sku",
    "customer": r"buyer|shopper|consumer|end_?user|user_?id|account_?id",
    "order": r"purchase|basket|cart|checkout_?id",
    "seat": r"slot|ticket|place_number|use_number",
    "hold (a reserved redemption)": r"reservation|pre_?auth",
    "limit": r"quota|allowance|max_?uses|usage_?limit|stock|budget",
    "claim": r"acquire|allocate|allocation|grab|take_slot|try_redeem",
    "record": r"persist|write_?through|save_redemption",
    "release": r"give_?up_seat|deallocate|unclaim|refund|revert",
    "cancel": r"void|rollback_redemption|annul",
    "load": r"hydrate|rehydrate|prime|warm_?up|rebuild|repopulate",
    "refill": r"replenish|top_?up|restock",
    "shrink": r"invalidate|truncate_counter",
    "collision": r"conflict|clash",
    "refusal, refuse": r"deny|denied|denial|reject|rejected|rejection",
    "exhausted": r"sold_?out|depleted|used_?up",
    "outdated": r"stale",
    "ledger (the tables), MariaDB (the server)": r"mysql_?db|source_of_truth",
    "counter": r"redis_?cache|coupon_?cache",
    "repair": r"heal|self_?heal|autofix",
    "ending (of the flow)": r"outcome_code|result_code",
    "look_up": r"lookup|lookups",
    "key (an API key)": r"api_?token|auth_?token|access_?token|credential|credentials",
    "scope": r"permission|permissions|privilege|privileges",
    "worker": r"subprocess_worker|child_worker",
}
"""The word, and what nobody writes instead of it: patterns of whole words, `_` and capitals separating words in names."""

ALLOWED = {
    "reservation_expired": "a problem code of the contract",
    "409 conflict": "HTTP's own words for the status",
}

MODULE_NAMES = re.compile(r"utils?|helpers?|common|manager|misc|shared|base|core|tools?|stuff")
"""Names that say nothing of what is inside, so that anything ends up there."""

PATTERNS = {word: re.compile(rf"(?<![a-z])({others})s?(?![a-z])") for word, others in SYNONYMS.items()}


def snake(name: str) -> str:
    """`LookUp` and `look_up` alike: look_up."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower()


def misnamed(text: str) -> Iterator[str]:
    for allowed in ALLOWED:
        text = text.replace(allowed, "")
    for word, pattern in PATTERNS.items():
        for found in pattern.finditer(text):
            yield f"{found[0]!r}: the word is {word}"


def test_names_and_explanations_use_the_words() -> None:
    found = [
        f"{module.place}:{line} {wrong}"
        for module in modules(*PRODUCT)
        for line, text in [*((at, snake(name)) for at, name in module.identifiers()), *module.explanations()]
        for wrong in misnamed(text.lower())
    ]
    assert not found


@pytest.mark.parametrize(
    "path",
    [*scripts(), *sorted((ROOT / "service").rglob("*.sql")), *documents()],
    ids=lambda path: str(path.relative_to(ROOT)),
)
def test_scripts_statements_and_documents_use_the_words(path: Path) -> None:
    lines = path.read_text(encoding="utf-8").lower().splitlines()
    found = [f"{path.name}:{at} {wrong}" for at, line in enumerate(lines, 1) for wrong in misnamed(line)]
    assert not found


def test_no_module_has_a_name_for_anything() -> None:
    assert not [module.place for module in modules(*PRODUCT, "deploy") if MODULE_NAMES.fullmatch(module.path.stem)]
