"""What the commands print: one JSON document, or tables on a terminal, or plain lines for programs; and what went wrong."""

import asyncio
import os
import re
import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Annotated, Any, Final, TypeVar

import orjson
import typer
from pydantic import SecretStr
from rich import box
from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

from service import config, errors, log
from service.addresses import account, address
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
    errors.KeyNotInForce,
)
STYLES: Final = {
    "active": "green",
    "in force": "green",
    "paused": "yellow",
    "expired": "yellow",
    "archived": "dim",
    "revoked": "dim",
}
"""Colours of the column `status`, on terminals that have colours and where NO_COLOR is not set."""
NOTHING: Final = "-"
"""In place of a value that is not there."""
COLUMN_MIN_CHARS: Final = 10
"""A date, and most codes."""
GAP_CHARS: Final = 2
"""Between two columns."""
TIME: Final = re.compile(r"(\d{4}-\d\d-\d\d)T(\d\d:\d\d:\d\d)\.\d{6}Z")

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


def explain_ledger(chosen: Settings, error: errors.UsherError, *, administers: bool) -> str:
    """A line that names the ledger, where it is, what is wrong, and what to try. `administers`: it changes schema or keys."""
    url = chosen.migration_url if administers else chosen.database_url
    reason = log.mask_text(str(error)).rstrip(".")
    return f"the ledger (MariaDB) at {address(url)} cannot be used: {reason}. {_what_to_try(chosen, error, administers)}"


def _what_to_try(chosen: Settings, error: errors.UsherError, administers: bool) -> str:  # noqa: FBT001  (handed on)
    is_own = administers and chosen.migration_database_url.get_secret_value()
    variable = "USHER_MIGRATION_DATABASE_URL" if is_own else "USHER_DATABASE_URL"
    match error:
        case errors.LedgerRefusedAccess():
            who = printable(account(chosen.migration_url if administers else chosen.database_url))
            other = "; this command takes USHER_MIGRATION_DATABASE_URL where that is set" if administers and not is_own else ""
            return f"It was asked as {who}, from {variable}{other}."
        case errors.LedgerReplyLost():
            return "What was to be done may have been done all the same: look before you repeat it."
        case errors.LedgerUnavailable():
            if "read-only" in str(error):
                return f"Is the one in {variable} a replica, or a failover under way?"
            unset = "" if _is_set(chosen, variable) else ", which is not set: this is the default"
            return f"Check host and port in {variable}{unset}, and that it runs."
        case errors.LedgerContended():
            return "Others hold what this command needs; try again."
    return "Nothing was done."


def _is_set(chosen: Settings, variable: str) -> bool:
    return variable.removeprefix(config.PREFIX).lower() in chosen.model_fields_set


def explain_redis(chosen: Settings, error: errors.CounterUnavailable) -> str:
    """A clause that names Redis, where it is, and what is wrong."""
    reason = log.mask_text(str(error)).rstrip(".")
    return f"Redis at {address(chosen.redis_url)} (USHER_REDIS_URL) cannot be used: {reason}"


# --- Results ---------------------------------------------------------------------------------------------------------


def show(document: Any, *, lines: Sequence[str], as_json: bool) -> None:  # noqa: ANN401  (any JSON)
    """One result: the document as JSON, or the lines."""
    if as_json:
        show_json(document)
    else:
        _write("".join(line + "\n" for line in lines).encode(sys.stdout.encoding, "backslashreplace"))


def show_json(document: Any) -> None:  # noqa: ANN401  (any JSON)
    """One JSON document, in UTF-8 whatever the terminal speaks."""
    option = orjson.OPT_INDENT_2 if sys.stdout.isatty() else 0
    _write(orjson.dumps(document, option=option | orjson.OPT_APPEND_NEWLINE | orjson.OPT_UTC_Z))


def show_fields(document: Mapping[str, Any], *, as_json: bool, for_people: Sequence[tuple[str, str]] | None = None) -> None:
    """One thing, a field a line. `for_people`: names and texts to show in their place on a terminal."""
    if for_people and sys.stdout.isatty() and not as_json:
        table = Table(box=None, show_header=False, padding=(0, 2, 0, 0), pad_edge=False)
        table.add_column(style="bold", no_wrap=True)
        table.add_column(overflow="fold")
        for name, text in for_people:
            table.add_row(name, _cell(name, text))
        _print(table)
        return
    flat = _flat(document)
    width = max(map(len, flat))
    show(document, lines=[f"{name:<{width}}  {value}" for name, value in flat.items()], as_json=as_json)


