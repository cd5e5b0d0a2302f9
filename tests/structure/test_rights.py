"""The accounts in deploy/stores/ may do what the gateways do, no more and no less."""

import re

from service.counters import KEY_VERSION
from tests.structure.source import ROOT, modules

STORES = ROOT / "deploy" / "stores"
QUERIES = ROOT / "service" / "ledger" / "sql"

BY_THE_LIBRARY = {"select"}
"""Sent for the number at the end of USHER_REDIS_URL."""
BY_A_TRANSACTION = {"multi", "exec"}

NOT_THE_SERVICE = re.compile(r"^migration_")
"""Queries of `usher migrate`, which has an account of its own."""
VERB = re.compile(
    r"\b(SELECT|INSERT|UPDATE|DELETE|REPLACE|TRUNCATE|CREATE|ALTER|DROP|RENAME|CALL|HANDLER|LOAD|GRANT|LOCK TABLES)\b(?!\s*\()"
)
DELETED = {"reconcile_run", "reconcile_finding"}
"""The tables from which old rows go. From all others nothing does."""
NO_VERBS = re.compile(r"--[^\n]*|'[^']*'|ON DUPLICATE KEY UPDATE|FOR UPDATE")
"""What looks like a verb and is none: comments, texts, and parts of other statements."""


def account(name: str) -> set[str]:
    """The rules of an account in users.acl."""
    lines = [
        line for line in (STORES / "users.acl").read_text(encoding="utf-8").splitlines() if not line.lstrip().startswith("#")
    ]
    (rules,) = re.findall(rf"^user {name} (.*(?:\n .*)*)", "\n".join(lines), re.MULTILINE)
    return set(rules.split())


def sent_by_the_scripts() -> set[str]:
    found = set()
    for script in (ROOT / "lua").rglob("*.lua"):
        for call in re.finditer(r"redis\.p?call\(\s*([^,)]+)|put_all\(\s*([^,)]+)", script.read_text(encoding="utf-8")):
            name = call[1] or call[2]
            if name != "command":  # `put_all` passes on what it was given.
                assert re.fullmatch(r'"[A-Z]+"', name), f"{script.name} calls {name}: no test can say what that is"
                found.add(name.strip('"').lower())
    return found


def sent_by_the_gateway() -> set[str]:
    (gateway,) = (module for module in modules("service") if module.name == "service.counters")
    names = {text for _, text in gateway.texts() if re.fullmatch(r"[A-Z]+( [A-Z]+)?", text)}
    by_a_transaction = BY_A_TRANSACTION if "transaction=True" in gateway.text else set()
    return {name.lower().replace(" ", "|") for name in names} | by_a_transaction | BY_THE_LIBRARY


def test_the_service_may_send_to_redis_what_it_sends() -> None:
    allowed = {rule.removeprefix("+") for rule in account("usher") if rule.startswith("+")}
    assert sent_by_the_gateway() | sent_by_the_scripts() == allowed


def test_the_service_may_touch_its_own_keys_only() -> None:
    others = {rule for rule in account("usher") if not rule.startswith("+")}
    assert {
        "on", "#@USHER_REDIS_PASSWORD_SHA256@", "resetkeys", f"~usher:{KEY_VERSION}:*", "resetchannels", "-@all",
    } == others  # fmt: skip


def granted(user: str) -> set[str]:
    """The rights that accounts.sql gives an account in the whole database."""
    (rights,) = re.findall(rf"GRANT ([A-Z, ]+) ON usher\.\* TO ', @usher_{user}\)", accounts())
    return set(rights.split(", "))


def granted_on_tables(user: str) -> dict[str, set[str]]:
    """The rights that accounts.sql gives an account on single tables, less those that it takes away again."""
    found: dict[str, set[str]] = {}
    for verb, rights, table in re.findall(
        rf"'(GRANT|REVOKE) ([A-Z, ]+) ON usher\.(\w+) (?:TO|FROM) ', @usher_{user}\)", accounts()
    ):
        if verb == "GRANT":
            found.setdefault(table, set()).update(rights.split(", "))
        else:
            found[table] -= set(rights.split(", "))
    return found


def accounts() -> str:
    return (STORES / "accounts.sql").read_text(encoding="utf-8")


def statements() -> dict[str, str]:
    """The queries that the service's account sends, by name, without what looks like a verb."""
    return {
        path.stem: NO_VERBS.sub("", path.read_text(encoding="utf-8"))
        for path in QUERIES.glob("*.sql")
        if not NOT_THE_SERVICE.match(path.name) and path.stem != "schema"
    }


def test_the_service_may_do_to_the_ledger_what_it_does() -> None:
    verbs = {verb for text in statements().values() for verb in VERB.findall(text)}
    assert verbs == granted("service") | {"DELETE"}
    assert "DELETE" not in granted("service")


def test_the_service_may_delete_what_it_deletes() -> None:
    deleting = [text for text in statements().values() if "DELETE" in VERB.findall(text)]
    assert DELETED == {table for text in deleting for table in re.findall(r"DELETE FROM (\w+)", text)}
    assert granted_on_tables("service") == {table: {"DELETE"} for table in DELETED}
    assert {} == granted_on_tables("migration")


def test_who_migrates_may_change_the_schema_besides() -> None:
    assert {"CREATE", "ALTER", "DROP", "INDEX"} == granted("migration") - granted("service")
    assert granted("service") < granted("migration")


def test_a_statement_of_the_accounts_has_one_line() -> None:
    """A server's init file is read line by line."""
    lines = [line for line in accounts().splitlines() if line and not line.startswith("--")]
    assert [] == [line for line in lines if not line.endswith(";")]
