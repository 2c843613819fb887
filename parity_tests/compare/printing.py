"""A parity report on a terminal, and the progress of what it is made from."""

from rich import box
from rich.console import Console
from rich.progress import Progress, TaskID
from rich.table import Table
from rich.text import Text

from parity_tests.compare.report import LEGEND, ParityReport, Row, numbers, verdict
from parity_tests.compare.run import Tick
from prototxt.errors import printable
from weights.layer_weights import shape_text
from weights.progress import plain_console


def print_report(report: ParityReport, console: Console) -> None:
    """The table, a line for each blob, and below it what else there is to say."""
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    table.add_column("\nblob", no_wrap=True)
    table.add_column("\nshape", no_wrap=True)
    for engine in report.engines:
        for header in _headers(engine.name):
            table.add_column(header, justify="right", no_wrap=True)
    table.add_column("", no_wrap=True)
    for blob, rows in report.by_blob():
        cells = [cell for engine in report.engines for cell in _cells(engine.name, rows.get(engine.name))]
        table.add_row(Text(printable(blob)), shape_text(report.shapes[blob]), *cells, verdict(rows.values()))
    # As wide as it must be, even where the terminal is not: numbers are not for folding.
    table.width = plain_console(width=1000).measure(table).maximum
    console.print(Text(printable(report.title)), soft_wrap=True)
    console.print(table, soft_wrap=True)
    for line in (LEGEND, *report.notes):
        console.print(Text(printable(line)))


def _headers(engine: str) -> list[str]:
    return [f"{engine}\n|Δ|", "\nof max", *([] if engine == "reference" else ["\n× ref"])]


def _cells(engine: str, row: Row | None) -> list[Text]:
    columns = len(_headers(engine))
    if row is None:
        return [Text("–")] * columns
    style = "" if row.within else "bold red"
    return [Text(number, style) for number in numbers(row)[:columns]]


def show_on(bar: Progress) -> Tick:
    """A `progress` for `compare`: one line per engine."""
    tasks: dict[str, TaskID] = {}

    def tick(what: str, done: int, total: int) -> None:
        if what not in tasks:
            tasks[what] = bar.add_task(what, total=total)
        bar.update(tasks[what], completed=done)

    return tick
