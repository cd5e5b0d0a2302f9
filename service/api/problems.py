"""Problems: every answer that is not a 2xx, as `application/problem+json` (RFC 9457)."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from http import HTTPStatus
from typing import Any, Final, NamedTuple

import orjson

from service import errors
from service.api.written import NO_HEADERS, Answered
from service.model import Order, Refusal
from service.transition import Verb

MEDIA_TYPE: Final = "application/problem+json"
RETRY_AFTER_S: Final = 1
"""What a 503 asks for: queues empty and stores fail over within seconds, and clients add jitter of their own."""
FAULTS_MAX: Final = 20
"""Faults named in one 400; a body of nothing but unknown fields has thousands."""
POINTER_MAX_CHARS: Final = 200
"""A pointer is cut there: it repeats names that the caller chose."""


class Code(StrEnum):
    """The contract's problem codes."""

    INVALID_REQUEST = "invalid_request"
    UNAUTHORIZED = "unauthorized"
    FORBIDDEN = "forbidden"
    ROUTE_NOT_FOUND = "route_not_found"
    METHOD_NOT_ALLOWED = "method_not_allowed"
    TOO_LARGE = "too_large"
    UNSUPPORTED_MEDIA_TYPE = "unsupported_media_type"
    COUPON_EXISTS = "coupon_exists"
    COUPON_NOT_FOUND = "coupon_not_found"
    COUPON_PAUSED = "coupon_paused"
    COUPON_NOT_STARTED = "coupon_not_started"
    COUPON_ENDED = "coupon_ended"
    CUSTOMER_LIMIT_REACHED = "customer_limit_reached"
    COUPON_EXHAUSTED = "coupon_exhausted"
    ORDER_MISMATCH = "order_mismatch"
    IDEMPOTENCY_KEY_REUSED = "idempotency_key_reused"
    ALREADY_CONFIRMED = "already_confirmed"
    ALREADY_CANCELLED = "already_cancelled"
    RESERVATION_EXPIRED = "reservation_expired"
    REDEMPTION_NOT_FOUND = "redemption_not_found"
    RECONCILIATION_NOT_FOUND = "reconciliation_not_found"
    VERSION_MISMATCH = "version_mismatch"
    LIMIT_KIND_FIXED = "limit_kind_fixed"
    CUSTOMER_LIMIT_LOWERED = "customer_limit_lowered"
    TOO_MANY_ATTEMPTS = "too_many_attempts"
    OVERLOADED = "overloaded"
    UNAVAILABLE = "unavailable"
    BUSY = "busy"
    OUTCOME_UNKNOWN = "outcome_unknown"
    INTERNAL = "internal"


KINDS: Final[Mapping[Code, tuple[int, str, str]]] = {
    Code.INVALID_REQUEST: (400, "The request is invalid", "The request is malformed or breaks a rule; see errors."),
    Code.UNAUTHORIZED: (401, "An API key is needed", "Send Authorization: Bearer <key> with a key that is in force."),
    Code.FORBIDDEN: (403, "The API key may not do this", "The key lacks the scope for this call."),
    Code.ROUTE_NOT_FOUND: (404, "No such address", "Nothing is served at this address."),
    Code.METHOD_NOT_ALLOWED: (405, "Method not allowed", "This address does not know the method; see Allow."),
    Code.TOO_LARGE: (413, "The body is too large", "A body has at most 16 KiB."),
    Code.UNSUPPORTED_MEDIA_TYPE: (415, "The body is not JSON", "Send Content-Type: application/json, in UTF-8."),
    Code.COUPON_EXISTS: (409, "The coupon exists", "There is a coupon with this code."),
    Code.COUPON_NOT_FOUND: (404, "No such coupon", "There is no coupon with this code."),
    Code.COUPON_PAUSED: (422, "The coupon is paused", "The coupon cannot be redeemed while it is paused."),
    Code.COUPON_NOT_STARTED: (422, "The coupon has not started", "The coupon cannot be redeemed yet."),
    Code.COUPON_ENDED: (422, "The coupon has ended", "The coupon cannot be redeemed any more."),
    Code.CUSTOMER_LIMIT_REACHED: (409, "The customer's limit is reached", "The customer has used this coupon up."),
    Code.COUPON_EXHAUSTED: (409, "The coupon is exhausted", "All uses of this coupon are taken."),
    Code.ORDER_MISMATCH: (422, "The order is another customer's", "The order has redeemed it for another customer."),
    Code.IDEMPOTENCY_KEY_REUSED: (
        422,
        "The idempotency key is taken",
        "This Idempotency-Key stands for a redemption of another customer or order.",
    ),
    Code.ALREADY_CONFIRMED: (409, "Already confirmed", "The redemption is confirmed; there is no hold to extend."),
    Code.ALREADY_CANCELLED: (409, "Already cancelled", "The redemption was cancelled."),
    Code.RESERVATION_EXPIRED: (409, "The hold has expired", "Its time is over; the order may redeem again."),
    Code.REDEMPTION_NOT_FOUND: (404, "No such redemption", "There is no such redemption."),
    Code.RECONCILIATION_NOT_FOUND: (404, "No such reconciliation", "There is no such run; old ones are deleted."),
    Code.VERSION_MISMATCH: (412, "The coupon was changed", "If-Match does not name the coupon's version; read it anew."),
    Code.LIMIT_KIND_FIXED: (422, "The kind of limit is fixed", "Whether a coupon is limited is fixed at its creation."),
    Code.CUSTOMER_LIMIT_LOWERED: (422, "Limit cannot be lowered", "max_per_customer can be raised, not lowered."),
    Code.TOO_MANY_ATTEMPTS: (429, "Too many attempts", "The customer has named too many unknown codes; see Retry-After."),
    Code.OVERLOADED: (503, "Overloaded", "Too many requests are under way; this one has changed nothing. Try again."),
    Code.UNAVAILABLE: (503, "Unavailable", "A store cannot be reached; this request has changed nothing. Try again."),
    Code.BUSY: (503, "Busy", "The coupon is being changed; this request has changed nothing. Try again."),
    Code.OUTCOME_UNKNOWN: (
        503,
        "The outcome is unknown",
        "The ledger could not say in time what became of it: send the same request again, or cancel by order.",
    ),
    Code.INTERNAL: (500, "Internal error", "A defect of the service; the request id leads to it in the log."),
}
"""Status, title and detail of each code."""

