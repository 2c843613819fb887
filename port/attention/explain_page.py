"""What each branch of SeeNet sees, as a page and a picture."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import Colormap, ListedColormap
from matplotlib.figure import Figure

from port.attention.explain import ERASED, NEGATED, POTENTIAL, Explanation, Panel
from port.report import pages
from port.voc.classes import CLASSES
from port.voc.evaluate import percent
from port.voc.label_images import read_label_image, same_size
from prototxt.errors import InputError, figure_text
from weights.files import atomic_path, write_text

matplotlib.use("Agg")

_HERE = Path(__file__).parent

SIDE = 300
"""The longer side of a picture on the page, in pixels."""

COLUMNS = 7
"""Panels in a line of the PNG."""

COLOURS = matplotlib.colormaps["viridis"]
ZONES = {
    NEGATED: ("negated", COLOURS(0.0)),
    POTENTIAL: ("left", COLOURS(0.55)),
    ERASED: ("erased", COLOURS(1.0)),
}


def write_explanation(
    page: Path, picture: Path, name: str, image: np.ndarray, found: Sequence[tuple[str, list[Explanation]]]
) -> None:
    """Write the page and the picture.

    Args:
        name: the photograph's; image: (height, width, 3) uint8, BGR.
        found: for each file of weights its name, and the labels' explanations.
    """
    sections = [
        _section(explanations[i], image, weights if len(found) > 1 else "")
        for i in range(len(found[0][1]))
        for weights, explanations in found
    ]
    text = pages.render(
        _HERE / "explain.html.jinja",
        title=f"{name}: what each branch sees",
        style=pages.file_text(_HERE / "explain.css"),
        stops=",".join(_hex(COLOURS(i / 8)) for i in range(9)),
        zones=[(zone, _hex(colour)) for zone, colour in ZONES.values()],
        photograph=_img(_sized(image[:, :, ::-1]), name),
        sections=sections,
    )
    write_text(page, text)
    with atomic_path(picture) as beside:
        _picture(image, found).savefig(beside, dpi=110, format="png")


def read_truth(path: Path, image: np.ndarray, labels: Sequence[int]) -> np.ndarray:
    """The label image of a photograph.

    Raises:
        InputError: another size than `image`'s, or without one of `labels`.
    """
    truth = read_label_image(path)
    same_size(truth, image[:, :, 0], path, "the photograph is")
    there = [int(value) - 1 for value in np.unique(truth) if 0 < value < 255]
    for label in labels:
        if label not in there:
            has = ", ".join(CLASSES[own] for own in there) or "background only"
            raise InputError(
                f"{path}: has no {CLASSES[label]}: it has {has}: give --labels that the image has"
            )
    return truth


def _section(own: Explanation, image: np.ndarray, weights: str) -> dict[str, Any]:
    """What the template shows of one label and file of weights."""
    return {
        "title": CLASSES[own.label] + (f" · {weights}" if weights else ""),
        "panels": [_panel(panel, image) for panel in own.panels],
        "said": " ".join(_said(own)),
        "head": ("of the map's sum, %", f"on {CLASSES[own.label]}", "on background", "on others"),
        "shares": _shares(own),
    }


def _said(own: Explanation) -> list[str]:
    """A few sentences from the numbers."""
    said = []
    if own.zones:
        by_title = {panel.title: panel for panel in own.panels}
        wide = [float((by_title[name].values > 0.3).mean()) for name in ("S_A", "Fused")]
        said.append(
            f"Above 0.3 of the maximum: S_A's map covers {wide[0]:.0%} of the image, the fused one {wide[1]:.0%}."
        )
        if not own.zones[NEGATED]:
            said.append("Nothing is negated with these thresholds, so S_B's two maps agree.")
    else:
        said.append("These weights have no S_B: plain class attention.")
    if own.answer:
        told = ", ".join(f"{CLASSES[label]} {value:.2f}" for label, value in own.answer.classes)
        said.append(f"S_C's answer to the background, by {own.answer.weights}: {told}; taught: 0 for each.")
    return said


def _shares(own: Explanation) -> list[tuple[str, ...]]:
    return [
        (
            panel.title,
            *(percent(value) for value in (panel.shares.own, panel.shares.background, panel.shares.others)),
        )
        for panel in own.panels
        if panel.shares
    ]


# ---- pictures


def _coloured(panel: Panel) -> np.ndarray:
    """(height, width, 3) uint8, red green blue."""
    if panel.kind == "zones":
        shown = np.zeros((*panel.values.shape, 3))
        for zone, (_, colour) in ZONES.items():
            shown[panel.values == zone] = colour[:3]
    else:
        span = max(panel.high - panel.low, 1e-12)
        shown = COLOURS(((panel.values - panel.low) / span).clip(0, 1))[:, :, :3]
    return np.rint(shown * 255).astype(np.uint8)


def _sized(picture: np.ndarray) -> np.ndarray:
    scale = SIDE / max(picture.shape[:2])
    way = cv2.INTER_AREA if scale < 1 else cv2.INTER_NEAREST
    return cv2.resize(np.ascontiguousarray(picture), None, fx=scale, fy=scale, interpolation=way)


def _as_image(panel: Panel, image: np.ndarray) -> np.ndarray:
    """Cells of features are drawn with the photograph's proportions."""
    shown = _coloured(panel)
    if panel.kind == "map":
        return _sized(shown)
    height, width = _sized(image).shape[:2]
    return cv2.resize(shown, (width, height), interpolation=cv2.INTER_NEAREST)


