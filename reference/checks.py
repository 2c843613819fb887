"""What several layers refuse, in one place."""

import numpy as np

from prototxt.errors import InputError
from reference.layer import Layer
from runtime.labels import LabelError


def refuse_gradient(layer: Layer, index: int, what: str) -> None:
    """Raises InputError where bottom `index`, which holds `what`, is asked for its gradient."""
    if layer.propagate_down[index]:
        raise InputError(
            f"{layer.type} gives no gradient to its {what}: set propagate_down: false for bottom {index}"
        )


def class_indices(
    labels: np.ndarray, classes: int, ignored: int | None = None, what: str = "label"
) -> tuple[np.ndarray, np.ndarray]:
    """Labels as indices, truncated as Caffe's int(label), and where they count (bool, the same shape).

    Ignored labels become index 0.

    Raises:
        LabelError: an index outside of 0 … classes - 1 that is not ignored (Caffe reads past its memory).
    """
    with np.errstate(invalid="ignore"):
        indices = labels.astype(np.int64)
    counted = np.ones(labels.shape, bool) if ignored is None else indices != ignored
    wrong = counted & ((indices < 0) | (indices >= classes))
    if wrong.any():
        raise LabelError(indices[wrong][0], classes, what)
    return np.where(counted, indices, 0), counted
