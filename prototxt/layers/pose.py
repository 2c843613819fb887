"""The layers that end CMU's pose nets (caffe_rtpose, src/caffe/cpm/layers/): by the GPU code, which is what runs.

The CPU code of that fork does something else, and for Nms less.
"""

import math
import struct

from prototxt.caffe_pb2 import ImResizeParameter, LayerParameter
from prototxt.errors import InputError
from prototxt.layers.declare import Declared, Shapes, layer_type, text


@layer_type("ImResize")
def im_resize(layer: LayerParameter, shapes: Shapes, tops: int) -> Declared:
    """The bottom's items are one image at several scales; the top is one."""
    param, (shape,) = layer.imresize_param, shapes
    if len(shape) != 4 or not math.prod(shape):
        raise InputError(f"ImResize needs maps (num, channels, height, width), not {text(shape)}")
    size = [int(n * param.factor) for n in shape[2:]]
    if not param.factor:
        size = [param.target_spatial_height, param.target_spatial_width]
    if min(size) < 1:
        raise InputError("imresize_param: factor, or target_spatial_height and _width, must give a size")
    for n in range(shape[0]):
        for pixels in shape[2:]:
            if not 0 <= 2 * scale_pad(param, n, pixels) < pixels:
                raise InputError(
                    f"imresize_param: start_scale and scale_gap leave nothing of item {n}, or are too large"
                )
    return Declared([(1, shape[1], *size)])


def scale_pad(param: ImResizeParameter, n: int, pixels: int) -> int:
    """How much of each end of an axis is padding in item `n`, whose scale is start_scale - n · scale_gap."""
    part = _single(_single(1 - param.start_scale) + _single(n * param.scale_gap))
    return math.floor(_single(pixels // 2 * part))


def _single(value: float) -> float:
    """The nearest number of single precision."""
    return struct.unpack("f", struct.pack("f", value))[0]


@layer_type("Nms")
def nms(layer: LayerParameter, shapes: Shapes, tops: int) -> Declared:
    """The top has rows [x, y, score], after one that begins with the number of peaks."""
    param, (shape,) = layer.nms_param, shapes
    if len(shape) != 4 or min(shape[2:]) < 1:
        raise InputError(f"Nms needs maps (num, channels, height, width), not {text(shape)}")
    if shape[1] < param.num_parts:
        raise InputError(f"nms_param: num_parts {param.num_parts} is more than the {shape[1]} channels")
    return Declared([(shape[0], param.num_parts, param.max_peaks + 1, 3)])
