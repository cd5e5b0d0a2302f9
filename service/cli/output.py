"""What the commands print: one JSON document, or tables on a terminal, or plain lines for other programs."""

import asyncio
import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Annotated, Any, Final, TypeVar

import orjson
import typer
from pydantic import SecretStr
from rich.console import Console
from rich.table import Table

from service import config, errors, log
from service.api.problems import Problem
from service.config import Settings
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
    errors.LimitLowered,
    errors.WindowEmpty,
    errors.KeyExists,
)

Json = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]
T = TypeVar("T")


class Refused(errors.UsherError):
    """This cannot be done with what is there."""


def status_of(error: errors.UsherError) -> int:
    """The exit status for an error that ends a command."""
    return REFUSED if isinstance(error, (*REFUSALS, Refused)) else COULD_NOT


def complain(text: str) -> None:
    """One line on standard error."""
    sys.stderr.write("usher: " + " ".join(text.split()) + "\n")


def settings() -> Settings:
    """The settings of a command that does not serve; its logs are few."""
    loaded = config.load()
    log.configure(loaded)
    log.warn_of_unknown_variables()
    return loaded


def with_ledger(chosen: Settings, work: Callable[[Ledger, float], Awaitable[T]], *, url: SecretStr | None = None) -> T:
    """What `work` returns, given the ledger and a deadline in seconds of its loop's clock.

    `url`: another address than that of the service. Raises LedgerUnavailable with the store, its address and what to try.
    """
    url = url or chosen.database_url
    variable = "USHER_DATABASE_URL" if url == chosen.database_url else "USHER_MIGRATION_DATABASE_URL"

    async def go() -> T:
        ledger = await Ledger.connect(chosen.model_copy(update={"database_url": url}))
        try:
            return await work(ledger, asyncio.get_running_loop().time() + DEADLINE_S)
        finally:
            await ledger.close()

    try:
        return asyncio.run(go())
    except errors.LedgerUnavailable as error:
        raise errors.LedgerUnavailable(unreachable(url, variable, error)) from error
    except (errors.LedgerRefusedData, errors.LedgerContended) as error:
        raise type(error)(f"the ledger (MariaDB) at {config.address(url)} refused: {log.mask_text(str(error))}") from error


def unreachable(url: SecretStr, variable: str, error: Exception) -> str:
    """A line that names the ledger, where it is, and what to try."""
    reason = log.mask_text(str(error)).rstrip(".")
    return (
        f"the ledger (MariaDB) at {config.address(url)} cannot be used: {reason}. "
        f"Check that it runs, and host, port, user and password in {variable}."
    )


def refuse_faults(problem: Problem) -> errors.UsherError:
    """A request's faults as a command's error, with the options' names."""
    return errors.ConfigurationError(
        "; ".join(f"{_option(fault.pointer)}: {fault.detail}" if fault.pointer else fault.detail for fault in problem.faults)
    )


def _option(pointer: str) -> str:
    name = pointer.strip("/").partition("/")[0]
    return "CODE" if name == "code" else "--" + name.replace("_", "-")


def show(document: Any, *, lines: Sequence[str], as_json: bool) -> None:  # noqa: ANN401  (any JSON)
    """One result: the document as JSON, or the lines."""
    if as_json:
        show_json(document)
    else:
        sys.stdout.write("".join(line + "\n" for line in lines))


def show_json(document: Any) -> None:  # noqa: ANN401  (any JSON)
    """One JSON document."""
    option = orjson.OPT_INDENT_2 if sys.stdout.isatty() else 0
    sys.stdout.write(orjson.dumps(document, option=option | orjson.OPT_APPEND_NEWLINE | orjson.OPT_UTC_Z).decode())


def show_fields(document: Mapping[str, Any], *, as_json: bool) -> None:
    """One thing: a field a line."""
    flat = _flat(document)
    width = max(map(len, flat))
    show(document, lines=[f"{name:<{width}}  {value}" for name, value in flat.items()], as_json=as_json)


def show_rows(name: str, rows: Sequence[Mapping[str, Any]], columns: Sequence[str], *, as_json: bool) -> None:
    """Several things, called `name`: a table on a terminal, else a line each with tabs between."""
    if as_json:
        show_json({name: rows})
    elif sys.stdout.isatty():
        table = Table(*columns, box=None, header_style="bold")
        for row in rows:
            table.add_row(*(_text(row[column]) for column in columns))
        Console().print(table)
    else:
        lines = ["\t".join(columns), *("\t".join(_text(row[column]) for column in columns) for row in rows)]
        show(None, lines=lines, as_json=False)


def _flat(document: Mapping[str, Any]) -> dict[str, str]:
    flat = {}
    for name, value in document.items():
        if isinstance(value, dict) and name != "metadata":
            flat.update({f"{name}.{inner}": _text(one) for inner, one in value.items()})
        else:
            flat[name] = _text(value)
    return flat


def _text(value: Any) -> str:  # noqa: ANN401  (any JSON)
    if value is None:
        return "-"
    if isinstance(value, dict):
        return orjson.dumps(value).decode()
    if isinstance(value, list):
        return ",".join(value)
    return str(value)
