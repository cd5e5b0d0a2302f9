"""`/v1/reconciliations`: ask for a run of the reconciler, and read what runs have found."""

from typing import Final

import uuid_utils
from aiohttp import hdrs, web

from service.api.answers import answer, full_run_view, run_view
from service.api.authentication import ADMIN, READ
from service.api.bodies import ReconciliationBody, parse
from service.api.pages import PAGING, Tokens, page, page_size, query_of
from service.api.parts import AUTHENTICATOR, LEDGER
from service.api.problems import Code, Problem, invalid
from service.api.requests import answer_until, id_in_path, read_object
from service.api.views import FINDINGS_MAX
from service.errors import LedgerReplyLost, Overloaded
from service.reconciling import Cause, Run, RunStatus

PATH: Final = "/v1/reconciliations"
ID_BYTES: Final = 16
LEDGER_UNCERTAIN: Final = "The ledger did not answer in time: the run may be queued. Asking again does no harm."
TOO_MANY: Final = "Too many runs are queued: see whether a reconciler leads. One run without a code is for all coupons."


async def ask(request: web.Request) -> web.Response:
    """`POST /v1/reconciliations`: a wish, for the reconciler that leads."""
    until, app = answer_until(request), request.app
    key = await app[AUTHENTICATOR].authorize(request.headers.get(hdrs.AUTHORIZATION), ADMIN)
    query_of(request)
    body = parse(ReconciliationBody, await read_object(request))
    ledger = app[LEDGER]
    if body.code is not None and await ledger.coupons.get(body.code, until) is None:
        raise Problem(Code.COUPON_NOT_FOUND)
    wish = Run(
        id=uuid_utils.uuid7().bytes,
        mode=body.mode,
        code=body.code,
        status=RunStatus.QUEUED,
        cause=Cause.ASKED,
        asked_by=key.name,
        asked_at=ledger.now(),
    )
    leader = await ledger.runs.leader(until)  # First: once the wish is stored, nothing may fail any more.
    try:
        run = await ledger.runs.queue(wish, until)
    except LedgerReplyLost:
        raise Problem(Code.UNAVAILABLE, LEDGER_UNCERTAIN) from None
    except Overloaded:
        raise Problem(Code.OVERLOADED, TOO_MANY) from None
    view = full_run_view(run, [], leader)
    return answer(view, status=202, headers={"Location": f"{PATH}/{view['id']}"})


async def show(request: web.Request) -> web.Response:
    """`GET /v1/reconciliations/{id}`, with the first findings, and who leads now."""
    until, app = answer_until(request), request.app
    await app[AUTHENTICATOR].authorize(request.headers.get(hdrs.AUTHORIZATION), READ)
    query_of(request)
    runs = app[LEDGER].runs
    run = await runs.get(id_in_path(request, Code.RECONCILIATION_NOT_FOUND), until)
    if run is None:
        raise Problem(Code.RECONCILIATION_NOT_FOUND)
    findings = await runs.findings(run.id, limit=FINDINGS_MAX, deadline=until)
    return answer(full_run_view(run, findings, await runs.leader(until)))


async def find(request: web.Request) -> web.Response:
    """`GET /v1/reconciliations`: newest first."""
    until, app = answer_until(request), request.app
    await app[AUTHENTICATOR].authorize(request.headers.get(hdrs.AUTHORIZATION), READ)
    query = query_of(request, PAGING)
    size = page_size(query)
    tokens = Tokens("reconciliations", {})
    before_id = tokens.read(query)
    if before_id is not None and len(before_id) != ID_BYTES:
        raise invalid("?page_token", "is no token of this list")
    found = await app[LEDGER].runs.find(before_id=before_id, limit=size + 1, deadline=until)
    shown = found[:size]
    token = tokens.make(shown[-1].id) if len(found) > size else None
    return answer(page([run_view(run) for run in shown], token))


ROUTES: Final = (
    web.post(PATH, ask),
    web.get(PATH, find),
    web.get(PATH + "/{id:[^/]+}", show),
)
