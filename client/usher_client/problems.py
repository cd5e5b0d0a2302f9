"""One exception for each problem code of the contract, and those for codes that came after this client was written."""

from collections.abc import Iterator, Mapping
from typing import Any, Final

from usher_client.errors import Problem, TryAgain

SERVER_FAILED: Final = 500
"""From this status on, it is the service that failed, and not the call."""
REFUSING: Final = frozenset({409, 422, 429})
"""The statuses with which Usher says no to a call that is in order; an unknown code among them is a refusal, too."""


class Refused(Problem):
    """Usher's answer is no: no discount. Nothing was redeemed, and the same call may succeed another time."""


# --- Refusals -----------------------------------------------------------------------------------------------------


class CouponNotFound(Refused):
    """There is no coupon with this code, or it is archived."""

    known_code = "coupon_not_found"


class CouponPaused(Refused):
    """The coupon cannot be redeemed while it is paused."""

    known_code = "coupon_paused"


class CouponNotStarted(Refused):
    """The coupon cannot be redeemed yet."""

    known_code = "coupon_not_started"


class CouponEnded(Refused):
    """The coupon cannot be redeemed any more."""

    known_code = "coupon_ended"


class CustomerLimitReached(Refused):
    """The customer has as many live redemptions as the coupon allows."""

    known_code = "customer_limit_reached"


class CouponExhausted(Refused):
    """All uses of the coupon are taken."""

    known_code = "coupon_exhausted"


class TooManyAttempts(Refused):
    """The customer has named too many unknown codes; `retry_after_s` says for how long."""

    known_code = "too_many_attempts"


class UnknownRefusal(Refused):
    """A no for a reason that this client does not know: 409, 422 or 429."""


# --- A redemption that is not, or not any more, what the call needs -----------------------------------------------


class RedemptionNotFound(Problem):
    """There is no such redemption, or the order has no live one."""

    known_code = "redemption_not_found"


class ReconciliationNotFound(Problem):
    """There is no such run of the reconciler, or it was deleted for its age."""

    known_code = "reconciliation_not_found"


class AlreadyConfirmed(Problem):
    """The redemption is confirmed: there is no hold to extend."""

    known_code = "already_confirmed"


class AlreadyCancelled(Problem):
    """The redemption was cancelled, so it does not count: no discount."""

    known_code = "already_cancelled"


class ReservationExpired(Problem):
    """The hold is over, so it does not count: no discount, unless the order can redeem again."""

    known_code = "reservation_expired"


# --- No answer ----------------------------------------------------------------------------------------------------


class Overloaded(TryAgain, Problem):
    """Too many requests are under way."""

    known_code = "overloaded"


class Unavailable(TryAgain, Problem):
    """A store cannot be reached. No redemption was changed; a coupon that was being written may have been."""

    known_code = "unavailable"


class Busy(TryAgain, Problem):
    """The coupon is being changed."""

    known_code = "busy"


class OutcomeUnknown(TryAgain, Problem):
    """The ledger could not say in time: the redemption exists already or never will."""

    known_code = "outcome_unknown"
    nothing_done = False


class Internal(TryAgain, Problem):
    """A defect of the service."""

    known_code = "internal"
    nothing_done = False


class UnknownFailure(TryAgain, Problem):
    """A 5xx that this client does not know, such as one of a proxy."""

    nothing_done = False


# --- Mistakes in the call, its key, or its address ----------------------------------------------------------------


class InvalidRequest(Problem):
    """The request is malformed or breaks a rule; see `errors`."""

    known_code = "invalid_request"


class Unauthorized(Problem):
    """The API key is unknown, or not in force."""

    known_code = "unauthorized"


class Forbidden(Problem):
    """The API key lacks the scope for this call."""

    known_code = "forbidden"


class RouteNotFound(Problem):
    """Nothing is served at this address: the client's URL is wrong, or the service is older than the client."""

    known_code = "route_not_found"


class MethodNotAllowed(Problem):
    """The address does not know the method."""

    known_code = "method_not_allowed"


class TooLarge(Problem):
    """The body has more than 16 KiB."""

    known_code = "too_large"


class UnsupportedMediaType(Problem):
    """The body is not JSON."""

    known_code = "unsupported_media_type"


class OrderMismatch(Problem):
    """The order has redeemed the coupon for another customer."""

    known_code = "order_mismatch"


class IdempotencyKeyReused(Problem):
    """The idempotency key stands for a redemption of another customer or order."""

    known_code = "idempotency_key_reused"


class CouponExists(Problem):
    """There is a coupon with this code."""

    known_code = "coupon_exists"


class VersionMismatch(Problem):
    """The coupon was changed since the version of `if_match`."""

    known_code = "version_mismatch"


class LimitKindFixed(Problem):
    """Whether a coupon is limited is fixed when it is created."""

    known_code = "limit_kind_fixed"


class CustomerLimitLowered(Problem):
    """`max_per_customer` can be raised, not lowered."""

    known_code = "customer_limit_lowered"


class UnknownProblem(Problem):
    """A 3xx or 4xx that this client does not know, such as one of a proxy."""


def _within(kind: type[Problem]) -> Iterator[type[Problem]]:
    for narrower in kind.__subclasses__():
        yield narrower
        yield from _within(narrower)


BY_CODE: Final[Mapping[str, type[Problem]]] = {kind.known_code: kind for kind in _within(Problem) if kind.known_code}
"""The class of each code."""


def of_answer(status: int, body: Mapping[str, Any], *, request_id: str = "", retry_after_s: float | None = None) -> Problem:
    """The problem that an answer is. `body`: its JSON object, empty where it has none."""
    code = body.get("code")
    kind = BY_CODE.get(code) if isinstance(code, str) else None
    if kind is None:
        kind = _by_status(status, has_code=isinstance(code, str))
    return kind(status, body, request_id=request_id, retry_after_s=retry_after_s)


def _by_status(status: int, *, has_code: bool) -> type[Problem]:
    if status >= SERVER_FAILED:
        return UnknownFailure
    # Without a code it is not Usher who says no: a proxy's limit is not the customer's.
    return UnknownRefusal if has_code and status in REFUSING else UnknownProblem
