"""`usher key`: make, rotate, list and revoke API keys. Works on the ledger with USHER_MIGRATION_DATABASE_URL where given."""

import re
from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta
from typing import Annotated, Any, Final

import typer

from service import errors, printing
from service.api.decoding import format_time, parse_time
from service.cli import output
from service.ledger import Ledger
from service.ledger.keys import NAME_MAX_CHARS
from service.model import ApiKey, Scope

app = typer.Typer(no_args_is_help=True, help="API keys.")
COLUMNS = ("id", "name", "scopes", "status", "last_used_at", "created_at", "expires_at", "revoked_at")
SPAN: Final = re.compile(r"([1-9][0-9]{0,4})([smhdw])")
UNITS: Final = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}
NEVER: Final = "never"
IN_FORCE: Final = "in_force"

Which = Annotated[str, typer.Argument(metavar="NAME_OR_ID", help="The key's name, or its number in the list.")]
ExpiresAt = Annotated[str | None, typer.Option(help="RFC 3339, such as 2026-11-22T10:15:30Z; never unless given.")]
ExpiresIn = Annotated[str | None, typer.Option(help="The same as a span from now, such as 90d, 12h or 30m.")]


@app.command()
def create(
    name: Annotated[str, typer.Option(help="Whose key it is; no other key has this name.")],
    scope: Annotated[list[Scope], typer.Option(help="What it may do; admin includes the others. Repeatable.")],
    expires_at: ExpiresAt = None,
    expires_in: ExpiresIn = None,
    *,
    json: output.Json = False,
) -> None:
    """Make a key and print it, once: the ledger keeps only its digest."""
    if not name.strip() or not name.isprintable() or len(name) > NAME_MAX_CHARS:
        raise errors.ConfigurationError(f"--name: must be 1 to {NAME_MAX_CHARS} printable characters")
    if name.strip().isdecimal():
        raise errors.ConfigurationError("--name: must not be a number; keys are known by their numbers, too")
    until = _expiry(expires_at, expires_in)

    async def work(ledger: Ledger, deadline: float) -> tuple[ApiKey, str]:
        return await ledger.keys.create(name, frozenset(scope), expires_at=until(ledger.now()), deadline=deadline)

    _show_new(*_with_ledger(work), as_json=json)


@app.command()
def rotate(
    which: Which,
    overlap: Annotated[str, typer.Option(help="How long the old key stays in force, such as 7d or 12h.")] = "7d",
    expires_at: ExpiresAt = None,
    expires_in: ExpiresIn = None,
    *,
    json: output.Json = False,
) -> None:
    """Make a key that takes another's place, and print it, once. The old one expires after the overlap.

    The new key may do what the old one may, and has its name with the next number. `usher key expire` moves the old one's
    end, `usher key revoke` ends it at once; `usher key list` shows whether it is still used.
    """
    until = _expiry(expires_at, expires_in)
    lasts = _span(overlap, "--overlap")

    async def work(ledger: Ledger, deadline: float) -> tuple[ApiKey, str]:
        old = await _find(ledger, which, deadline)
        status = status_of(old, ledger.now())
        if status != IN_FORCE:
            raise output.Refused(
                f"the key {old.name} is {status}; there is nothing to rotate, `usher key create` makes a new one"
            )
        return await ledger.keys.rotate(old, overlap=lasts, expires_at=until(ledger.now()), deadline=deadline)

    _show_new(*_with_ledger(work), as_json=json)


def _show_new(key: ApiKey, text: str, *, as_json: bool) -> None:
    printing.show({**view(key, key.created_at), "key": text}, lines=[text], as_json=as_json)


@app.command("list")
def list_keys(*, json: output.Json = False) -> None:
    """List all keys with their status and last use, the expired and revoked ones too."""

    async def work(ledger: Ledger, deadline: float) -> tuple[list[ApiKey], datetime]:
        return await ledger.keys.list(deadline), ledger.now()

    keys, now = _with_ledger(work)
    rows = [view(key, now) for key in keys]
    if not json:
        rows = [{**row, "status": status_for_people(key, now)} for row, key in zip(rows, keys, strict=True)]
    printing.show_rows("keys", rows, COLUMNS, as_json=json)


