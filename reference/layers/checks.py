"""What several layers refuse, in one place."""

import numpy as np

from prototxt.errors import InputError
from reference.layer import Layer, Shape


def legacy_shape(shape: Shape) -> tuple[int, int, int, int]:
    """(num, channels, height, width), as Caffe's older layers see a blob: axes that it lacks are 1.

    Raises:
        InputError: more than 4 axes.
    """
    if len(shape) > 4:
        raise InputError(f"a blob of up to 4 axes (num, channels, height, width) is due, not {shape}")
    return (*shape, *(1,) * (4 - len(shape)))


def refuse_in_place(layer: Layer) -> None:
    """Raises InputError where the layer's top is its bottom."""
    if layer.plan.in_place:
        raise InputError(f"{layer.type} does not work in place: give the top a name of its own")


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
        InputError: an index outside of 0 … classes - 1 that is not ignored (Caffe reads past its memory).
    """
    with np.errstate(invalid="ignore"):
        indices = labels.astype(np.int64)
    counted = np.ones(labels.shape, bool) if ignored is None else indices != ignored
    wrong = counted & ((indices < 0) | (indices >= classes))
    if wrong.any():
        raise InputError(f"{what} {labels[wrong][0]:g} is not from 0 to {classes - 1}")
    return np.where(counted, indices, 0), counted
