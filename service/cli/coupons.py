"""`usher coupon`: create, show, list and update coupons, directly in the ledger, and who did; the counter follows."""

import asyncio
import os
import pwd
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Annotated, Any, Final, TypeVar

import orjson
import typer

from service import errors, explaining, printing
from service.api.answers import coupon_view, version_view
from service.api.bodies import RULES, CouponBody, CouponChangeBody, parse, parse_code, parse_prefix, parse_status
from service.api.decoding import loads_object
from service.api.pages import Tokens, history_position, history_tokens, page
from service.api.problems import Problem, invalid
from service.cli import output
from service.config import Settings
from service.counters import Counters
from service.ledger import Ledger
from service.ledger.coupon_changes import Change
from service.model import Coupon, CouponStatus, CouponVersion, LoadedCoupon, Usage

app = typer.Typer(no_args_is_help=True, help="Coupons.")
COLUMNS = ("code", "status", "max_redemptions", "max_per_customer", "starts_at", "ends_at", "version")
HISTORY_COLUMNS = ("version", "when", "who", "what")
WHO_MAX_CHARS: Final = 128
"""Of who has made a change, in the history."""
NONE = "none"
"""In place of a value: no limit, no start, no end, no metadata."""
PAGE_SIZE = 500
MORE = "there are more than these {limit:,}: --limit shows more of them, --page-token {token} goes on"
DIGITS_MAX = 20
"""More are no limit, and a text of thousands is not turned into a number."""
REFUSALS: Final = {
    errors.CouponExists: "coupon {code} exists; `usher coupon update {code}` changes it",
    errors.CouponNotFound: "there is no coupon {code}; `usher coupon list` shows all",
    errors.VersionMismatch: "coupon {code} was changed meanwhile: it is not of the version that --if-version names. "
    "`usher coupon show {code}` shows it as it is now",
    errors.LimitKindFixed: "coupon {code}: whether it has a limit is fixed when it is created",
    errors.CouponBusy: "coupon {code}: a large change is under way; try again in some seconds",
    errors.CustomerLimitLowered: "coupon {code}: --max-per-customer can be raised, not lowered",
    errors.WindowEmpty: "coupon {code}: --ends-at must be after --starts-at",
}
"""Whoever has typed the code may read it again."""

Code = Annotated[str, typer.Argument(metavar="CODE", help="The coupon's code.")]
MaxRedemptions = Annotated[str | None, typer.Option(help="How often it may be redeemed in all; none: unlimited.")]
MaxPerCustomer = Annotated[str | None, typer.Option(help="How often by one customer; none: unlimited.")]
StartsAt = Annotated[str | None, typer.Option(help="RFC 3339, such as 2026-11-22T10:15:30Z, or none.")]
EndsAt = Annotated[str | None, typer.Option(help="RFC 3339, or none.")]
Status = Annotated[
    str | None,
    typer.Option(metavar="|".join(CouponStatus), autocompletion=lambda: [*CouponStatus], help="Whether it can be redeemed."),
]
Metadata = Annotated[str | None, typer.Option(help="A JSON object, or none.")]
Limit = Annotated[int, typer.Option(min=1, help="At most so many.")]
PageToken = Annotated[str | None, typer.Option(help="Go on where another list ended: its next_page_token.")]

T = TypeVar("T")


@app.command()
def create(
    code: Code,
    *,
    max_redemptions: MaxRedemptions = None,
    max_per_customer: MaxPerCustomer = None,
    starts_at: StartsAt = None,
    ends_at: EndsAt = None,
    status: Status = None,
    metadata: Metadata = None,
    json: output.Json = False,
) -> None:
    """Create a coupon. Without limits it is unlimited."""
    members = _members(
        max_redemptions=max_redemptions,
        max_per_customer=max_per_customer,
        starts_at=starts_at,
        ends_at=ends_at,
        status=status,
        metadata=metadata,
    )
    try:
        body = parse(CouponBody, {"code": code, **members})
    except Problem as problem:
        raise output.refuse_faults(problem) from None

    async def work(ledger: Ledger, deadline: float) -> Coupon:
        return await ledger.coupon_changes.create(
            body.code,
            max_redemptions=body.max_redemptions,
            max_per_customer=body.max_per_customer,
            starts_at=body.starts_at,
            ends_at=body.ends_at,
            status=body.status,
            metadata=body.metadata,
            by=_who(),
            deadline=deadline,
        )

    settings = output.settings()
    with _named(body.code):
        _show(output.with_ledger(settings, work), as_json=json)