BY_REFUSAL: Final[Mapping[Refusal, Code]] = {refusal: Code(refusal.value) for refusal in Refusal}

BY_ERROR: Final[tuple[tuple[type[errors.UsherError], Code], ...]] = (
    (errors.Overloaded, Code.OVERLOADED),
    (errors.LedgerContended, Code.BUSY),
    (errors.LedgerUnavailable, Code.UNAVAILABLE),
    (errors.CounterUnavailable, Code.UNAVAILABLE),
    (errors.SchemaNotCurrent, Code.UNAVAILABLE),
    (errors.CouponExists, Code.COUPON_EXISTS),
    (errors.CouponNotFound, Code.COUPON_NOT_FOUND),
    (errors.VersionMismatch, Code.VERSION_MISMATCH),
    (errors.CouponBusy, Code.BUSY),
    (errors.LimitKindFixed, Code.LIMIT_KIND_FIXED),
    (errors.CustomerLimitLowered, Code.CUSTOMER_LIMIT_LOWERED),
)
"""Problems of the operational failures; one that is not here is a defect."""


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing wrong with a request. `pointer`: a JSON pointer into the body, `?name` of the query, or a header's name."""

    pointer: str
    detail: str


class FailedTransition(NamedTuple):
    """What was to become of a redemption: the one with this id, or the order's live one, by the coupon's code."""

    verb: Verb
    redemption_id: str | None = None
    code: str | None = None
    order_id: str | None = None


class Problem(Exception):
    """Raised by whatever finds that the request cannot be served; the middleware makes the answer."""

    def __init__(
        self,
        code: Code,
        detail: str = "",
        *,
        faults: Iterable[Fault] = (),
        headers: Mapping[str, str] | None = None,
        close: bool = False,
        failed: Order | FailedTransition | None = None,
    ) -> None:
        """`detail` replaces the code's own; `close` ends the connection after the answer; `failed`: what `Failures` notes."""
        super().__init__(code)
        self.code = code
        self.detail = detail
        self.faults = tuple(faults)
        self.headers = headers
        self.close = close
        self.failed = failed


def invalid(pointer: str, detail: str) -> Problem:
    """400 `invalid_request` with one fault."""
    return Problem(Code.INVALID_REQUEST, faults=(Fault(pointer, detail),))


def of_error(error: errors.UsherError) -> Problem | None:
    """The problem that an operational failure is to a client, or None for a defect."""
    for kind, code in BY_ERROR:
        if isinstance(error, kind):
            return Problem(code)
    return None


class Problems:
    """Writes problems as answers. `base_uri`: what `type` begins with, ending in a slash."""

    def __init__(self, base_uri: str) -> None:
        self._base_uri = base_uri
        self._beginnings: dict[Code, bytes] = {}

    def body(self, problem: Problem, request_id: str) -> dict[str, Any]:
        """The members of the problem object."""
        status, title, detail = KINDS[problem.code]
        members: dict[str, Any] = {
            "type": self._base_uri + problem.code,
            "title": title,
            "status": status,
            "detail": problem.detail or detail,
            "code": problem.code,
            "request_id": request_id,
        }
        if problem.code is Code.INVALID_REQUEST:
            faults = problem.faults[:FAULTS_MAX] or (Fault("", problem.detail or detail),)
            members["errors"] = [{"pointer": fault.pointer[:POINTER_MAX_CHARS], "detail": fault.detail} for fault in faults]
        return members

    def answered(self, problem: Problem, request_id: str) -> Answered:
        """The answer for a problem. `request_id`: nothing in it needs an escape in JSON."""
        status = KINDS[problem.code][0]
        if problem.detail or problem.code is Code.INVALID_REQUEST:
            body = orjson.dumps(self.body(problem, request_id))
        else:
            body = b'%b"%b"}' % (self._beginning(problem.code), request_id.encode())
        return Answered(status, body, _headers(status, problem.headers), MEDIA_TYPE, problem.close)

    def _beginning(self, code: Code) -> bytes:
        """All of the body but the request's id, which is the last member: it is the same each time."""
        found = self._beginnings.get(code)
        if found is None:
            whole = orjson.dumps(self.body(Problem(code), ""))
            found = self._beginnings[code] = whole[: -len(b'""}')]
        return found


def _headers(status: int, own: Mapping[str, str] | None) -> Mapping[str, str]:
    """What goes with a status, and the problem's own."""
    if status == HTTPStatus.SERVICE_UNAVAILABLE:
        return {"Retry-After": str(RETRY_AFTER_S), **(own or {})}
    if status == HTTPStatus.UNAUTHORIZED:
        return {"WWW-Authenticate": 'Bearer realm="usher"', **(own or {})}
    return own or NO_HEADERS
