"""`usher`: serve, migrate, keys and coupons. What went wrong is one line on standard error, and the exit status says it too."""

import sys
from importlib.metadata import version
from typing import Annotated

import typer
from typer.main import get_command

from service import config, errors, log, printing
from service.cli import coupons, keys, logs, output, serving

PROGRAM = "usher"
PACKAGE = "usher-coupons"

app = typer.Typer(
    no_args_is_help=True,
    help="Usher redeems coupons.",
    # Boxes and colours are for people; other programs get plain lines.
    rich_markup_mode="rich" if sys.stdout.isatty() else None,
)
app.add_typer(keys.app, name="key")
app.add_typer(coupons.app, name="coupon")
app.command("log-hash")(logs.log_hash)


def _print_version(asked: bool) -> None:  # noqa: FBT001  (typer calls it with the flag)
    if asked:
        printing.show(None, lines=[f"{PROGRAM} {version(PACKAGE)}"], as_json=False)
        raise typer.Exit


@app.callback()
def usher(
    *,
    _: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Usher redeems coupons."""


@app.command()
def serve(
    host: Annotated[str | None, typer.Option(help="Address to listen on; USHER_LISTEN_HOST unless given.")] = None,
    port: Annotated[
        str | None, typer.Option(metavar="NUMBER", help="Port to listen on; USHER_LISTEN_PORT unless given.")
    ] = None,
    workers: Annotated[
        str | None, typer.Option(metavar="NUMBER", help="Processes that serve; USHER_WORKERS unless given.")
    ] = None,
) -> None:
    """The HTTP service, until it is told to stop (Ctrl-C or SIGTERM); then it finishes what it has claimed."""
    settings = config.load(listen_host=("--host", host), listen_port=("--port", port), workers=("--workers", workers))
    log.configure(settings)
    log.warn_of_unknown_variables()
    raise typer.Exit(serving.serve(settings))


@app.command()
def migrate(*, json: output.Json = False) -> None:
    """Bring the ledger's schema up to date. Safe to run by several at once."""
    applied = serving.migrate(output.settings())
    lines = [f"applied {name}" for name in applied] or ["the schema is current"]
    printing.show({"applied": applied}, lines=lines, as_json=json)


def main() -> None:
    """The program. Exit status 0: done; 1: refused, such as a coupon that exists; 2: could not be done."""
    sys.excepthook = log.log_uncaught
    try:
        # Not `app()`, which would put a hook of its own in the place of ours.
        get_command(app)(prog_name=PROGRAM)
    except errors.UsherError as error:
        output.complain(str(error))
        sys.exit(output.status_of(error))
