"""The OpenAPI document: it is one, it has all that there is, and what it says of it is so."""

import json
from collections.abc import Iterator
from typing import Any
from urllib.parse import urljoin

import aiohttp
import pytest
from jsonschema import Draft202012Validator, FormatChecker
from openapi_spec_validator import OpenAPIV31SpecValidator

from service.api import redemptions, transitions, views
from service.api.answers import coupon_view, full_run_view, redemption_view, run_view, version_view
from service.api.application import application
from service.api.calls import CALLS
from service.api.described import Call
from service.api.documents import PAGE
from service.api.openapi import document
from service.api.problems import BY_REFUSAL, KINDS, Code, Problem, Problems, invalid
from service.config import Settings
from service.model import CouponVersion, Refusal, Scope, Usage
from service.reconciling import Finding, Kind
from service.validations import Validated
from tests.api.fakes import COUPON, FINDING, LEADER, NOW, REDEMPTION, RUN, Served

BASE_URI = "https://usher.invalid/problems/"
DOCUMENT = document(BASE_URI)
REFUSED_BEFORE_ROUTES = {Code.ROUTE_NOT_FOUND, Code.METHOD_NOT_ALLOWED}
"""No call ends in these; the document's introduction says when they come."""

OF_STATUS = {"401": {"WWW-Authenticate"}, "429": {"Retry-After"}, "503": {"Retry-After"}}
OF_ANSWER = {
    ("redeem", "201"): {"Location"},
    ("redeem", "200"): {"Idempotent-Replayed"},
    ("create_coupon", "201"): {"Location", "ETag"},
    ("show_coupon", "200"): {"ETag"},
    ("change_coupon", "200"): {"ETag"},
    ("reconcile", "202"): {"Location"},
    ("readyz", "200"): {"Cache-Control"},
    ("readyz", "503"): {"Cache-Control"},
    ("metrics", "200"): {"Cache-Control"},
    **{(name, status): headers for name in ("openapi", "docs") for status, headers in {
        "200": {"ETag", "Cache-Control"}, "304": {"ETag"}}.items()},
}  # fmt: skip
"""Beside `X-Request-Id`, which every answer has."""

every_call = pytest.mark.parametrize("call", CALLS, ids=lambda call: call.name)


def checker(schema: dict[str, Any]) -> Draft202012Validator:
    """Of a schema that refers to the document's components."""
    return Draft202012Validator(schema | {"components": DOCUMENT["components"]}, format_checker=FormatChecker())


def operation(call: Call) -> dict[str, Any]:
    found: dict[str, Any] = DOCUMENT["paths"][call.path][call.method.lower()]
    return found


def resolved(response: dict[str, Any]) -> dict[str, Any]:
    """The response, or the one that it refers to."""
    found: dict[str, Any] = (
        DOCUMENT["components"]["responses"][response["$ref"].rpartition("/")[2]] if "$ref" in response else response
    )
    return found


def contents(call: Call) -> Iterator[tuple[str, dict[str, Any]]]:
    """Status and content of each answer, problems included."""
    for status, response in operation(call)["responses"].items():
        for content in resolved(response).get("content", {}).values():
            yield status, content


def test_it_is_openapi_3_1() -> None:
    assert [] == list(OpenAPIV31SpecValidator(DOCUMENT).iter_errors())


def test_it_has_every_route_and_no_other() -> None:
    """All but the pieces of the page, which nobody asks for by themselves."""
    routes = {
        (route.method, route.resource.canonical)
        for route in application(Settings()).router.routes()
        if route.resource and route.method != "HEAD" and not route.resource.canonical.startswith(PAGE + "/")
    }
    assert routes == {(call.method, call.path) for call in CALLS}
    assert routes == {(method.upper(), path) for path, methods in DOCUMENT["paths"].items() for method in methods}


