"""`seenet parity`: the command and its table."""

import math
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

import typer
from rich import box
from rich.console import Console
from rich.progress import Progress, TaskID
from rich.table import Table
from rich.text import Text

from parity_tests.compare.inputs import published_inputs
from parity_tests.compare.report import LEGEND, ParityReport, Row
from parity_tests.compare.run import ENGINES, Tick, compare
from port.images import read_image
from port.progress import plain_console, progress_bar
from port.voc.classes import class_indices, class_names
from prototxt.errors import InputError, printable
from weights.layer_weights import shape_text


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


def numbers(row: Row) -> tuple[str, str, str]:
    """|Δ|, of max and × ref, as the table and the page show them."""
    return _number(row.difference, ".1e"), _number(row.relative, ".1e"), _number(row.ratio, ".2f")


def _number(value: float, form: str) -> str:
    if math.isnan(value):
        return "–"
    return "∞" if math.isinf(value) else "0" if value == 0 else format(value, form)


def verdict(rows: Iterable[Row]) -> str:
    """What one blob's line ends with."""
    rows = list(rows)
    if not rows:
        return "not carried"
    out = [row.engine for row in rows if not row.within]
    if out:
        return f"OUT: {', '.join(out)}"
    return "within, inherited" if any(row.inherited for row in rows) else "within"


def parity_command(
    prototxt: Annotated[Path, typer.Option(help="The net, of any age, with Input layers.")],
    weights: Annotated[
        Path | None,
        typer.Option(
            help=".caffemodel, .h5, .safetensors or .pth. Without: rebuilt from the seed, He's rule."
        ),
    ] = None,
    image: Annotated[Path | None, typer.Option(help="A photograph. Without: a random image.")] = None,
    labels: Annotated[
        str | None, typer.Option(help="VOC classes for the label input: names or numbers, commas between.")
    ] = None,
    test_size: Annotated[int, typer.Option(min=1, help="Side to which the photograph is resized.")] = 256,
    engines: Annotated[
        str | None,
        typer.Option(
            help=f"Of {', '.join(ENGINES)}, commas between. Without: all there are but the ONNX route."
        ),
    ] = None,
    html: Annotated[Path | None, typer.Option(help="Also write the table and a chart as one page.")] = None,
    seed: Annotated[int, typer.Option(min=0, max=2**32 - 1, help="Of everything random.")] = 0,
    allow_module: Annotated[
        list[str] | None, typer.Option(help="A Python module that Python layers may load; repeatable.")
    ] = None,
    to_bgr: Annotated[
        bool, typer.Option("--to-bgr", help="Take a grey, 16-bit or RGBA photograph too.")
    ] = False,
) -> None:
    """Hold a net's blobs in each engine against float64; exit status 1 when anything is out."""
    if html is not None and html.is_dir():
        raise InputError(f"{html}: is a folder: name a file for the page")
    names = None if engines is None else [name.strip() for name in engines.split(",") if name.strip()]
    classes = None if labels is None else class_indices(labels)
    photograph = None if image is None else read_image(image, to_bgr)
    inputs = published_inputs(prototxt, photograph, classes, test_size)
    with progress_bar() as bar:
        report = compare(
            prototxt,
            weights,
            inputs,
            names,
            seed=seed,
            allow_modules=allow_module or (),
            progress=show_on(bar),
        )
    if image is not None:
        report.title += f" · {image}"
    if classes:
        report.title += f" · {', '.join(class_names(classes))}"
    if html is not None:
        from parity_tests.compare.page import write_page

        write_page(html, report)
    shown = plain_console()
    print_report(report, shown if shown.is_terminal else plain_console(width=110))
    if not report.within:
        raise typer.Exit(1)


def show_on(bar: Progress) -> Tick:
    """A `progress` for `compare`: one line per engine."""
    tasks: dict[str, TaskID] = {}

    def tick(what: str, done: int, total: int) -> None:
        if what not in tasks:
            tasks[what] = bar.add_task(what, total=total)
        bar.update(tasks[what], completed=done)

    return tick
