"""The parity report as one page of HTML that needs nothing from elsewhere."""

import math
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from markupsafe import Markup
from matplotlib.figure import Figure

from parity_tests.compare.report import (
    LEGEND,
    OUTSIDE,
    EngineReport,
    ParityReport,
    Row,
    numbers,
    verdict,
)
from port.report.pages import file_text, render, svg
from prototxt.errors import figure_text
from weights.files import write_text
from weights.layer_weights import shape_text

_COLOURS = {
    "port": "#1f5fbf",
    "reference": "#7a7a7a",
    "opencv": "#c96a12",
    "onnxruntime": "#8a4fb0",
    "onnx2torch": "#b03a6f",
    "caffe": "#2a8a4a",
}


def write_page(path: Path, report: ParityReport) -> None:
    """Write the page beside `path` and rename it.

    Raises:
        InputError: where it cannot be written.
    """
    write_text(path, _page(report))


def _page(report: ParityReport) -> Markup:
    blobs = [
        (
            blob,
            shape_text(report.shapes[blob]),
            [_cells(rows.get(engine.name)) for engine in report.engines],
            verdict(rows.values()),
        )
        for blob, rows in report.by_blob()
    ]
    state = "within" if report.within else "OUT"
    return render(
        Path(__file__).with_name("parity.html.jinja"),
        title=f"Parity: {state}",
        style=file_text(Path(__file__).with_name("parity.css")),
        state=state,
        report=report,
        chart=_chart(report),
        legend=LEGEND,
        blobs=blobs,
        versions=_versions(),
    )


def _cells(row: Row | None) -> tuple[tuple[str, ...], bool]:
    """An engine's three numbers of a blob, and whether they are out."""
    return (("–",) * 3, False) if row is None else (numbers(row), not row.within)


def _versions() -> str:
    found = []
    for package in ("torch", "numpy", "opencv-python-headless"):
        try:
            found.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            continue
    return f"Computed with {', '.join(found)}."


# ---- the chart


def _chart(report: ParityReport) -> Markup:
    """Each engine's error along the net, on a logarithmic scale, and what is allowed: an SVG element."""
    values = [row.relative for row in report.rows] + [
        x for engine in report.engines for x in _allowed(engine)
    ]
    drawable = [value for value in values if 0 < value < math.inf]
    if not drawable:
        return Markup("<p>No chart: every blob is equal to truth.</p>")
    low, high = min(drawable) / 3, max(drawable) * 3
    places = {blob: i for i, blob in enumerate(report.shapes)}
    figure = Figure(figsize=(max(10, 0.3 * len(places)), 4.6), layout="constrained")
    axes = figure.subplots()
    for engine in report.engines:
        colour = _COLOURS.get(engine.name, "#8a2a8a")
        x = [places[row.blob] for row in engine.rows]
        y = [min(max(row.relative, low), high) for row in engine.rows]
        axes.plot(x, y, "o-", color=colour, markersize=3.5, linewidth=1.3, label=engine.name)
        if any(row.faces for row in engine.rows):
            allowed = [min(max(value, low), high) for value in _allowed(engine)]
            axes.plot(x, allowed, "--", color=colour, linewidth=1, label="allowed to the port's layers alone")
    axes.axhline(OUTSIDE, color="#999999", linestyle=":", label="allowed to the others")
    axes.set_yscale("log")
    axes.set_ylim(low / 1.5, high * 1.5)
    axes.set_ylabel("largest difference from float64,\nof the blob's maximum")
    axes.set_xticks(
        list(places.values()), list(map(figure_text, places)), rotation=60, ha="right", fontsize=8
    )
    axes.grid(axis="y", linewidth=0.4)
    figure.legend(loc="outside upper left", ncols=6, fontsize=8, frameon=False)
    return svg(figure)


def _allowed(engine: EngineReport) -> list[float]:
    """What each blob's layer alone may be off, as a share of the blob's largest magnitude."""
    return [
        min(face.alone.allowed_largest for face in row.faces.values()) / row.largest if row.largest else 0.0
        for row in engine.rows
        if row.faces
    ]