@every_call
def test_examples_of_answers_fit(call: Call) -> None:
    for status, content in contents(call):
        examples = [one["value"] for one in content.get("examples", {}).values()]
        examples += [content["example"]] if "example" in content else []
        assert examples or "schema" not in content or call.name in {"openapi", "docs", "metrics"}
        for example in examples:
            assert [] == [error.message for error in checker(content["schema"]).iter_errors(example)], status


@every_call
def test_examples_of_requests_fit(call: Call) -> None:
    described = operation(call)
    for parameter in described["parameters"]:
        if "example" in parameter:
            checker(parameter["schema"]).validate(parameter["example"])
    assert bool(call.body) == ("requestBody" in described)
    if call.body:
        content = described["requestBody"]["content"]["application/json"]
        assert content["examples"]
        for example in content["examples"].values():
            checker(content["schema"]).validate(example["value"])


def test_every_problem_is_there_with_its_status() -> None:
    found = {
        (code, int(status))
        for call in CALLS
        for status, response in operation(call)["responses"].items()
        for code in resolved(response).get("content", {}).get("application/problem+json", {}).get("examples", {})
    }
    assert {(code, KINDS[code][0]) for code in Code if code not in REFUSED_BEFORE_ROUTES} == found
    assert all(code in DOCUMENT["info"]["description"] for code in REFUSED_BEFORE_ROUTES)


def test_each_ending_is_a_problem_of_its_call() -> None:
    """What the flow and the transitions can end in, as their handlers map it."""
    by_name = {call.name: set(call.problems) for call in CALLS}
    assert {*BY_REFUSAL.values(), *redemptions.BY_ENDING.values()} <= by_name["redeem"] | {Code.UNAVAILABLE}
    verbs = by_name["confirm"] | by_name["extend"] | by_name["cancel"]
    assert set(transitions.BY_ENDING.values()) == verbs | {Code.UNAVAILABLE}
    assert by_name["cancel"] < by_name["confirm"] < by_name["extend"]


@every_call
def test_each_answer_names_its_headers(call: Call) -> None:
    """All that it names are there for certain."""
    for status, response in operation(call)["responses"].items():
        expected = {"X-Request-Id", *OF_STATUS.get(status, ()), *OF_ANSWER.get((call.name, status), ())}
        if call.name == "readyz":  # Not ready: 503 without Retry-After, beside the problem's, which has it.
            expected.discard("Retry-After")
        assert expected == set(resolved(response)["headers"]), status
    assert all(header["required"] for header in DOCUMENT["components"]["headers"].values())


def test_links_lead_from_what_is_made_to_what_can_be_done_with_it() -> None:
    found = {
        (call.name, status): {name: {**link, "operationId": None} for name, link in response["links"].items()}
        for call in CALLS
        for status, response in operation(call)["responses"].items()
        if "links" in response
    }
    by_id = {"operationId": None, "parameters": {"id": "$response.body#/id"}}
    by_code = {"operationId": None, "parameters": {"code": "$response.body#/code"}}
    order = {"operationId": None, "requestBody": {name: f"$response.body#/{name}" for name in ("code", "order_id")}}
    coupon = {"operationId": None, "requestBody": {"code": "$response.body#/code"}}
    assert {
        ("redeem", "201"): {**dict.fromkeys(("show_redemption", "confirm", "extend", "cancel"), by_id), "cancel_order": order},
        ("create_coupon", "201"): {
            **dict.fromkeys(("show_coupon", "change_coupon", "show_history"), by_code),
            "validate": coupon,
        },
        ("reconcile", "202"): {"show_reconciliation": by_id},
    } == found
    named = {name: link["operationId"] for call in CALLS for one in operation(call)["responses"].values()
             for name, link in one.get("links", {}).items()}  # fmt: skip
    assert named == {name: name for name in named}


def test_two_bodies_may_be_left_out() -> None:
    needed = {call.name: operation(call)["requestBody"]["required"] for call in CALLS if call.body}
    assert {"confirm", "cancel"} == {name for name, required in needed.items() if not required}


