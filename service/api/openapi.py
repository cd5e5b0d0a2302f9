"""Builds the OpenAPI 3.1 document out of the calls, the models that validate them, and the table of problems."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from pydantic import BaseModel, TypeAdapter
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaMode, JsonSchemaValue, models_json_schema
from pydantic_core import core_schema

from service.api import views
from service.api.bodies import CODE_RULE, NAME_RULE, PREFIX_AS_SENT, PREFIX_RULE, RULES, CouponCode, Name
from service.api.calls import CALLS
from service.api.described import Answer, Call
from service.api.examples import ID, RUN
from service.api.pages import PAGE_SIZE_DEFAULT, PAGE_SIZE_MAX, TOKEN_MAX_CHARS
from service.api.problems import KINDS, MEDIA_TYPE, RETRY_AFTER_S, Code, Fault, Problem, Problems
from service.api.redemptions import SANE_IDEMPOTENCY_KEY
from service.model import CouponStatus, RedemptionStatus

Json = dict[str, Any]

VERSION: Final = "1"
"""Of the contract; it is also in every path."""
INTRODUCTION: Final = """Redeems coupons: exact limits under any contention.

JSON in UTF-8; times are RFC 3339 in UTC. Unknown fields in a request are refused; ignore unknown fields in answers. Every
answer that is no 2xx is `application/problem+json`: go by its `code`, and by the status for a code that you do not know, since
new ones may come. Two are not: 503 of `/readyz` has the same body as its 200, and 304 has none. Any address answers 405
`method_not_allowed` with `Allow` to a method that it has not, and 404 `route_not_found` where there is none."""
HERE: Final = "."
"""The server, by an address that is relative to the document's: both may be below a path of a proxy's."""
OPERATIONS: Final = "operations"
TAGS: Final[Mapping[str, str]] = {
    "redemptions": "Uses of coupons by orders: made, held, confirmed and given back.",
    "validations": "Would redeeming be refused?",
    "coupons": "What is limited, and who has changed it.",
    "reconciliations": "Runs of the reconciler, which compares counters with the ledger and mends them.",
    OPERATIONS: "Health, and this document.",
}
"""The resources: what paths below /v1 begin with. All that is not below it is for operations."""
KEY: Final = "An API key. It has scopes: `redeem`, `read` and `admin`, which may do everything."
TAG_AS_SENT: Final = '(W/)?"[!#-~]*"'
BEFORE_ALL: Final = (Code.INVALID_REQUEST, Code.OVERLOADED, Code.INTERNAL)
"""Problems of a request that nobody has looked at, and of any that meets a defect."""
WITH_KEY: Final = (Code.UNAUTHORIZED, Code.FORBIDDEN, Code.UNAVAILABLE)
WITH_BODY: Final = (Code.TOO_LARGE, Code.UNSUPPORTED_MEDIA_TYPE)
FAULT: Final = Fault("/code", CODE_RULE)
REQUEST_ID: Final = "dda3399babcdddaa-7"

HEADERS: Final[Mapping[str, Json]] = {
    "X-Request-Id": {"description": "The caller's own, or one made here.", "schema": {"type": "string"}, "example": REQUEST_ID},
    "Location": {"description": "Where it is read.", "schema": {"type": "string", "format": "uri-reference"}},
    "ETag": {"description": "For If-Match or If-None-Match.", "schema": {"type": "string"}, "example": '"1"'},
    "Idempotent-Replayed": {"description": "It was there already.", "schema": {"type": "string", "const": "true"}},
    "Retry-After": {"description": "Seconds.", "schema": {"type": "integer", "minimum": 1}, "example": RETRY_AFTER_S},
    "WWW-Authenticate": {"description": "Bearer.", "schema": {"type": "string"}, "example": 'Bearer realm="usher"'},
    "Cache-Control": {"description": "Whether it may be kept.", "schema": {"type": "string"}, "example": "no-cache"},
}
"""All are there whenever they are named."""


def _parameter(place: str, name: str, schema: Json, says: str, **more: Any) -> Json:  # noqa: ANN401  (any JSON)
    return {"name": name, "in": place, "required": place == "path", "description": says, "schema": schema, **more}


def _text(of: Any) -> Json:  # noqa: ANN401  (an annotated type is of no type that could be named)
    return TypeAdapter(of).json_schema()


PARAMETERS: Final[Mapping[str, Json]] = {
    "code": _parameter("path", "code", _text(CouponCode), CODE_RULE, example="GOLD20"),
    "id": _parameter("path", "id", {"type": "string", "format": "uuid"}, "The redemption's id.", example=ID),
    "id of a run": _parameter("path", "id", {"type": "string", "format": "uuid"}, "The run's id.", example=RUN["id"]),
    "code of redemptions": _parameter("query", "code", _text(CouponCode), CODE_RULE, example="GOLD20"),
    "customer_id": _parameter("query", "customer_id", _text(Name), NAME_RULE),
    "order_id": _parameter("query", "order_id", _text(Name), NAME_RULE),
    "status of redemptions": _parameter("query", "status", {"enum": list(RedemptionStatus)}, "Only these."),
    "status of coupons": _parameter("query", "status", {"enum": list(CouponStatus)}, "Only these."),
    "prefix": _parameter("query", "prefix", {"type": "string", "pattern": f"^{PREFIX_AS_SENT}$"}, PREFIX_RULE, example="GOLD"),
    "page_size": _parameter(
        "query",
        "page_size",
        {"type": "integer", "minimum": 1, "maximum": PAGE_SIZE_MAX, "default": PAGE_SIZE_DEFAULT},
        "At most so many.",
    ),
    "page_token": _parameter(
        "query",
        "page_token",
        {"type": "string", "maxLength": TOKEN_MAX_CHARS},
        "`next_page_token` of the page before, asked for with the same filters.",
    ),
    "Idempotency-Key": _parameter(
        "header",
        "Idempotency-Key",
        {"type": "string", "pattern": f"^{SANE_IDEMPOTENCY_KEY.pattern}$"},
        "Stands for the redemption that it made or found, for ever, whatever became of it; per API key and coupon.",
        example="order-1-attempt-1",
    ),
    "If-Match": _parameter(
        "header",
        "If-Match",
        {"type": "string", "pattern": rf"^(\*|{TAG_AS_SENT}( *, *{TAG_AS_SENT})*)$"},
        "Change it only if this is its version.",
        example='"1"',
    ),
    "If-None-Match": _parameter("header", "If-None-Match", {"type": "string"}, "The ETag of what you have."),
    "X-Request-Id": _parameter(
        "header",
        "X-Request-Id",
        {"type": "string"},
        "A name for this request: 1 to 128 letters, digits and `._:/+=@-`. Any other is replaced.",
    ),
}


class Schemas(GenerateJsonSchema):
    """Without titles made of names, and without defaults: a change has the fields of a new coupon, and none of its defaults."""

    def default_schema(self, schema: core_schema.WithDefaultSchema) -> JsonSchemaValue:
        """The schema alone."""
        return self.generate_inner(schema["schema"])

    def field_title_should_be_set(self, schema: Any) -> bool:  # noqa: ANN401, ARG002  (pydantic's signature)
        """Never."""
        return False


def document(problem_base_uri: str) -> Json:
    """The whole document. `problem_base_uri`: what the type of a problem begins with."""
    builder = _Builder(Problems(problem_base_uri))
    paths: dict[str, Json] = {}
    for call in CALLS:
        paths.setdefault(call.path, {})[call.method.lower()] = builder.operation(call)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Usher",
            "version": VERSION,
            "description": INTRODUCTION,
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": HERE}],
        "tags": [{"name": name, "description": says} for name, says in TAGS.items()],
        "paths": paths,
        "components": {
            "schemas": _schemas(),
            "responses": builder.responses,
            "headers": {name: {"required": True, **header} for name, header in HEADERS.items()},
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer", "description": KEY}},
        },
    }


def _schemas() -> Json:
    """The models by name, the fields of requests with the rules that faults are explained with."""
    bodies = {call.body for call in CALLS if call.body}
    shown = {answer.view for call in CALLS for answer in call.answers if answer.view}
    models: set[type[BaseModel]] = {*bodies, *shown, views.Problem}
    wanted: list[tuple[type[BaseModel], JsonSchemaMode]]
    wanted = [(model, "validation") for model in sorted(models, key=lambda model: model.__name__)]
    _, made = models_json_schema(wanted, schema_generator=Schemas, ref_template="#/components/schemas/{model}")
    schemas: Json = made["$defs"]
    for body in bodies:
        for name, field in schemas[body.__name__]["properties"].items():
            if name in RULES:
                field["description"] = RULES[name]
    return schemas


class _Builder:
    """Writes operations. `responses` holds the problems that they refer to, each combination once."""

    def __init__(self, problems: Problems) -> None:
        self._problems = problems
        self.responses: Json = {}

    def operation(self, call: Call) -> Json:
        """One operation object."""
        made: Json = {
            "operationId": call.name,
            "tags": [_tag(call)],
            "summary": call.summary,
            "description": " ".join(filter(None, (call.details, _scopes(call)))),
            "parameters": [PARAMETERS[name] for name in (*call.parameters, "X-Request-Id")],
            "responses": self._answers(call),
            "security": [] if call.scopes is None else [{"key": []}],
        }
        if call.body:
            schema = {"$ref": f"#/components/schemas/{call.body.__name__}"}
            examples = {name: {"value": value} for name, value in (call.examples or {}).items()}
            made["requestBody"] = {
                "required": not call.body_optional,
                "content": {"application/json": {"schema": schema, "examples": examples}},
            }
        return made

    def _answers(self, call: Call) -> Json:
        by_status: dict[int, list[Code]] = {}
        for code in _problems_of(call):
            by_status.setdefault(KINDS[code][0], []).append(code)
        made = {str(status): self._refer(codes) for status, codes in by_status.items()}
        for answer in call.answers:
            shown = _answer(answer)
            if answer.status in by_status:
                # It has a body of its own beside those of the problems.
                shown["content"] |= self._problem(by_status[answer.status])["content"]
            made[str(answer.status)] = shown
        return dict(sorted(made.items()))

    def _refer(self, codes: Sequence[Code]) -> Json:
        name = ".".join(codes)
        self.responses.setdefault(name, self._problem(codes))
        return {"$ref": f"#/components/responses/{name}"}

    def _problem(self, codes: Sequence[Code]) -> Json:
        """Problems of one status."""
        status = KINDS[codes[0]][0]
        narrowed = {"properties": {"code": {views.KNOWN: list(codes)}, "status": {"const": status}}}
        headers = ["X-Request-Id"]
        if status in {429, 503}:
            headers.append("Retry-After")
        if status == KINDS[Code.UNAUTHORIZED][0]:
            headers.append("WWW-Authenticate")
        return {
            "description": "\n".join(f"- `{code}`: {KINDS[code][2]}" for code in codes),
            "headers": _headers(headers),
            "content": {
                MEDIA_TYPE: {
                    "schema": {"allOf": [{"$ref": "#/components/schemas/Problem"}, narrowed]},
                    "examples": {code.value: {"value": self._example(code)} for code in codes},
                }
            },
        }

    def _example(self, code: Code) -> Json:
        faults = (FAULT,) if code is Code.INVALID_REQUEST else ()
        return self._problems.body(Problem(code, faults=faults), REQUEST_ID)


def _tag(call: Call) -> str:
    _, version, resource, *_ = *call.path.split("/"), ""
    return resource if version == "v1" else OPERATIONS


def _scopes(call: Call) -> str:
    if call.scopes is None:
        return "Needs no key."
    return "Scope: " + " or ".join(f"`{scope}`" for scope in sorted(call.scopes)) + "."


def _problems_of(call: Call) -> Iterable[Code]:
    """In the order of the table of problems."""
    possible = {*BEFORE_ALL, *call.problems}
    if call.scopes is not None:
        possible.update(WITH_KEY)
    if call.body:
        possible.update(WITH_BODY)
    return [code for code in Code if code in possible]


def _headers(names: Iterable[str]) -> Json:
    return {name: {"$ref": f"#/components/headers/{name}"} for name in names}


def _link(name: str) -> Json:
    """To a call that takes what this answer holds: a part of its path, or the members that its body needs."""
    (call,) = (call for call in CALLS if call.name == name)
    if "{" in call.path:
        part = call.path[call.path.index("{") + 1 : call.path.index("}")]
        return {"operationId": name, "parameters": {part: f"$response.body#/{part}"}}
    assert call.body is not None, "a call without a part in its path takes a body"
    needed = [field for field, about in call.body.model_fields.items() if about.is_required()]
    return {"operationId": name, "requestBody": {field: f"$response.body#/{field}" for field in needed}}


def _answer(answer: Answer) -> Json:
    made: Json = {"description": answer.says, "headers": _headers(("X-Request-Id", *answer.headers))}
    if answer.leads_to:
        made["links"] = {name: _link(name) for name in answer.leads_to}
    if answer.media_type:
        content: Json = {"schema": {"type": "object"} if answer.media_type == "application/json" else {"type": "string"}}
        if answer.view:
            content["schema"] = {"$ref": f"#/components/schemas/{answer.view.__name__}"}
        if answer.example:
            content["example"] = answer.example
        made["content"] = {answer.media_type: content}
    return made
