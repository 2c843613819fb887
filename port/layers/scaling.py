"""Scale and Bias: one factor or term for each place of some axes, learned or a bottom."""

import math

from torch import Tensor

from port.layer import Layer, Shape, layer
from prototxt.caffe_pb2 import FillerParameter
from prototxt.errors import InputError
from prototxt.layers.windows import canonical_axis


class _Broadcasting(Layer):
    """The second operand's axes lie along the first's from `axis` on."""

    axis: int
    """As the message has it: possibly negative."""

    def weight_shape(self, shape: Shape, num_axes: int) -> Shape:
        """The shape of a learned operand: `num_axes` axes of the bottom, or (-1) all from `axis` on."""
        start = canonical_axis(self.axis, len(shape))
        if num_axes < -1 or start + num_axes > len(shape):
            raise InputError(f"num_axes {num_axes} from axis {start} on does not fit a bottom {tuple(shape)}")
        return tuple(shape[start:] if num_axes == -1 else shape[start : start + num_axes])

    def along(self, shape: Shape, operand: Shape) -> Shape:
        """The operand's shape, with ones behind it for the bottom's further axes.

        Raises:
            InputError: where the operand does not fit the bottom.
        """
        if not operand:
            return ()  # a single number goes anywhere, whatever the axis
        start = canonical_axis(self.axis, len(shape))
        if tuple(shape[start : start + len(operand)]) != tuple(operand):
            raise InputError(f"{tuple(operand)} does not fit a bottom {tuple(shape)} from axis {start} on")
        return (*operand, *(1,) * (len(shape) - start - len(operand)))

    def top_shapes(self, shape: Shape, *second: Shape) -> list[Shape]:
        for operand in (*second, *(tuple(blob.shape) for blob in self.blobs)):
            self.along(shape, operand)
        return [shape]


@layer("Scale")
class Scale(_Broadcasting):
    """x times a factor, plus, with `bias_term`, a learned term. A learned factor starts as 1."""

    def set_up(self, shape: Shape, *second: Shape) -> None:
        param = self.param.scale_param
        self.axis = param.axis
        if not second:
            filler = param.filler if param.HasField("filler") else FillerParameter(type="constant", value=1)
            self.add_weight(self.weight_shape(shape, param.num_axes), filler)
        if param.bias_term:
            num_axes = len(second[0]) if second else param.num_axes
            self.add_weight(self.weight_shape(shape, num_axes), param.bias_filler)

    def replaced_gradients(self, shape: Shape, *second: Shape) -> list[int]:
        """Caffe's factor, where all axes before its own are 1: with batches of 1, `iter_size` sees the last only.

        A single number that scales several values is added up all the same.
        """
        if second:
            return []
        factor = self.blobs[0]
        start = canonical_axis(self.axis, len(shape)) if factor.ndim else 0
        values = math.prod(shape[start:])
        return [0] if math.prod(shape) == values and (factor.numel() > 1 or values == 1) else []

    def forward(self, x: Tensor, *second: Tensor) -> Tensor:
        factor, *term = (*second, *self.blobs)
        top = x * factor.reshape(self.along(x.shape, factor.shape))
        return top + term[0].reshape(self.along(x.shape, term[0].shape)) if term else top


@layer("Bias")
class Bias(_Broadcasting):
    """x plus a term."""

    def set_up(self, shape: Shape, *second: Shape) -> None:
        param = self.param.bias_param
        self.axis = param.axis
        if not second:
            self.add_weight(self.weight_shape(shape, param.num_axes), param.filler)

    def forward(self, x: Tensor, *second: Tensor) -> Tensor:
        (term,) = (*second, *self.blobs)
        return x + term.reshape(self.along(x.shape, term.shape))
