"""Confirm, extend and cancel over HTTP."""

from typing import Any

import aiohttp
import pytest

from service.transition import Transition, TransitionEnding, Verb
from tests.api.fakes import READER, REDEMPTION, Served
from tests.api.test_http import ID, ask

OF_ORDER = {"code": " gold20", "order_id": "o-1"}


@pytest.mark.parametrize(
    ("path", "body", "wish"),
    [
        (f"{ID}/confirm", None, Transition(Verb.CONFIRM, REDEMPTION.id)),
        (f"{ID}/confirm", {}, Transition(Verb.CONFIRM, REDEMPTION.id)),
        (f"{ID}/extend", {"hold_s": 60}, Transition(Verb.EXTEND, REDEMPTION.id, 60)),
        (f"{ID}/cancel", None, Transition(Verb.CANCEL, REDEMPTION.id)),
        (f"{ID}/cancel", {"reason": "declined"}, Transition(Verb.CANCEL, REDEMPTION.id, reason="declined")),
        ("cancel", OF_ORDER, Transition(Verb.CANCEL, REDEMPTION.id)),
        ("cancel", OF_ORDER | {"reason": "declined"}, Transition(Verb.CANCEL, REDEMPTION.id, reason="declined")),
    ],
)
async def test_what_is_asked_for(
    served: Served, client: aiohttp.ClientSession, path: str, body: dict[str, Any] | None, wish: Transition
) -> None:
    """200 with the redemption as it is then."""
    status, answer, _ = await ask(client, "POST", f"/v1/redemptions/{path}", json=body)
    assert (200, ID) == (status, answer["id"])
    assert [wish] == served.life.wishes


@pytest.mark.parametrize(
    ("ending", "status", "code"),
    [
        (TransitionEnding.NOT_FOUND, 404, "redemption_not_found"),
        (TransitionEnding.ALREADY_CONFIRMED, 409, "already_confirmed"),
        (TransitionEnding.ALREADY_CANCELLED, 409, "already_cancelled"),
        (TransitionEnding.RESERVATION_EXPIRED, 409, "reservation_expired"),
        (TransitionEnding.UNAVAILABLE, 503, "unavailable"),
        (TransitionEnding.BUSY, 503, "busy"),
        (TransitionEnding.OUTCOME_UNKNOWN, 503, "outcome_unknown"),
    ],
)
async def test_endings(served: Served, client: aiohttp.ClientSession, ending: TransitionEnding, status: int, code: str) -> None:
    served.life.ending = ending
    found, body, _ = await ask(client, "POST", f"/v1/redemptions/{ID}/confirm")
    assert (status, code) == (found, body["code"])


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        ("cancel", OF_ORDER | {"order_id": "o-2"}, 404), ("cancel", {"code": "A"}, 400), ("x/cancel", None, 404),
        (f"{ID}/extend", None, 400), (f"{ID}/extend", {"hold_s": 0}, 400), (f"{ID}/extend", {"hold_s": 86_401}, 400),
        (f"{ID}/confirm", {"x": 1}, 400), (f"{ID}/confirm?x=1", None, 400), (f"{ID}/cancel", {"reason": "No"}, 400),
        (f"{ID}/cancel", {"reason": "a" * 65}, 400),
    ],
)  # fmt: skip
async def test_what_is_refused(
    served: Served, client: aiohttp.ClientSession, path: str, body: dict[str, Any] | None, status: int
) -> None:
    """Before anything is touched; so is a key without the scope."""
    assert status == (await ask(client, "POST", f"/v1/redemptions/{path}", json=body))[0]
    reader = {"Authorization": f"Bearer {READER}"}
    assert 403 == (await ask(client, "POST", f"/v1/redemptions/{ID}/confirm", headers=reader))[0]
    assert [] == served.life.wishes
