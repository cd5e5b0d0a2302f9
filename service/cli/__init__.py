"""`usher`: serve, migrate, keys and coupons. What went wrong is one line on standard error, and the exit status says it too."""

import os
import sys
from typing import Annotated

import typer

from service import config, errors, log
from service.cli import coupons, keys, output, serving

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, help="Usher redeems coupons.")
app.add_typer(keys.app, name="key")
app.add_typer(coupons.app, name="coupon")


@app.command()
def serve(
    host: Annotated[str | None, typer.Option(help="Address to listen on; USHER_LISTEN_HOST unless given.")] = None,
    port: Annotated[int | None, typer.Option(help="Port to listen on; USHER_LISTEN_PORT unless given.")] = None,
    workers: Annotated[int | None, typer.Option(help="Processes that serve; USHER_WORKERS unless given.")] = None,
) -> None:
    """The HTTP service, until it is told to stop (Ctrl-C or SIGTERM); then it finishes what it has claimed."""
    # What is given here must not hide that a variable is wrong.
    config.load()
    settings = config.load(listen_host=host, listen_port=port, workers=workers)
    log.configure(settings)
    log.warn_of_unknown_variables()
    raise typer.Exit(serving.serve(settings))


@app.command()
def migrate(*, json: output.Json = False) -> None:
    """Bring the ledger's schema up to date. Safe to run by several at once."""
    applied = serving.migrate(output.settings())
    lines = [f"applied {name}" for name in applied] or ["the schema is current"]
    output.show({"applied": applied}, lines=lines, as_json=json)


def main() -> None:
    """The program. Exit status 0: done; 1: refused, such as a coupon that exists; 2: could not be done."""
    sys.excepthook = log.log_uncaught
    try:
        app()
    except errors.UsherError as error:
        output.complain(str(error))
        sys.exit(output.status_of(error))
    except BrokenPipeError:
        # Whoever read the output has gone; without this, Python complains once more at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(output.COULD_NOT)
