"""What commands print: one JSON document, or tables on a terminal, or plain lines for programs."""

import os
import re
import sys
from collections.abc import Mapping, Sequence
from typing import Any, Final

import orjson
from rich import box
from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

NOT_READ_STATUS: Final = 2
"""Of a command whose output nobody reads any more."""
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
        raise SystemExit(NOT_READ_STATUS) from None


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
