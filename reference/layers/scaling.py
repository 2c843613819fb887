"""Scale and Bias: a factor or an addend for some of a blob's axes, learned or from a second bottom."""

import math

import numpy as np

from prototxt.layers.declare import Shape
from prototxt.layers.scaling import along
from prototxt.layers.windows import canonical_axis
from reference.layer import Arrays, Layer, layer


def _summed_to(array: np.ndarray, aligned: Shape) -> np.ndarray:
    """Sum over the axes that `aligned` lacks: the adjoint of spreading."""
    axes = tuple(a for a, (n, m) in enumerate(zip(array.shape, aligned, strict=True)) if m == 1 != n)
    return array.sum(axis=axes, keepdims=True)


@layer("Scale")
class Scale(Layer):
    """x · scale (+ bias). The scale is weight 0, or bottom 1; the bias is the last weight."""

    def run(self, x: np.ndarray, scale: np.ndarray | None = None) -> np.ndarray:
        self.x = x.copy() if self.plan.in_place else None
        scale = self.weight(0) if scale is None else scale
        self.aligned = along(x.shape, scale.shape, self.param.scale_param.axis)
        y = x * scale.reshape(self.aligned)
        return y + self.weight(-1).reshape(self.aligned) if self.param.scale_param.bias_term else y

    def grad(self, bottoms: Arrays, tops: Arrays, top_diffs: Arrays) -> list[np.ndarray | None]:
        x = bottoms[0] if self.x is None else self.x
        (dy,) = top_diffs
        scale = bottoms[1] if len(bottoms) > 1 else self.weight(0)
        if self.param.scale_param.bias_term:
            self.add_grad(len(self.blobs) - 1, _summed_to(dy, self.aligned))
        dx = dy * scale.reshape(self.aligned)
        if len(bottoms) > 1:
            return [dx, _summed_to(dy * x, self.aligned).reshape(scale.shape)]
        if self.wants_weight(0):
            if self._replaces(x.shape):
                self.blobs[0].diff[...] = 0
            self.add_grad(0, _summed_to(dy * x, self.aligned))
        return [dx]

    def _replaces(self, shape: Shape) -> bool:
        """Whether Caffe's gradient of the scale replaces what was there instead of being added to it.

        It does where all axes before the scale's are 1: with batches of 1, `iter_size` sees the last only.
        (A single number that scales several values is added up all the same.)
        """
        scale = self.blobs[0]
        start = canonical_axis(self.param.scale_param.axis, len(shape)) if scale.shape else 0
        values = math.prod(shape[start:])
        return math.prod(shape) == values and (scale.count > 1 or values == 1)


@layer("Bias")
class Bias(Layer):
    """x + bias. The bias is weight 0, or bottom 1."""

    def run(self, x: np.ndarray, bias: np.ndarray | None = None) -> np.ndarray:
        bias = self.weight(0) if bias is None else bias
        self.aligned = along(x.shape, bias.shape, self.param.bias_param.axis)
        return x + bias.reshape(self.aligned)

    def grad(self, bottoms: Arrays, tops: Arrays, top_diffs: Arrays) -> list[np.ndarray]:
        (dy,) = top_diffs
        if len(bottoms) > 1:
            return [dy, _summed_to(dy, self.aligned).reshape(bottoms[1].shape)]
        self.add_grad(0, _summed_to(dy, self.aligned))
        return [dy]
