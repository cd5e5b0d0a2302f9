"""`usher log-hash`: what stands in the log for a code, a customer or an order."""

import sys
from typing import Annotated

import typer

from service import errors, log, printing
from service.cli import output


def log_hash(
    value: Annotated[
        str | None, typer.Argument(help="Read from standard input unless given: that way it is not in the shell's history.")
    ] = None,
    *,
    json: output.Json = False,
) -> None:
    """Print the short hash that stands in the log for a code (in upper case), a customer or an order.

    Needs the USHER_LOG_HASH_KEY of the processes whose logs are searched.
    """
    key = log.hash_key(output.settings())
    if key is None:
        raise errors.ConfigurationError(
            "USHER_LOG_HASH_KEY is not set: each start then has a key of its own, and its hashes cannot be made again. "
            "Give all processes the same secret text, such as one from `openssl rand -hex 32`"
        )
    text = sys.stdin.read().removesuffix("\n") if value is None else value
    if not text:
        raise errors.ConfigurationError("VALUE: must not be empty")
    found = log.short_hash(text, key)
    printing.show({"hash": found}, lines=[found], as_json=json)
