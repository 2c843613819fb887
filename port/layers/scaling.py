"""Scale and Bias: one factor or term for each place of some axes, learned or a bottom."""

import math

from torch import Tensor

from port.layer import Layer, layer
from prototxt.layers.declare import Shape
from prototxt.layers.scaling import along
from prototxt.layers.windows import canonical_axis


@layer("Scale")
class Scale(Layer):
    """x times a factor, plus, with `bias_term`, a learned term. A learned factor starts as 1."""

    def replaced_gradients(self, shape: Shape, *second: Shape) -> list[int]:
        """Caffe's factor, where all axes before its own are 1: with batches of 1, `iter_size` sees the last only.

        A single number that scales several values is added up all the same.
        """
        if second:
            return []
        factor = self.blobs[0]
        start = canonical_axis(self.param.scale_param.axis, len(shape)) if factor.ndim else 0
        values = math.prod(shape[start:])
        return [0] if math.prod(shape) == values and (factor.numel() > 1 or values == 1) else []

    def forward(self, x: Tensor, *second: Tensor) -> Tensor:
        factor, *term = (*second, *self.blobs)
        axis = self.param.scale_param.axis
        top = x * factor.reshape(along(x.shape, factor.shape, axis))
        return top + term[0].reshape(along(x.shape, term[0].shape, axis)) if term else top


@layer("Bias")
class Bias(Layer):
    """x plus a term."""

    def forward(self, x: Tensor, *second: Tensor) -> Tensor:
        (term,) = (*second, *self.blobs)
        return x + term.reshape(along(x.shape, term.shape, self.param.bias_param.axis))
