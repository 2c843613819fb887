"""Reading photographs as the published procedure does, and refusing what it would misread."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np

from prototxt.errors import InputError
from prototxt.files import MAX_IMAGE, read_ordinary
from runtime.data.decoding import decode_image
from runtime.data.reading import naming
from weights.files import atomic_path


def read_image(path: str | os.PathLike, to_bgr: bool = False) -> np.ndarray:
    """Read a photograph: (height, width, 3) uint8, BGR.

    Args:
        to_bgr: take grey, 16-bit and transparent images too, converted as `cv2.imread` converts them
            (grey repeated, transparency dropped). The nets were trained on colour photographs, so
            otherwise such an image is an error rather than a silent guess.

    Raises:
        InputError: a missing file, one that does not decode, a single pixel, or another kind of image.
    """
    name = os.fspath(path)
    try:
        data = read_ordinary(path, MAX_IMAGE)
    except OSError as error:
        raise InputError(f"{name}: cannot be read ({error.strerror}): check the path") from error
    with quiet_opencv(), naming(name):
        image = decode_image(data, cv2.IMREAD_UNCHANGED | cv2.IMREAD_IGNORE_ORIENTATION)
    if image is None:
        raise InputError(f"{name}: does not decode as an image: is it whole, and a JPEG or PNG?")
    if image.shape[0] * image.shape[1] == 1:
        raise InputError(f"{name}: a 1×1 image has nothing to attend to: give a photograph")
    kind = _kind(image)
    del image  # a large one takes hundreds of megabytes, and the next beside it
    if kind and not to_bgr:
        raise InputError(f"{name}: {kind} image, not 8-bit colour: convert it, or pass --to-bgr")
    with quiet_opencv(), naming(name):
        return decode_image(data, cv2.IMREAD_COLOR)


@contextlib.contextmanager
def quiet_opencv() -> Iterator[None]:
    """Without OpenCV's log on stderr: it writes there whatever it also raises or returns."""
    level = cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
    try:
        yield
    finally:
        cv2.utils.logging.setLogLevel(level)


def _kind(image: np.ndarray) -> str:
    if image.dtype != np.uint8:
        return f"a {8 * image.dtype.itemsize}-bit"
    channels = 1 if image.ndim == 2 else image.shape[2]
    return {3: "", 1: "a grey", 4: "an RGBA"}.get(channels, f"a {channels}-channel")


def write_png(path: Path, image: np.ndarray) -> None:
    """Write a PNG beside `path` and rename it; `image` is uint8, grey or BGR."""
    done, data = cv2.imencode(".png", image)
    if not done:
        raise InputError(f"{path}: cannot be encoded as PNG")
    with atomic_path(path) as beside:
        beside.write_bytes(data.tobytes())
