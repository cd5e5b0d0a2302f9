"""Settings: what is wrong with one is said in one line, with its name and what is allowed, and never with a secret."""

import pytest
from pydantic import SecretStr

from service import config
from service.addresses import account, address
from service.config import Settings
from service.errors import ConfigurationError
from service.reference import allowed, fact, unit

SECRET = "Sekr3t"
MYSQL = "mysql://user:password@host:port/name"
REDIS = "redis://user:password@host:port/number or rediss://…"
SPECIAL = "what is special in a password must be percent-encoded"


def complaints(**given: tuple[str, object]) -> list[str]:
    with pytest.raises(ConfigurationError) as raised:
        config.load(**given)
    return str(raised.value).splitlines()


@pytest.mark.parametrize(
    ("name", "value", "line"),
    [
        ("WORKERS", "zero", "is 'zero'; allowed: 1 to 256 (processes)"),
        ("WORKERS", "0", "is '0'; allowed: 1 to 256 (processes)"),
        ("LISTEN_PORT", "99999", "is '99999'; allowed: 0 to 65,535"),
        ("REQUEST_DEADLINE_MS", "5s", "is '5s'; allowed: 500 to 60,000 (milliseconds)"),
        ("QUEUE_MAX_REQUESTS", "9" * 60, f"is '{'9' * 40}…'; allowed: 1 to 1,000,000 (requests)"),
        ("LOG_LEVEL", "lo\nud", r"is 'lo\nud'; allowed: debug, info, warning or error"),
        ("LOG_FORMAT", "xml", "is 'xml'; allowed: auto, json or pretty"),
        ("LOG_HASH_KEY", SECRET, "is too short; allowed: 16 characters or more, chosen at random"),
        ("PROBLEM_BASE_URI", "x", "is 'x'; allowed: an http:// or https:// URL that ends in a slash"),
    ],
)
def test_a_bad_variable_is_one_line(monkeypatch: pytest.MonkeyPatch, name: str, value: str, line: str) -> None:
    monkeypatch.setenv(f"USHER_{name}", value)
    assert [f"USHER_{name} {line}"] == complaints()


@pytest.mark.parametrize(
    ("name", "value", "wrong"),
    [
        ("DATABASE_URL", f"postgres://u:{SECRET}@h/n", "does not begin with mysql://"),
        ("DATABASE_URL", SECRET, "does not begin with mysql://"),
        ("DATABASE_URL", f"mysql://h:1/{SECRET}", "names no user"),
        ("DATABASE_URL", f"mysql://u:{SECRET}@h", "names no database after the host"),
        ("DATABASE_URL", f"mysql://u:{SECRET}@/n", "names no host"),
        ("DATABASE_URL", f"mysql://u:{SECRET}@h:0/n", "names port 0"),
        ("DATABASE_URL", f"mysql://u:{SECRET}@h:x/n", f"names a port that is no number from 1 to 65535; {SPECIAL}"),
        ("DATABASE_URL", f"mysql://u:{SECRET}/x@h/n", f"names a port that is no number from 1 to 65535; {SPECIAL}"),
        ("DATABASE_URL", f"mysql://u:{SECRET}#x@h/n", f"has a # in it; {SPECIAL}"),
        ("DATABASE_URL", f"mysql://u:{SECRET}@h/n?ssl=1", f"has a ? in it: there are no options, and {SPECIAL}"),
        ("DATABASE_URL", f"mysql://u:{SECRET}@h/n\n", f"has a blank or a line break in it; {SPECIAL}"),
        ("MIGRATION_DATABASE_URL", f"mysql://u:{SECRET} x@h/n", f"has a blank or a line break in it; {SPECIAL}"),
        ("MIGRATION_DATABASE_URL", "mysql://[::1/n", f"names a port that is no number from 1 to 65535; {SPECIAL}"),
        ("REDIS_URL", f"http://:{SECRET}@h", "does not begin with redis:// or rediss://"),
        ("REDIS_URL", f"redis://:{SECRET}@h/usher", "names a database after the host that is no number"),
    ],
)
def test_an_address_is_not_repeated(monkeypatch: pytest.MonkeyPatch, name: str, value: str, wrong: str) -> None:
    """Only what is wrong with it, for a password may be anywhere in it."""
    monkeypatch.setenv(f"USHER_{name}", value)
    assert [f"USHER_{name} {wrong}; allowed: {REDIS if name == 'REDIS_URL' else MYSQL}"] == complaints()


