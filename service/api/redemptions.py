"""`/v1/redemptions`: redeem a coupon, and read what was redeemed."""

import asyncio
import re
from typing import Final

from aiohttp import hdrs, web

from service.api.answers import answer, redemption_view
from service.api.authentication import READ_REDEMPTIONS, REDEEM, Authenticator
from service.api.bodies import RedemptionBody, parse, parse_code, parse_name
from service.api.pages import PAGING, Tokens, page, page_size, query_of
from service.api.parts import AUTHENTICATOR, LEDGER, REDEEMER, Redeems
from service.api.problems import BY_REFUSAL, Code, Problem, invalid
from service.api.requests import deadline_of, read_object
from service.model import Ending, Order, Redeemed, RedemptionStatus

PATH: Final = "/v1/redemptions"
ID_BYTES: Final = 16
ID: Final = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}", re.IGNORECASE | re.ASCII)
NAMES: Final = frozenset({"code", "customer_id", "order_id"})
"""At least one of them narrows a list; a list of everything would be a walk through the whole table."""
QUERY: Final = NAMES | {"status"} | PAGING

ENDED_OTHERWISE: Final = {
    Ending.ORDER_MISMATCH: Code.ORDER_MISMATCH,
    Ending.LIMITED: Code.TOO_MANY_ATTEMPTS,
    Ending.UNAVAILABLE: Code.UNAVAILABLE,
    Ending.OUTCOME_UNKNOWN: Code.OUTCOME_UNKNOWN,
}
FAILED: Final = frozenset({Code.UNAVAILABLE, Code.OUTCOME_UNKNOWN})


async def redeem(request: web.Request, authenticator: Authenticator, redeemer: Redeems) -> web.Response:
    """`POST /v1/redemptions`. The parts are handed in: it is called past the router."""
    arrived_at = asyncio.get_running_loop().time()
    key = await authenticator.authorize(request.headers.get(hdrs.AUTHORIZATION), REDEEM)
    body = parse(RedemptionBody, await read_object(request))
    order = Order(body.code, body.customer_id, body.order_id, key.id)
    return _answer(await redeemer.redeem(order, arrived_at), order)


async def redeem_by_route(request: web.Request) -> web.Response:
    """`POST /v1/redemptions` with a query, which is refused, or with `Expect`."""
    query_of(request)
    return await redeem(request, request.app[AUTHENTICATOR], request.app[REDEEMER])


def _answer(redeemed: Redeemed, order: Order) -> web.Response:
    """The closed set of endings as answers; those without a redemption are problems."""
    redemption = redeemed.redemption
    if redeemed.ending is Ending.CREATED:
        assert redemption is not None
        view = redemption_view(redemption)
        return answer(view, status=201, headers={"Location": f"{PATH}/{view['id']}"})
    if redeemed.ending is Ending.REPLAYED:
        assert redemption is not None
        return answer(redemption_view(redemption), headers={"Idempotent-Replayed": "true"})
    if redeemed.ending is Ending.REFUSED:
        assert redeemed.refusal is not None
        raise Problem(BY_REFUSAL[redeemed.refusal])
    code = ENDED_OTHERWISE[redeemed.ending]
    headers = {"Retry-After": str(redeemed.retry_after_s)} if redeemed.ending is Ending.LIMITED else None
    raise Problem(code, headers=headers, failed=order if code in FAILED else None)


async def show(request: web.Request) -> web.Response:
    """`GET /v1/redemptions/{id}`."""
    app = request.app
    await app[AUTHENTICATOR].authorize(request.headers.get(hdrs.AUTHORIZATION), READ_REDEMPTIONS)
    query_of(request)
    text = request.match_info["id"]
    # What is no id at all is the id of no redemption.
    if not ID.fullmatch(text):
        raise Problem(Code.REDEMPTION_NOT_FOUND)
    redemption = await app[LEDGER].redemptions.get(bytes.fromhex(text.replace("-", "")), deadline_of(request))
    if redemption is None:
        raise Problem(Code.REDEMPTION_NOT_FOUND)
    return answer(redemption_view(redemption))


async def find(request: web.Request) -> web.Response:
    """`GET /v1/redemptions`: newest first."""
    app = request.app
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
    found = await app[LEDGER].redemptions.find(
        code=code,
        customer_id=customer_id,
        order_id=order_id,
        status=status,
        before_id=before_id,
        limit=size + 1,
        deadline=deadline_of(request),
    )
    shown = found[:size]
    token = tokens.make(shown[-1].id) if len(found) > size else None
    return answer(page([redemption_view(redemption) for redemption in shown], token))


def _status(text: str) -> RedemptionStatus:
    try:
        return RedemptionStatus(text)
    except ValueError:
        raise invalid("?status", "must be one of " + ", ".join(RedemptionStatus)) from None


ROUTES: Final = (
    web.post(PATH, redeem_by_route),
    web.get(PATH, find),
    web.get(PATH + "/{id:[^/]+}", show),
)
