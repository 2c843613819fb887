"""Scale and Bias: a factor or an addend for some of a blob's axes, learned or from a second bottom."""

import math

import numpy as np

from prototxt.caffe_pb2 import FillerParameter
from prototxt.errors import InputError
from prototxt.layers.windows import canonical_axis
from reference.layer import Arrays, Layer, Shape, layer


def _learned_shape(shape: Shape, axis: int, num_axes: int) -> Shape:
    """The shape of a learned factor or addend: `num_axes` axes of `shape` from `axis` on, all if -1."""
    start = canonical_axis(axis, len(shape))
    if num_axes < -1 or start + num_axes > len(shape):
        raise InputError(f"axis {axis} and num_axes {num_axes} do not fit the bottom {shape}")
    return shape[start:] if num_axes == -1 else shape[start : start + num_axes]


def _aligned(shape: Shape, part: Shape, axis: int) -> Shape:
    """`part` with axes of size 1 around it, so that it goes with `shape` from `axis` on.

    Raises:
        InputError: where its sizes are not those of `shape` there.
    """
    start = canonical_axis(axis, len(shape)) if part else 0
    if shape[start : start + len(part)] != part:
        raise InputError(f"{part} does not fit the bottom {shape} from axis {start} on: make the sizes equal")
    return (*(1,) * start, *part, *(1,) * (len(shape) - start - len(part)))


def _summed_to(array: np.ndarray, aligned: Shape) -> np.ndarray:
    """Sum over the axes that `aligned` lacks: the adjoint of spreading."""
    axes = tuple(a for a, (n, m) in enumerate(zip(array.shape, aligned, strict=True)) if m == 1 != n)
    return array.sum(axis=axes, keepdims=True)


@layer("Scale")
class Scale(Layer):
    """x · scale (+ bias). The scale is weight 0, or bottom 1; the bias is the last weight."""

    def add_weights(self, shape: Shape, scale: Shape | None = None) -> None:
        param = self.param.scale_param
        num_axes = param.num_axes if scale is None else len(scale)
        if scale is None:
            filler = param.filler if param.HasField("filler") else FillerParameter(value=1)
            self.add_weight(_learned_shape(shape, param.axis, num_axes), filler)
        if param.bias_term:
            self.add_weight(_learned_shape(shape, param.axis, num_axes), param.bias_filler)

    def top_shapes(self, shape: Shape, scale: Shape | None = None) -> list[Shape]:
        axis = self.param.scale_param.axis
        self.aligned = _aligned(shape, self.blobs[0].shape if scale is None else scale, axis)
        if self.param.scale_param.bias_term:
            _aligned(shape, self.blobs[-1].shape, axis)
        return [shape]

    def run(self, x: np.ndarray, scale: np.ndarray | None = None) -> np.ndarray:
        self.x = x.copy() if self.plan.in_place else None
        y = x * (self.weight(0) if scale is None else scale).reshape(self.aligned)
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

    def add_weights(self, shape: Shape, bias: Shape | None = None) -> None:
        param = self.param.bias_param
        if bias is None:
            self.add_weight(_learned_shape(shape, param.axis, param.num_axes), param.filler)

    def top_shapes(self, shape: Shape, bias: Shape | None = None) -> list[Shape]:
        self.aligned = _aligned(
            shape, self.blobs[0].shape if bias is None else bias, self.param.bias_param.axis
        )
        return [shape]

    def run(self, x: np.ndarray, bias: np.ndarray | None = None) -> np.ndarray:
        return x + (self.weight(0) if bias is None else bias).reshape(self.aligned)

    def grad(self, bottoms: Arrays, tops: Arrays, top_diffs: Arrays) -> list[np.ndarray]:
        (dy,) = top_diffs
        if len(bottoms) > 1:
            return [dy, _summed_to(dy, self.aligned).reshape(bottoms[1].shape)]
        self.add_grad(0, _summed_to(dy, self.aligned))
        return [dy]
