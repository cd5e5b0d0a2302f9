"""`usher coupon`: create, show, list and update coupons, directly in the ledger; the counter follows."""

import asyncio
from typing import Annotated, Any

import typer

from service import config, errors
from service.api.answers import coupon_view
from service.api.bodies import CouponBody, CouponChangeBody, parse, parse_code
from service.api.decoding import loads_object
from service.api.problems import Problem
from service.cli import output
from service.config import Settings
from service.counters import Counters
from service.ledger import Ledger
from service.model import Coupon, CouponStatus, LoadedCoupon, Usage

app = typer.Typer(no_args_is_help=True, help="Coupons.")
COLUMNS = ("code", "status", "max_redemptions", "max_per_customer", "starts_at", "ends_at", "version")
NONE = "none"
"""In place of a value: no limit, no start, no end, no metadata."""
PAGE_SIZE = 500

Code = Annotated[str, typer.Argument(metavar="CODE", help="The coupon's code.")]
MaxRedemptions = Annotated[str | None, typer.Option(help="How often it may be redeemed in all; none: unlimited.")]
MaxPerCustomer = Annotated[str | None, typer.Option(help="How often by one customer; none: unlimited.")]
StartsAt = Annotated[str | None, typer.Option(help="RFC 3339, such as 2026-11-22T10:15:30Z, or none.")]
EndsAt = Annotated[str | None, typer.Option(help="RFC 3339, or none.")]
Status = Annotated[CouponStatus | None, typer.Option(help="Whether it can be redeemed.")]
Metadata = Annotated[str | None, typer.Option(help="A JSON object, or none.")]


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
    if body.starts_at and body.ends_at and body.ends_at <= body.starts_at:
        raise errors.WindowEmpty

    async def work(ledger: Ledger, deadline: float) -> Coupon:
        return await ledger.coupons.create(
            body.code,
            max_redemptions=body.max_redemptions,
            max_per_customer=body.max_per_customer,
            starts_at=body.starts_at,
            ends_at=body.ends_at,
            status=body.status,
            metadata=body.metadata,
            deadline=deadline,
        )

    output.show_fields(coupon_view(output.with_ledger(output.settings(), work)), as_json=json)


@app.command()
def show(code: Code, *, json: output.Json = False) -> None:
    """Show a coupon and how much of it is used."""
    folded = _code(code)

    async def work(ledger: Ledger, deadline: float) -> tuple[Coupon, Usage]:
        coupon = await ledger.coupons.get(folded, deadline)
        if coupon is None:
            raise errors.CouponNotFound
        return coupon, await ledger.coupons.usage(coupon, deadline)

    output.show_fields(coupon_view(*output.with_ledger(output.settings(), work)), as_json=json)


@app.command("list")
def list_coupons(
    *,
    status: Status = None,
    prefix: Annotated[str, typer.Option(help="Only codes that begin with this.")] = "",
    limit: Annotated[int, typer.Option(min=1, help="At most so many.")] = 1_000,
    json: output.Json = False,
) -> None:
    """List coupons by code."""

    async def work(ledger: Ledger, deadline: float) -> list[Coupon]:
        found: list[Coupon] = []
        while len(found) < limit:
            size = min(PAGE_SIZE, limit - len(found))
            page = await ledger.coupons.find(
                status=status,
                prefix=prefix.strip().upper(),
                after_code=found[-1].code if found else "",
                limit=size,
                deadline=deadline,
            )
            found += page
            if len(page) < size:
                break
        return found

    coupons = output.with_ledger(output.settings(), work)
    output.show_rows("coupons", [coupon_view(coupon) for coupon in coupons], COLUMNS, as_json=json)


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
    json: output.Json = False,
) -> None:
    """Change what is named; the rest stays as it is."""
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
        raise errors.ConfigurationError("nothing to change; name at least one of the options")
    settings = output.settings()

    async def work(ledger: Ledger, deadline: float) -> Coupon:
        coupon = await ledger.coupons.change(folded, changes, deadline=deadline)
        await _load_counter(settings, await ledger.coupons.load([folded], deadline))
        return coupon

    output.show_fields(coupon_view(output.with_ledger(settings, work)), as_json=json)


async def _load_counter(settings: Settings, loaded: dict[str, LoadedCoupon]) -> None:
    """The counter follows the ledger at once. Redis away is no failure: an outdated counter is found out by the service."""
    counters = await Counters.connect(settings)
    try:
        await counters.load(list(loaded.values()))
    except errors.CounterUnavailable as error:
        output.complain(
            f"changed; but the counters (Redis) at {config.address(settings.redis_url)} cannot be reached ({error}), "
            "so the service finds out by itself"
        )
    finally:
        await asyncio.shield(counters.close())


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
        raise errors.ConfigurationError(f"--metadata: {problem.faults[0].detail}") from None


def _whole_number(name: str, text: str) -> int:
    if not (text.isascii() and text.isdecimal()):
        raise errors.ConfigurationError(f"--{name.replace('_', '-')}: must be a whole number or {NONE}")
    return int(text)
