"""The notebook's picture: the photograph, and each class's attention over its grey version."""

from collections.abc import Sequence
from pathlib import Path

import cv2
import matplotlib
import numpy as np
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure

from port.voc import CLASSES, COLOURS
from weights.files import atomic_path

matplotlib.use("Agg")


def class_colormap(label: int) -> LinearSegmentedColormap:
    """Black through the class's colour to white."""
    return LinearSegmentedColormap.from_list(CLASSES[label], [COLOURS[0], COLOURS[label + 1], "#FFFFFF"], 256)


def overlay(attention: np.ndarray, image: np.ndarray) -> np.ndarray:
    """(height, width): attention · 0.8 + grey / 255 · 0.2, as the notebook shows it."""
    return attention * 0.8 + cv2.cvtColor(image, cv2.COLOR_BGR2GRAY) / 255.0 * 0.2


def attention_figure(path: Path, image: np.ndarray, labels: Sequence[int], maps: np.ndarray) -> None:
    """Write the figure as PNG.

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
    with atomic_path(path) as beside:
        figure.savefig(beside, dpi=110)
