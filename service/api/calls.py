"""Every call of the API: what it takes, who may make it, and how it is answered. The OpenAPI document is made of this.

A test holds these and the routes together, and sends every example to a real service.
"""

from typing import Final

from service.api import coupons, redemptions, views
from service.api.authentication import ADMIN, READ, READ_REDEMPTIONS, REDEEM
from service.api.bodies import (
    CancelBody,
    CancelOrderBody,
    ConfirmBody,
    CouponBody,
    CouponChangeBody,
    ExtendBody,
    RedemptionBody,
    ValidationBody,
)
from service.api.described import Answer, Call
from service.api.examples import AWAY, CANCELLED, COUPON, HOLD, READY, REDEMPTION, TERMS, TIME, USAGE
from service.api.problems import Code
from service.api.reconciliation_calls import RECONCILIATION_CALLS

ONE_REDEMPTION: Final = redemptions.PATH + "/{id}"
ONE_COUPON: Final = coupons.PATH + "/{code}"
PAGING: Final = ("page_size", "page_token")
ENDED: Final = (Code.ALREADY_CANCELLED, Code.RESERVATION_EXPIRED)
WITH_REDEMPTION: Final = ("show_redemption", "confirm", "extend", "cancel", "cancel_order")
WITH_COUPON: Final = ("show_coupon", "change_coupon", "show_history", "validate")
UNSURE: Final = (Code.BUSY, Code.OUTCOME_UNKNOWN)

