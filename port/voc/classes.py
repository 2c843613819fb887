"""PASCAL VOC's twenty classes, as the authors' notebook orders, names and colours them."""

import re
from collections.abc import Iterable

import numpy as np

from prototxt.errors import InputError, close_names

CLASSES = (
    "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow",
    "dining table", "dog", "horse", "motorbike", "person", "potted plant", "sheep", "sofa", "train", "tv/monitor",
)  # fmt: skip
"""Names by class index, from 0: the index of a score map's channel. (Label images add 1: 0 is background.)"""

COLOURS = (
    "#000000", "#7F0000", "#007F00", "#7F7F00", "#00007F", "#7F007F", "#007F7F", "#7F7F7F", "#3F0000", "#BF0000",
    "#3F7F00", "#BF7F00", "#3F007F", "#BF007F", "#3F7F7F", "#BF7F7F", "#003F00", "#7F3F00", "#00BF00", "#7FBF00",
    "#003F7F",
)  # fmt: skip
"""Background, then one colour for each class, for pictures. (Label images have PALETTE: 128 where this has 127.)"""

IGNORE = 255
"""In label images: neither background nor a class; not counted and not trained on."""


def _palette() -> np.ndarray:
    """VOC's rule: the index's bits, taken in threes, are the colours' bits from the highest down."""
    index = np.arange(256)
    colours = np.zeros((256, 3), np.uint8)
    for step in range(8):
        for channel in range(3):
            colours[:, channel] |= ((index >> (3 * step + channel) & 1) << (7 - step)).astype(np.uint8)
    return colours


PALETTE = _palette()
"""(256, 3) uint8, red green blue: the palette of VOC's label images, in which 255 is (224, 224, 192)."""


def class_index(text: str) -> int:
    """The index of a class given by name (VOC's `diningtable` or the notebook's `dining table`) or number.

    Raises:
        InputError: a name that no class has, or a number outside 0 … 19.
    """
    names = [_plain(name) for name in CLASSES]
    if _plain(text) in names:
        return names.index(_plain(text))
    if (number := class_number(text.strip())) is not None:
        return number
    known = ", ".join(f"{i} {name}" for i, name in enumerate(CLASSES))
    near = close_names(_plain(text), names)
    meant = f"did you mean {CLASSES[names.index(near[0])]}? The" if near else "the"
    raise InputError(f'label "{text.strip()}": no such class; {meant} classes are {known}')


def class_number(text: str) -> int | None:
    """The index that a text is the decimal number of, or None: "-1", "1.4" and "²" are none."""
    return int(text) if re.fullmatch("[0-9]{1,4}", text) and int(text) < len(CLASSES) else None


def class_indices(text: str) -> list[int]:
    """Classes given with commas, each once, in the order given."""
    return list(dict.fromkeys(class_index(part) for part in text.split(",") if part.strip()))


def class_names(indices: Iterable[int]) -> list[str]:
    return [CLASSES[i] for i in indices]


def voc_name(index: int) -> str:
    """The class's name as VOC's annotations spell it, such as `tvmonitor`."""
    return _plain(CLASSES[index])


def _plain(text: str) -> str:
    return "".join(c for c in text.lower() if c.isalnum())
