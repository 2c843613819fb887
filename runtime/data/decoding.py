"""From the bytes of an image file to its pixels, where the file may say anything of itself."""

import io
import os
import re
import warnings

import cv2
import numpy as np
from PIL import Image, UnidentifiedImageError

from prototxt.errors import InputError
from prototxt.limits import max_memory
from prototxt.native_output import without_native_output

MAX_PIXELS = 89_478_485
"""Pixels of an image, at most: Pillow's own limit. The environment variable SEENET_MAX_PIXELS sets another."""

_FEW, _MOST_A_BYTE = 1 << 22, 10_000
"""Pixels that are decoded whatever the file's size, and that a byte can stand for: 8,256 of a PNG of one colour."""

warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)  # what it warns of is refused here


def decode_image(data: bytes, flags: int) -> np.ndarray | None:
    """(height, width) or (height, width, channels) as `cv2.imdecode` gives it, or None where it does not decode.

    Raises:
        InputError: an image of more than `MAX_PIXELS`, by its header, or one that memory does not suffice for.
    """
    if not data or not _chunks_fit(data):
        return None
    check_pixels(data)
    try:
        with without_native_output():
            return cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    except cv2.error as error:
        if error.code == cv2.Error.StsNoMem:
            raise InputError("is too large an image for the memory") from error
        return None  # a header that lies: OpenCV's own limits


def _chunks_fit(data: bytes) -> bool:
    """Whether no chunk of a PNG claims to be longer than the file: OpenCV takes that memory before it looks."""
    place, size = len(_PNG), len(data)
    if not data.startswith(_PNG):
        return True
    while place + 8 <= size:
        length = int.from_bytes(data[place : place + 4], "big")
        if length > size:
            return False
        place += 12 + length
    return True


_COLOUR = 12
"""Bytes of a pixel: three channels, float32."""

_PNG = b"\x89PNG\r\n\x1a\n"


def check_pixels(data: bytes) -> None:
    """Raises InputError for an image of too many pixels; for what Pillow does not know, OpenCV has limits."""
    try:
        with Image.open(io.BytesIO(data)) as image:
            size = image.width * image.height
    except Image.DecompressionBombError as error:
        size = _told_by(error)
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError, OverflowError, MemoryError):
        return
    check_count(size)
    if size > _FEW and size > _MOST_A_BYTE * len(data):
        raise InputError(f"claims {size:,} pixels, which its {len(data):,} bytes cannot hold: get it again")


def check_count(size: int) -> None:
    """Raises InputError for an image, or a frame, of too many pixels, or that memory does not hold as float32."""
    if size > _limit():
        raise InputError(
            f"is too large an image: {size:,} pixels, at most {_limit():,} are read "
            "(the environment variable SEENET_MAX_PIXELS sets another limit)"
        )
    if _COLOUR * size > max_memory():
        raise InputError(
            f"is too large an image: {size:,} pixels take {_COLOUR * size:,} bytes, {max_memory():,} are allowed "
            "(seenet --max-memory GIB allows more)"
        )


def _told_by(error: Image.DecompressionBombError) -> int:
    found = re.search(r"\((\d+) pixels\)", str(error))
    return int(found[1]) if found else 2 * MAX_PIXELS


def _limit() -> int:
    text = os.environ.get("SEENET_MAX_PIXELS", "")
    if not re.fullmatch("[0-9]{0,12}", text):
        raise InputError(f"SEENET_MAX_PIXELS={text}: give a number of pixels")
    return int(text or MAX_PIXELS)
