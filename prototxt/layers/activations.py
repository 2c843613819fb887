"""Layers that treat every value alike."""

import math

from prototxt.caffe_pb2 import TRAIN, FillerParameter, LayerParameter, SeLUDropoutParameter
from prototxt.errors import InputError
from prototxt.layers.declare import (
    Declared,
    Shapes,
    Weight,
    layer_type,
    refuse_in_place,
    same_shape,
    text,
)

layer_type("ReLU6", "NegReLU", "SeLU", "BNLL", "Clip", reads_bottoms=True)(same_shape)
layer_type("Sigmoid", "TanH", "Swish", reads_tops=True)(same_shape)
layer_type("ELU", "Power", reads_bottoms=True, reads_tops=True)(same_shape)
layer_type("Threshold")(same_shape)


@layer_type("ReLU", tops=(1, 2), reads_bottoms=True)
def relu(layer: LayerParameter, shapes: Shapes, tops: int) -> Declared:
    """The second top is HyeonwooNoh/caffe's (DecoupledNet): where the bottom is above 0."""
    return Declared([shapes[0]] * tops)


@layer_type("Dropout")
def dropout(layer: LayerParameter, shapes: Shapes, tops: int) -> Declared:
    _check_ratio(layer)
    return Declared([shapes[0]])


def _check_ratio(layer: LayerParameter) -> None:
    ratio = layer.dropout_param.dropout_ratio
    if layer.phase == TRAIN and not 0 <= ratio < 1:
        raise InputError(f"dropout_param: dropout_ratio {ratio:g} must be at least 0 and below 1")


@layer_type("AbsVal", reads_bottoms=True)
def absolute(layer: LayerParameter, shapes: Shapes, tops: int) -> Declared:
    refuse_in_place(layer)
    return Declared([shapes[0]])


@layer_type("SeLUDropout")
def selu_dropout(layer: LayerParameter, shapes: Shapes, tops: int) -> Declared:
    if not 0 < layer.selu_dropout_param.dropout_ratio < 1:
        raise InputError("selu_dropout_param: dropout_ratio must be between 0 and 1")
    return Declared([shapes[0]])


def selu_dropout_map(param: SeLUDropoutParameter) -> tuple[float, float]:
    """(a, b): SeLUDropout gives a · x + b, with `alpha` for an x that is dropped; mean and variance stay."""
    keep = 1.0 - param.dropout_ratio
    a = (keep * (1 + param.alpha**2 * (1 - keep))) ** -0.5
    return a, -a * (1 - keep) * param.alpha


@layer_type("SpatialDropout")
def spatial_dropout(layer: LayerParameter, shapes: Shapes, tops: int) -> Declared:
    (shape,) = shapes
    _check_ratio(layer)
    if len(shape) < 2:
        raise InputError(f"SpatialDropout drops channels: it needs at least 2 axes, not {text(shape)}")
    return Declared([shape])


@layer_type("PReLU", reads_bottoms=True, keeps_copy_in_place=True)
def prelu(layer: LayerParameter, shapes: Shapes, tops: int) -> Declared:
    """BVLC's Caffe takes at most 4 axes; intel/caffe's takes volumes, by the same rule."""
    param, (shape,) = layer.prelu_param, shapes
    if len(shape) < 2:
        raise InputError(f"PReLU needs at least 2 axes, not {text(shape)}")
    channels = shape[1]
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
