"""Lists of images and the images that they name, read as Caffe's data layers read them."""

import contextlib
import io
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from PIL import Image

from prototxt.errors import InputError
from prototxt.files import MAX_IMAGE, read_ordinary, read_text
from runtime.data.decoding import check_count, check_pixels, decode_image

LABELS = range(-(1 << 31), 1 << 31)
"""Caffe's labels are C integers."""


def integer(text: str) -> int:
    """A decimal number; Python's own `int` also takes underscores and the digits of other scripts.

    Raises:
        ValueError: it is none, or far longer than a 32-bit one.
    """
    if not re.fullmatch(r"[+-]?[0-9]{1,18}", text):
        raise ValueError(f"{text[:50]!r} is not a whole number")
    return int(text)


@dataclass(frozen=True)
class Listed:
    """One entry of a list file: `value` is a label, or a second name; `line` counts from 1."""

    name: str
    value: int | str
    line: int


def read_labelled_list(path: str) -> list[Listed]:
    """Lines `name label` as ImageData takes them.

    Raises:
        InputError: a missing or empty file, an empty line, a label that is no 32-bit integer.
    """
    entries = read_entries(path)
    if not entries:
        raise InputError(f"{path}: is empty: list at least one image")
    for entry in entries:
        if not entry.name:
            raise InputError(f"{path}:{entry.line}: names no image: remove the line, or write NAME LABEL")
    return entries


def read_entries(path: str) -> list[Listed]:
    """Lines `name label`, split at the last space, as Caffe reads them.

    The label is C's `atoi` of the text after that space, or of the whole line where there is none: 2.7 is 2,
    and what begins with no number is 0.

    Raises:
        InputError: a missing file, a label that is no 32-bit integer.
    """
    entries = []
    for number, line in enumerate(read_lines(path), 1):
        name, space, label = line.rpartition(" ")
        if not space:
            name = line
        value = _atoi(label)
        if value not in LABELS:
            raise InputError(f"{path}:{number}: {name}: label {value} is out of range for a 32-bit integer")
        entries.append(Listed(name, value, number))
    return entries


def _atoi(text: str) -> int:
    found = re.match(r"[ \t\n\v\f\r]*([-+]?)([0-9]+)", text)
    if not found:
        return 0
    sign, digits = found[1], found[2].lstrip("0")
    return int(f"{sign}{digits[:_MOST_DIGITS] or 0}")


_MOST_DIGITS = 18
"""Of a label that is out of range in any case: Python refuses to read numbers of thousands of digits."""


def read_paired_list(path: str) -> list[Listed]:
    """Lines `image label-image`, as ImageSegData takes them; blank lines do not count.

    Raises:
        InputError: a missing or empty file, a line of more or fewer names.
    """
    entries = []
    for number, line in enumerate(read_lines(path), 1):
        names = line.split()
        if not names:
            continue
        if len(names) != 2:
            raise InputError(f"{path}:{number}: {line!r} is not IMAGE LABEL_IMAGE")
        entries.append(Listed(names[0], names[1], number))
    if not entries:
        raise InputError(f"{path}: is empty: list at least one image")
    return entries


def read_names(path: str) -> list[str]:
    """Names between white space.

    Raises:
        InputError: a missing file, or no name in it.
    """
    names = [name for line in read_lines(path) for name in line.split()]
    if not names:
        raise InputError(f"{path}: is empty: list at least one file")
    return names


def read_pixels(path: str, colour: bool, size: tuple[int, int] | None, where: str) -> np.ndarray:
    """An image as (height, width, 3) BGR, or 1 channel, uint8.

    Args:
        size: (height, width) to resize to by OpenCV's bilinear rule, None to leave as it is.
        where: what names it in an error.

    Raises:
        InputError: a file that is missing or does not decode.
    """
    data = _read(path, where)
    with naming(f"{where}: {path}"):
        image = decode(data, cv2.IMREAD_COLOR if colour else cv2.IMREAD_GRAYSCALE)
    return _resized(image, size, path, where)


