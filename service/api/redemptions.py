"""`/v1/redemptions`: redeem a coupon, and read what was redeemed."""

import asyncio
import re
from typing import Final

from aiohttp import hdrs, web
from multidict import CIMultiDictProxy, istr

from service.api.answers import answer, answered, redemption_view
from service.api.authentication import READ_REDEMPTIONS, REDEEM, Authenticator
from service.api.bodies import RedemptionBody, parse, parse_code, parse_name
from service.api.pages import PAGING, Tokens, page, page_size, query_of
from service.api.parts import AUTHENTICATOR, LEDGER, REDEEMER, Redeems
from service.api.problems import BY_REFUSAL, Code, Problem, invalid
from service.api.requests import answer_until, id_in_path, object_in, read_json
from service.api.written import Answered, response
from service.model import ApiKey, Ending, Order, Redeemed, RedemptionStatus

PATH: Final = "/v1/redemptions"
ID_BYTES: Final = 16
NAMES: Final = frozenset({"code", "customer_id", "order_id"})
"""At least one of them narrows a list; a list of everything would be a walk through the whole table."""
QUERY: Final = NAMES | {"status"} | PAGING

IDEMPOTENCY_KEY: Final = istr("Idempotency-Key")
REPLAYED: Final = {"Idempotent-Replayed": "true"}
SANE_IDEMPOTENCY_KEY: Final = re.compile(r"[!-~]{1,255}")

BY_ENDING: Final = {
    Ending.ORDER_MISMATCH: Code.ORDER_MISMATCH,
    Ending.KEY_REUSED: Code.IDEMPOTENCY_KEY_REUSED,
    Ending.BUSY: Code.BUSY,
    Ending.LIMITED: Code.TOO_MANY_ATTEMPTS,
    Ending.UNAVAILABLE: Code.UNAVAILABLE,
    Ending.OUTCOME_UNKNOWN: Code.OUTCOME_UNKNOWN,
}
"""The problems of endings that have neither a redemption nor a refusal."""


async def redeem(
    headers: CIMultiDictProxy[str], body: bytes, authenticator: Authenticator, redeemer: Redeems
) -> Answered | Problem:
    """`POST /v1/redemptions`, whose body is JSON by its headers. A refusal is returned: raising costs more than refusing."""
    arrived_at = asyncio.get_running_loop().time()
    key = await authenticator.authorize(headers.get(hdrs.AUTHORIZATION), REDEEM)
    order = _order(headers, body, key)
    return _answer(await redeemer.redeem(order, arrived_at), order)


async def redeem_by_route(request: web.Request) -> web.Response:
    """The same for a request that did not come in one piece, or in another way than nearly all do."""
    arrived_at = asyncio.get_running_loop().time()
    app = request.app
    query_of(request)
    key = await app[AUTHENTICATOR].authorize(request.headers.get(hdrs.AUTHORIZATION), REDEEM)
    order = _order(request.headers, await read_json(request), key)
    ending = _answer(await app[REDEEMER].redeem(order, arrived_at), order)
    if isinstance(ending, Problem):
        raise ending
    return response(ending)


def _order(headers: CIMultiDictProxy[str], body: bytes, key: ApiKey) -> Order:
    """What is asked for; raises the Problem `invalid_request`."""
    asked = parse(RedemptionBody, object_in(body))
    return Order(asked.code, asked.customer_id, asked.order_id, key.id, asked.hold_s, _idempotency_key(headers))


def _idempotency_key(headers: CIMultiDictProxy[str]) -> str | None:
    """The `Idempotency-Key`, if there is one; raises the Problem `invalid_request`."""
    if IDEMPOTENCY_KEY not in headers:
        return None
    sent = headers.getall(IDEMPOTENCY_KEY)
    if len(sent) > 1:
        raise invalid(IDEMPOTENCY_KEY, "is given twice")
    if not SANE_IDEMPOTENCY_KEY.fullmatch(sent[0]):
        raise invalid(IDEMPOTENCY_KEY, "must be 1 to 255 visible ASCII characters")
    return sent[0]


def _answer(redeemed: Redeemed, order: Order) -> Answered | Problem:
    """The closed set of endings as answers; those without a redemption are problems."""
    redemption = redeemed.redemption
    if redeemed.ending is Ending.CREATED:
        assert redemption is not None
        view = redemption_view(redemption)
        return answered(view, status=201, headers={"Location": f"{PATH}/{view['id']}"})
    if redeemed.ending is Ending.REPLAYED:
        assert redemption is not None
        return answered(redemption_view(redemption), headers=REPLAYED)
    if redeemed.ending is Ending.REFUSED:
        assert redeemed.refusal is not None
        return Problem(BY_REFUSAL[redeemed.refusal])
    headers = {"Retry-After": str(redeemed.retry_after_s)} if redeemed.ending is Ending.LIMITED else None
    return Problem(BY_ENDING[redeemed.ending], headers=headers, failed=order)


async def show(request: web.Request) -> web.Response:
    """`GET /v1/redemptions/{id}`."""
    until, app = answer_until(request), request.app
    await app[AUTHENTICATOR].authorize(request.headers.get(hdrs.AUTHORIZATION), READ_REDEMPTIONS)
    query_of(request)
    ledger = app[LEDGER]
    redemption = await ledger.redemptions.get(id_of(request), until)
    if redemption is None:
        raise Problem(Code.REDEMPTION_NOT_FOUND)
    return answer(redemption_view(redemption.as_of(ledger.now())))


def id_of(request: web.Request) -> bytes:
    """The redemption's id in the path; raises the Problem `redemption_not_found` for what can be none."""
    return id_in_path(request, Code.REDEMPTION_NOT_FOUND)


async def find(request: web.Request) -> web.Response:
    """`GET /v1/redemptions`: newest first."""
    until, app = answer_until(request), request.app
    await app[AUTHENTICATOR].authorize(request.headers.get(hdrs.AUTHORIZATION), READ_REDEMPTIONS)
    query = query_of(request, QUERY)
    if NAMES.isdisjoint(query):
        raise invalid("?code", "at least one of code, customer_id and order_id is needed")
    code = parse_code(query["code"], "?code") if "code" in query else None
    customer_id = parse_name(query["customer_id"], "?customer_id") if "customer_id" in query else None
    order_id = parse_name(query["order_id"], "?order_id") if "order_id" in query else None
    status = _status(query["status"]) if "status" in query else None
    size = page_size(query)
    tokens = Tokens("redemptions", {"code": code, "customer_id": customer_id, "order_id": order_id, "status": status})
    before_id = tokens.read(query)
    if before_id is not None and len(before_id) != ID_BYTES:
        raise invalid("?page_token", "is no token of this list")
    ledger = app[LEDGER]
    found = await ledger.redemptions.find(
        code=code,
        customer_id=customer_id,
        order_id=order_id,
        status=status,
        before_id=before_id,
        limit=size + 1,
        deadline=until,
    )
    shown = found[:size]
    token = tokens.make(shown[-1].id) if len(found) > size else None
    return answer(page([redemption_view(one.as_of(ledger.now())) for one in shown], token))


def _status(text: str) -> RedemptionStatus:
    try:
        return RedemptionStatus(text)
    except ValueError:
        raise invalid("?status", "must be one of " + ", ".join(RedemptionStatus)) from None


ROUTES: Final = (
    web.post(PATH, redeem_by_route),
    web.get(PATH, find),
    # `cancel` is no id but an address of its own, which knows POST only.
    web.get(PATH + "/{id:(?!cancel$)[^/]+}", show),
)