def _panel(panel: Panel, image: np.ndarray) -> dict[str, Any]:
    ends = None if panel.kind == "zones" else (f"{panel.low:.3g}", f"{panel.high:.3g}")
    picture = _img(_as_image(panel, image), panel.title)
    return {"picture": picture, "ends": ends, "title": panel.title, "text": panel.text}


def _img(picture: np.ndarray, alt: str) -> dict[str, str]:
    data = cv2.imencode(".png", picture[:, :, ::-1])[1].tobytes()
    return {"source": pages.data_uri(data, "image/png"), "alt": alt}


def _hex(colour: Sequence[float]) -> str:
    return "#" + "".join(f"{round(255 * part):02x}" for part in colour[:3])


def _picture(image: np.ndarray, found: Sequence[tuple[str, list[Explanation]]]) -> Figure:
    """The photograph and the panels, COLUMNS in a line, for each label and file of weights; each with its scale."""
    rows = [(weights, explanations[i]) for i in range(len(found[0][1])) for weights, explanations in found]
    lines = [-(-(1 + len(own.panels)) // COLUMNS) for _, own in rows]
    ratio = min(max(image.shape[0] / image.shape[1], 0.5), 1.5)
    size = (1.9 * COLUMNS, (1.9 * ratio + 0.75) * sum(lines) + 0.2)
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.subplots(sum(lines), COLUMNS, squeeze=False)
    for axis in axes.flat:
        axis.set_axis_off()
    for i, (weights, own) in enumerate(rows):
        first, *others = axes[sum(lines[:i]) : sum(lines[: i + 1])].flat
        first.imshow(image[:, :, ::-1], extent=(0, 1, 0, ratio))
        first.set_title(
            CLASSES[own.label] + (f"\n{figure_text(weights[-28:])}" if len(found) > 1 else ""), fontsize=8
        )
        for axis, panel in zip(others, own.panels, strict=False):
            _draw(figure, axis, panel, ratio)
    return figure


def _draw(figure: Figure, axis: Axes, panel: Panel, ratio: float) -> None:
    zones = panel.kind == "zones"
    values, low, high = (
        (_in_order(panel.values), -1.5, 1.5) if zones else (panel.values, panel.low, panel.high)
    )
    colours = _zone_colours() if zones else COLOURS
    drawn = axis.imshow(
        values, cmap=colours, vmin=low, vmax=high, interpolation="nearest", extent=(0, 1, 0, ratio)
    )
    bar = figure.colorbar(drawn, ax=axis, orientation="horizontal", fraction=0.06, pad=0.03)
    if zones:
        bar.set_ticks([-1, 0, 1], labels=[name for name, _ in ZONES.values()], fontsize=6)
    else:
        bar.ax.tick_params(labelsize=6)
        bar.ax.locator_params(nbins=3)
    axis.set_title(panel.title.replace(", ", "\n", 1), fontsize=7)


def _zone_colours() -> Colormap:
    return ListedColormap([colour for _, colour in ZONES.values()])


def _in_order(zones: np.ndarray) -> np.ndarray:
    """-1, 0, 1 in the order of ZONES, so that a colour map of three steps draws them."""
    shown = np.zeros_like(zones)
    for place, zone in enumerate(ZONES):
        shown[zones == zone] = place - 1
    return shown
