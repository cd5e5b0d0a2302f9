"""What answers hold, as pydantic models: the OpenAPI document is made of them.

Answers themselves are written by hand in `answers.py`, `pages.py` and `problems.py`, which is several times faster. A test
holds the two equal. Unlike requests they may get new fields, so these models refuse none.
"""

from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import AnyUrl, BaseModel, ConfigDict, Field, UrlConstraints
from pydantic.json_schema import SkipJsonSchema

from service.api.problems import Code
from service.api.readiness import Stage, Store
from service.model import CODE_PATTERN, CouponStatus, RedemptionStatus, Refusal
from service.reconciling import Cause, Kind, Mode, RunStatus

Id = Annotated[str, Field(json_schema_extra={"format": "uuid"})]
CodeText = Annotated[str, Field(pattern=f"^{CODE_PATTERN}$")]
Count = Annotated[int, Field(ge=0)]
FINDINGS_MAX = 1_000
"""Of a run that are shown: some hundred kilobytes. Who needs all of a million takes them from the ledger."""
KNOWN = "x-extensible-enum"
"""Names the values that there are. Others may come, so a program that was made from the document must not refuse them."""
Token = Annotated[str | None, Field(description="The `page_token` of the next page; null on the last one.")]


class View(BaseModel):
    """What every answer keeps to."""

    model_config = ConfigDict(strict=True)


class Redemption(View):
    """One use of a coupon. Whether it counts is said by `status`: `reserved` and `confirmed` do."""

    id: Id
    code: CodeText
    customer_id: str
    order_id: str
    status: RedemptionStatus
    seat: Annotated[int | None, Field(description="For operators: it may change and may be null.")]
    expires_at: Annotated[
        datetime | None, Field(description="When a hold ends; null for one that was made without, and once it is confirmed.")
    ]
    created_at: datetime
    confirmed_at: datetime | None
    ended_at: datetime | None
    end_reason: str | None


class Coupon(View):
    """What is limited. `version` rises with every change, and is the `ETag`."""

    code: CodeText
    max_redemptions: Annotated[int | None, Field(description="Null: unlimited.")]
    max_per_customer: Annotated[int | None, Field(description="Null: unlimited.")]
    starts_at: datetime | None
    ends_at: datetime | None
    status: CouponStatus
    metadata: dict[str, Any]
    version: int
    created_at: datetime
    updated_at: datetime


class Usage(View):
    """How much of a coupon is used, counted in the ledger: exact."""

    reserved: Count
    confirmed: Count
    remaining: Annotated[Count | None, Field(description="Null: unlimited.")]
    source: Literal["ledger"]
    as_of: datetime


class CouponWithUsage(Coupon):
    """One coupon and its usage."""

    usage: Usage


class CouponVersion(View):
    """One entry of a coupon's history. `before` is null for the creation."""

    version: int
    who: Annotated[str, Field(description="The name of the API key, or who called the command line.")]
    when: datetime
    before: dict[str, Any] | None
    after: dict[str, Any]


class Validation(View):
    """Whether redeeming would be refused now. `reason` is there when it would."""

    valid: bool
    reason: Annotated[str, Field(json_schema_extra={KNOWN: list(Refusal)})] | SkipJsonSchema[None] = None
    remaining: Annotated[Count | None, Field(description="Null: unlimited. 0 for a coupon that is not found.")]


class RedemptionPage(View):
    """Redemptions, newest first."""

    items: list[Redemption]
    next_page_token: Token


class CouponPage(View):
    """Coupons, by code."""

    items: list[Coupon]
    next_page_token: Token


class HistoryPage(View):
    """A coupon's history, newest first."""

    items: list[CouponVersion]
    next_page_token: Token


class Reconciliation(View):
    """A run of the reconciler. While it is `queued`, it is a wish that the leader has not fulfilled yet."""

    id: Id
    mode: Mode
    code: Annotated[CodeText | None, Field(description="Null: all coupons.")]
    status: RunStatus
    cause: Annotated[str, Field(description="Others may come.", json_schema_extra={KNOWN: list(Cause)})]
    who: Annotated[str, Field(description="The name of the API key, or who called the command line, or the reconciler itself.")]
    when: datetime
    run_by: Annotated[str | None, Field(description="The reconciler that carries it out; null for the command line.")]
    begun_at: datetime | None
    ended_at: datetime | None
    coupons_checked: Count
    finding_count: Count
    error: Annotated[str | None, Field(description="Why it has failed.")]


class Finding(View):
    """One difference between a counter and the ledger. A repair mends it; a check leaves it."""

    code: CodeText
    kind: Annotated[str, Field(description="Others may come.", json_schema_extra={KNOWN: list(Kind)})]
    seat: Annotated[int, Field(ge=1)] | SkipJsonSchema[None] = None
    customer_id: str | SkipJsonSchema[None] = None
    before: Annotated[Any, Field(description="What the counter said.")]
    after: Annotated[Any, Field(description="What the ledger says, and the counter once it is mended.")]


class Leader(View):
    """The reconciler that leads: it alone fulfils wishes."""

    name: str
    since: datetime


class ReconciliationWithFindings(Reconciliation):
    """One run, what it has found so far, and who leads now."""

    findings: Annotated[
        list[Finding], Field(description=f"The first {FINDINGS_MAX:,}; `finding_count` says how many there are.")
    ]
    leader: Annotated[Leader | None, Field(description="Null: none leads, so that a queued run waits.")]


class ReconciliationPage(View):
    """Runs of the reconciler, newest first."""

    items: list[Reconciliation]
    next_page_token: Token


class Alive(View):
    """The process runs."""

    status: Literal["alive"]


class Stores(View):
    """How each store looks from here."""

    ledger: Store
    redis: Store


class Ready(View):
    """Whether to send traffic here."""

    status: Stage
    stores: Stores


class Fault(View):
    """One thing wrong with a request."""

    pointer: Annotated[str, Field(description="A JSON pointer into the body, `?name` of the query, or a header's name.")]
    detail: str


class Problem(View):
    """Why a request was not served (RFC 9457). Programs go by `code`, and by `status` for a code that they do not know."""

    type: Annotated[AnyUrl, UrlConstraints(host_required=True)]
    title: str
    status: int
    detail: str
    code: Annotated[str, Field(description="Others may come.", json_schema_extra={KNOWN: list(Code)})]
    request_id: str
    errors: list[Fault] | SkipJsonSchema[None] = None
