"""`usher-reconciler`: the scheduled jobs, and check, repair and reseed by hand.

What went wrong is a line on standard error, and the exit status says it too.
"""

import asyncio
import sys
from importlib.metadata import version
from typing import Annotated, Final

import typer
from typer.main import get_command

from reconciler import commands, schedule
from reconciler.commands import COULD_NOT, Asked
from service import config, errors, log
from service.addresses import address
from service.config import Settings
from service.reconciling import Mode

PROGRAM: Final = "usher-reconciler"
PACKAGE: Final = "usher-coupons"

app = typer.Typer(
    no_args_is_help=True,
    help="Keeps the ledger and its counters in order, beside `usher serve`.",
    # Boxes and colours are for people; other programs get plain lines.
    rich_markup_mode="rich" if sys.stdout.isatty() else None,
)


def _print_version(asked: bool) -> None:  # noqa: FBT001  (typer calls it with the flag)
    if asked:
        sys.stdout.write(f"{PROGRAM} {version(PACKAGE)}\n")
        raise typer.Exit


@app.callback()
def reconciler(
    *,
    _: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Keeps the ledger and its counters in order, beside `usher serve`."""


Code = Annotated[str | None, typer.Option("--code", metavar="CODE", help="Only this coupon; all unless given.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]


@app.command()
def run() -> None:
    """Do the scheduled jobs until told to stop. After Ctrl-C or SIGTERM it finishes what it has begun."""
    settings = _settings()
    try:
        asyncio.run(schedule.run(settings))
    except errors.SchemaNotCurrent as error:
        where = f"The ledger (MariaDB) is at {address(settings.database_url)} (USHER_DATABASE_URL)."
        raise errors.SchemaNotCurrent(f"{error} {where}") from error


@app.command()
def check(*, code: Code = None, json: Json = False) -> None:
    """Compare the counters with the ledger, and change nothing. Status 0: they agree; 1: findings; 2: it could not look."""
    _carry_out(Asked(Mode.CHECK, code, as_json=json))


@app.command()
def repair(*, code: Code = None, json: Json = False) -> None:
    """Compare the counters with the ledger, and mend what differs. Status 0: all is well; 1: not all; 2: it could not look."""
    _carry_out(Asked(Mode.REPAIR, code, as_json=json))


@app.command()
def reseed(
    *,
    code: Code = None,
    force: Annotated[bool, typer.Option("--force", help="Also counters that are there and up to date.")] = False,
    json: Json = False,
) -> None:
    """Load counters that are missing or outdated. The busiest coupons come first. Status 0: done; 2: it could not."""
    _carry_out(Asked(Mode.RESEED, code, force=force, as_json=json))


def _settings() -> Settings:
    """The settings, and the log by them."""
    settings = config.load()
    log.configure(settings)
    log.warn_of_unknown_variables()
    return settings


def _carry_out(asked: Asked) -> None:
    status, wrong = commands.carry_out(_settings(), asked)
    if wrong:
        _complain(wrong)
    raise typer.Exit(status)


def _complain(text: str) -> None:
    """Each line of a text on standard error, with the program's name before it."""
    sys.stderr.write("".join(f"{PROGRAM}: {' '.join(line.split())}\n" for line in text.splitlines()))


def main() -> None:
    """The program. Exit status 0: done, and all is well; 1: something was found; 2: could not be done."""
    sys.excepthook = log.log_uncaught
    try:
        # Not `app()`, which would put a hook of its own in the place of ours.
        get_command(app)(prog_name=PROGRAM)
    except errors.UsherError as error:
        _complain(str(error))
        sys.exit(COULD_NOT)


if __name__ == "__main__":
    main()
