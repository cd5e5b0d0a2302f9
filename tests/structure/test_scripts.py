"""A script's header is a map of what it gets and returns. These tests keep it true, and its caller in step with it."""

import ast
import re
from collections.abc import Callable, Coroutine, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from service import comparing
from service import counters as gateway
from service.comparing import Comparing
from service.counters import ClaimBatch, CounterLook, Counters
from service.errors import CounterUnavailable
from service.model import Coupon, CouponSeed, CouponStatus, LoadedCoupon, Refusal, Return, Wish
from tests.structure.source import modules, scripts

NOW = datetime(2026, 11, 22, tzinfo=UTC)
COUPON = Coupon(77, "GOLD20", 5, 1, None, NOW, CouponStatus.ACTIVE, {}, 3, NOW, NOW)
SEED = CouponSeed("GOLD20", 3, 77, 3, "active", 5, 1, 0, 1_767_225_600_000)
LOOK = CounterLook(coupon_id=77, version=3, max_redemptions=5, next=4, pending=frozenset({2}))

CALLS: Mapping[str, Callable[[Counters], Coroutine[None, None, object]]] = {
    "claim": lambda counters: counters.claim([ClaimBatch("GOLD20", [Wish("o7", "ann")], [("o1", 4)])]),
    "release": lambda counters: counters.release({"GOLD20": [Return("o7", "ann", 5)]}),
    "load": lambda counters: counters.load([LoadedCoupon(COUPON, 3)]),
    "reseed": lambda counters: counters.reseed([SEED]),
    "shrink": lambda counters: counters.shrink("GOLD20", 18),
    "look": lambda counters: counters.look("GOLD20"),
    "refill": lambda counters: counters.refill("GOLD20", LOOK, seats=[2, 3, 9], complete=True),
    "holders": lambda counters: counters.holders("GOLD20", [2, 3, 9]),
    "remaining": lambda counters: counters.remaining(["GOLD20"]),
    "inspect": lambda counters: Comparing(counters).inspect(["GOLD20"]),
    "free_page": lambda counters: Comparing(counters).free_page({"GOLD20": "0"}),
    "customers_page": lambda counters: Comparing(counters).customers_page({"GOLD20": "0"}),
    "seat_states": lambda counters: Comparing(counters).seat_states({"GOLD20": [2, 3, 9, "x"]}),
    "customer_counts": lambda counters: Comparing(counters).customer_counts({"GOLD20": ["ann", "bob"]}),
    "in_flight": lambda counters: Comparing(counters).in_flight(["GOLD20"], age_min_ms=500, orders_max=1_000),
    "withdraw": lambda counters: Comparing(counters).withdraw("GOLD20", 77, [2, 3, 9, "x"]),
    "recount": lambda counters: Comparing(counters).recount("GOLD20", 77, [("ann", "2", 1), ("bob", "x", 0)]),
}
"""One call of each script, by way of the method of the same verb."""

every_script = pytest.mark.parametrize("script", scripts(), ids=lambda script: script.name)


class Deaf(Counters):
    """Counters whose Redis is away; what was to be sent is kept."""

    def __init__(self) -> None:
        super().__init__(client=None, timeout_s=1, claim_age_max_ms=7_000, idle_s=86_400)  # type: ignore[arg-type]
        self.sent: list[Sequence[bytes | str | int]] = []

    async def _send(
        self,
        commands: Sequence[Sequence[bytes | str | int]],
        *,
        transaction: bool = False,
        plain: bool = False,  # noqa: ARG002 - as the gateway's
    ) -> list[Any]:
        assert not transaction, "nothing goes again to a Redis that is away"
        self.sent.extend(commands)
        raise CounterUnavailable


def header(script: Path) -> str:
    """The comment on top."""
    found = re.match(r"#!lua.*\n((?:--.*\n)+)", script.read_text(encoding="utf-8"))
    assert found, f"{script.name} does not begin with #!lua and a header"
    return found[1]


def body(script: Path) -> str:
    """What is below the header, without comments."""
    return re.sub(r"--.*", "", script.read_text(encoding="utf-8"))


def documented(script: Path, array: str) -> list[str]:
    """What the header calls the elements of KEYS or ARGV, in order."""
    found = re.findall(rf"^-- {array}\[(\d+)\] +(.+)$", header(script), re.MULTILINE)
    assert [str(at) for at in range(1, len(found) + 1)] == [at for at, _ in found], f"{script.name}: {array} has a gap"
    return [text for _, text in found]