def show_rows(name: str, rows: Sequence[Mapping[str, Any]], columns: Sequence[str], *, as_json: bool) -> None:
    """Several things, called `name`: a table on a terminal, else a line each with tabs between."""
    if as_json:
        show_json({name: rows})
    elif sys.stdout.isatty():
        _print(_fitting(rows, columns, Console(file=sys.stdout).width) if rows else Text(f"no {name}"))
    else:
        lines = ["\t".join(columns), *("\t".join(_text(row[column]) for column in columns) for row in rows)]
        show(None, lines=lines, as_json=False)


def _fitting(rows: Sequence[Mapping[str, Any]], columns: Sequence[str], width: int) -> Table:
    """A table, or a block of lines for each row where the table would be cut off."""
    shown = [[_for_people(row[column]) for row in rows] for column in columns]
    widths = _widths(shown, columns, width)
    if widths is None:
        return _blocks(shown, columns)
    table = Table(box=box.SIMPLE_HEAD, header_style="bold", padding=(0, 1, 0, 0), pad_edge=False, show_edge=False)
    for column, at_most in zip(columns, widths, strict=True):
        is_number = all(isinstance(row[column], int | None) for row in rows) and not column.endswith("_at")
        table.add_column(_heading(column), justify="right" if is_number else "left", overflow="fold", width=at_most)
    for cells in zip(*shown, strict=True):
        table.add_row(*map(_cell, columns, cells))
    return table


def _widths(shown: Sequence[Sequence[str]], columns: Sequence[str], width: int) -> list[int] | None:
    """How wide each column is; None where the terminal is too narrow for what must not be broken: numbers and states.

    Times are broken between date and hour, and other texts anywhere, where they have to be.
    """
    widest = [max(map(cell_len, texts)) for texts in shown]
    wanted = [max(most, len(_heading(column))) for column, most in zip(columns, widest, strict=True)]
    widths = []
    for column, texts, most in zip(columns, shown, widest, strict=True):
        is_whole = column == "status" or all(text.replace(",", "").isdecimal() or text == NOTHING for text in texts)
        words = max(map(len, _heading(column).split()))
        widths.append(max(words, most if is_whole else min(most, COLUMN_MIN_CHARS)))
    spare = width - sum(widths) - GAP_CHARS * (len(columns) - 1)
    if spare < 0:
        return None
    for at, most in enumerate(wanted):
        more = min(spare, most - widths[at])
        widths[at] += more
        spare -= more
    return widths


def _blocks(shown: Sequence[Sequence[str]], columns: Sequence[str]) -> Table:
    """A field a line, a blank line between two rows."""
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0), pad_edge=False)
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    for number, cells in enumerate(zip(*shown, strict=True)):
        if number:
            table.add_row()
        for column, text in zip(columns, cells, strict=True):
            table.add_row(_heading(column), _cell(column, text))
    return table


def _heading(column: str) -> str:
    words = column.removesuffix("_at").removeprefix("max_").replace("_", " ")
    return f"{words} (UTC)" if column.endswith("_at") else words


def _for_people(value: Any) -> str:  # noqa: ANN401  (any JSON)
    """A value as it is read best: thousands set apart, times without `T` and fractions."""
    return f"{value:,}" if isinstance(value, int) else readable(_text(value))


def readable(time: str) -> str:
    """A time of the API's JSON as a date and an hour in UTC; any other text as it is."""
    return TIME.sub(r"\1 \2", time)


def _cell(column: str, text: str) -> Text:
    """Text as it is: no colours from within, whatever brackets are in it."""
    return Text(text, style=STYLES.get(text, "") if column == "status" else "")


def _print(what: Table | Text) -> None:
    """On the terminal, as wide as that is."""
    console = Console(file=sys.stdout)
    with console.capture() as captured:
        console.print(what)
    lines = [line.rstrip() for line in captured.get().splitlines()]
    _write("".join(line + "\n" for line in lines).encode(sys.stdout.encoding, "backslashreplace"))


def _write(data: bytes) -> None:
    try:
        sys.stdout.flush()
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()
    except BrokenPipeError:
        # Whoever read the output has gone; without this, Python complains once more at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise typer.Exit(COULD_NOT) from None


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
        return NOTHING
    if isinstance(value, dict):
        return printable(orjson.dumps(value).decode())
    if isinstance(value, list):
        return printable(",".join(value))
    return printable(str(value))


def printable(text: str) -> str:
    """A text without what moves a terminal's cursor or turns its writing round; such characters are written as escapes."""
    return "".join(one if one.isprintable() else one.encode("unicode_escape").decode() for one in text)
