"""`seenet explain`: what each branch sees, as a page and a picture."""

import html
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import cv2
import matplotlib
import numpy as np
import typer
from matplotlib.axes import Axes
from matplotlib.colors import Colormap, ListedColormap
from matplotlib.figure import Figure

from port.attention.explain import ERASED, NEGATED, POTENTIAL, Explanation, Panel, explain
from port.devices import check_device
from port.images import read_image
from port.models.seenet import SeeNet
from port.report import pages
from port.voc.classes import CLASSES, class_indices
from port.voc.evaluate import percent
from port.voc.label_images import read_label_image, same_size
from prototxt.errors import InputError
from weights.files import atomic_path

matplotlib.use("Agg")

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

STYLE = """
.row { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(170px, 44%), 1fr)); gap: 1em .8em }
.row figure { margin: 0 } .row img { width: 100%; height: auto; image-rendering: auto; display: block }
.row img.cells { image-rendering: pixelated }
figcaption { font-size: .85em; line-height: 1.35; margin-top: .35em } figcaption b { display: block }
.scale { display: flex; align-items: center; gap: .4em; font-size: .75em; margin-top: .3em }
.scale i { flex: 1; height: .6em; background: linear-gradient(to right, GRADIENT) }
.zone { flex: none; width: .8em; height: .8em; margin: 0 .25em 0 .5em; border: 1px solid var(--line) }
h2 { font-size: 1.15em; margin-top: 1.6em; overflow-wrap: anywhere } h3 { font-size: 1em; margin-bottom: .4em }
"""


def explain_command(
    image: Annotated[Path, typer.Argument(help="A photograph.")],
    labels: Annotated[str, typer.Option(help="Classes in it: names or numbers, with commas between.")],
    out: Annotated[Path, typer.Option(help="Folder for NAME_explain.html and NAME_explain.png.")],
    weights: Annotated[Path | None, typer.Option(help="SeeNet's weights, in any format.")] = None,
    compare: Annotated[Path | None, typer.Option(help="Other weights, to see beside these.")] = None,
    mask: Annotated[
        Path | None, typer.Option(help="The true label image: then shares on object and background are told.")
    ] = None,
    test_size: Annotated[int, typer.Option(help="The square that the image is resized to.", min=16)] = 256,
    maxt: Annotated[float, typer.Option(help="δ_h: attention above it is erased (paper: 0.7).")] = 0.7,
    mint: Annotated[
        float,
        typer.Option(help="δ_l: attention below it is negated (paper: 0.05; the release tests with 0)."),
    ] = 0.05,
    channels: Annotated[int, typer.Option(min=0, help="Channels of conv5_3 to show, beside the mean.")] = 2,
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
) -> None:
    """One page of what S_A, C-ReLU, S_B and S_C see of an image and each label, and the same as a PNG."""
    if weights is None:
        raise InputError(
            "--weights is missing: SeeNet's weights: weights/README.md says where they come from"
        )
    if not 0 <= mint <= maxt <= 1:
        raise InputError(f"--maxt {maxt} --mint {mint}: must be 0 ≤ mint ≤ maxt ≤ 1")
    check_device(device)
    photograph, chosen = read_image(image), class_indices(labels)
    truth = _truth(mask, photograph, chosen) if mask else None
    found: list[tuple[str, list[Explanation]]] = []
    paths = [path for path in (weights, compare) if path]
    for path in paths:
        model = SeeNet.from_caffemodel(path, maxt=maxt, mint=mint).to(device)
        wrong = [label for label in chosen if label >= model.num_classes]
        if wrong:
            raise InputError(f"{path}: has {model.num_classes} classes, no class {wrong[0]}")
        name = path.name if len({own.name for own in paths}) == len(paths) else str(path)
        found.append(
            (name, [explain(model, photograph, label, truth, test_size, channels) for label in chosen])
        )
    page, picture = out / f"{image.stem}_explain.html", out / f"{image.stem}_explain.png"
    write_explanation(page, picture, image.name, photograph, found)
    typer.echo(f"{page}\n{picture}")


def write_explanation(
    page: Path, picture: Path, name: str, image: np.ndarray, found: Sequence[tuple[str, list[Explanation]]]
) -> None:
    """Write the page and the picture.

    Args:
        name: the photograph's; image: (height, width, 3) uint8, BGR.
        found: for each file of weights its name, and the labels' explanations.
    """
    body = [f"<h1>{html.escape(name)}: what each branch sees</h1>", _introduction()]
    body.append(f'<figure class="photo">{_img(_sized(image[:, :, ::-1]), name)}</figure>')
    for label in range(len(found[0][1])):
        for weights, explanations in found:
            own = explanations[label]
            title = CLASSES[own.label] + (f" · {weights}" if len(found) > 1 else "")
            body.append(f"<h2>{html.escape(title)}</h2>")
            body.append(
                '<div class="row">' + "".join(_figure(panel, image) for panel in own.panels) + "</div>"
            )
            body.append(f"<p>{html.escape(' '.join(_said(own)))}</p>")
            body += _shares_table(own)
    stops = ",".join(_hex(COLOURS(i / 8)) for i in range(9))
    text = pages.document(f"{name}: what each branch sees", body, STYLE.replace("GRADIENT", stops))
    with atomic_path(page) as beside:
        beside.write_text(text, encoding="utf-8")
    with atomic_path(picture) as beside:
        _picture(image, found).savefig(beside, dpi=110, format="png")


def _truth(path: Path, image: np.ndarray, labels: Sequence[int]) -> np.ndarray:
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


def _introduction() -> str:
    return (
        "<p>S_A finds what tells the class most surely. C-ReLU multiplies the features by T: it erases that "
        "part, and negates what is hardly attended to, the background. S_B must find the class in the rest, so "
        "it spreads over the object. S_C, in training only, sees the background alone and is taught that there is "
        "no class in it. The published map is the larger of S_A's and S_B's.</p>"
    )


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


def _shares_table(own: Explanation) -> list[str]:
    rows = [
        (
            panel.title,
            *(percent(value) for value in (panel.shares.own, panel.shares.background, panel.shares.others)),
        )
        for panel in own.panels
        if panel.shares
    ]
    if not rows:
        return []
    head = ("of the map's sum, %", f"on {CLASSES[own.label]}", "on background", "on others")
    return [pages.table(head, rows)]


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


def _figure(panel: Panel, image: np.ndarray) -> str:
    if panel.kind == "zones":
        parts = (
            f'<span class="zone" style="background:{_hex(colour)}"></span>{name}'
            for name, colour in ZONES.values()
        )
        scale = f'<div class="scale">{"".join(parts)}</div>'
    else:
        scale = f'<div class="scale">{panel.low:.3g}<i></i>{panel.high:.3g}</div>'
    told = f"<b>{html.escape(panel.title)}</b>{html.escape(panel.text)}"
    return (
        f"<figure>{_img(_as_image(panel, image), panel.title)}{scale}<figcaption>{told}</figcaption></figure>"
    )


def _img(picture: np.ndarray, alt: str) -> str:
    data = cv2.imencode(".png", picture[:, :, ::-1])[1].tobytes()
    return f'<img src="{pages.data_uri(data, "image/png")}" alt="{html.escape(alt)}">'


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
        first.set_title(CLASSES[own.label] + (f"\n{weights[-28:]}" if len(found) > 1 else ""), fontsize=8)
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
