"""Boxes of SSD's layers: corners in fractions of the image, along the last axis."""

import numpy as np

from prototxt.errors import InputError
from prototxt.layers.boxes import CENTER_SIZE, CORNER


def intersections(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Intersections over unions (…) of boxes (…, 4) that broadcast; 0 where nothing is shared, or a box is inverted."""
    # Each coordinate side by side in memory: SSD asks for millions of these.
    a0, a1, a2, a3 = (np.ascontiguousarray(a[..., i]) for i in range(4))
    b0, b1, b2, b3 = (np.ascontiguousarray(b[..., i]) for i in range(4))
    width = np.maximum(np.minimum(a2, b2) - np.maximum(a0, b0), 0)
    height = np.maximum(np.minimum(a3, b3) - np.maximum(a1, b1), 0)
    shared = width * height
    union = areas(a) + areas(b) - shared
    return shared / np.where(shared == 0, union.dtype.type(1), union)


def areas(boxes: np.ndarray) -> np.ndarray:
    """Areas of boxes (…, 4); an inverted one has none."""
    width, height = boxes[..., 2] - boxes[..., 0], boxes[..., 3] - boxes[..., 1]
    return np.where((width < 0) | (height < 0), width.dtype.type(0), width * height)


def outside(values: np.ndarray) -> np.ndarray:
    """Where coordinates are outside of the image."""
    return (values < 0) | (values > 1)


def _sizes(boxes: np.ndarray, what: str) -> np.ndarray:
    """(…, 4), each box's width and height, twice.

    Raises:
        InputError: one that is not above 0.
    """
    sizes = boxes[..., 2:] - boxes[..., :2]
    if not (sizes > 0).all():
        box = boxes[~(sizes > 0).all(axis=-1)][0]
        raise InputError(f"{what} {tuple(map(float, box))} has no area: this code_type divides by its size")
    return np.concatenate([sizes, sizes], axis=-1)


def _centres(boxes: np.ndarray) -> np.ndarray:
    return (boxes[..., :2] + boxes[..., 2:]) / boxes.dtype.type(2)


def decoded(code: int, priors: np.ndarray, variances: np.ndarray, t: np.ndarray) -> np.ndarray:
    """The boxes that predictions `t` (…, 4) stand for.

    Args:
        code: PriorBoxParameter.CodeType.
        variances: the priors' own; ones where the predictions are in them already.

    Raises:
        InputError: a prior without area, where the code has sizes.
    """
    t = variances * t
    if code == CORNER:
        return priors + t
    sizes = _sizes(priors, "the prior")
    t = t * sizes if code != CENTER_SIZE else t
    if code != CENTER_SIZE:
        return priors + t
    centres = t[..., :2] * sizes[..., :2] + _centres(priors)
    halves = np.exp(t[..., 2:]) * sizes[..., 2:] / t.dtype.type(2)
    return np.concatenate([centres - halves, centres + halves], axis=-1)


def encoded(code: int, priors: np.ndarray, variances: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """What predictions should be for the boxes to be decoded from them; the inverse of `decoded`.

    Raises:
        InputError: a prior or a box without area, where the code has sizes; a variance that is not above 0.
    """
    if not (variances > 0).all():
        raise InputError(f"variances of priors must be above 0, not {float(variances.min())}")
    if code == CORNER:
        return (boxes - priors) / variances
    sizes = _sizes(priors, "the prior")
    if code != CENTER_SIZE:
        return (boxes - priors) / sizes / variances
    shifts = (_centres(boxes) - _centres(priors)) / sizes[..., :2]
    scales = np.log(_sizes(boxes, "the ground truth's box")[..., 2:] / sizes[..., 2:])
    return np.concatenate([shifts, scales], axis=-1) / variances


def priors_of(blob: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Boxes and variances, (count, 4) each, of PriorBox's top."""
    boxes, variances = blob.reshape(-1)[: count * 8].reshape(2, count, 4)
    return boxes, variances


def truths_of(rows: np.ndarray, background: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Images and labels (integers), boxes, and whether they are difficult, of ground truth (rows, 8).

    Raises:
        InputError: a box of the background, where it is not of image -1.
    """
    images, labels = rows[:, 0].astype(np.int64), rows[:, 1].astype(np.int64)
    if ((labels == background) & (images != -1)).any():
        raise InputError(f"the ground truth has a box of the background label {background}")
    return images, labels, rows[:, 3:7], rows[:, 7] != 0
