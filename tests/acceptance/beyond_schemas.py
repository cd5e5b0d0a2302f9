"""Rules of requests that a schema cannot state: schemathesis takes what breaks one of them for valid, and a 400 for a mistake.

Each is let pass only with the fault that names it. All else that fits its schema must be accepted.
"""

import re

import schemathesis

from service.api.openapi import document

BEYOND = (
    (r"\?page_token", r"is no token of this list.*", "a token is one that was handed out, with the same filters"),
    (r"\?code", r"at least one of code, customer_id and order_id is needed", "one of three parameters, whichever"),
    (r"/(starts|ends)_at", r"must be after starts_at", "two fields are compared"),
    (r"/(starts|ends)_at", r"must not be before the year 1970|is not a date within the calendar", "offsets, days of a month"),
    (r"", r"a number is out of range", "metadata holds any JSON, but no number beyond a double or 64 bits"),
)
IF_MATCH = re.compile(r'\*|(W/)?"[!#-~]*"( *, *(W/)?"[!#-~]*")*')

DOCUMENT = document("https://usher.invalid/problems/")


@schemathesis.check
def documented_code(ctx, response, case) -> None:  # type: ignore[no-untyped-def]  # noqa: ANN001
    """A problem's code is one that the document names for this call and status. Its schema lets any pass."""
    described = DOCUMENT["paths"].get(case.operation.path, {}).get(case.method.lower())
    if "problem+json" not in response.headers.get("content-type", [""])[0] or described is None:
        return
    answer = described["responses"].get(str(response.status_code), {})
    if "$ref" in answer:
        answer = DOCUMENT["components"]["responses"][answer["$ref"].rpartition("/")[2]]
    code = response.json()["code"]
    named = answer.get("content", {}).get("application/problem+json", {}).get("examples", {})
    assert code in named, f"{case.method} {case.operation.path} does not end in {code}, says the document"


@schemathesis.hook
def filter_failure(context, failure, case, response) -> bool:  # type: ignore[no-untyped-def]  # noqa: ANN001
    """Whether it is one."""
    if type(failure).__name__ != "RejectedPositiveData" or response.status_code != 400:
        return True
    faults = [(fault["pointer"], fault["detail"]) for fault in response.json()["errors"]]
    return not all(is_beyond(pointer, detail, case.headers or {}) for pointer, detail in faults)


def is_beyond(pointer: str, detail: str, headers: dict[str, str]) -> bool:
    # Schemathesis puts what it found in answers into this header, whatever the schema says.
    if pointer == "If-Match":
        return not IF_MATCH.fullmatch(headers["If-Match"])
    return any(re.fullmatch(where, pointer) and re.fullmatch(what, detail) for where, what, _ in BEYOND)