@app.command()
def show(code: Code, *, json: output.Json = False) -> None:
    """Show a coupon and how much of it is used."""
    folded = _code(code)

    async def work(ledger: Ledger, deadline: float) -> tuple[Coupon, Usage]:
        coupon = await ledger.coupons.get(folded, deadline)
        if coupon is None:
            raise errors.CouponNotFound
        return coupon, await ledger.coupons.usage(coupon, deadline)

    settings = output.settings()
    with _named(folded):
        _show(*output.with_ledger(settings, work), as_json=json)


@app.command("list")
def list_coupons(
    *,
    status: Status = None,
    prefix: Annotated[str, typer.Option(help="Only codes that begin with this.")] = "",
    limit: Limit = 1_000,
    page_token: PageToken = None,
    json: output.Json = False,
) -> None:
    """List coupons by code."""
    try:
        wanted = parse_status(status, "/status") if status else None
        beginning = parse_prefix(prefix, "/prefix") if prefix else ""
        # The same filters as those of GET /v1/coupons, so that one's tokens are good for the other.
        tokens = Tokens("coupons", {"status": wanted, "prefix": beginning})
        position = tokens.read({"page_token": page_token} if page_token else {})
    except Problem as problem:
        raise output.refuse_faults(problem) from None

    async def work(ledger: Ledger, deadline: float) -> list[Coupon]:
        async def some(after: Coupon | None, size: int) -> list[Coupon]:
            after_code = after.code if after else (position or b"").decode("ascii")
            return await ledger.coupons.find(
                status=wanted, prefix=beginning, after_code=after_code, limit=size, deadline=deadline
            )

        return await _one_more_than(limit, some)

    found = output.with_ledger(output.settings(), work)
    views = [coupon_view(coupon) for coupon in found[:limit]]
    token = tokens.make(views[-1]["code"].encode()) if len(found) > limit else None
    if json:
        printing.show_json(page(views, token))
    else:
        printing.show_rows("coupons", views, COLUMNS, as_json=False)
    if token:
        output.complain(MORE.format(limit=limit, token=token))


@app.command()
def history(code: Code, *, limit: Limit = 1_000, page_token: PageToken = None, json: output.Json = False) -> None:
    """Show who changed a coupon, when and how, the newest first."""
    folded = _code(code)
    tokens = history_tokens(folded)
    try:
        below_version = history_position(tokens, {"page_token": page_token} if page_token else {})
    except Problem as problem:
        raise output.refuse_faults(problem) from None

    async def work(ledger: Ledger, deadline: float) -> list[CouponVersion]:
        async def some(after: CouponVersion | None, size: int) -> list[CouponVersion]:
            below = after.version if after else below_version
            return await ledger.coupons.history(folded, below_version=below, limit=size, deadline=deadline)

        if await ledger.coupons.get(folded, deadline) is None:
            raise errors.CouponNotFound
        return await _one_more_than(limit, some)

    settings = output.settings()
    with _named(folded):
        found = output.with_ledger(settings, work)
    views = [version_view(version) for version in found[:limit]]
    token = tokens.make(str(views[-1]["version"]).encode()) if len(found) > limit else None
    if json:
        printing.show_json(page(views, token))
    else:
        printing.show_rows("changes", [{**view, "what": _what(view)} for view in views], HISTORY_COLUMNS, as_json=False)
    if token:
        output.complain(MORE.format(limit=limit, token=token))


def _what(view: dict[str, Any]) -> str:
    """What a change has changed, in the words of the options."""
    before, after = view["before"], view["after"]
    if before is None:
        return "created"
    names = [name for name in after if before.get(name) != after[name]]
    return "; ".join(f"{name} {_plain(before.get(name))} -> {_plain(after[name])}" for name in names) or "nothing"


def _plain(value: Any) -> str:  # noqa: ANN401  (any JSON)
    """A value as an option takes it."""
    if value is None:
        return NONE
    return value if isinstance(value, str) else orjson.dumps(value).decode()


async def _one_more_than(limit: int, some: Callable[[T | None, int], Awaitable[list[T]]]) -> list[T]:
    """What `some` gives after the last one, so many at a time; one more than asked for, where there is one."""
    found: list[T] = []
    while len(found) <= limit:
        size = min(PAGE_SIZE, limit + 1 - len(found))
        more = await some(found[-1] if found else None, size)
        found += more
        if len(more) < size:
            break
    return found


def _who() -> str:
    """Who makes a change, for the history: this process' user, by name where it has one."""
    uid = os.getuid()
    try:
        name = pwd.getpwuid(uid).pw_name
    except KeyError:  # In a container, say.
        name = str(uid)
    return f"command line ({printing.printable(name)})"[:WHO_MAX_CHARS]


