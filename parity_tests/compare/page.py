"""The parity report as one page of HTML that needs nothing from elsewhere."""

import html
import math
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from matplotlib.figure import Figure

from parity_tests.compare.command import numbers, verdict
from parity_tests.compare.report import LEGEND, OUTSIDE, EngineReport, ParityReport, Row, allowed_difference
from port.report.pages import document, svg
from weights.files import atomic_path
from weights.layer_weights import shape_text

_COLOURS = {
    "port": "#1f5fbf",
    "reference": "#7a7a7a",
    "opencv": "#c96a12",
    "onnxruntime": "#8a4fb0",
    "onnx2torch": "#b03a6f",
    "caffe": "#2a8a4a",
}

_STYLE = """
th:nth-child(-n+2), td:nth-child(-n+2), th:last-child, td:last-child { text-align: left }
.out { color: var(--bad); font-weight: bold } .engine { text-align: center }
"""


def write_page(path: Path, report: ParityReport) -> None:
    """Write the page beside `path` and rename it.

    Raises:
        InputError: where it cannot be written.
    """
    with atomic_path(path) as beside:
        beside.write_text(_page(report), encoding="utf-8")


def _page(report: ParityReport) -> str:
    state = "within" if report.within else "OUT"
    notes = "".join(f"<li>{html.escape(note)}</li>" for note in report.notes)
    body = (
        f'<h1>Parity with Caffe, blob by blob: <span class="{"" if report.within else "out"}">{state}</span></h1>',
        f"<p>{html.escape(report.title)}</p>",
        f"<ul>{notes}</ul>",
        f'<div class="scroll">{_chart(report)}</div>',
        f"<p>{html.escape(LEGEND)}</p>",
        f'<div class="scroll"><table>{_head(report)}{_body(report)}</table></div>',
        f"<p>{html.escape(_versions())}</p>",
    )
    return document(f"Parity: {state}", body, _STYLE)


def _head(report: ParityReport) -> str:
    engines = "".join(f'<th colspan="3" class="engine">{engine.name}</th>' for engine in report.engines)
    columns = "<th>|Δ|</th><th>of max</th><th>× ref</th>" * len(report.engines)
    names = f"<tr><th></th><th></th>{engines}<th></th></tr>"
    return f"<thead>{names}<tr><th>blob</th><th>shape</th>{columns}<th></th></tr></thead>"


def _body(report: ParityReport) -> str:
    lines = []
    for blob, rows in report.by_blob():
        cells = "".join(_cells(rows.get(engine.name)) for engine in report.engines)
        ends = f"<td>{html.escape(blob)}</td><td>{shape_text(report.shapes[blob])}</td>"
        lines.append(f"<tr>{ends}{cells}<td>{verdict(rows.values())}</td></tr>")
    return f"<tbody>{''.join(lines)}</tbody>"


def _cells(row: Row | None) -> str:
    if row is None:
        return "<td>–</td>" * 3
    mark = "" if row.within else ' class="out"'
    return "".join(f"<td{mark}>{number}</td>" for number in numbers(row))


def _versions() -> str:
    found = []
    for package in ("torch", "numpy", "opencv-python-headless"):
        try:
            found.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            continue
    return f"Computed with {', '.join(found)}."


# ---- the chart


def _chart(report: ParityReport) -> str:
    """Each engine's error along the net, on a logarithmic scale, and what is allowed: an SVG element."""
    values = [row.relative for row in report.rows] + [
        x for engine in report.engines for x in _allowed(engine)
    ]
    drawable = [value for value in values if 0 < value < math.inf]
    if not drawable:
        return "<p>No chart: every blob is equal to truth.</p>"
    low, high = min(drawable) / 3, max(drawable) * 3
    places = {blob: i for i, blob in enumerate(report.shapes)}
    figure = Figure(figsize=(max(10, 0.3 * len(places)), 4.6), layout="constrained")
    axes = figure.subplots()
    for engine in report.engines:
        colour = _COLOURS.get(engine.name, "#8a2a8a")
        x = [places[row.blob] for row in engine.rows]
        y = [min(max(row.relative, low), high) for row in engine.rows]
        axes.plot(x, y, "o-", color=colour, markersize=3.5, linewidth=1.3, label=engine.name)
        if engine.name not in OUTSIDE:
            allowed = [min(value, high) for value in _allowed(engine)]
            axes.plot(x, allowed, "--", color=colour, linewidth=1, label=f"allowed to the {engine.name}")
    axes.axhline(
        allowed_difference("reference", 0, 1), color="#999999", linestyle=":", label="allowed to the others"
    )
    axes.set_yscale("log")
    axes.set_ylim(low / 1.5, high * 1.5)
    axes.set_ylabel("largest difference from float64,\nof the blob's maximum")
    # A "$" in a blob's name begins no formula.
    axes.set_xticks(
        list(places.values()), list(places), rotation=60, ha="right", fontsize=8, parse_math=False
    )
    axes.grid(axis="y", linewidth=0.4)
    figure.legend(loc="outside upper left", ncols=6, fontsize=8, frameon=False)
    return svg(figure)


def _allowed(engine: EngineReport) -> list[float]:
    return [row.allowed / row.largest if row.largest else 0.0 for row in engine.rows]
