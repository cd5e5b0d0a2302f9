"""`/v1/validations`: would redeeming be refused, and why."""

import asyncio
from typing import Any, Final

from aiohttp import hdrs, web

from service.api.answers import answer
from service.api.authentication import REDEEM
from service.api.bodies import ValidationBody, parse
from service.api.pages import query_of
from service.api.parts import AUTHENTICATOR, VALIDATIONS
from service.api.problems import Code, Problem
from service.api.requests import read_object
from service.validations import Validation

PATH: Final = "/v1/validations"


async def validate(request: web.Request) -> web.Response:
    """`POST /v1/validations`. Nothing is redeemed or claimed."""
    arrived_at = asyncio.get_running_loop().time()
    app = request.app
    key = await app[AUTHENTICATOR].authorize(request.headers.get(hdrs.AUTHORIZATION), REDEEM)
    query_of(request)
    body = parse(ValidationBody, await read_object(request))
    validated = await app[VALIDATIONS].validate(Validation(body.code, body.customer_id or None, key.id), arrived_at)
    if validated.limited_s:
        raise Problem(Code.TOO_MANY_ATTEMPTS, headers={hdrs.RETRY_AFTER: str(validated.limited_s)})
    view: dict[str, Any] = {"valid": validated.refusal is None}
    if validated.refusal is not None:
        view["reason"] = validated.refusal
    return answer(view | {"remaining": validated.remaining})


ROUTES: Final = (web.post(PATH, validate),)