REDEMPTION_CALLS: Final = (
    Call(
        method="POST",
        path=redemptions.PATH,
        name="redeem",
        summary="Redeem a coupon, or hold a use of it",
        scopes=REDEEM,
        answers=(
            Answer(
                status=201,
                says="A new redemption.",
                view=views.Redemption,
                example=REDEMPTION,
                headers=("Location",),
                leads_to=WITH_REDEMPTION,
            ),
            Answer(
                status=200,
                says="The order's live redemption, or the key's.",
                view=views.Redemption,
                example=HOLD,
                headers=("Idempotent-Replayed",),
            ),
        ),
        parameters=("Idempotency-Key",),
        problems=(
            Code.COUPON_NOT_FOUND,
            Code.COUPON_PAUSED,
            Code.COUPON_NOT_STARTED,
            Code.COUPON_ENDED,
            Code.ORDER_MISMATCH,
            Code.IDEMPOTENCY_KEY_REUSED,
            Code.CUSTOMER_LIMIT_REACHED,
            Code.COUPON_EXHAUSTED,
            Code.TOO_MANY_ATTEMPTS,
            *UNSURE,
        ),
        body=RedemptionBody,
        examples={
            "redeem": {"code": "GOLD20", "customer_id": "ann", "order_id": "order-1"},
            "hold": {"code": "GOLD20", "customer_id": "bob", "order_id": "order-2", "hold_s": 600},
        },
        details="With `hold_s` the use is reserved for so many seconds and counts until then; without, it is confirmed. While"
        " an order has a live redemption, the same request returns it. A 2xx says which redemption belongs to the order; its"
        " `status` says whether it counts.",
    ),
    Call(
        method="GET",
        path=redemptions.PATH,
        name="find_redemptions",
        summary="Find redemptions, newest first",
        scopes=READ_REDEMPTIONS,
        answers=(
            Answer(
                status=200, says="A page.", view=views.RedemptionPage, example={"items": [REDEMPTION], "next_page_token": None}
            ),
        ),
        parameters=("code of redemptions", "customer_id", "order_id", "status of redemptions", *PAGING),
        details="At least one of `code`, `customer_id` and `order_id` is needed.",
    ),
    Call(
        method="GET",
        path=ONE_REDEMPTION,
        name="show_redemption",
        summary="Read one redemption",
        scopes=READ_REDEMPTIONS,
        answers=(Answer(status=200, says="The redemption.", view=views.Redemption, example=REDEMPTION),),
        parameters=("id",),
        problems=(Code.REDEMPTION_NOT_FOUND,),
    ),
    Call(
        method="POST",
        path=ONE_REDEMPTION + "/confirm",
        name="confirm",
        summary="Confirm a hold",
        scopes=REDEEM,
        answers=(
            Answer(status=200, says="The redemption, confirmed now or before.", view=views.Redemption, example=REDEMPTION),
        ),
        parameters=("id",),
        problems=(Code.REDEMPTION_NOT_FOUND, *ENDED, *UNSURE),
        body=ConfirmBody,
        body_optional=True,
        examples={"confirm": {}},
    ),
    Call(
        method="POST",
        path=ONE_REDEMPTION + "/extend",
        name="extend",
        summary="Hold it for longer",
        scopes=REDEEM,
        answers=(
            Answer(status=200, says="The hold, which ends so many seconds from now.", view=views.Redemption, example=HOLD),
        ),
        parameters=("id",),
        problems=(Code.REDEMPTION_NOT_FOUND, Code.ALREADY_CONFIRMED, *ENDED, *UNSURE),
        body=ExtendBody,
        examples={"extend": {"hold_s": 600}},
    ),
    Call(
        method="POST",
        path=ONE_REDEMPTION + "/cancel",
        name="cancel",
        summary="Give a use back",
        scopes=REDEEM,
        answers=(
            Answer(
                status=200,
                says="The redemption, cancelled now, or ended before and unchanged.",
                view=views.Redemption,
                example=CANCELLED,
            ),
        ),
        parameters=("id",),
        problems=(Code.REDEMPTION_NOT_FOUND, *UNSURE),
        body=CancelBody,
        body_optional=True,
        examples={"cancel": {"reason": "card_declined"}},
    ),
    Call(
        method="POST",
        path=redemptions.PATH + "/cancel",
        name="cancel_order",
        summary="Give an order's use back",
        scopes=REDEEM,
        answers=(Answer(status=200, says="The order's redemption, cancelled.", view=views.Redemption, example=CANCELLED),),
        problems=(Code.REDEMPTION_NOT_FOUND, *UNSURE),
        body=CancelOrderBody,
        examples={"cancel": {"code": "GOLD20", "order_id": "order-1", "reason": "card_declined"}},
        details="For callers that never saw the redemption's id.",
    ),
    Call(
        method="POST",
        path="/v1/validations",
        name="validate",
        summary="Ask whether redeeming would be refused",
        scopes=REDEEM,
        answers=(
            Answer(
                status=200,
                says="Whether it would; nothing is touched.",
                view=views.Validation,
                example={"valid": False, "reason": "coupon_exhausted", "remaining": 0},
            ),
        ),
        problems=(Code.TOO_MANY_ATTEMPTS, Code.BUSY),
        body=ValidationBody,
        examples={"coupon": {"code": "GOLD20"}, "customer": {"code": "GOLD20", "customer_id": "ann"}},
    ),
)

