"""What every request goes through, and every answer: its name, and problems for all that goes wrong.

Stands in front of the application's router, so that what the router refuses is answered like everything else. The one call
that matters most goes past the router, and past the library's requests and responses where it comes in one piece.
"""

import itertools
import re
import secrets
from collections.abc import Awaitable, Callable
from typing import Final

import structlog
from aiohttp import hdrs, web
from multidict import CIMultiDictProxy, istr

from service.api import redemptions
from service.api.clients import Clients
from service.api.failures import Failures
from service.api.parts import AUTHENTICATOR, COUNTS, PROBLEMS, READINESS, REDEEMER, SETTINGS
from service.api.problems import Code, Problem, of_error
from service.api.requests import BODY_MAX_BYTES, DEADLINE_S, SlowBody
from service.api.written import SERVER, Answered, Dates, response, written
from service.errors import UsherError

REQUEST_ID: Final = istr("X-Request-Id")
SANE_REQUEST_ID: Final = re.compile(r"[A-Za-z0-9._:/+=@-]{1,128}\Z")

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

log = structlog.get_logger(__name__)


class Front:
    """Answers every request of one application, whose resources are there. `inner`: the application's own way to answer."""

    def __init__(self, app: web.Application, inner: Handler, clients: Clients) -> None:
        self._inner = inner
        self._clients = clients
        self._problems = app[PROBLEMS]
        self._readiness = app[READINESS]
        self._authenticator = app[AUTHENTICATOR]
        self._redeemer = app[REDEEMER]
        self._deadline_s = app[SETTINGS].request_deadline_ms / 1000
        self._failures = Failures()
        self._answers = app[COUNTS].http_answers
        self._dates = Dates()
        self._prefix = secrets.token_hex(8)
        self._numbers = itertools.count(1)

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """The answer, whatever happens but a cancellation."""
        headers = request.headers
        request_id = self.request_id(headers.get(REQUEST_ID))
        request[DEADLINE_S] = self._deadline_s
        readiness = self._readiness
        readiness.under_way += 1
        try:
            answer: web.StreamResponse = await self._inner(request)
        except Exception as error:  # noqa: BLE001  (it is logged, and no answer may be a stack trace)
            answer = response(self._failed(error, request_id))
        finally:
            readiness.under_way -= 1
        self._answers[answer.status] += 1
        answer.headers[REQUEST_ID] = request_id
        answer.headers[hdrs.SERVER] = SERVER
        if readiness.draining:
            answer.force_close()
        return answer

    def begins(self) -> bool:
        """Whether a redemption may be answered by `redeem`, which is to be called then; not while the process stops."""
        if self._readiness.draining:
            return False
        self._readiness.under_way += 1
        return True

    async def redeem(self, headers: CIMultiDictProxy[str], body: bytes) -> tuple[bytes, bool]:
        """The whole answer to `POST /v1/redemptions`, and whether the connection ends with it."""
        request_id = self.request_id(headers.get(REQUEST_ID))
        readiness = self._readiness
        try:
            answered = await redemptions.redeem(headers, body, self._authenticator, self._redeemer)
            if isinstance(answered, Problem):
                answered = self._failed(answered, request_id)
        except Exception as error:  # noqa: BLE001  (it is logged, and no answer may be a stack trace)
            answered = self._failed(error, request_id)
        finally:
            readiness.under_way -= 1
        self._answers[answered.status] += 1
        close = answered.close or readiness.draining
        return written(answered, request_id, self._dates.now(), close=close), close

    def _failed(self, error: Exception, request_id: str) -> Answered:
        """What is answered instead of what the handler would have said."""
        problem = error if isinstance(error, Problem) else _problem_of(error, request_id)
        if isinstance(problem, SlowBody):
            self._clients.slow_body()
        if problem.failed is not None:
            self._failures.note(problem.code, request_id, problem.failed)
        return self._problems.answered(problem, request_id)

    def malformed(self, reason: str) -> web.Response:
        """The answer to what is no HTTP request."""
        request_id = self.request_id(None)
        log.debug("malformed request", request_id=request_id, reason=reason)
        return self._unreadable(Problem(Code.INVALID_REQUEST, "This is no valid HTTP request.", close=True), request_id)

    def failed(self, error: BaseException | None) -> web.Response:
        """The answer to a defect below `handle`."""
        request_id = self.request_id(None)
        log.error("request failed", request_id=request_id, exc_info=error)
        return self._unreadable(Problem(Code.INTERNAL, close=True), request_id)

    def late_head(self) -> bytes:
        """The whole answer to a head that did not arrive in time. The contract has no 408."""
        return self._whole(Problem(Code.INVALID_REQUEST, "The request's head did not arrive in time.", close=True))

    def refused(self) -> bytes:
        """The whole answer to a connection too many, whatever it is going to ask."""
        return self._whole(Problem(Code.OVERLOADED, "Too many connections are open; nothing was redeemed.", close=True))

    def _whole(self, problem: Problem) -> bytes:
        """An answer as it goes over the wire, for where there is no request that could be answered."""
        request_id = self.request_id(None)
        answered = self._problems.answered(problem, request_id)
        self._answers[answered.status] += 1
        return written(answered, request_id, self._dates.now(), close=True)

    def _unreadable(self, problem: Problem, request_id: str) -> web.Response:
        made = response(self._problems.answered(problem, request_id))
        self._answers[made.status] += 1
        made.headers[REQUEST_ID] = request_id
        made.headers[hdrs.SERVER] = SERVER
        return made

    def request_id(self, sent: str | None) -> str:
        """The request's name: the caller's own if it is sane, else one that no other process uses."""
        if sent and SANE_REQUEST_ID.match(sent):
            return sent
        return f"{self._prefix}-{next(self._numbers):x}"


def _problem_of(error: Exception, request_id: str) -> Problem:
    """The problem that an exception is to the client; one that nobody expected is logged."""
    if isinstance(error, web.HTTPException):
        return _problem_of_http(error)
    if isinstance(error, web.RequestPayloadError | ConnectionError):
        # The body broke off or is not framed as announced: whether anybody reads the answer is open.
        return Problem(Code.INVALID_REQUEST, "The body could not be read.", close=True)
    problem = of_error(error) if isinstance(error, UsherError) else None
    if problem is None:
        log.error("request failed", request_id=request_id, exc_info=error)
        return Problem(Code.INTERNAL)
    return problem


def _problem_of_http(error: web.HTTPException) -> Problem:
    """What the router and the body's reader refuse."""
    if isinstance(error, web.HTTPMethodNotAllowed):
        return Problem(Code.METHOD_NOT_ALLOWED, headers={hdrs.ALLOW: ", ".join(sorted(error.allowed_methods))})
    if isinstance(error, web.HTTPRequestEntityTooLarge):
        return Problem(Code.TOO_LARGE, close=True)
    if isinstance(error, web.HTTPNotFound):
        return Problem(Code.ROUTE_NOT_FOUND)
    return Problem(Code.INVALID_REQUEST, error.reason)


async def expect(request: web.Request) -> None:
    """Answers `Expect`: go on, unless the body is announced as too large or something else is expected."""
    if request.headers.get(hdrs.EXPECT, "").lower() != "100-continue":
        raise Problem(Code.INVALID_REQUEST, "Expect knows 100-continue only.", close=True)
    if (request.content_length or 0) > BODY_MAX_BYTES:
        raise Problem(Code.TOO_LARGE, close=True)
    if request.version >= (1, 1):
        await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        # The line above is no part of the answer that follows.
        request.writer.output_size = 0
