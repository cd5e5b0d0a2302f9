"""`/v1/coupons`: create, read, change, list, and who has changed them."""

import asyncio
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Final

import structlog
from aiohttp import hdrs, web

from service.api.answers import answer, coupon_view, etag, version_view
from service.api.authentication import ADMIN, READ
from service.api.bodies import CouponBody, CouponChangeBody, parse, parse_code, parse_prefix, parse_status
from service.api.pages import (
    PAGING,
    VERSION_MAX_DIGITS,
    Tokens,
    history_position,
    history_tokens,
    page,
    page_size,
    query_of,
)
from service.api.parts import AUTHENTICATOR, LEDGER, REDEEMER
from service.api.problems import Code, Problem, invalid
from service.api.requests import answer_until, read_object
from service.errors import LedgerReplyLost, WindowEmpty
from service.ledger import Ledger
from service.ledger.coupon_changes import Change
from service.model import Coupon

PATH: Final = "/v1/coupons"
QUERY: Final = frozenset({"status", "prefix"}) | PAGING
TAGS: Final = re.compile(r'\s*((?:W/)?"[\x21\x23-\x7e\x80-\xff]*"\s*(?:,\s*|$))+', re.ASCII)
TAG: Final = re.compile(r'(W/)?"([^"]*)"')
WINDOW_RULE: Final = "must be after starts_at"
LEDGER_UNCERTAIN: Final = "The ledger did not answer in time: the coupon may have been written. Read it, or try again."

log = structlog.get_logger(__name__)


async def create(request: web.Request) -> web.Response:
    """`POST /v1/coupons`."""
    until, app = answer_until(request), request.app
    key = await app[AUTHENTICATOR].authorize(request.headers.get(hdrs.AUTHORIZATION), ADMIN)
    query_of(request)
    body = parse(CouponBody, await read_object(request))
    if body.starts_at and body.ends_at and body.ends_at <= body.starts_at:
        raise invalid("/ends_at", WINDOW_RULE)
    with _uncertain():
        coupon = await app[LEDGER].coupon_changes.create(
            body.code,
            max_redemptions=body.max_redemptions,
            max_per_customer=body.max_per_customer,
            starts_at=body.starts_at,
            ends_at=body.ends_at,
            status=body.status,
            metadata=body.metadata,
            by=key.name,
            deadline=until,
        )
    # Somebody may have asked for the code a moment ago and been told that there is no such coupon.
    await _follow(request, coupon.code, until)
    headers = {"Location": f"{PATH}/{coupon.code}", **etag(coupon)}
    return answer(coupon_view(coupon), status=201, headers=headers)


async def show(request: web.Request) -> web.Response:
    """`GET /v1/coupons/{code}`, with the usage counted in the ledger."""
    until, app = answer_until(request), request.app
    await app[AUTHENTICATOR].authorize(request.headers.get(hdrs.AUTHORIZATION), READ)
    query_of(request)
    code = parse_code(request.match_info["code"], "/code")
    coupons = app[LEDGER].coupons
    coupon = await coupons.get(code, until)
    if coupon is None:
        raise Problem(Code.COUPON_NOT_FOUND)
    usage = await coupons.usage(coupon, until)
    return answer(coupon_view(coupon, usage), headers=etag(coupon))


async def change(request: web.Request) -> web.Response:
    """`PATCH /v1/coupons/{code}`. Answered when no request is admitted by the old values any more."""
    until, app = answer_until(request), request.app
    key = await app[AUTHENTICATOR].authorize(request.headers.get(hdrs.AUTHORIZATION), ADMIN)
    query_of(request)
    code = parse_code(request.match_info["code"], "/code")
    if_match = request.headers.getall(hdrs.IF_MATCH, ())
    versions = parse_if_match(", ".join(if_match)) if if_match else None
    changes = parse(CouponChangeBody, await read_object(request)).changes()
    if not changes:
        raise invalid("", "names nothing to change")
    coupon = await _change(app[LEDGER], Change(code, changes, key.name), versions, until)
    await _follow(request, coupon.code, until)
    return answer(coupon_view(coupon), headers=etag(coupon))


async def _change(ledger: Ledger, change: Change, versions: frozenset[int] | None, until: float) -> Coupon:
    """The change in the ledger, if the coupon is of one of the versions; None: of whatever version."""
    if versions is not None:
        current = await ledger.coupons.get(change.code, until)
        if current is None:
            raise Problem(Code.COUPON_NOT_FOUND)
        if current.version not in versions:
            raise Problem(Code.VERSION_MISMATCH)
        change = replace(change, if_version=current.version)
    try:
        with _uncertain():
            return await ledger.coupon_changes.change(change, until)
    except WindowEmpty:
        raise invalid("/ends_at" if "ends_at" in change.fields else "/starts_at", WINDOW_RULE) from None


@contextmanager
def _uncertain() -> Iterator[None]:
    """A write whose commit may or may not have come through is a problem that does not promise that nothing was changed."""
    try:
        yield
    except LedgerReplyLost:
        raise Problem(Code.UNAVAILABLE, LEDGER_UNCERTAIN) from None


async def _follow(request: web.Request, code: str, until: float) -> None:
    """The counter follows what the ledger has committed, unless there is no time: the answer is a success in any case."""
    try:
        async with asyncio.timeout_at(until):
            await request.app[REDEEMER].coupon_changed(code)
    except TimeoutError:
        log.warning("counter not loaded in time after a change", code=code)


def parse_if_match(header: str) -> frozenset[int] | None:
    """The versions that `If-Match` names; None for `*`, any version. Raises the Problem `invalid_request`.

    Weak tags never match, and tags that are no version are no coupon's (RFC 9110, 13.1.1).
    """
    if header.strip() == "*":
        return None
    if not TAGS.fullmatch(header):
        raise invalid("If-Match", 'must be * or entity tags such as "3"')
    return frozenset(
        int(tag)
        for weak, tag in TAG.findall(header)
        if not weak and tag.isascii() and tag.isdecimal() and len(tag) <= VERSION_MAX_DIGITS and str(int(tag)) == tag
    )


async def find(request: web.Request) -> web.Response:
    """`GET /v1/coupons`: by code."""
    until, app = answer_until(request), request.app
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
        deadline=until,
    )
    shown = found[:size]
    token = tokens.make(shown[-1].code.encode()) if len(found) > size else None
    return answer(page([coupon_view(coupon) for coupon in shown], token))


async def history(request: web.Request) -> web.Response:
    """`GET /v1/coupons/{code}/history`: newest first."""
    until, app = answer_until(request), request.app
    await app[AUTHENTICATOR].authorize(request.headers.get(hdrs.AUTHORIZATION), READ)
    query = query_of(request, PAGING)
    code = parse_code(request.match_info["code"], "/code")
    size = page_size(query)
    tokens = history_tokens(code)
    below_version = history_position(tokens, query)
    coupons = app[LEDGER].coupons
    found = await coupons.history(code, below_version=below_version, limit=size + 1, deadline=until)
    # One that was made before there was a history, and not changed since, has none.
    if not found and await coupons.get(code, until) is None:
        raise Problem(Code.COUPON_NOT_FOUND)
    shown = found[:size]
    token = tokens.make(str(shown[-1].version).encode()) if len(found) > size else None
    return answer(page([version_view(one) for one in shown], token))


ROUTES: Final = (
    web.post(PATH, create),
    web.get(PATH, find),
    web.get(PATH + "/{code:[^/]+}", show),
    web.patch(PATH + "/{code:[^/]+}", change),
    web.get(PATH + "/{code:[^/]+}/history", history),
)
