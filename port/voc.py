"""PASCAL VOC's twenty classes, as the authors' notebook orders, names and colours them."""

from collections.abc import Iterable

from prototxt.errors import InputError

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
"""Background, then one colour for each class."""


def class_index(text: str) -> int:
    """The index of a class given by name (VOC's `diningtable` or the notebook's `dining table`) or number.

    Raises:
        InputError: a name that no class has, or a number outside 0 … 19.
    """
    plain = _plain(text)
    names = [_plain(name) for name in CLASSES]
    if plain in names:
        return names.index(plain)
    if plain.isdigit() and int(plain) < len(CLASSES):
        return int(plain)
    known = ", ".join(f"{i} {name}" for i, name in enumerate(CLASSES))
    raise InputError(f'label "{text.strip()}": no such class; the classes are {known}')


def class_indices(text: str) -> list[int]:
    """Classes given with commas, each once, in the order given."""
    return list(dict.fromkeys(class_index(part) for part in text.split(",") if part.strip()))


def class_names(indices: Iterable[int]) -> list[str]:
    return [CLASSES[i] for i in indices]


def _plain(text: str) -> str:
    return "".join(c for c in text.lower() if c.isalnum())
