"""Pooling, and the pyramid made of it."""

import math

from prototxt.caffe_pb2 import LayerParameter, PoolingParameter, SPPParameter
from prototxt.errors import InputError
from prototxt.layers.declare import Declared, Shapes, layer_type, refuse_in_place, text
from prototxt.layers.windows import pooled_padding, pooled_sizes, pooling_window


@layer_type("Pooling", tops=(1, 2))
def pooling(layer: LayerParameter, shapes: Shapes, tops: int) -> Declared:
    refuse_in_place(layer)
    param, (shape,) = layer.pooling_param, shapes
    if param.pool == PoolingParameter.STOCHASTIC:
        raise InputError("stochastic pooling exists on Caffe's GPU only: use MAX or AVE")
    if len(shape) != 4:
        raise InputError(f"Pooling needs 4 axes (num, channels, height, width), not {text(shape)}")
    if tops > 1 and param.pool != PoolingParameter.MAX:
        raise InputError("a second top, of places, is for MAX pooling alone")
    window = pooling_window(param, *shape[2:])
    sizes = pooled_sizes(param, window, shape[2:])
    scratch = [(*shape[:2], *pooled_padding(window, shape[2:], sizes))]
    return Declared([(*shape[:2], *sizes)] * tops, scratch=scratch)


@layer_type("SPP")
def spp(layer: LayerParameter, shapes: Shapes, tops: int) -> Declared:
    refuse_in_place(layer)
    (shape,) = shapes
    if layer.spp_param.pyramid_height < 1:
        raise InputError("spp_param: pyramid_height must be at least 1")
    if layer.spp_param.pool == SPPParameter.STOCHASTIC:
        raise InputError("stochastic pooling exists on Caffe's GPU only: use MAX or AVE")
    if len(shape) != 4 or not shape[2] or not shape[3]:
        raise InputError(f"SPP needs 4 axes (num, channels, height, width), not {text(shape)}")
    sizes = []
    for level in pyramid(layer.spp_param, *shape[2:]):
        sizes.append(pooled_sizes(level, pooling_window(level, *shape[2:]), shape[2:]))
    if len(sizes) == 1:
        return Declared([(*shape[:2], *sizes[0])])
    return Declared([(shape[0], shape[1] * sum(math.prod(size) for size in sizes))])


def pyramid(param: SPPParameter, height: int, width: int) -> list[PoolingParameter]:
    """The pooling of each level: 1, 2, 4 … windows a side, padded equally before and after to cover the map.

    Raises:
        InputError: a level that Caffe's Pooling refuses, since its padding is as large as its windows.
    """
    levels = []
    for level in range(param.pyramid_height):
        bins = 2**level
        (kernel_h, pad_h), (kernel_w, pad_w) = (
            (-(-size // bins), (-(-size // bins) * bins - size + 1) // 2) for size in (height, width)
        )
        if pad_h >= kernel_h or pad_w >= kernel_w:
            raise InputError(
                f"spp_param: level {level} has too many windows, {bins} a side, for {height}×{width}"
            )
        levels.append(
            PoolingParameter(
                pool=SPPParameter.PoolMethod.Name(param.pool),
                kernel_h=kernel_h,
                kernel_w=kernel_w,
                stride_h=kernel_h,
                stride_w=kernel_w,
                pad_h=pad_h,
                pad_w=pad_w,
            )
        )
    return levels
