"""What was measured, as a table, as JSON and as a chart."""

import platform
from collections.abc import Sequence
from pathlib import Path

import matplotlib
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from parity_tests.bench.timing import Part
from prototxt.errors import figure_text
from weights.files import atomic_path, write_json

matplotlib.use("Agg")


def print_part(part: Part, console: Console) -> None:
    """A table: median, spread, and how many times the base's time (or memory)."""
    table = Table(title=part.title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("", overflow="fold")
    headings = [f"median {part.unit}", "least … most"]
    headings += [f"× {part.base}"] if part.base else []
    headings += ["from float64"] if part.errors else []
    for heading in (*headings, *part.columns):
        table.add_column(heading, justify="right", no_wrap=True)
    for name, timing in part.rows.items():
        low, high = (number(figure) for figure in timing.spread)
        cells = [name, number(timing.median), f"{low} … {high}"]
        cells += [_ratio(part, name)] if part.base else []
        cells += [f"{part.errors[name]:.1e}" if name in part.errors else ""] if part.errors else []
        table.add_row(*cells, *(column.get(name, "") for column in part.columns.values()))
    console.print(table)
    for note in part.notes:
        console.print(Text(note), soft_wrap=True)
    console.print()


def write_rounds(path: Path, parts: Sequence[Part], settings: dict[str, object]) -> None:
    """Every round's figure, with the medians and ratios of the table."""
    told = {
        "settings": settings,
        "versions": {"python": platform.python_version(), "torch": torch.__version__},
        "parts": [
            {
                "title": part.title,
                "unit": part.unit,
                "base": part.base,
                "rows": {
                    name: {
                        "median": timing.median,
                        "ratio_to_base": timing.ratio(part.rows[part.base])
                        if part.base in part.rows
                        else None,
                        "rounds": timing.seconds,
                        "cpu": timing.cpu,
                        "error": part.errors.get(name),
                    }
                    for name, timing in part.rows.items()
                },
                "columns": part.columns,
                "notes": part.notes,
            }
            for part in parts
        ],
    }
    write_json(path, told)


def write_chart(path: Path, parts: Sequence[Part]) -> None:
    """Bars of the medians, with the spread, a panel for each part."""
    rows = [len(part.rows) for part in parts]
    figure = Figure(figsize=(8, sum(0.34 * count + 0.85 for count in rows)), layout="constrained")
    panels = figure.subplots(len(parts), 1, squeeze=False, height_ratios=[count + 1.2 for count in rows])
    for axes, part in zip(panels[:, 0], parts, strict=True):
        _draw(axes, part)
    with atomic_path(path) as beside:
        figure.savefig(beside, dpi=110)


def _draw(axes: Axes, part: Part) -> None:
    names, timings = list(part.rows), list(part.rows.values())
    medians = [timing.median for timing in timings]
    spreads = [timing.spread for timing in timings]
    errors = [
        [median - low for median, (low, _) in zip(medians, spreads, strict=True)],
        [high - median for median, (_, high) in zip(medians, spreads, strict=True)],
    ]
    colours = ["#2f6f9f" if name.startswith("port") else "#b8b8b8" for name in names]
    axes.barh(list(map(figure_text, names)), medians, xerr=errors, color=colours, ecolor="#555555", capsize=2)
    for row, (median, (_, high)) in enumerate(zip(medians, spreads, strict=True)):
        axes.annotate(
            number(median), (high, row), (5, 0), textcoords="offset points", va="center", fontsize=8
        )
    axes.invert_yaxis()
    axes.set_xlim(0, 1.12 * max(high for _, high in spreads))
    axes.set_title(
        f"{figure_text(part.title)} ({part.unit}: median, least and most)", loc="left", fontsize=10
    )
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=9)


def _ratio(part: Part, name: str) -> str:
    return f"{part.rows[name].ratio(part.rows[part.base]):.2f}" if part.base in part.rows else ""


def number(figure: float) -> str:
    """A figure for people: three digits."""
    return f"{figure:.0f}" if figure >= 100 else f"{figure:.3g}" if figure >= 1 else f"{figure:.3f}"
