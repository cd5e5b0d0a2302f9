"""What can go wrong, as exceptions. `usher_client.problems` has one class for each code of the contract.

Three are worth an `except` in a checkout:

- `Refused`: Usher's answer is no. Take the discount off and say why, by `code`.
- `TryAgain`: there was no answer, after all tries. The same call is right later, and never uses a coupon twice.
- `UsherError`: all of them. What is neither of the two is a mistake in the call, its key or its address: tell a developer.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar


class UsherError(Exception):
    """A call to Usher did not succeed.

    Attributes:
        tries: how often it was sent.
        answer_lost: the answer to a try was lost, or Usher did not know it itself, so that try may have been carried out.
    """

    tries: int = 0
    answer_lost: bool = False


class TryAgain(UsherError):
    """There was no answer, although it was asked for as long as the patience allowed. The same call is right later."""


class Unreachable(TryAgain):
    """The last try had no answer: nobody could be connected to, the connection broke, or it took too long."""


class NotSecure(UsherError):
    """No connection by TLS that can be trusted, so nothing was sent, the key neither.

    The certificate is another host's, or its issuer is not known here, or what listens there speaks no TLS: the URL, the
    certificate or the `ssl` argument is wrong.
    """


class AnswerNotUnderstood(TryAgain):
    """A success that is not in Usher's words: it was cut short, or what answers at this address is no Usher."""

    answer_lost = True


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing wrong with a request. `pointer`: a JSON pointer into the body, `?name` of the query, or a header's name."""

    pointer: str
    detail: str


class Problem(UsherError):
    """Usher's answer is a problem; the subclasses say which.

    Attributes:
        status: of HTTP.
        code: the contract's; empty where somebody between here and Usher has answered.
        title, detail: for developers, in English; they may change.
        request_id: what Usher's operator asks for.
        errors: what was wrong with the request, for `InvalidRequest`.
        retry_after_s: how long the answer asks to wait; None where it does not say.
    """

    known_code: ClassVar[str] = ""
    """The code that a subclass stands for."""
    nothing_done: ClassVar[bool] = True
    """Whether an answer with this code says that the try has changed nothing."""

    def __init__(
        self, status: int, body: Mapping[str, Any], *, request_id: str = "", retry_after_s: float | None = None
    ) -> None:
        super().__init__(status, body)
        self.status = status
        self.code = _text(body, "code")
        self.title = _text(body, "title")
        self.detail = _text(body, "detail")
        self.request_id = _text(body, "request_id") or request_id
        self.errors = tuple(_faults(body.get("errors")))
        self.retry_after_s = retry_after_s

    def __str__(self) -> str:
        said = "; ".join(
            [self.detail or self.title or "no problem of Usher's", *(f"{e.pointer} {e.detail}" for e in self.errors)]
        )
        return f"{self.status} {self.code or 'without a code'}: {said} (request {self.request_id or 'unknown'})"


def _text(body: Mapping[str, Any], name: str) -> str:
    value = body.get(name)
    return value if isinstance(value, str) else ""


def _faults(errors: object) -> Iterator[Fault]:
    for one in errors if isinstance(errors, list) else ():
        if isinstance(one, Mapping):
            yield Fault(_text(one, "pointer"), _text(one, "detail"))
