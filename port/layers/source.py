"""Layers without bottoms."""

from torch import Tensor

from port.layer import Layer, Shape, layer
from prototxt.caffe_pb2 import FillerParameter
from prototxt.errors import InputError


@layer("Input")
class Input(Layer):
    """Blobs that the caller gives: `shapes` says what the prototxt declares."""

    def top_shapes(self) -> list[Shape]:
        shapes = self.param.input_param.shape
        tops = len(self.plan.tops)
        if len(shapes) not in (0, 1, tops):
            raise InputError(f"input_param has {len(shapes)} shapes for {tops} tops: give 0, 1 or one each")
        if not shapes:
            return [(0,)] * tops
        return [tuple(shapes[i if len(shapes) > 1 else 0].dim) for i in range(tops)]


@layer("Parameter")
class Parameter(Layer):
    """A weight as a blob of the net."""

    def set_up(self) -> None:
        self.add_weight(tuple(self.param.parameter_param.shape.dim), FillerParameter(value=0))

    def forward(self) -> Tensor:
        return self.blobs[0]
