"""Sliding windows over spatial axes, and their adjoint."""

import math
from collections.abc import Iterator, Sequence
from itertools import product
from typing import Any

import numpy as np

from prototxt.layers.windows import Window


def im2col(image: np.ndarray, window: Window, out: Sequence[int]) -> np.ndarray:
    """Unfold `image` (C, *sizes) to (C · kernel, prod(out)), zeros in the padding."""
    padded = np.pad(image, [(0, 0), *((p, p) for p in window.pad)])
    columns = np.empty((image.shape[0], *window.kernel, *out), image.dtype)
    for offset, where in _taps(window, out):
        columns[offset] = padded[where]
    return columns.reshape(math.prod(columns.shape[: 1 + len(window.kernel)]), math.prod(out))


def col2im(columns: np.ndarray, shape: Sequence[int], window: Window, out: Sequence[int]) -> np.ndarray:
    """Fold (C · kernel, prod(out)) back to `shape` (C, *sizes), overlaps added: im2col's adjoint."""
    columns = columns.reshape(shape[0], *window.kernel, *out)
    padded = np.zeros(
        (shape[0], *(n + 2 * p for n, p in zip(shape[1:], window.pad, strict=True))), columns.dtype
    )
    for offset, where in _taps(window, out):
        padded[where] += columns[offset]
    inside = tuple(slice(p, p + n) for n, p in zip(shape[1:], window.pad, strict=True))
    return padded[(slice(None), *inside)]


def _taps(window: Window, out: Sequence[int]) -> Iterator[tuple[Any, Any]]:
    """Indices of each kernel offset in the columns, and of what it sees of the padded image; all channels."""
    for offset in product(*(range(k) for k in window.kernel)):
        starts = [o * d for o, d in zip(offset, window.dilation, strict=True)]
        yield (
            (slice(None), *offset),
            (
                slice(None),
                *(
                    slice(start, start + s * (n - 1) + 1, s)
                    for start, s, n in zip(starts, window.stride, out, strict=True)
                ),
            ),
        )
