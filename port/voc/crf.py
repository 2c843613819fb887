"""Dense CRF: class probabilities pulled to the image's edges. By pydensecrf2, an optional package."""

from types import ModuleType

import numpy as np

from port.voc.settings import CrfSettings
from prototxt.errors import InputError, need_packages

FLOOR = 1e-4
"""Probabilities below count as this ([O]): what the net rules out, the CRF may still bring back."""


def load_crf() -> ModuleType:
    """The module that computes CRFs.

    Raises:
        InputError: it is not installed, with the command that installs it.
    """
    need_packages(
        "pydensecrf",
        purpose="the dense CRF",
        install="pip install pydensecrf2",
        otherwise=" (it needs a C++ compiler), or pass --no-crf",
    )
    import pydensecrf.densecrf

    return pydensecrf.densecrf


def dense_crf(
    probabilities: np.ndarray, image: np.ndarray, settings: CrfSettings | None = None
) -> np.ndarray:
    """The mean field of a fully connected CRF (Krähenbühl and Koltun, NIPS 2011).

    The energy of a pixel's class is -log of its probability; each pair of pixels of different classes costs
    `bilateral · exp(-|Δxy|² / 2·bilateral_xy² - |Δrgb|² / 2·bilateral_rgb²) + gaussian · exp(-|Δxy|² /
    2·gaussian_xy²)`, each kernel normalised symmetrically. The sums over all pairs are the package's, on a
    permutohedral lattice, and so approximate: `test_segment.py` holds them against exact sums, where
    probabilities are 0.002 off on the mean, and one pixel in 400 changes its class. The kernels know no order
    of the channels, but the lattice does: the package is given RGB, as it asks for.

    [O]'s script calls the same package with height and width exchanged and with one iteration; it has that
    call commented out.

    Args:
        probabilities: (classes, height, width) float32, 0 or more; scaled to a sum of 1 at each pixel.
        image: (height, width, 3) uint8, BGR.

    Returns:
        (classes, height, width) float32 probabilities.

    Raises:
        InputError: arrays of other shapes or types; a missing package.
    """
    settings = settings or CrfSettings()
    classes, *size = probabilities.shape
    if image.shape != (*size, 3) or image.dtype != np.uint8:
        raise InputError(
            f"CRF: probabilities {probabilities.shape} and image {image.shape} {image.dtype}: "
            "they must be (classes, height, width) and (height, width, 3) uint8"
        )
    crf = load_crf().DenseCRF2D(size[1], size[0], classes)
    shares = probabilities / probabilities.sum(0)
    crf.setUnaryEnergy(-np.log(np.maximum(shares, FLOOR, dtype=np.float32)).reshape(classes, -1))
    if settings.gaussian:
        crf.addPairwiseGaussian(sxy=settings.gaussian_xy, compat=settings.gaussian)
    if settings.bilateral:
        crf.addPairwiseBilateral(
            sxy=settings.bilateral_xy,
            srgb=settings.bilateral_rgb,
            rgbim=np.ascontiguousarray(image[:, :, ::-1]),
            compat=settings.bilateral,
        )
    return np.array(crf.inference(settings.iterations), np.float32).reshape(probabilities.shape)
