"""`/v1/coupons`: create, read, change, list."""

import re
from typing import Any, Final

from aiohttp import hdrs, web

from service.api.answers import answer, coupon_view, etag
from service.api.authentication import ADMIN, READ
from service.api.bodies import CouponBody, CouponChangeBody, parse, parse_code, parse_prefix, parse_status
from service.api.pages import PAGING, Tokens, page, page_size, query_of
from service.api.parts import AUTHENTICATOR, LEDGER, REDEEMER
from service.api.problems import Code, Problem, invalid
from service.api.requests import deadline_of, read_object
from service.errors import LedgerReplyLost, LimitLowered, WindowEmpty
from service.model import Coupon

PATH: Final = "/v1/coupons"
QUERY: Final = frozenset({"status", "prefix"}) | PAGING
ETAGS: Final = re.compile(r'\s*((?:W/)?"[\x21\x23-\x7e\x80-\xff]*"\s*(?:,\s*|$))+', re.ASCII)
STRONG_ETAG: Final = re.compile(r'(W/)?"([^"]*)"')
VERSION_MAX_DIGITS: Final = 10
ETAG: Final = "ETag"
WINDOW_RULE: Final = "must be after starts_at"
LEDGER_UNCERTAIN: Final = "The ledger did not answer in time: the coupon may have been written. Read it, or try again."


async def create(request: web.Request) -> web.Response:
    """`POST /v1/coupons`."""
    app = request.app
    await app[AUTHENTICATOR].authorize(request.headers.get(hdrs.AUTHORIZATION), ADMIN)
    query_of(request)
    body = parse(CouponBody, await read_object(request))
    if body.starts_at and body.ends_at and body.ends_at <= body.starts_at:
        raise invalid("/ends_at", WINDOW_RULE)
    try:
        coupon = await app[LEDGER].coupons.create(
            body.code,
            max_redemptions=body.max_redemptions,
            max_per_customer=body.max_per_customer,
            starts_at=body.starts_at,
            ends_at=body.ends_at,
            status=body.status,
            metadata=body.metadata,
            deadline=deadline_of(request),
        )
    except LedgerReplyLost:
        raise Problem(Code.UNAVAILABLE, LEDGER_UNCERTAIN) from None
    # Somebody may have asked for the code a moment ago and been told that there is no such coupon.
    await app[REDEEMER].coupon_changed(coupon.code)
    headers = {"Location": f"{PATH}/{coupon.code}", ETAG: etag(coupon)}
    return answer(coupon_view(coupon), status=201, headers=headers)


async def show(request: web.Request) -> web.Response:
    """`GET /v1/coupons/{code}`, with the usage counted in the ledger."""
    app = request.app
    await app[AUTHENTICATOR].authorize(request.headers.get(hdrs.AUTHORIZATION), READ)
    query_of(request)
    code = parse_code(request.match_info["code"], "/code")
    coupons, deadline = app[LEDGER].coupons, deadline_of(request)
    coupon = await coupons.get(code, deadline)
    if coupon is None:
        raise Problem(Code.COUPON_NOT_FOUND)
    usage = await coupons.usage(coupon, deadline)
    return answer(coupon_view(coupon, usage), headers={ETAG: etag(coupon)})


async def change(request: web.Request) -> web.Response:
    """`PATCH /v1/coupons/{code}`. Answered when no request is admitted by the old values any more."""
    app = request.app
    await app[AUTHENTICATOR].authorize(request.headers.get(hdrs.AUTHORIZATION), ADMIN)
    query_of(request)
    code = parse_code(request.match_info["code"], "/code")
    if_match = request.headers.getall(hdrs.IF_MATCH, ())
    versions = parse_if_match(", ".join(if_match)) if if_match else None
    changes = parse(CouponChangeBody, await read_object(request)).changes()
    if not changes:
        raise invalid("", "names nothing to change")
    coupon = await _change(request, code, changes, versions)
    await app[REDEEMER].coupon_changed(coupon.code)
    return answer(coupon_view(coupon), headers={ETAG: etag(coupon)})


async def _change(request: web.Request, code: str, changes: dict[str, Any], versions: frozenset[int] | None) -> Coupon:
    """The change in the ledger, if the coupon is of one of the versions; None: of whatever version."""
    coupons, deadline = request.app[LEDGER].coupons, deadline_of(request)
    if_version = None
    if versions is not None:
        current = await coupons.get(code, deadline)
        if current is None:
            raise Problem(Code.COUPON_NOT_FOUND)
        if current.version not in versions:
            raise Problem(Code.VERSION_MISMATCH)
        if_version = current.version
    try:
        return await coupons.change(code, changes, if_version=if_version, deadline=deadline)
    except LimitLowered:
        raise invalid("/max_redemptions", "can be raised, not lowered") from None
    except WindowEmpty:
        raise invalid("/ends_at" if "ends_at" in changes else "/starts_at", "ends_at must be after starts_at") from None
    except LedgerReplyLost:
        raise Problem(Code.UNAVAILABLE, LEDGER_UNCERTAIN) from None


def parse_if_match(header: str) -> frozenset[int] | None:
    """The versions that `If-Match` names; None for `*`, any version. Raises the Problem `invalid_request`.

    Weak tags never match, and tags that are no version are no coupon's (RFC 9110, 13.1.1).
    """
    if header.strip() == "*":
        return None
    if not ETAGS.fullmatch(header):
        raise invalid("If-Match", 'must be * or entity tags such as "3"')
    return frozenset(
        int(tag)
        for weak, tag in STRONG_ETAG.findall(header)
        if not weak and tag.isascii() and tag.isdecimal() and len(tag) <= VERSION_MAX_DIGITS and str(int(tag)) == tag
    )


async def find(request: web.Request) -> web.Response:
    """`GET /v1/coupons`: by code."""
    app = request.app
    await app[AUTHENTICATOR].authorize(request.headers.get(hdrs.AUTHORIZATION), READ)
    query = query_of(request, QUERY)
    status = parse_status(query["status"], "?status") if "status" in query else None
    prefix = parse_prefix(query["prefix"], "?prefix") if "prefix" in query else ""
    size = page_size(query)
    tokens = Tokens("coupons", {"status": status, "prefix": prefix})
    position = tokens.read(query)
    found = await app[LEDGER].coupons.find(
        status=status,
        prefix=prefix,
        after_code=position.decode("ascii") if position else "",
        limit=size + 1,
        deadline=deadline_of(request),
    )
    shown = found[:size]
    token = tokens.make(shown[-1].code.encode()) if len(found) > size else None
    return answer(page([coupon_view(coupon) for coupon in shown], token))


ROUTES: Final = (
    web.post(PATH, create),
    web.get(PATH, find),
    web.get(PATH + "/{code:[^/]+}", show),
    web.patch(PATH + "/{code:[^/]+}", change),
)
