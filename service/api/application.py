"""The API as an application: every route, and nothing behind them yet."""

from functools import partial

from aiohttp import hdrs, web

from service.api import coupons, documents, operations, reconciliations, redemptions, transitions, validations
from service.api.front import expect
from service.api.parts import COUNTS, PROBLEMS, SETTINGS
from service.api.problems import Problems
from service.api.requests import BODY_MAX_BYTES
from service.config import Settings
from service.counts import Counts

OWN = (
    *redemptions.ROUTES,
    *transitions.ROUTES,
    *validations.ROUTES,
    *coupons.ROUTES,
    *reconciliations.ROUTES,
    *operations.ROUTES,
)


def application(settings: Settings) -> web.Application:
    """All routes. LEDGER, REDEEMER, AUTHENTICATOR, READINESS and METRICS are to be set before it is served."""
    app = web.Application(client_max_size=BODY_MAX_BYTES)
    app[SETTINGS] = settings
    app[COUNTS] = Counts()
    app[PROBLEMS] = Problems(settings.problem_base_uri)
    of_documents = documents.routes(settings.problem_base_uri)
    for route in (*OWN, *of_documents):
        add = app.router.add_get if route.method == hdrs.METH_GET else partial(app.router.add_route, route.method)
        add(route.path, route.handler, expect_handler=expect)
    return app
