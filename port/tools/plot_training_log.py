"""plot_training_log: any two columns of one or more training logs, as PNG or CSV."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from port.tools.parse_log import Row, parse_log, write_csv
from prototxt.errors import InputError, figure_text
from weights.files import atomic_path

CHARTS = (
    ("test:accuracy", "NumIters"),
    ("test:accuracy", "Seconds"),
    ("test:loss", "NumIters"),
    ("test:loss", "Seconds"),
    ("solver:LearningRate", "NumIters"),
    ("solver:LearningRate", "Seconds"),
    ("solver:loss", "NumIters"),
    ("solver:loss", "Seconds"),
)
"""The chart types of Caffe's script, by number: what is plotted over what."""

USAGE = "plot_training_log CHART_TYPE OUT LOG… | plot_training_log -y TABLE:COLUMN [-x COLUMN] OUT LOG…"


def main(arguments: Sequence[str]) -> int:
    numbers = "; ".join(f"{i}: {y} over {x}" for i, (y, x) in enumerate(CHARTS))
    parser = argparse.ArgumentParser(
        "plot_training_log",
        usage=USAGE,
        description=f"{__doc__} CHART_TYPE is a number: {numbers}. OUT ends in .png or .csv.",
    )
    parser.add_argument(
        "-y", help="what is plotted: train:NAME, test:NAME or solver:loss, with NAME an output"
    )
    parser.add_argument(
        "-x", default="NumIters", help="over what: NumIters, Seconds, or any column of that table"
    )
    parser.add_argument("rest", nargs="+", metavar="CHART_TYPE OUT LOG…")
    args = parser.parse_args(arguments)
    y, x, rest = args.y, args.x, args.rest
    if y is None:
        chart, *rest = rest
        if not chart.isdecimal() or int(chart) >= len(CHARTS):
            raise InputError(f"chart type {chart}: must be one of {numbers}")
        y, x = CHARTS[int(chart)]
    if len(rest) < 2:
        raise InputError(f"give an output and one log or more: {USAGE}")
    out, *logs = rest
    curves = {log: curve(log, y, x) for log in logs}
    if out.endswith(".csv"):
        rows = [{"log": log, x: a, y: b} for log, points in curves.items() for a, b in points]
        write_csv(out, rows)
    elif out.endswith(".png"):
        _draw(out, curves, y, x)
    else:
        raise InputError(f"{out}: must end in .png or .csv")
    return 0


def curve(log: str, y: str, x: str) -> list[tuple[float, float]]:
    """The points (x, y) of a log.

    Args:
        y: `TABLE:COLUMN`; of test outputs, "accuracy" and "loss" also stand for the first and the second, as
            in Caffe's script.
        x: a column of the same table.

    Raises:
        InputError: a table or a column that the log lacks.
    """
    table, _, column = y.partition(":")
    tables = parse_log(log)
    if table not in tables or not tables[table]:
        has = ", ".join(name for name, rows in tables.items() if rows) or "none"
        raise InputError(f"{log}: no numbers of {table!r}: -y takes TABLE:COLUMN; the log's tables: {has}")
    rows = tables[table]
    if y in ("test:accuracy", "test:loss"):
        column = _output(rows, column)
    for wanted in (x, column):
        if wanted not in rows[0]:
            raise InputError(f"{log}: {table} has no column {wanted!r}: it has {', '.join(rows[0])}")
    return [(row[x], row[column]) for row in rows if x in row and column in row]


def _output(rows: list[Row], column: str) -> str:
    names = list(rows[0])[3:]
    position = ("accuracy", "loss").index(column)
    return column if column in names or len(names) <= position else names[position]


def _draw(out: str, curves: dict[str, list[tuple[float, float]]], y: str, x: str) -> None:
    from matplotlib.figure import Figure

    figure = Figure()
    axes = figure.add_subplot()
    for log, points in curves.items():
        axes.plot(*zip(*points, strict=True), marker=".", linewidth=0.75, label=figure_text(Path(log).name))
    axes.set_xlabel(figure_text(x))
    axes.set_ylabel(figure_text(y))
    axes.legend(loc="lower right" if "accuracy" in y else "upper right")
    with atomic_path(out) as beside:
        figure.savefig(beside, format="png")
