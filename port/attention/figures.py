"""The notebook's picture: the photograph, and each class's attention over its grey version."""

from collections.abc import Sequence
from pathlib import Path

import cv2
import matplotlib
import numpy as np
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure

from port.voc.classes import CLASSES, COLOURS
from weights.files import atomic_path

matplotlib.use("Agg")


def class_colormap(label: int) -> LinearSegmentedColormap:
    """Black through the class's colour to white."""
    return LinearSegmentedColormap.from_list(CLASSES[label], [COLOURS[0], COLOURS[label + 1], "#FFFFFF"], 256)


def overlay(attention: np.ndarray, image: np.ndarray) -> np.ndarray:
    """(height, width): attention · 0.8 + grey / 255 · 0.2, as the notebook shows it."""
    return attention * 0.8 + cv2.cvtColor(image, cv2.COLOR_BGR2GRAY) / 255.0 * 0.2


def attention_figure(path: Path, image: np.ndarray, labels: Sequence[int], maps: np.ndarray) -> None:
    """Write `attention_panels` as PNG."""
    figure = attention_panels(image, labels, maps)
    with atomic_path(path) as beside:
        figure.savefig(beside, dpi=110)


def attention_panels(image: np.ndarray, labels: Sequence[int], maps: np.ndarray) -> Figure:
    """The photograph, and each class's attention.

    Args:
        image: (height, width, 3) uint8, BGR.
        maps: (labels, height, width) as `attention_maps` gives them.
    """
    panels = 1 + len(labels)
    height, width = image.shape[:2]
    side = 3.2
    figure = Figure(
        figsize=(side * panels, side * min(max(height / width, 0.4), 2) + 0.45), layout="constrained"
    )
    axes = figure.subplots(1, panels, squeeze=False)[0]
    axes[0].imshow(image[:, :, ::-1])
    axes[0].set_xlabel("Source", fontsize=13)
    for axis, label, attention in zip(axes[1:], labels, maps, strict=True):
        axis.imshow(overlay(attention, image), cmap=class_colormap(label))
        axis.set_xlabel(CLASSES[label], fontsize=13)
    for axis in axes:
        axis.set_xticks([])
        axis.set_yticks([])
    return figure


def coloured(attention: np.ndarray, image: np.ndarray, label: int) -> np.ndarray:
    """(height, width, 3) in 0 … 1, red green blue: `overlay` in the class's colours."""
    return class_colormap(label)(overlay(attention, image))[:, :, :3]


def picture_grid(path: Path, titles: Sequence[str], rows: Sequence[tuple[str, Sequence[np.ndarray]]]) -> None:
    """Write pictures in rows and columns as PNG.

    Args:
        titles: of the columns.
        rows: each its name and its pictures, red green blue: uint8, or 0 … 1.
    """
    figure = Figure(figsize=(2.1 * len(titles), 2.0 * len(rows) + 0.4), layout="constrained")
    axes = figure.subplots(len(rows), len(titles), squeeze=False)
    for line, (name, pictures) in zip(axes, rows, strict=True):
        for axis, picture in zip(line, pictures, strict=True):
            axis.imshow(picture)
            axis.set_xticks([])
            axis.set_yticks([])
        line[0].set_ylabel(name, fontsize=9)
    for axis, title in zip(axes[0], titles, strict=True):
        axis.set_title(title, fontsize=10)
    with atomic_path(path) as beside:
        figure.savefig(beside, dpi=72)
