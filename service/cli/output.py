"""What the commands have in common: their settings, the ledger to work with, and how they end when something went wrong."""

import asyncio
import sys
from collections.abc import Awaitable, Callable
from typing import Annotated, Final, TypeVar

import typer
from pydantic import SecretStr

from service import config, errors, log
from service.api.problems import Problem
from service.config import Settings
from service.explaining import explain_ledger
from service.ledger import Ledger

REFUSED: Final = 1
COULD_NOT: Final = 2
DEADLINE_S: Final = 10.0
"""For one statement of a command; a person waits."""
REFUSALS: Final = (
    errors.CouponExists,
    errors.CouponNotFound,
    errors.VersionMismatch,
    errors.LimitKindFixed,
    errors.CustomerLimitLowered,
    errors.WindowEmpty,
    errors.KeyExists,
    errors.KeyNotInForce,
)
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]
T = TypeVar("T")


class Refused(errors.UsherError):
    """This cannot be done with what is there."""


def status_of(error: errors.UsherError) -> int:
    """The exit status for an error that ends a command."""
    return REFUSED if isinstance(error, (*REFUSALS, Refused)) else COULD_NOT


def complain(text: str) -> None:
    """Each line of a text on standard error, with the program's name before it."""
    sys.stderr.write("".join(f"usher: {' '.join(line.split())}\n" for line in text.splitlines()))


def refuse_faults(problem: Problem) -> errors.UsherError:
    """A request's faults as a command's error, a line each, with the options' names, and `none` for JSON's null."""
    return errors.ConfigurationError(
        "\n".join(f"{_option(fault.pointer)} {fault.detail}".strip().replace(" null", " none") for fault in problem.faults)
    )


def _option(pointer: str) -> str:
    name = pointer.strip("/?").partition("/")[0]
    if not name:
        return ""
    return "CODE" if name == "code" else "--" + name.replace("_", "-")


# --- The ledger ------------------------------------------------------------------------------------------------------


def settings() -> Settings:
    """The settings of a command that does not serve; its logs are few."""
    loaded = config.load()
    log.configure(loaded)
    log.warn_of_unknown_variables()
    return loaded


def with_ledger(chosen: Settings, work: Callable[[Ledger, float], Awaitable[T]], *, url: SecretStr | None = None) -> T:
    """What `work` returns, given the ledger and a deadline in seconds of its loop's clock.

    `url`: the settings' `migration_url`, or nothing for the service's account. What fails is raised with the store, its
    address and what to try.
    """

    async def go() -> T:
        ledger = await Ledger.connect(chosen.model_copy(update={"database_url": url or chosen.database_url}))
        try:
            return await work(ledger, asyncio.get_running_loop().time() + DEADLINE_S)
        finally:
            await ledger.close()

    try:
        return asyncio.run(go())
    except (errors.LedgerUnavailable, errors.LedgerRefusedData, errors.LedgerContended) as error:
        raise type(error)(explain_ledger(chosen, error, administers=url is not None)) from error
