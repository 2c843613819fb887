"""Layers for optical flow (FlowNet2)."""

from prototxt.caffe_pb2 import LayerParameter
from prototxt.errors import InputError
from prototxt.layers.declare import Declared, Shapes, layer_type, legacy_shape, refuse_in_place, text


@layer_type("ChannelNorm", reads_bottoms=True, reads_tops=True)
def channel_norm(layer: LayerParameter, shapes: Shapes, tops: int) -> Declared:
    num, _, height, width = legacy_shape(shapes[0])
    return Declared([(num, 1, height, width)])


@layer_type("FlowWarp", bottoms=(2, 2), reads_bottoms=True)
def flow_warp(layer: LayerParameter, shapes: Shapes, tops: int) -> Declared:
    refuse_in_place(layer)
    image, flow = map(legacy_shape, shapes)
    if flow != (image[0], 2, *image[2:]):
        raise InputError(
            f"the flow {text(shapes[1])} must have 2 channels, x and y, and the image's size {text(shapes[0])}"
        )
    return Declared([image])