COUPON_CALLS: Final = (
    Call(
        method="POST",
        path=coupons.PATH,
        name="create_coupon",
        summary="Create a coupon",
        scopes=ADMIN,
        answers=(
            Answer(
                status=201,
                says="The new coupon.",
                view=views.Coupon,
                example=COUPON,
                headers=("Location", "ETag"),
                leads_to=WITH_COUPON,
            ),
        ),
        problems=(Code.COUPON_EXISTS, Code.BUSY),
        body=CouponBody,
        examples={
            "limited": {"code": "GOLD20", "max_redemptions": 20, "max_per_customer": 1, "metadata": {"campaign": "c-17"}},
            "window": {"code": "SUMMER", "starts_at": "2026-06-01T00:00:00+02:00", "ends_at": "2126-09-01T00:00:00+02:00"},
        },
        details="Without limits it is unlimited, and without a status active. `ends_at` is after `starts_at`. When a 503 came,"
        " it may have been created: read it.",
    ),
    Call(
        method="GET",
        path=coupons.PATH,
        name="find_coupons",
        summary="List coupons, by code",
        scopes=READ,
        answers=(
            Answer(status=200, says="A page.", view=views.CouponPage, example={"items": [COUPON], "next_page_token": None}),
        ),
        parameters=("status of coupons", "prefix", *PAGING),
    ),
    Call(
        method="GET",
        path=ONE_COUPON,
        name="show_coupon",
        summary="Read a coupon and its usage",
        scopes=READ,
        answers=(
            Answer(
                status=200, says="The coupon.", view=views.CouponWithUsage, example=COUPON | {"usage": USAGE}, headers=("ETag",)
            ),
        ),
        parameters=("code",),
        problems=(Code.COUPON_NOT_FOUND,),
    ),
    Call(
        method="PATCH",
        path=ONE_COUPON,
        name="change_coupon",
        summary="Change a coupon",
        scopes=ADMIN,
        answers=(
            Answer(
                status=200,
                says="The coupon as it is now.",
                view=views.Coupon,
                example=COUPON | {"status": "paused", "version": 2},
                headers=("ETag",),
            ),
        ),
        parameters=("code", "If-Match"),
        problems=(Code.COUPON_NOT_FOUND, Code.VERSION_MISMATCH, Code.LIMIT_KIND_FIXED, Code.CUSTOMER_LIMIT_LOWERED, Code.BUSY),
        body=CouponChangeBody,
        examples={"pause": {"status": "paused"}, "raise": {"max_redemptions": 30, "max_per_customer": 2}},
        details="A field that is named replaces the old value whole, null clears it, what is not named stays. When it has been"
        " answered, no later redemption is admitted or refused by the old values.",
    ),
    Call(
        method="GET",
        path=ONE_COUPON + "/history",
        name="show_history",
        summary="Read who changed a coupon, newest first",
        scopes=READ,
        answers=(
            Answer(
                status=200,
                says="A page.",
                view=views.HistoryPage,
                example={
                    "items": [{"version": 1, "who": "office", "when": TIME, "before": None, "after": TERMS}],
                    "next_page_token": None,
                },
            ),
        ),
        parameters=("code", *PAGING),
        problems=(Code.COUPON_NOT_FOUND,),
    ),
)

OTHER_CALLS: Final = (
    Call(
        method="GET",
        path="/livez",
        name="livez",
        summary="Does the process run",
        scopes=None,
        answers=(Answer(status=200, says="It does.", view=views.Alive, example={"status": "alive"}),),
    ),
    Call(
        method="GET",
        path="/readyz",
        name="readyz",
        summary="Should it be sent traffic",
        scopes=None,
        answers=(
            Answer(
                status=200,
                says="Yes. `degraded`: Redis does not answer.",
                view=views.Ready,
                example=READY,
                headers=("Cache-Control",),
            ),
            Answer(status=503, says="No.", view=views.Ready, example=AWAY, headers=("Cache-Control",)),
        ),
    ),
    Call(
        method="GET",
        path="/metrics",
        name="metrics",
        summary="What has been counted",
        details="By all workers of this process, in Prometheus' text format.",
        scopes=None,
        answers=(Answer(status=200, says="All metrics.", headers=("Cache-Control",), media_type="text/plain"),),
    ),
    Call(
        method="GET",
        path="/openapi.json",
        name="openapi",
        summary="This document",
        scopes=None,
        answers=(
            Answer(status=200, says="OpenAPI 3.1.", headers=("ETag", "Cache-Control")),
            Answer(status=304, says="It is the one that you have.", headers=("ETag",), media_type=""),
        ),
        parameters=("If-None-Match",),
    ),
    Call(
        method="GET",
        path="/docs",
        name="docs",
        summary="This document, to be read and tried",
        scopes=None,
        answers=(
            Answer(status=200, says="A page.", headers=("ETag", "Cache-Control"), media_type="text/html"),
            Answer(status=304, says="It is the one that you have.", headers=("ETag",), media_type=""),
        ),
        parameters=("If-None-Match",),
    ),
)

CALLS: Final = (*REDEMPTION_CALLS, *COUPON_CALLS, *RECONCILIATION_CALLS, *OTHER_CALLS)