@pytest.mark.parametrize(
    "url", ["mysql://u@h/n", "mysql://u:p%40ss%2F@h:1/n", "MYSQL://u@[::1]:3306/n", "mysql://u:a'b@10.0.0.1/n"]
)
def test_addresses_of_a_ledger(url: str) -> None:
    assert url == Settings(database_url=SecretStr(url)).database_url.get_secret_value()


@pytest.mark.parametrize("url", ["redis://h", "redis://h/", "rediss://u:p@h:6380/3", "redis://:p%40@[::1]/0", "redis://h?x=1"])
def test_addresses_of_redis(url: str) -> None:
    assert url == Settings(redis_url=SecretStr(url)).redis_url.get_secret_value()


def test_what_is_shown_of_an_address() -> None:
    urls = [SecretStr(f"mysql://us%40er:{SECRET}@h/n%20m"), SecretStr(f"redis://:{SECRET}@[::1]:7/2")]
    assert [("h:3306/n m", "us@er"), ("[::1]:7/2", "")] == [(address(url), account(url)) for url in urls]


def test_an_option_is_called_by_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """And it does not hide that the variable is wrong, which is told first."""
    monkeypatch.setenv("USHER_WORKERS", "many")
    monkeypatch.setenv("USHER_LOG_LEVEL", "loud")
    assert [
        "USHER_WORKERS is 'many'; allowed: 1 to 256 (processes)",
        "USHER_LOG_LEVEL is 'loud'; allowed: debug, info, warning or error",
        "--port is 'x'; allowed: 0 to 65,535",
    ] == complaints(workers=("--workers", "2"), listen_port=("--port", "x"), listen_host=("--host", None))


def test_an_option_stands_above_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("USHER_WORKERS", "3")
    monkeypatch.setenv("USHER_LISTEN_PORT", "1")
    settings = config.load(workers=("--workers", "2"), listen_port=("--port", None))
    assert (2, 1) == (settings.workers, settings.listen_port)


def test_an_empty_variable_is_not_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("USHER_WORKERS", "")
    assert 1 == config.load().workers


@pytest.mark.parametrize(
    ("given", "doubt"),
    [
        (
            {"request_deadline_ms": 15_000},
            (
                "USHER_STOP_DEADLINE_MS (15000) is not above USHER_REQUEST_DEADLINE_MS (15000): "
                "a stop cuts off requests that have time left"
            ),
        ),
        (
            {"redis_timeout_ms": 1_001},
            "USHER_REDIS_TIMEOUT_MS (1001) counts as 1000, a fifth of USHER_REQUEST_DEADLINE_MS (5000)",
        ),
        (
            {"database_url": SecretStr("mysql://u@db/n")},
            "USHER_DATABASE_URL has no password, and the ledger is on another machine",
        ),
    ],
    ids=str,
)
def test_doubts(given: dict[str, object], doubt: str) -> None:
    """What is allowed and hardly meant."""
    assert [doubt] == list(Settings(**given).doubts())  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"request_deadline_ms": 2_000},
        {"redis_timeout_ms": 1_000},
        {"database_url": SecretStr("mysql://u:p@db/n")},
        {"database_url": SecretStr("mysql://u@localhost/n")},
        {"database_url": SecretStr("mysql://u@127.0.0.2/n")},
        {"database_url": SecretStr("mysql://u@[::1]/n")},
    ],
    ids=str,
)
def test_no_doubts(given: dict[str, object]) -> None:
    """A default that another setting cuts short is nobody's mistake."""
    assert [] == list(Settings(**given).doubts())  # type: ignore[arg-type]


@pytest.mark.parametrize("name", Settings.model_fields)
def test_every_setting_says_when_to_change_it(name: str) -> None:
    """With what is allowed, a section, and for numbers a unit or none on purpose."""
    field = Settings.model_fields[name]
    said = [field.description or "", fact(field, "when"), fact(field, "section"), allowed(field)]
    assert all(said)
    assert all(text.endswith((".", "…")) for text in said[:2])
    assert unit(name, field) in {"", "processes", "milliseconds", "seconds", "days", "requests", "rows", "connections"}
