"""Maps of 0 … 1 resized as images of bytes, as SegmentationEvaluate (MobileNet-YOLO) has OpenCV do it."""

import cv2
import numpy as np

from prototxt.errors import InputError


def resized_bytes(maps: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Each map times 255, truncated, then made (height, width), linearly.

    Raises:
        InputError: a value that does not fit into a byte, which the published code leaves open.
    """
    scaled = maps.astype(np.float32) * np.float32(255)
    if not ((scaled > -1) & (scaled < 256)).all():
        raise InputError("scores to be resized must be from 0 to 1")
    return np.stack([cv2.resize(each.astype(np.uint8), size[::-1]) for each in scaled])
