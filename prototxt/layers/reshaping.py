"""Layers that only move values, or sum them away."""

import math

from prototxt.caffe_pb2 import LayerParameter
from prototxt.errors import InputError
from prototxt.layers.declare import Declared, Shape, Shapes, layer_type, legacy_shape, refuse_in_place, text
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


@layer_type("Crop", "AutoCrop", bottoms=(2, 2))
def crop(layer: LayerParameter, shapes: Shapes, tops: int) -> Declared:
    refuse_in_place(layer)
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


@layer_type("ShuffleChannel")
def shuffle_channel(layer: LayerParameter, shapes: Shapes, tops: int) -> Declared:
    refuse_in_place(layer)
    group, (shape,) = layer.shuffle_channel_param.group, shapes
    if len(shape) < 2 or group < 1 or shape[1] % group:
        raise InputError(f"shuffle_channel_param: group {group} must divide the channels of {text(shape)}")
    return Declared([shape])


@layer_type("Reorg")
def reorg(layer: LayerParameter, shapes: Shapes, tops: int) -> Declared:
    refuse_in_place(layer)
    param, (shape,) = layer.reorg_param, shapes
    if len(shape) != 4:
        raise InputError(f"Reorg needs 4 axes (num, channels, height, width), not {text(shape)}")
    stride, (num, channels, height, width) = param.stride, shape
    if stride < 1:
        raise InputError("reorg_param: stride must be at least 1")
    if channels % stride**2:
        raise InputError(f"reorg_param: stride {stride} squared must divide {channels} channels")
    if param.reverse:
        return Declared([(num, channels // stride**2, height * stride, width * stride)])
    if height % stride or width % stride:
        raise InputError(f"reorg_param: stride {stride} must divide a map of {height}×{width}")
    return Declared([(num, channels * stride**2, height // stride, width // stride)])


@layer_type("Padding")
def padding(layer: LayerParameter, shapes: Shapes, tops: int) -> Declared:
    """DeepLab v1's: zeros around the map or, with negative numbers, less of it."""
    refuse_in_place(layer)
    before, after = layer.padding_param.pad_beg, layer.padding_param.pad_end
    if before * after < 0:
        raise InputError("padding_param: pad_beg and pad_end must both add, or both crop")
    num, channels, *sizes = legacy_shape(shapes[0])
    sizes = [size + before + after for size in sizes]
    if min(sizes) < 1:
        raise InputError(f"padding_param: nothing is left of a map {text(shapes[0])}")
    return Declared([(num, channels, *sizes)])


@layer_type("Transpose")
def transpose(layer: LayerParameter, shapes: Shapes, tops: int) -> Declared:
    refuse_in_place(layer)
    order, (shape,) = list(layer.transpose_param.dim), shapes
    if sorted(order) != list(range(len(shape))):
        raise InputError(f"transpose_param: dim {order} must name each axis of a bottom {text(shape)} once")
    return Declared([tuple(shape[axis] for axis in order)])


@layer_type("Reverse")
def reverse(layer: LayerParameter, shapes: Shapes, tops: int) -> Declared:
    refuse_in_place(layer)
    axis, (shape,) = layer.reverse_param.axis, shapes
    if not 0 <= axis < len(shape):
        raise InputError(f"reverse_param: axis {axis} is not among those of a bottom {text(shape)}")
    return Declared([shape])


@layer_type("Flip")
def flip(layer: LayerParameter, shapes: Shapes, tops: int) -> Declared:
    refuse_in_place(layer)
    legacy_shape(shapes[0])
    return Declared([shapes[0]])


def moves_nothing(layer: LayerParameter) -> bool:
    """Whether a Permute keeps the order of the axes; it then shares its bottom's memory."""
    order = list(layer.permute_param.order)
    return order == list(range(len(order)))


def permuted_axes(layer: LayerParameter, axes: int) -> list[int]:
    """For each axis of Permute's top the bottom's axis that it is: those named, then the others in their order.

    Raises:
        InputError: an axis that the bottom lacks or that is named twice.
    """
    order = list(layer.permute_param.order)
    if any(axis >= axes for axis in order):
        raise InputError(f"permute_param: order {max(order)} is no axis of a bottom with {axes} axes")
    if len(set(order)) < len(order):
        raise InputError(f"permute_param: order {order} names an axis twice")
    return order + [axis for axis in range(axes) if axis not in order]


@layer_type("Permute", shares_memory=moves_nothing)
def permute(layer: LayerParameter, shapes: Shapes, tops: int) -> Declared:
    refuse_in_place(layer)
    (shape,) = shapes
    return Declared([tuple(shape[axis] for axis in permuted_axes(layer, len(shape)))])
