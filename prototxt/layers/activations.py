"""Layers that treat every value alike."""

import math

from prototxt.caffe_pb2 import FillerParameter, LayerParameter
from prototxt.errors import InputError
from prototxt.layers.declare import (
    Declared,
    Shapes,
    Weight,
    layer_type,
    legacy_shape,
    refuse_in_place,
    same_shape,
    text,
)

layer_type("ReLU", "BNLL", "Clip", reads_bottoms=True)(same_shape)
layer_type("Sigmoid", "TanH", "Swish", reads_tops=True)(same_shape)
layer_type("ELU", "Power", reads_bottoms=True, reads_tops=True)(same_shape)
layer_type("Dropout", "Threshold")(same_shape)


@layer_type("AbsVal", reads_bottoms=True)
def absolute(layer: LayerParameter, shapes: Shapes, tops: int) -> Declared:
    refuse_in_place(layer)
    return Declared([shapes[0]])


@layer_type("PReLU", reads_bottoms=True, keeps_copy_in_place=True)
def prelu(layer: LayerParameter, shapes: Shapes, tops: int) -> Declared:
    param, (shape,) = layer.prelu_param, shapes
    if len(shape) < 2:
        raise InputError(f"PReLU needs at least 2 axes, not {text(shape)}")
    channels = legacy_shape(shape)[1]
    filler = param.filler if param.HasField("filler") else FillerParameter(type="constant", value=0.25)
    return Declared([shape], [Weight(() if param.channel_shared else (channels,), filler)])


@layer_type("Exp", reads_tops=True)
def exp(layer: LayerParameter, shapes: Shapes, tops: int) -> Declared:
    log_of_base(layer.exp_param.base)
    return Declared([shapes[0]])


@layer_type("Log", reads_bottoms=True)
def log(layer: LayerParameter, shapes: Shapes, tops: int) -> Declared:
    if not log_of_base(layer.log_param.base):
        raise InputError("log_param: base 1 has no logarithm: give another base")
    return Declared([shapes[0]])


def log_of_base(base: float) -> float:
    """The natural logarithm of Exp's and Log's base; -1 stands for e.

    Raises:
        InputError: a base that has none.
    """
    if base == -1:
        return 1.0
    if not 0 < base < math.inf:
        raise InputError(f"base {base:g} must be above 0, or -1 for e")
    return math.log(base)
