"""Requests as pydantic models: strict types, no unknown fields, every bound of the contract."""

import re
from collections.abc import Mapping
from datetime import datetime
from typing import Annotated, Any, Final, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationError,
    field_validator,
)
from pydantic_core import ErrorDetails

from service.api.decoding import TIME_AS_SENT, parse_time
from service.api.problems import Code, Fault, Problem, invalid
from service.model import CODE_PATTERN, HOLD_MAX_S, MAX_PER_CUSTOMER_MAX, MAX_REDEMPTIONS_MAX, NAME_CHARS_MAX, CouponStatus
from service.reconciling import Mode

BLANKS: Final = r"[ \t]*"
"""What is trimmed: what a person pastes along. A line break is refused: it is somebody's attempt at a header or a log line.

ASCII only, and the folding too: other alphabets have letters that fold into ours.
"""
CODE_AS_SENT: Final = f"{BLANKS}{CODE_PATTERN.replace('A-Z', 'A-Za-z')}{BLANKS}"
CODE_RULE: Final = "must be 1 to 64 of A-Z, 0-9, _ and -, beginning with a letter or a digit"
NAME_RULE: Final = f"must be a string of 1 to {NAME_CHARS_MAX} characters, none of them a control character"
PREFIX_RULE: Final = "must be the beginning of a code: 1 to 64 of A-Z, 0-9, _ and -"
RULES: Final[Mapping[str, str]] = {
    "code": CODE_RULE,
    "customer_id": NAME_RULE,
    "order_id": NAME_RULE,
    "max_redemptions": f"must be an integer from 1 to {MAX_REDEMPTIONS_MAX:,}, or null for unlimited",
    "max_per_customer": f"must be an integer from 1 to {MAX_PER_CUSTOMER_MAX:,}, or null for unlimited",
    "status": f"must be one of {', '.join(CouponStatus)}",
    "metadata": "must be an object, or null",
    "hold_s": f"must be an integer from 1 to {HOLD_MAX_S:,}: seconds",
    "mode": f"must be one of {', '.join(Mode)}",
    "reason": "must be 1 to 64 of a-z, 0-9 and _",
}
"""What each field may be. Times have words of their own, which say more."""
PREFIX_AS_SENT: Final = f"{BLANKS}[A-Za-z0-9_-]{{1,64}}{BLANKS}"
NAME_AS_SENT: Final = r"^[^\x00-\x1f\x7f-\x9f]*$"

_code_as_sent = re.compile(CODE_AS_SENT)
_prefix_as_sent = re.compile(PREFIX_AS_SENT)
_name_as_sent = re.compile(NAME_AS_SENT.replace("$", r"\Z"))


def _folded(text: str) -> str:
    return text.strip(" \t").upper()


