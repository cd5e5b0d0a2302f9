"""What becomes of redemptions: `/v1/redemptions/{id}/confirm`, `/extend`, `/cancel`, and `/v1/redemptions/cancel` by order."""

from typing import Final

from aiohttp import hdrs, web

from service.api.answers import answer, id_text, redemption_view
from service.api.authentication import REDEEM
from service.api.bodies import CancelBody, CancelOrderBody, ConfirmBody, ExtendBody, parse
from service.api.pages import query_of
from service.api.parts import AUTHENTICATOR, LIFE, REDEEMER
from service.api.problems import Code, FailedTransition, Problem
from service.api.redemptions import PATH, id_of
from service.api.requests import answer_until, read_object, read_optional_object
from service.errors import LedgerUnavailable
from service.model import RedemptionStatus
from service.transition import Transition, TransitionEnding, Verb

BY_ENDING: Final = {
    TransitionEnding.NOT_FOUND: Code.REDEMPTION_NOT_FOUND,
    TransitionEnding.ALREADY_CONFIRMED: Code.ALREADY_CONFIRMED,
    TransitionEnding.ALREADY_CANCELLED: Code.ALREADY_CANCELLED,
    TransitionEnding.RESERVATION_EXPIRED: Code.RESERVATION_EXPIRED,
    TransitionEnding.UNAVAILABLE: Code.UNAVAILABLE,
    TransitionEnding.BUSY: Code.BUSY,
    TransitionEnding.OUTCOME_UNKNOWN: Code.OUTCOME_UNKNOWN,
}
"""The problems of endings; the others show the redemption."""


async def confirm(request: web.Request) -> web.Response:
    """`POST /v1/redemptions/{id}/confirm`."""
    until = await _begin(request)
    parse(ConfirmBody, await read_optional_object(request))
    return await _carry_out(request, Transition(Verb.CONFIRM, id_of(request)), until)


async def extend(request: web.Request) -> web.Response:
    """`POST /v1/redemptions/{id}/extend`."""
    until = await _begin(request)
    body = parse(ExtendBody, await read_object(request))
    return await _carry_out(request, Transition(Verb.EXTEND, id_of(request), hold_s=body.hold_s), until)


async def cancel(request: web.Request) -> web.Response:
    """`POST /v1/redemptions/{id}/cancel`."""
    until = await _begin(request)
    body = parse(CancelBody, await read_optional_object(request))
    return await _carry_out(request, Transition(Verb.CANCEL, id_of(request), reason=body.reason or None), until)


async def cancel_order(request: web.Request) -> web.Response:
    """`POST /v1/redemptions/cancel`: the order's live redemption, for callers that never saw its id."""
    until = await _begin(request)
    body = parse(CancelOrderBody, await read_object(request))
    try:
        live_id = await request.app[REDEEMER].find_live(body.code, body.order_id, until)
    except LedgerUnavailable:
        raise Problem(Code.UNAVAILABLE, failed=FailedTransition(Verb.CANCEL, None, body.code, body.order_id)) from None
    if live_id is None:
        raise Problem(Code.REDEMPTION_NOT_FOUND)
    return await _carry_out(request, Transition(Verb.CANCEL, live_id, reason=body.reason or None), until, of_order=body)


async def _begin(request: web.Request) -> float:
    """Authorizes; until when there is to be an answer."""
    until = answer_until(request)
    await request.app[AUTHENTICATOR].authorize(request.headers.get(hdrs.AUTHORIZATION), REDEEM)
    query_of(request)
    return until


async def _carry_out(
    request: web.Request, wish: Transition, until: float, *, of_order: CancelOrderBody | None = None
) -> web.Response:
    """The endings as answers. `of_order`: whose redemption it was asked for as, and a hold whose time is over is none of it."""
    ended = await request.app[LIFE].carry_out(wish, until)
    if ended.ending in BY_ENDING:
        named = (of_order.code, of_order.order_id) if of_order else ()
        raise Problem(BY_ENDING[ended.ending], failed=FailedTransition(wish.verb, id_text(wish.id), *named))
    assert ended.redemption is not None, "what was carried out is there"
    if of_order and ended.redemption.status is RedemptionStatus.EXPIRED:
        raise Problem(Code.REDEMPTION_NOT_FOUND)
    return answer(redemption_view(ended.redemption))


ROUTES: Final = (
    web.post(PATH + "/cancel", cancel_order),
    web.post(PATH + "/{id:[^/]+}/confirm", confirm),
    web.post(PATH + "/{id:[^/]+}/extend", extend),
    web.post(PATH + "/{id:[^/]+}/cancel", cancel),
)
