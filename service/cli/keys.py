"""`usher key`: make, list and revoke API keys. Works on the ledger with USHER_MIGRATION_DATABASE_URL where that is given."""

from datetime import datetime
from typing import Annotated, Any

import typer

from service import errors
from service.api.decoding import format_time, parse_time
from service.cli import output
from service.ledger import Ledger
from service.model import ApiKey, Scope

app = typer.Typer(no_args_is_help=True, help="API keys.")
COLUMNS = ("id", "name", "scopes", "created_at", "expires_at", "revoked_at", "last_used_at")


@app.command()
def create(
    name: Annotated[str, typer.Option(help="Whose key it is; no other key has this name.")],
    scope: Annotated[list[Scope], typer.Option(help="What it may do; admin includes the others. Repeatable.")],
    expires_at: Annotated[str | None, typer.Option(help="RFC 3339, such as 2026-11-22T10:15:30Z; never unless given.")] = None,
    *,
    json: output.Json = False,
) -> None:
    """Make a key and print it, once: the ledger keeps only its digest."""
    if not name.strip() or not name.isprintable():
        raise errors.ConfigurationError("--name: must be printable characters")
    until = _time(expires_at)
    settings = output.settings()

    async def work(ledger: Ledger, deadline: float) -> tuple[ApiKey, str]:
        return await ledger.keys.create(name, frozenset(scope), expires_at=until, deadline=deadline)

    key, text = output.with_ledger(settings, work, url=settings.migration_url)
    output.show({**view(key), "key": text}, lines=[text], as_json=json)


@app.command("list")
def list_keys(*, json: output.Json = False) -> None:
    """List all keys, the revoked ones too."""
    settings = output.settings()

    async def work(ledger: Ledger, deadline: float) -> list[ApiKey]:
        return await ledger.keys.list(deadline)

    keys = output.with_ledger(settings, work, url=settings.migration_url)
    output.show_rows("keys", [view(key) for key in keys], COLUMNS, as_json=json)


@app.command()
def revoke(
    which: Annotated[str, typer.Argument(metavar="NAME_OR_ID", help="The key's name, or its number in the list.")],
    *,
    json: output.Json = False,
) -> None:
    """Revoke a key: within two seconds every process refuses it."""
    settings = output.settings()

    async def work(ledger: Ledger, deadline: float) -> ApiKey | None:
        revoked = await ledger.keys.revoke(which, deadline)
        if revoked is None and which.isascii() and which.isdecimal():
            names = [key.name for key in await ledger.keys.list(deadline) if key.id == int(which)]
            revoked = await ledger.keys.revoke(names[0], deadline) if names else None
        return revoked

    key = output.with_ledger(settings, work, url=settings.migration_url)
    if key is None:
        raise output.Refused(f"there is no key {which!r}; `usher key list` shows all")
    output.show(view(key), lines=[f"revoked {key.name}"], as_json=json)


def view(key: ApiKey) -> dict[str, Any]:
    """A key as JSON; the key itself is nowhere."""
    return {
        "id": key.id,
        "name": key.name,
        "scopes": sorted(key.scopes),
        "created_at": format_time(key.created_at),
        "expires_at": _shown(key.expires_at),
        "revoked_at": _shown(key.revoked_at),
        "last_used_at": _shown(key.last_used_at),
    }


def _shown(moment: datetime | None) -> str | None:
    return format_time(moment) if moment else None


def _time(text: str | None) -> datetime | None:
    try:
        return parse_time(text) if text else None
    except ValueError as error:
        raise errors.ConfigurationError(f"--expires-at: {error}") from None
