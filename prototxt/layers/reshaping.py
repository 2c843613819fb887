"""Layers that only move values, or sum them away."""

import math

from prototxt.caffe_pb2 import LayerParameter
from prototxt.errors import InputError
from prototxt.layers.declare import Declared, Shape, Shapes, layer_type, refuse_in_place, text
from prototxt.layers.windows import canonical_axis


@layer_type("Flatten", shares_memory=True)
def flatten(layer: LayerParameter, shapes: Shapes, tops: int) -> Declared:
    refuse_in_place(layer)
    param, (shape,) = layer.flatten_param, shapes
    start, end = (canonical_axis(axis, len(shape)) for axis in (param.axis, param.end_axis))
    if end + 1 < start:
        raise InputError(
            f"flatten_param: end_axis {param.end_axis} comes before axis {param.axis} of a bottom {text(shape)}"
        )
    return Declared([(*shape[:start], math.prod(shape[start : end + 1]), *shape[end + 1 :])])


@layer_type("Reshape", shares_memory=True)
def reshape(layer: LayerParameter, shapes: Shapes, tops: int) -> Declared:
    refuse_in_place(layer)
    param, (shape,) = layer.reshape_param, shapes
    new = list(param.shape.dim)
    if new.count(-1) > 1:
        raise InputError(f"reshape_param: shape {new} has more than one -1: give at most one")
    if min(new, default=0) < -1:
        raise InputError(f"reshape_param: shape {new} has a size below -1")
    # A negative axis counts the places between axes: -1 is behind the last.
    start = param.axis if param.axis >= 0 else len(shape) + param.axis + 1
    end = len(shape) if param.num_axes == -1 else start + param.num_axes
    if param.num_axes < -1 or not 0 <= start <= end <= len(shape):
        raise InputError(
            f"reshape_param: axis {param.axis} and num_axes {param.num_axes} do not fit a bottom {text(shape)}"
        )
    for i, size in enumerate(new):
        if size == 0:
            if start + i >= len(shape):
                raise InputError(
                    f"reshape_param: shape has a 0 for axis {start + i}, which a bottom {text(shape)} lacks"
                )
            new[i] = shape[start + i]
    if -1 in new:
        known = math.prod(shape[:start]) * math.prod(shape[end:]) * math.prod(d for d in new if d != -1)
        new[new.index(-1)] = math.prod(shape) // known if known else 0
    top = (*shape[:start], *new, *shape[end:])
    if math.prod(top) != math.prod(shape):
        raise InputError(
            f"reshape_param: shape {list(param.shape.dim)} does not fit a bottom {text(shape)}: it must hold as "
            "many values"
        )
    return Declared([top])


@layer_type("Tile")
def tile(layer: LayerParameter, shapes: Shapes, tops: int) -> Declared:
    param, (shape,) = layer.tile_param, shapes
    axis = canonical_axis(param.axis, len(shape))
    if param.tiles < 1:
        raise InputError("tile_param: tiles must be at least 1")
    return Declared([(*shape[:axis], shape[axis] * param.tiles, *shape[axis + 1 :])])


@layer_type("Crop", bottoms=(2, 2))
def crop(layer: LayerParameter, shapes: Shapes, tops: int) -> Declared:
    shape, like = shapes
    axis = canonical_axis(layer.crop_param.axis, len(shape))
    crop_starts(layer, shape, like)
    return Declared([(*shape[:axis], *like[axis : len(shape)])])


def crop_starts(layer: LayerParameter, shape: Shape, like: Shape) -> tuple[int, ...]:
    """Where the crop begins, on each axis of the first bottom.

    Raises:
        InputError: offsets that are neither one nor one for each cropped axis, or a crop that does not fit.
    """
    axis = canonical_axis(layer.crop_param.axis, len(shape))
    offsets, cut = list(layer.crop_param.offset) or [0], len(shape) - axis
    if len(offsets) not in (1, cut):
        raise InputError(
            f"crop_param: {len(offsets)} offset for {cut} axes from axis {axis} on: give 1 or one for each"
        )
    if len(like) < len(shape):
        raise InputError(f"the second bottom {text(like)} has fewer axes than the first {text(shape)}")
    starts = (*(0,) * axis, *(offsets if len(offsets) == cut else offsets * cut))
    if any(s + n > size for s, n, size in zip(starts[axis:], like[axis:], shape[axis:], strict=False)):
        raise InputError(f"{text(shape)} from {starts} on cannot be cropped to {text(like)}")
    return starts


@layer_type("Reduction", reads_bottoms=True)
def reduction(layer: LayerParameter, shapes: Shapes, tops: int) -> Declared:
    (shape,) = shapes
    return Declared([shape[: canonical_axis(layer.reduction_param.axis, len(shape))]])
