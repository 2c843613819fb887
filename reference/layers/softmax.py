"""Softmax over one axis."""

import numpy as np

from prototxt.geometry import canonical_axis
from reference.layer import Arrays, Layer, Shape, layer


def softmax(x: np.ndarray, axis: int) -> np.ndarray:
    """exp(x) over its sum along `axis`, the maximum subtracted first."""
    exp = np.exp(x - x.max(axis=axis, keepdims=True))
    return exp / exp.sum(axis=axis, keepdims=True)


@layer("Softmax")
class Softmax(Layer):
    def top_shapes(self, shape: Shape) -> list[Shape]:
        self.axis = canonical_axis(self.param.softmax_param.axis, len(shape))
        return [shape]

    def run(self, x: np.ndarray) -> np.ndarray:
        return softmax(x, self.axis)

    def grad(self, bottoms: Arrays, tops: Arrays, top_diffs: Arrays) -> np.ndarray:
        (y,), (dy,) = tops, top_diffs
        return (dy - (dy * y).sum(axis=self.axis, keepdims=True)) * y
