"""The limit of open files: raised to what is needed; where it cannot be, fewer clients are kept."""

import resource

import pytest
from structlog.testing import capture_logs

from service.cli.serving import FILES_BESIDE_CLIENTS, within_open_files
from service.config import Settings

BESIDE = FILES_BESIDE_CLIENTS + 4 + 2 + 4
"""As many as the stores' connections are unless set."""


@pytest.fixture
def limits(monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """The process' limits, which are not really changed."""
    now = {"soft": 1_024, "hard": 1_048_576}

    def change(_: int, limits: tuple[int, int]) -> None:
        assert limits[1] == now["hard"]
        now["soft"] = limits[0]

    monkeypatch.setattr(resource, "getrlimit", lambda _: (now["soft"], now["hard"]))
    monkeypatch.setattr(resource, "setrlimit", change)
    return now


@pytest.mark.parametrize(("soft", "expected"), [(1_024, 4_000 + BESIDE), (65_536, 65_536), (resource.RLIM_INFINITY,) * 2])
def test_the_limit_is_raised_and_never_lowered(limits: dict[str, int], soft: int, expected: int) -> None:
    limits["soft"] = soft
    with capture_logs() as events:
        settings = within_open_files(Settings())
    assert (4_000, expected, []) == (settings.clients_max_connections, limits["soft"], events)


def test_without_a_hard_limit(limits: dict[str, int]) -> None:
    limits["hard"] = resource.RLIM_INFINITY
    within_open_files(Settings())
    assert 4_000 + BESIDE == limits["soft"]


def test_where_the_hard_limit_is_too_low_fewer_clients_are_kept(limits: dict[str, int]) -> None:
    """And the log says what is missing."""
    limits["hard"] = 2_000
    with capture_logs() as events:
        settings = within_open_files(Settings())
    assert (2_000 - BESIDE, 2_000) == (settings.clients_max_connections, limits["soft"])
    expected = {"wanted": 4_000 + BESIDE, "allowed": 2_000, "clients": 2_000 - BESIDE}
    assert [{"event": "too few open files allowed", "log_level": "warning", **expected}] == events