def test_the_bounds_of_parameters() -> None:
    """Of those that the models of bodies do not have."""
    parameters = {(one["in"], one["name"]): one for call in CALLS for one in operation(call)["parameters"]}
    assert {"type": "integer", "minimum": 1, "maximum": 200, "default": 50} == parameters["query", "page_size"]["schema"]
    assert {"type": "string", "pattern": "^[!-~]{1,255}$"} == parameters["header", "Idempotency-Key"]["schema"]
    assert {"type": "string", "maxLength": 200} == parameters["query", "page_token"]["schema"]
    assert {("path", "code"), ("path", "id")} == {where for where, one in parameters.items() if one["required"]}


def test_what_a_validation_holds() -> None:
    schema = DOCUMENT["components"]["schemas"]["Validation"]
    assert ["valid", "remaining"] == schema["required"]
    assert [{"type": "integer", "minimum": 0}, {"type": "null"}] == schema["properties"]["remaining"]["anyOf"]
    assert {"type": "string", views.KNOWN: list(Refusal)} == schema["properties"]["reason"]


def test_new_codes_may_come() -> None:
    """All that there are are named, and a program that goes by the document takes others too."""
    codes = [DOCUMENT["components"]["schemas"]["Problem"]["properties"]["code"]]
    codes += [
        content["schema"]["allOf"][1]["properties"]["code"]
        for response in DOCUMENT["components"]["responses"].values()
        for content in response["content"].values()
    ]
    assert list(Code) == codes[0][views.KNOWN]
    assert all(set(one[views.KNOWN]) <= set(Code) and "enum" not in one and "const" not in one for one in codes)
    problem = Problems(BASE_URI).body(Problem(Code.BUSY), "r-1") | {"code": "asleep"}
    checker({"$ref": "#/components/schemas/Problem"}).validate(problem)


def test_calls_are_grouped_by_what_they_are_about() -> None:
    grouped: dict[str, set[str]] = {}
    for call in CALLS:
        (tag,) = operation(call)["tags"]
        grouped.setdefault(tag, set()).add(call.path.split("/")[2] if call.path.startswith("/v1/") else "")
    assert [one["name"] for one in DOCUMENT["tags"]] == list(grouped)
    assert {
        "redemptions": {"redemptions"},
        "validations": {"validations"},
        "coupons": {"coupons"},
        "reconciliations": {"reconciliations"},
        "operations": {""},
    } == grouped


@pytest.mark.parametrize("base", ["http://127.0.0.1:8080/", "https://shop.example/tools/usher/"])
def test_calls_are_made_beside_the_document(base: str) -> None:
    """Also below a path of a proxy's: a server's address is relative to the document's."""
    (server,) = DOCUMENT["servers"]
    assert base == urljoin(f"{base}openapi.json", server["url"])


def test_who_may_call_is_said() -> None:
    keyless = {call.path for call in CALLS if call.scopes is None}
    assert {"/livez", "/readyz", "/metrics", "/openapi.json", "/docs"} == keyless
    for call in CALLS:
        described = operation(call)
        assert described["security"] == ([] if call.scopes is None else [{"key": []}])
        assert ("401" in described["responses"]) == (call.scopes is not None)
        assert set(call.scopes or ()) == {scope for scope in Scope if f"`{scope}`" in described["description"]}