@app.command()
def update(
    code: Code,
    *,
    max_redemptions: MaxRedemptions = None,
    max_per_customer: MaxPerCustomer = None,
    starts_at: StartsAt = None,
    ends_at: EndsAt = None,
    status: Status = None,
    metadata: Metadata = None,
    if_version: Annotated[int | None, typer.Option(min=1, help="Only if the coupon still has this version.")] = None,
    json: output.Json = False,
) -> None:
    """Change what is named; the rest stays as it is. `--status paused` stops redemptions, `--status archived` hides the coupon.

    When this has ended with status 0, no redemption is admitted by the old values any more.
    """
    members = _members(
        max_redemptions=max_redemptions,
        max_per_customer=max_per_customer,
        starts_at=starts_at,
        ends_at=ends_at,
        status=status,
        metadata=metadata,
    )
    folded = _code(code)
    try:
        changes = parse(CouponChangeBody, members).changes()
    except Problem as problem:
        raise output.refuse_faults(problem) from None
    if not changes:
        raise errors.ConfigurationError("nothing to change: name what is to change, such as --status paused")
    settings = output.settings()

    async def work(ledger: Ledger, deadline: float) -> Coupon:
        coupon = await ledger.coupon_changes.change(Change(folded, changes, _who(), if_version), deadline)
        await _load_counter(settings, await ledger.coupons.load([folded], deadline))
        return coupon

    with _named(folded):
        _show(output.with_ledger(settings, work), as_json=json)


async def _load_counter(settings: Settings, loaded: dict[str, LoadedCoupon]) -> None:
    """The counter follows the ledger at once. Redis away is no failure: an outdated counter is found out by the service."""
    counters = await Counters.connect(settings)
    await counters.breaker.stop()  # There is one call: nothing to probe for, and what keeps it from Redis is told below.
    try:
        await counters.load(list(loaded.values()))
    except errors.CounterUnavailable as error:
        output.complain(
            f"the change is in force, since the ledger decides; but {explaining.what_ails_redis(settings, error)}. "
            "So the counter keeps the old values until the service notices, at the first redemption that they mislead."
        )
    finally:
        await asyncio.shield(counters.close())


@contextmanager
def _named(code: str) -> Iterator[None]:
    """Refusals say which coupon it is."""
    try:
        yield
    except tuple(REFUSALS) as error:
        raise type(error)(REFUSALS[type(error)].format(code=code)) from error


def _show(coupon: Coupon, usage: Usage | None = None, *, as_json: bool) -> None:
    view = coupon_view(coupon, usage)
    printing.show_fields(view, as_json=as_json, for_people=list(_for_people(view)))


def _for_people(view: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """A coupon as a person asks about it."""
    limit, usage = view["max_redemptions"], view.get("usage")
    yield "code", view["code"]
    yield "status", view["status"]
    if usage:
        of = f" of {limit:,}" if limit else ""
        yield "used", f"{usage['confirmed'] + usage['reserved']:,}{of} ({usage['reserved']:,} of them on hold)"
        yield "remaining", "unlimited" if usage["remaining"] is None else f"{usage['remaining']:,}"
    else:
        yield "limit", f"{limit:,}" if limit else "unlimited"
    per_customer = view["max_per_customer"]
    yield "per customer", f"{per_customer:,}" if per_customer else "unlimited"
    yield "starts", _moment(view["starts_at"], "at once")
    yield "ends", _moment(view["ends_at"], "never")
    for name, value in view["metadata"].items():
        yield f"metadata {name}", printing.printable(value if isinstance(value, str) else orjson.dumps(value).decode())
    yield "version", f"{view['version']}, of {_moment(view['updated_at'], '')}"
    yield "created", _moment(view["created_at"], "")


def _moment(time: str | None, without: str) -> str:
    return f"{printing.readable(time)} UTC" if time else without


def _code(text: str) -> str:
    try:
        return parse_code(text, "/code")
    except Problem as problem:
        raise output.refuse_faults(problem) from None


def _members(**given: str | None) -> dict[str, Any]:
    """The options that were given as the members of a request's body."""
    members: dict[str, Any] = {}
    for name, text in given.items():
        if text is None:
            continue
        if text == NONE:
            members[name] = None
        elif name == "metadata":
            members[name] = _metadata(text)
        elif name.startswith("max_"):
            members[name] = _whole_number(name, text)
        else:
            members[name] = text
    return members


def _metadata(text: str) -> dict[str, Any]:
    try:
        return loads_object(text.encode("utf-8", "surrogateescape"))
    except Problem as problem:
        raise errors.ConfigurationError(f"--metadata {problem.faults[0].detail}") from None


def _whole_number(name: str, text: str) -> int:
    if not (text.isascii() and text.isdecimal() and len(text) <= DIGITS_MAX):
        raise output.refuse_faults(invalid(f"/{name}", RULES[name]))
    return int(text)
