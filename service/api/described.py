"""How a call of the API is described: what it takes, who may make it, and how it is answered."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from service.api import views
from service.api.bodies import Body
from service.api.problems import Code
from service.model import Scope


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """An answer that is no problem.

    Attributes:
        view: what it holds; None where that is no JSON, or has no model.
        headers: names of the builder's HEADERS.
        leads_to: calls that take what it holds: a part of their path by the same name, or members of their body.
    """

    status: int
    says: str
    view: type[views.View] | None = None
    example: Mapping[str, Any] | None = None
    headers: tuple[str, ...] = ()
    media_type: str = "application/json"
    leads_to: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One call. The document groups calls by what their path begins with: see TAGS.

    Attributes:
        scopes: a key with one of them may make it; None: nobody is asked for a key.
        parameters: names of the builder's PARAMETERS.
        problems: beside those that every call can end in.
        body_optional: no body is as good as an empty object.
        examples: bodies by name.
    """

    method: str
    path: str
    name: str
    summary: str
    scopes: frozenset[Scope] | None
    answers: tuple[Answer, ...]
    parameters: tuple[str, ...] = ()
    problems: tuple[Code, ...] = ()
    body: type[Body] | None = None
    body_optional: bool = False
    examples: Mapping[str, Mapping[str, Any]] | None = None
    details: str = ""