@app.command()
def expire(
    which: Which,
    when: Annotated[str, typer.Argument(metavar="WHEN", help="A span such as 7d, an RFC 3339 time, or never.")],
    *,
    json: output.Json = False,
) -> None:
    """Give a key another time to expire, earlier or later; also one that has expired. Revoked keys stay revoked."""
    if when == NEVER:
        until = _expiry(None, None)
    else:
        until = _expiry(None, when, "WHEN") if SPAN.fullmatch(when) else _expiry(when, None, "WHEN")

    async def work(ledger: Ledger, deadline: float) -> tuple[ApiKey, datetime]:
        found = await _find(ledger, which, deadline)
        key = await ledger.keys.expire(found.name, until(ledger.now()), deadline)
        if key is None or key.revoked_at is not None:
            raise output.Refused(f"the key {found.name} is revoked, for good")
        return key, ledger.now()

    key, now = _with_ledger(work)
    printing.show(view(key, now), lines=[f"{key.name}: {status_for_people(key, now)}"], as_json=json)


@app.command()
def revoke(which: Which, *, json: output.Json = False) -> None:
    """Revoke a key, for good: within two seconds every process refuses it."""

    async def work(ledger: Ledger, deadline: float) -> tuple[ApiKey, datetime]:
        found = await _find(ledger, which, deadline)
        if found.revoked_at is not None:
            return found, ledger.now()
        began_at = ledger.now()
        return await ledger.keys.revoke(found.name, deadline) or found, began_at

    key, began_at = _with_ledger(work)
    used = f"last used {format_time(key.last_used_at)}" if key.last_used_at else "never used"
    done = f"revoked {key.name}"
    if key.revoked_at is not None and key.revoked_at < began_at:
        done = f"{key.name} was revoked already, at {format_time(key.revoked_at)}"
    printing.show(view(key, began_at), lines=[f"{done}, {used}"], as_json=json)


def view(key: ApiKey, now: datetime) -> dict[str, Any]:
    """A key as JSON; the key itself is nowhere."""
    return {
        "id": key.id,
        "name": key.name,
        "scopes": sorted(key.scopes),
        "status": status_of(key, now),
        "created_at": format_time(key.created_at),
        "expires_at": _shown(key.expires_at),
        "revoked_at": _shown(key.revoked_at),
        "last_used_at": _shown(key.last_used_at),
    }


def status_of(key: ApiKey, now: datetime) -> str:
    """`in_force`, `expired` or `revoked`."""
    if key.revoked_at is not None:
        return "revoked"
    return "expired" if key.expires_at is not None and key.expires_at <= now else IN_FORCE


def status_for_people(key: ApiKey, now: datetime) -> str:
    """The status, and how much longer it lasts: `in force`, `expires in 6 d`, `expires in 40 min`, `expired`, `revoked`."""
    status = status_of(key, now)
    if status != IN_FORCE or key.expires_at is None:
        return status.replace("_", " ")
    minutes = int((key.expires_at - now).total_seconds() / 60)
    for unit, size in (("d", 24 * 60), ("h", 60)):
        if minutes >= 2 * size:
            return f"expires in {minutes // size} {unit}"
    return f"expires in {minutes} min"


def _with_ledger(work: Callable[[Ledger, float], Awaitable[output.T]]) -> output.T:
    settings = output.settings()
    return output.with_ledger(settings, work, url=settings.migration_url)


async def _find(ledger: Ledger, which: str, deadline: float) -> ApiKey:
    """The key of this name or number; raises Refused."""
    keys = await ledger.keys.list(deadline)
    found = [key for key in keys if which in (key.name, str(key.id))]
    if not found:
        raise output.Refused(f"there is no key {which!r}; `usher key list` shows all")
    if len(found) > 1:
        raise output.Refused(
            f"{which} is the name of one key and the number of another; use the other word for the one you mean"
        )
    return found[0]


def _shown(moment: datetime | None) -> str | None:
    return format_time(moment) if moment else None


def _expiry(at: str | None, within: str | None, argument: str = "") -> Callable[[datetime], datetime | None]:
    """When a key is to expire, once the ledger's time is known. Raises ConfigurationError, in the end for a past time too."""
    if at is not None and within is not None:
        raise errors.ConfigurationError("--expires-at, --expires-in: give one of them")
    if within is not None:
        span = _span(within, argument or "--expires-in")
        return lambda now: now + span
    if at is None:
        return lambda _: None
    name = argument or "--expires-at"
    try:
        moment = parse_time(at)
    except ValueError as error:
        spans = ", a span such as 7d, or never" if argument else ""
        raise errors.ConfigurationError(f"{name}: {error}{spans}") from None

    def check(now: datetime) -> datetime:
        if moment <= now:
            raise errors.ConfigurationError(f"{name}: must be in the future; the ledger's clock says {format_time(now)}")
        return moment

    return check


def _span(text: str, name: str) -> timedelta:
    found = SPAN.fullmatch(text)
    if not found:
        raise errors.ConfigurationError(f"{name}: must be a number and one of {', '.join(UNITS)}, such as 90d")
    return timedelta(**{UNITS[found[2]]: int(found[1])})