def asserted(script: Path, array: str) -> int:
    """How many elements the script insists on; of KEYS for each coupon, where it is for many."""
    found = re.findall(rf"^assert\(#{array}(?: == | % (?=\d+ == 0))(\d+)(?: == 0)?, ", body(script), re.MULTILINE)
    assert len(found) == 1, f"{script.name} does not assert #{array} once"
    return int(found[0])


@every_script
def test_the_header_names_the_keys_that_the_key_builder_makes(script: Path) -> None:
    named = [text.split()[-1] for text in documented(script, "KEYS")]
    assert [gateway.key("GOLD20", part) for part in gateway.PARTS] == named
    assert len(named) == asserted(script, "KEYS")


@every_script
def test_the_header_explains_each_argument_and_the_script_reads_it(script: Path) -> None:
    explained = documented(script, "ARGV")
    assert all(len(text.split()) > 1 for text in explained), f"{script.name}: an argument without an example"
    assert len(explained) == asserted(script, "ARGV")
    read = {int(at) for at in re.findall(r"ARGV\[(\d+)\]", body(script))}
    assert set(range(1, len(explained) + 1)) == read


@every_script
def test_the_script_names_its_arguments_as_the_header_does(script: Path) -> None:
    """`local age_max_ms, idle_s = tonumber(ARGV[1]), ARGV[2]`, and a prefix such as `is_` where that reads better."""
    names = [text.split()[0] for text in documented(script, "ARGV")]
    missing = [name for name in names if not re.search(rf"\b(\w+_)?{name}\b", body(script))]
    assert not missing


@every_script
def test_the_header_explains_what_is_returned(script: Path) -> None:
    _, found, returns = header(script).partition("-- Returns")
    assert found, f"{script.name} does not say what it returns"
    for code in re.findall(r"^ *return (-?\d+|\{ ?\d* ?\})$", body(script), re.MULTILINE):
        assert re.search(rf"(?<![\w-]){re.escape(code.replace(' ', ''))}(?!\w)", returns), f"{script.name}: return {code}"


@every_script
async def test_the_caller_sends_as_many_keys_and_arguments_as_the_script_asserts(script: Path) -> None:
    counters = Deaf()
    with pytest.raises(CounterUnavailable):
        await CALLS[script.stem](counters)
    ((command, sha, keys, *rest),) = counters.sent
    module = gateway if hasattr(gateway, script.stem.upper()) else comparing
    assert ("EVALSHA", getattr(module, script.stem.upper()).sha) == (command, sha)
    assert asserted(script, "KEYS") == keys
    assert asserted(script, "ARGV") == len(rest) - int(keys)


def test_each_script_has_a_method_of_its_verb_and_each_method_its_script() -> None:
    verbs = {script.stem for script in scripts()}
    assert verbs == {script.name for script in (*gateway.SCRIPTS, *comparing.SCRIPTS)}
    used = {
        method.name: {node.id.lower() for node in ast.walk(method) if isinstance(node, ast.Name) and node.id.isupper()} & verbs
        for module in modules("service")
        if module.name in {"service.counters", "service.comparing"}
        for kind in module.tree.body
        if isinstance(kind, ast.ClassDef) and kind.name in {"Counters", "Comparing"}
        for method in kind.body
        if isinstance(method, ast.AsyncFunctionDef)
    }
    assert {verb: {verb} for verb in verbs} == {name: scripts for name, scripts in used.items() if scripts}


@every_script
def test_a_script_that_changes_nothing_says_so_to_redis(script: Path) -> None:
    """Redis then refuses to write for it; and a script that is declared so has told its readers."""
    declared = script.read_text(encoding="utf-8").startswith("#!lua flags=no-writes\n")
    assert declared == ("Changes nothing." in header(script))


def test_the_answers_of_a_claim_are_numbered_alike_in_lua_and_python() -> None:
    """Python takes the refusals in their order; to the counter, a coupon that is not to be found is an archived one."""
    names, numbers = re.findall(r"^local (CLAIMED, [A-Z_, ]+) = ([\d, ]+)$", body(scripts_by_verb("claim")), re.MULTILINE)[0]
    by_number = dict(zip(map(int, numbers.split(", ")), names.split(", "), strict=True))
    refusals = [refusal.name.removeprefix("COUPON_").replace("NOT_FOUND", "ARCHIVED") for refusal in Refusal]
    assert dict(enumerate(["CLAIMED", *refusals])) == by_number


def scripts_by_verb(verb: str) -> Path:
    return next(script for script in scripts() if script.stem == verb)
