"""The calls of `/v1/reconciliations`, as `calls.py` has all others."""

from typing import Final

from service.api import reconciliations, views
from service.api.authentication import ADMIN, READ
from service.api.bodies import ReconciliationBody
from service.api.described import Answer, Call
from service.api.examples import FOUND, QUEUED, RUN
from service.api.problems import Code

RECONCILIATION_CALLS: Final = (
    Call(
        method="POST",
        path=reconciliations.PATH,
        name="reconcile",
        summary="Ask for counters to be compared with the ledger",
        scopes=ADMIN,
        answers=(
            Answer(
                status=202,
                says="The run, queued, or the one that is queued already for the same mode and code.",
                view=views.ReconciliationWithFindings,
                example=QUEUED,
                headers=("Location",),
                leads_to=("show_reconciliation",),
            ),
        ),
        problems=(Code.COUPON_NOT_FOUND,),
        body=ReconciliationBody,
        examples={"check": {"mode": "check"}, "repair": {"mode": "repair", "code": "GOLD20"}, "reseed": {"mode": "reseed"}},
        details="`check` compares and changes nothing, `repair` mends what differs, `reseed` loads counters that are missing or"
        " outdated; of one coupon, or of all. The reconciler that leads fulfils it; nothing has to be paused.",
    ),
    Call(
        method="GET",
        path=reconciliations.PATH,
        name="find_reconciliations",
        summary="List runs of the reconciler, newest first",
        scopes=READ,
        answers=(
            Answer(
                status=200, says="A page.", view=views.ReconciliationPage, example={"items": [RUN], "next_page_token": None}
            ),
        ),
        parameters=("page_size", "page_token"),
        details="Those asked for here or at the command line, those of the schedule, and those after a loss of Redis.",
    ),
    Call(
        method="GET",
        path=reconciliations.PATH + "/{id}",
        name="show_reconciliation",
        summary="Read a run and what it has found",
        scopes=READ,
        answers=(Answer(status=200, says="The run.", view=views.ReconciliationWithFindings, example=FOUND),),
        parameters=("id of a run",),
        problems=(Code.RECONCILIATION_NOT_FOUND,),
    ),
)
