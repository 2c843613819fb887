"""What a command prints: all, or nothing; and its tables as numbers, for a file."""

import contextlib
import io
import os
import sys
from collections.abc import Iterator
from typing import Any

from rich.console import Console
from rich.table import Table

from weights.files import write_json

_tables: list[Table] = []
_quiet = False


def is_quiet() -> bool:
    """Whether the command was told to print nothing."""
    return _quiet


class TableConsole(Console):
    """A console that remembers the tables that it prints."""

    def print(self, *objects: Any, **settings: Any) -> None:
        _tables.extend(item for item in objects if isinstance(item, Table))
        super().print(*objects, **settings)


@contextlib.contextmanager
def command_output(quiet: bool, tables: str | os.PathLike | None) -> Iterator[None]:
    """Run a command without its stdout, or with its tables in a file of JSON, or both.

    Args:
        tables: a list of {"title", "rows"}; a row is an object by column. Cells that are one number are numbers.

    Raises:
        InputError: the file cannot be written.
    """
    global _quiet
    _tables.clear()
    _quiet = quiet
    silence = contextlib.redirect_stdout(io.StringIO()) if quiet else contextlib.nullcontext()
    try:
        with silence:
            yield
    finally:
        _quiet = False
        if tables is not None and (_tables or sys.exc_info()[0] is None):
            told = [{"title": _text(table.title), "rows": table_rows(table)} for table in _tables]
            write_json(tables, told)


def table_rows(table: Table) -> list[dict[str, object]]:
    """The rows of a table, by column header; columns without one are numbered."""
    heads = [_text(column.header) or f"column {i}" for i, column in enumerate(table.columns, 1)]
    columns = [[_value(_text(cell)) for cell in column.cells] for column in table.columns]
    return [dict(zip(heads, row, strict=True)) for row in zip(*columns, strict=True)]


def _text(cell: object) -> str:
    return "" if cell is None else str(cell)


def _value(text: str) -> object:
    with contextlib.suppress(ValueError):
        return int(text.replace(",", ""))
    with contextlib.suppress(ValueError):
        return float(text)
    return text