@pytest.mark.parametrize(
    ("view", "shown"),
    [
        (views.Redemption, redemption_view(REDEMPTION)),
        (views.Coupon, coupon_view(COUPON)),
        (views.CouponWithUsage, coupon_view(COUPON, Usage(reserved=0, confirmed=4, remaining=16, as_of=NOW))),
        (views.CouponVersion, version_view(CouponVersion(1, NOW, "office", None, {"status": "active"}))),
        (views.Reconciliation, run_view(RUN)),
        (views.ReconciliationWithFindings, full_run_view(RUN, [FINDING], None)),
        (views.Leader, full_run_view(RUN, [], LEADER)["leader"]),
        (views.Problem, Problems(BASE_URI).body(invalid("/code", "no"), "r-1")),
    ],
    ids=lambda one: getattr(one, "__name__", ""),
)
def test_models_and_answers_are_equal(view: type[views.View], shown: dict[str, Any]) -> None:
    """By name and kind of each member; the answers are written by hand."""
    assert list(view.model_fields) == list(shown)
    view.model_validate_json(json.dumps(shown, default=str).replace("+00:00", "Z"))


@pytest.mark.parametrize(
    ("method", "path", "body", "view"),
    [
        ("POST", "/v1/validations", {"code": "GOLD20"}, views.Validation),
        ("GET", "/v1/redemptions?code=GOLD20", None, views.RedemptionPage),
        ("GET", "/v1/coupons", None, views.CouponPage),
        ("GET", "/v1/coupons/GOLD20/history", None, views.HistoryPage),
        ("GET", "/v1/reconciliations", None, views.ReconciliationPage),
        ("GET", "/v1/reconciliations/00010203-0405-0607-0809-0a0b0c0d0e0f", None, views.ReconciliationWithFindings),
        ("GET", "/livez", None, views.Alive),
        ("GET", "/readyz", None, views.Ready),
    ],
)
async def test_models_and_what_is_served_are_equal(
    client: aiohttp.ClientSession, method: str, path: str, body: dict[str, str] | None, view: type[views.View]
) -> None:
    """As above, for answers that no function makes alone. What may be missing is in none of these."""
    async with client.request(method, path, json=body) as response:
        text = await response.text()
    assert {name for name, field in view.model_fields.items() if field.is_required()} == set(json.loads(text))
    shown = view.model_validate_json(text)
    for item, said in zip(getattr(shown, "items", ()), json.loads(text).get("items", ()), strict=True):
        assert list(type(item).model_fields) == list(said)


@pytest.mark.parametrize(
    ("more", "names"),
    [
        ({"seat": 7}, ["seat"]),
        ({"customer_id": "ann"}, ["customer_id"]),
        ({"seat": 7, "customer_id": "ann"}, ["seat", "customer_id"]),
        ({}, []),
    ],
)
def test_a_finding_has_what_it_is_about(more: dict[str, Any], names: list[str]) -> None:
    (said,) = full_run_view(RUN, [Finding("GOLD20", Kind.OVERSOLD, {"a": 1}, None, **more)], None)["findings"]
    assert ["code", "kind", *names, "before", "after"] == list(said)
    views.Finding.model_validate_json(json.dumps(said))
    checker({"$ref": "#/components/schemas/Finding"}).validate(said)


async def test_a_validation_that_refuses_says_why(served: Served, client: aiohttp.ClientSession) -> None:
    for refusal, remaining in ((Refusal.COUPON_NOT_FOUND, 0), (Refusal.CUSTOMER_LIMIT_REACHED, None)):
        served.validations.answer = Validated(refusal, remaining)
        async with client.post("/v1/validations", json={"code": "GOLD20"}) as response:
            said = await response.json()
        assert list(views.Validation.model_fields) == list(said)
        assert {"valid": False, "reason": refusal.value, "remaining": remaining} == said
        views.Validation.model_validate_json(json.dumps(said))


def test_a_problem_has_faults_only_when_the_request_is_invalid() -> None:
    named = {name for name, field in views.Problem.model_fields.items() if field.is_required()}
    assert named == set(Problems(BASE_URI).body(Problem(Code.COUPON_EXHAUSTED), "r-1"))


def test_every_object_in_an_answer_may_grow() -> None:
    """Only requests refuse unknown fields."""
    closed = {name for name, schema in DOCUMENT["components"]["schemas"].items() if schema.get("additionalProperties") is False}
    assert {call.body.__name__ for call in CALLS if call.body} == closed
