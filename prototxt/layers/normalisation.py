"""Layers that bring values to a common scale."""

from prototxt.caffe_pb2 import LayerParameter, LRNParameter
from prototxt.errors import InputError
from prototxt.layers.declare import (
    Declared,
    Shapes,
    Weight,
    layer_type,
    legacy_shape,
    refuse_in_place,
    text,
)
from prototxt.layers.windows import canonical_axis


@layer_type("Softmax", reads_tops=True)
def softmax(layer: LayerParameter, shapes: Shapes, tops: int) -> Declared:
    canonical_axis(layer.softmax_param.axis, len(shapes[0]))
    return Declared([shapes[0]])


@layer_type("LRN", reads_bottoms=True, reads_tops=True)
def lrn(layer: LayerParameter, shapes: Shapes, tops: int) -> Declared:
    param, (shape,) = layer.lrn_param, shapes
    if param.local_size % 2 == 0:
        raise InputError(f"lrn_param: local_size {param.local_size} must be odd")
    if param.norm_region == LRNParameter.ACROSS_CHANNELS:
        refuse_in_place(layer)  # Caffe overwrites the bottom before it has read it
    if len(shape) != 4:
        raise InputError(f"LRN needs 4 axes (num, channels, height, width), not {text(shape)}")
    return Declared([shape])


@layer_type("MVN", reads_tops=True)
def mvn(layer: LayerParameter, shapes: Shapes, tops: int) -> Declared:
    return Declared([legacy_shape(shapes[0])])


@layer_type("BatchNorm", learned=False, weight_names=("mean", "variance", "factor"))
def batch_norm(layer: LayerParameter, shapes: Shapes, tops: int) -> Declared:
    (shape,) = shapes
    if any(spec.lr_mult for spec in layer.param):
        raise InputError("BatchNorm's blobs are running sums, not learned: set lr_mult: 0 in its param")
    if len(shape) < 2:
        raise InputError(f"BatchNorm needs at least 2 axes, the channels second, not {text(shape)}")
    return Declared([shape], [Weight(shape[1:2]), Weight(shape[1:2]), Weight((1,))])