def read_labels(
    path: str, size: tuple[int, int] | None, where: str, indices: bool, nearest: bool = False
) -> np.ndarray:
    """A label image as (height, width) uint8; grey ones hold the classes themselves.

    Of one with a palette, as VOC has them, Caffe (by OpenCV) would take the brightness of its colours for
    classes: 14, a motorbike, for VOC's blue of class 4.

    Args:
        indices: take a palette image's indices; else it is refused.
        nearest: resize by the nearest pixel, not bilinearly.

    Raises:
        InputError: as `read_pixels`, and a palette.
    """
    data = _read(path, where)
    if not _has_palette(data):
        with naming(f"{where}: {path}"):
            image = decode(data, cv2.IMREAD_GRAYSCALE)
    elif indices:
        with naming(f"{where}: {path}"):
            image = _indices(data)
    else:
        raise InputError(
            f"{where}: {path} has a palette: Caffe would take its colours' brightness for classes: store "
            "classes in grey, or give --palette-labels to have its indices"
        )
    rule = cv2.INTER_NEAREST if nearest else cv2.INTER_LINEAR
    return _resized(image, size, path, where, rule)[:, :, 0]


def _indices(data: bytes) -> np.ndarray | None:
    """(height, width, 1) of a palette PNG's indices, or None where it does not decode."""
    check_pixels(data)
    try:
        with Image.open(io.BytesIO(data)) as image:
            return np.array(image)[:, :, None]
    except (OSError, SyntaxError, ValueError):
        return None


def _has_palette(data: bytes) -> bool:
    return data[:8] == b"\x89PNG\r\n\x1a\n" and data[25:26] == b"\x03"


def _read(path: str, where: str) -> bytes:
    try:
        return read_ordinary(path, MAX_IMAGE)
    except OSError as error:
        raise InputError(f"{where}: {path} cannot be read ({error.strerror}): check root_folder") from error


def _resized(
    image: np.ndarray | None,
    size: tuple[int, int] | None,
    path: str,
    where: str,
    rule: int = cv2.INTER_LINEAR,
) -> np.ndarray:
    if image is None:
        raise InputError(f"{where}: {path} does not decode as an image: is it whole, and a JPEG or PNG?")
    if not size:
        return image
    with naming(f"{where}: {path}, resized,"):
        check_count(size[0] * size[1])
    return with_channels(cv2.resize(image, size[::-1], interpolation=rule))


def decode(data: bytes, flag: int) -> np.ndarray | None:
    """(height, width, channels) of an encoded image, or None where it does not decode.

    Raises:
        InputError: one of too many pixels.
    """
    image = decode_image(data, flag)
    return None if image is None else with_channels(image)


def with_channels(image: np.ndarray) -> np.ndarray:
    return image if image.ndim == 3 else image[:, :, None]


def stack_images(images: Sequence[np.ndarray], places: Sequence[str]) -> np.ndarray:
    """One batch of equal shapes.

    Raises:
        InputError: naming the first image of another shape than the batch's first.
    """
    for image, place in zip(images, places, strict=True):
        if image.shape != images[0].shape:
            raise InputError(
                f"{place}: {_by(image.shape)} values, the batch's first image gives {_by(images[0].shape)}: "
                "set a crop, or resize all to one size, or batch_size: 1"
            )
    return np.stack(images)


def _by(shape: Sequence[int]) -> str:
    return "×".join(map(str, shape))


def read_lines(path: str) -> list[str]:
    if not path:
        raise InputError("no source: name the list file")
    try:
        lines = read_text(path, errors="surrogateescape").split("\n")
    except OSError as error:
        raise InputError(f"{os.fspath(path)}: cannot be read ({error.strerror}): check the path") from error
    if lines[-1] == "":
        lines.pop()
    return lines


@contextlib.contextmanager
def naming(item: str) -> Iterator[None]:
    """Let an InputError raised inside begin with `item`."""
    try:
        yield
    except InputError as error:
        raise InputError(f"{item}: {error}") from error
