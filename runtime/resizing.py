"""Bicubic resizing with the arithmetic of the OpenCV that pycaffe scripts were written with."""

import cv2
import numpy as np


def resize_cubic(image: np.ndarray, width: int, height: int) -> np.ndarray:
    """`cv2.resize(image, (width, height), interpolation=cv2.INTER_CUBIC)`, by OpenCV's own code.

    PyPI's OpenCV hands float32 images to Intel's IPP, whose bicubic differs from OpenCV's by up to 3e-6 of the
    largest value; with IPP off, the recorded attention maps follow from the recorded scores exactly.
    """
    used = cv2.ipp.useIPP()
    cv2.ipp.setUseIPP(False)
    try:
        return cv2.resize(image, (width, height), interpolation=cv2.INTER_CUBIC)
    finally:
        cv2.ipp.setUseIPP(used)
