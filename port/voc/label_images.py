"""Images whose pixels are class indices, and 8-bit maps: read strictly, written whole."""

import io
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from port.images import quiet_opencv
from port.voc.classes import CLASSES, IGNORE, PALETTE
from prototxt.errors import InputError
from prototxt.files import MAX_IMAGE, read_ordinary
from prototxt.native_output import without_native_output
from runtime.data.decoding import check_pixels, decode_image
from runtime.data.reading import naming
from weights.files import atomic_path


def read_label_image(path: Path) -> np.ndarray:
    """(height, width) uint8: 0 background, 1 … 20 the classes (index + 1), 255 ignore.

    Taken are palette images with VOC's palette, and grey ones that hold the indices themselves, as the
    augmented training set has them. Of another palette the indices may mean anything.

    Raises:
        InputError: a missing or torn file, a colour or 16-bit image, another palette, a value that is no class.
    """
    try:
        data = read_ordinary(path, MAX_IMAGE)
        with naming(f"{path}"):
            check_pixels(data)
        with without_native_output(), Image.open(io.BytesIO(data)) as image:
            image.load()
            mode, palette, labels = image.mode, image.getpalette("RGB"), np.array(image)
    except InputError:
        raise
    except (OSError, SyntaxError, ValueError) as error:
        told = getattr(error, "strerror", None) or "it does not decode"
        raise InputError(f"{path}: cannot be read ({told}): it must be a label image") from error
    if mode not in ("P", "L"):
        raise InputError(f"{path}: not a palette image (mode {mode}): convert its colours to class indices")
    used = np.unique(labels)
    if mode == "P":
        colours = np.array(palette, np.uint8).reshape(-1, 3)
        grey = np.repeat(np.arange(256, dtype=np.uint8)[:, None], 3, axis=1)
        if used.max() >= len(colours) or not any(
            np.array_equal(colours[used], known[used]) for known in (PALETTE, grey)
        ):
            raise InputError(f"{path}: its palette is not VOC's: its indices may mean other classes")
    strange = used[(used > len(CLASSES)) & (used != IGNORE)]
    if len(strange):
        raise InputError(f"{path}: value {strange[0]} is no class: it must be 0 … {len(CLASSES)} or {IGNORE}")
    return labels


def write_label_image(path: Path, labels: np.ndarray) -> None:
    """Write (height, width) uint8 as a PNG with VOC's palette; the same bytes for the same labels."""
    image = Image.fromarray(np.ascontiguousarray(labels, np.uint8))
    image.putpalette(PALETTE.ravel().tolist())
    with atomic_path(path) as beside:
        image.save(beside, format="PNG", compress_level=6)


def read_map(path: Path, what: str, way_on: str) -> np.ndarray:
    """(height, width) uint8: an attention or saliency map.

    Args:
        what: the map's kind, and `way_on`, what to do where it is missing: for messages.

    Raises:
        InputError: a missing or torn file, or anything but 8-bit grey.
    """
    try:
        data = read_ordinary(path, MAX_IMAGE)
    except OSError as error:
        raise InputError(f"{path}: {what} cannot be read ({error.strerror}): {way_on}") from error
    with quiet_opencv(), naming(f"{path}"):
        values = decode_image(data, cv2.IMREAD_UNCHANGED)
    if values is None:
        raise InputError(f"{path}: {what} does not decode as an image: {way_on}")
    if values.dtype != np.uint8:
        raise InputError(f"{path}: {what} has {8 * values.dtype.itemsize} bits, not 8 (0 … 255): convert it")
    if values.ndim != 2:
        raise InputError(f"{path}: {what} has {values.shape[2]} channels, it must be grey: convert it")
    return values


def same_size(values: np.ndarray, like: np.ndarray, path: Path, what: str) -> None:
    """Raises InputError, naming both sizes, where they differ."""
    if values.shape != like.shape:
        here, there = (f"{a.shape[1]}×{a.shape[0]}" for a in (values, like))
        raise InputError(f"{path}: is {here} pixels, {what} {there}: make them equal")