def _whole(value: object) -> object:
    """JSON has one kind of number: 20.0 is 20, and an integer by JSON Schema, so by the OpenAPI document too."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


TimeText = Annotated[str, Field(pattern=TIME_AS_SENT, json_schema_extra={"format": "date-time"})]
"""What `parse_time` takes, as far as a pattern can say it."""
CouponCode = Annotated[str, StringConstraints(pattern=f"^{CODE_AS_SENT}$"), AfterValidator(_folded)]
Name = Annotated[str, StringConstraints(min_length=1, max_length=NAME_CHARS_MAX, pattern=NAME_AS_SENT)]
Hold = Annotated[int, Field(ge=1, le=HOLD_MAX_S), BeforeValidator(_whole)]
Reason = Annotated[str, StringConstraints(pattern=r"^[a-z0-9_]{1,64}$")]
Time = Annotated[datetime, BeforeValidator(parse_time, json_schema_input_type=TimeText)]
Limit = Annotated[int, Field(ge=1, le=MAX_REDEMPTIONS_MAX), BeforeValidator(_whole)]
CustomerLimit = Annotated[int, Field(ge=1, le=MAX_PER_CUSTOMER_MAX), BeforeValidator(_whole)]
Status = Annotated[CouponStatus, Field(strict=False)]


class Body(BaseModel):
    """What every request's body keeps to.

    What may be left out may not be null, but for what is null in an answer too: there it means that something is cleared. A
    number or a text that was left out is 0 or empty, which nobody can send.
    """

    model_config = ConfigDict(strict=True, extra="forbid", hide_input_in_errors=True)


class RedemptionBody(Body):
    """`POST /v1/redemptions`."""

    code: CouponCode
    customer_id: Name
    order_id: Name
    hold_s: Hold = 0


class ConfirmBody(Body):
    """`POST /v1/redemptions/{id}/confirm`: nothing."""


class ExtendBody(Body):
    """`POST /v1/redemptions/{id}/extend`."""

    hold_s: Hold


class CancelBody(Body):
    """`POST /v1/redemptions/{id}/cancel`."""

    reason: Reason = ""


class CancelOrderBody(CancelBody):
    """`POST /v1/redemptions/cancel`."""

    code: CouponCode
    order_id: Name


class ValidationBody(Body):
    """`POST /v1/validations`."""

    code: CouponCode
    customer_id: Name = ""


class CouponTerms(Body):
    """What a coupon can be given and what can be changed of it."""

    max_redemptions: Limit | None = None
    max_per_customer: CustomerLimit | None = None
    starts_at: Time | None = None
    ends_at: Time | None = None
    status: Status = CouponStatus.ACTIVE
    metadata: dict[str, Any] = Field(default_factory=dict)

    @field_validator("metadata", mode="before", json_schema_input_type=dict[str, Any] | None)
    @classmethod
    def _null_is_empty(cls, value: object) -> object:
        return {} if value is None else value


class CouponBody(CouponTerms):
    """`POST /v1/coupons`."""

    code: CouponCode


class CouponChangeBody(CouponTerms):
    """`PATCH /v1/coupons/{code}`: what it names replaces the old value whole; null clears it."""

    model_config = ConfigDict(json_schema_extra={"minProperties": 1})

    def changes(self) -> dict[str, Any]:
        """The fields that were sent."""
        return {name: getattr(self, name) for name in sorted(self.model_fields_set)}


class ReconciliationBody(Body):
    """`POST /v1/reconciliations`. Without a code, or with null: all coupons."""

    mode: Annotated[Mode, Field(strict=False)]
    code: CouponCode | None = None


B = TypeVar("B", bound=Body)


def parse(kind: type[B], members: Mapping[str, Any]) -> B:
    """A decoded body as a model; raises the Problem `invalid_request` with a fault for each field."""
    try:
        return kind.model_validate(members)
    except ValidationError as error:
        faults = [Fault(pointer(fault["loc"]), _explain(fault)) for fault in error.errors(include_url=False)]
        raise Problem(Code.INVALID_REQUEST, faults=faults) from None


def pointer(location: tuple[int | str, ...]) -> str:
    """A JSON pointer (RFC 6901)."""
    return "".join("/" + str(step).replace("~", "~0").replace("/", "~1") for step in location)


def _explain(fault: ErrorDetails) -> str:
    """What is allowed, in words that do not repeat a pattern or the value."""
    kind = fault["type"]
    if kind == "extra_forbidden":
        return "unknown field"
    if kind == "missing":
        return "is required"
    if kind == "value_error":
        return str(fault["ctx"]["error"])
    return RULES[str(fault["loc"][0])]


def parse_code(text: str, where: str) -> str:
    """A coupon's code from a path or a query, folded. `where`: the pointer of the fault."""
    if not _code_as_sent.fullmatch(text):
        raise invalid(where, CODE_RULE)
    return _folded(text)


def parse_prefix(text: str, where: str) -> str:
    """The beginning of codes from a query, folded."""
    if not _prefix_as_sent.fullmatch(text):
        raise invalid(where, PREFIX_RULE)
    return _folded(text)


def parse_status(text: str, where: str) -> CouponStatus:
    """A coupon's status from a query."""
    try:
        return CouponStatus(text)
    except ValueError:
        raise invalid(where, RULES["status"]) from None


def parse_name(text: str, where: str) -> str:
    """A `customer_id` or `order_id` from a query."""
    if not 0 < len(text) <= NAME_CHARS_MAX or not _name_as_sent.match(text):
        raise invalid(where, NAME_RULE)
    return text
