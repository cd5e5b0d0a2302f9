"""The API as an application: every route, and nothing behind them yet."""

from functools import partial

from aiohttp import hdrs, web

from service.api import coupons, operations, redemptions
from service.api.front import expect
from service.api.parts import PROBLEMS, SETTINGS
from service.api.problems import Problems
from service.api.requests import BODY_MAX_BYTES
from service.config import Settings


def application(settings: Settings) -> web.Application:
    """All routes. LEDGER, REDEEMER, AUTHENTICATOR and READINESS are to be set before it is served."""
    app = web.Application(client_max_size=BODY_MAX_BYTES)
    app[SETTINGS] = settings
    app[PROBLEMS] = Problems(settings.problem_base_uri)
    for route in (*redemptions.ROUTES, *coupons.ROUTES, *operations.ROUTES):
        add = app.router.add_get if route.method == hdrs.METH_GET else partial(app.router.add_route, route.method)
        add(route.path, route.handler, expect_handler=expect)
    return app
