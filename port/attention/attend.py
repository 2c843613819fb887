"""`port.attend`: attention from Python, for whatever holds an image."""

import functools
import io
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure

from port.attention.figures import attention_panels
from port.attention.maps import attention_maps
from port.attention.settings import AttentionSettings
from port.images import read_image
from port.models.seenet import SeeNet
from port.voc.classes import CLASSES, class_index
from prototxt.errors import InputError


@dataclass(frozen=True)
class Attention:
    """The attention of some classes on one image; `np.asarray` gives the maps, notebooks draw it.

    Attributes:
        maps: (labels, height, width) float32, 0 to 1.
        labels: class indices, in the maps' order.
        image: (height, width, 3) uint8, BGR.
    """

    maps: np.ndarray
    labels: tuple[int, ...]
    image: np.ndarray

    @property
    def names(self) -> list[str]:
        """The classes' names."""
        return [CLASSES[label] for label in self.labels]

    def __getitem__(self, label: str | int) -> np.ndarray:
        """The map of one class, by name or index: (height, width)."""
        return self.maps[self.labels.index(_index(label))]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.array(self.maps, dtype=dtype) if copy else np.asarray(self.maps, dtype=dtype)

    def figure(self) -> Figure:
        """The image, and each class's attention over it."""
        return attention_panels(self.image, self.labels, self.maps)

    def _repr_png_(self) -> bytes:
        file = io.BytesIO()
        self.figure().savefig(file, format="png", dpi=110)
        return file.getvalue()


def attend(
    image: Any,
    labels: str | int | Sequence[str | int],
    weights: str | os.PathLike | SeeNet,
    **settings: Any,
) -> Attention | list[Attention]:
    """Attention maps of the labels on an image, as `seenet attention` writes them.

    Args:
        image: a path; a PIL image; an array (height, width, 3) uint8, BGR as cv2.imread gives; a tensor
            (3, height, width), red green blue, uint8 or floating point from 0 to 1, as torchvision reads; or a
            list of these.
        labels: classes by name or index.
        weights: SeeNet's, in any format that `weights` reads; "shapes" for the small ones that come along (of
            generated images); or a model.
        settings: `AttentionSettings`': test_size, flip, label_state, maxt, mint, to_bgr.

    Returns:
        An `Attention`; of a list of images, a list.

    Raises:
        InputError: an image, a label, weights or a setting that cannot be used, as the command says it.
    """
    wanted = tuple(
        dict.fromkeys(_index(label) for label in ([labels] if isinstance(labels, str | int) else labels))
    )
    asked = AttentionSettings(_path(weights), **settings)
    model = weights if isinstance(weights, SeeNet) else _model(asked.weights, asked.maxt, asked.mint)

    def one(source: Any) -> Attention:
        pixels = _pixels(source, asked.to_bgr)
        maps = attention_maps(model, pixels, wanted, asked.test_size, asked.flip, asked.label_state)
        return Attention(maps, wanted, pixels)

    return list(map(one, image)) if isinstance(image, list | tuple) else one(image)


def _index(label: str | int) -> int:
    return class_index(str(label))


def _path(weights: str | os.PathLike | SeeNet) -> Path:
    if isinstance(weights, SeeNet):
        return Path()
    return Path(weights)


@functools.lru_cache(maxsize=2)
def _model(path: Path, maxt: float, mint: float) -> SeeNet:
    return SeeNet.from_caffemodel(path, maxt=maxt, mint=mint)


def _pixels(image: Any, to_bgr: bool) -> np.ndarray:
    """(height, width, 3) uint8, BGR.

    Raises:
        InputError: something that is no image, or one that `to_bgr` is needed for.
    """
    if image is None:
        raise InputError(
            "the image is None: cv2.imread gives that for a file that it cannot read. Check the path"
        )
    if isinstance(image, str | os.PathLike):
        return read_image(image, to_bgr)
    if isinstance(image, torch.Tensor):
        pixels = image.detach().cpu()
        if pixels.ndim != 3 or pixels.shape[0] != 3:
            raise InputError(f"the image is a tensor {tuple(pixels.shape)}: must be (3, height, width)")
        if pixels.is_floating_point():
            pixels = (pixels.clamp(0, 1) * 255).round()
        return np.ascontiguousarray(pixels.to(torch.uint8).permute(1, 2, 0).numpy()[:, :, ::-1])
    if hasattr(image, "convert") and hasattr(image, "mode"):  # PIL's
        if image.mode != "RGB" and not to_bgr:
            raise InputError(
                f'the image is of mode "{image.mode}": give image.convert("RGB"), or to_bgr=True'
            )
        return np.ascontiguousarray(np.asarray(image.convert("RGB"))[:, :, ::-1])
    array = np.asarray(image)
    if array.ndim != 3 or array.shape[2] != 3 or array.dtype != np.uint8:
        raise InputError(
            f"the image is {array.shape} of {array.dtype}: must be (height, width, 3) uint8, BGR as cv2.imread gives"
        )
    return array
