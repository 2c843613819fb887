"""Layers that join, part or drop blobs."""

import math
from itertools import pairwise

from prototxt.caffe_pb2 import ConcatParameter, EltwiseParameter, LayerParameter, SliceParameter
from prototxt.errors import InputError
from prototxt.layers.declare import MANY, Declared, Shapes, layer_type, legacy_shape, refuse_in_place, text
from prototxt.layers.windows import canonical_axis


@layer_type("Concat", bottoms=(1, MANY), shares_memory=True)
def concat(layer: LayerParameter, shapes: Shapes, tops: int) -> Declared:
    first = shapes[0]
    axis = joining_axis(layer.concat_param, "concat_dim", len(first))
    if any(
        (len(s), s[:axis], s[axis + 1 :]) != (len(first), first[:axis], first[axis + 1 :]) for s in shapes
    ):
        raise InputError(f"the bottoms may differ along axis {axis} only: {', '.join(map(text, shapes))}")
    return Declared([(*first[:axis], sum(s[axis] for s in shapes), *first[axis + 1 :])])


@layer_type("Slice", tops=(1, MANY), shares_memory=True)
def slice_(layer: LayerParameter, shapes: Shapes, tops: int) -> Declared:
    (shape,) = shapes
    axis = joining_axis(layer.slice_param, "slice_dim", len(shape))
    return Declared(
        [(*shape[:axis], n, *shape[axis + 1 :]) for n in slice_sizes(layer.slice_param, shape[axis], tops)]
    )


def slice_sizes(param: SliceParameter, size: int, tops: int) -> list[int]:
    """How long each of the parts is into which an axis of `size` is cut.

    Raises:
        InputError: points that do not rise within the axis, or tops that do not divide it.
    """
    if param.slice_point:
        sizes = [after - before for before, after in pairwise([0, *param.slice_point, size])]
        if len(sizes) != tops or min(sizes) < 1:
            raise InputError(
                f"slice_point {list(param.slice_point)} does not cut a size of {size} into {tops} tops: give "
                f"{tops - 1}, rising, above 0 and below {size}"
            )
        return sizes
    if size % tops:
        raise InputError(f"{tops} tops do not divide a size of {size}: give slice_point")
    return [size // tops] * tops


def joining_axis(param: ConcatParameter | SliceParameter, older: str, axes: int) -> int:
    """`axis`, or its older name, for which no negative numbers are allowed.

    Raises:
        InputError: both names, or an axis out of range.
    """
    if not param.HasField(older):
        return canonical_axis(param.axis, axes)
    if param.HasField("axis"):
        raise InputError(f"axis and {older} are the same setting: give one")
    if getattr(param, older) >= axes:
        raise InputError(f"{older} {getattr(param, older)} is out of range for a blob of {axes} axes")
    return getattr(param, older)


@layer_type("Split", tops=(1, MANY), shares_memory=True)
def split(layer: LayerParameter, shapes: Shapes, tops: int) -> Declared:
    refuse_in_place(layer)
    return Declared([shapes[0]] * tops)


@layer_type("Gather", bottoms=(1, MANY), tops=(1, MANY))
def gather(layer: LayerParameter, shapes: Shapes, tops: int) -> Declared:
    """TSN's: each top is its bottom, of all processes together; there is one process here."""
    refuse_in_place(layer)
    if tops != len(shapes):
        raise InputError(f"give as many tops as bottoms ({len(shapes)}), not {tops}")
    return Declared(shapes)


@layer_type("Eltwise", bottoms=(1, MANY), reads_bottoms=True, reads_tops=True)
def eltwise(layer: LayerParameter, shapes: Shapes, tops: int) -> Declared:
    param = layer.eltwise_param
    times_coeff = param.coeff and param.operation == EltwiseParameter.SUM
    if len(shapes) == 1 and not times_coeff:  # one bottom times a coeff is FlowNet2's
        raise InputError("Eltwise takes 2 or more bottom blobs, not 1")
    if len(param.coeff) not in (0, len(shapes)):
        raise InputError(
            f"eltwise_param: {len(param.coeff)} coeff for {len(shapes)} bottoms: give none or one for each"
        )
    if param.coeff and param.operation == EltwiseParameter.PROD:
        raise InputError("eltwise_param: coeff goes with SUM, not with PROD")
    if param.operation != EltwiseParameter.PROD:
        refuse_in_place(layer)  # Caffe's SUM and MAX overwrite a bottom before they have read it
    if len(set(shapes)) > 1:
        raise InputError(f"all bottoms must have one shape, not {', '.join(map(text, shapes))}")
    return Declared([shapes[0]])


@layer_type("Axpy", bottoms=(3, 3), reads_bottoms=True, needs_values=True)
def axpy(layer: LayerParameter, shapes: Shapes, tops: int) -> Declared:
    scale, x, y = shapes
    refuse_in_place(layer)
    if len(x) < 2 or x != y or scale[:2] != x[:2] or any(size != 1 for size in scale[2:]):
        raise InputError(
            "the bottoms must be (num, channels), (num, channels, …) and the same again, not "
            f"{', '.join(map(text, shapes))}"
        )
    return Declared([x])


@layer_type("ChannelScale", bottoms=(2, 2), reads_bottoms=True, needs_values=True)
def channel_scale(layer: LayerParameter, shapes: Shapes, tops: int) -> Declared:
    """happynear's: one factor for each place of each image, the same for all channels."""
    x, scale = shapes
    num, channels, *_ = legacy_shape(x)
    refuse_in_place(layer)
    if layer.channel_scale_param.global_scale:
        raise InputError("channel_scale_param: global_scale is not supported")
    if legacy_shape(scale)[0] != num or math.prod(scale) * channels != math.prod(x):
        raise InputError(f"{text(scale)} must hold one factor for each place of {text(x)}")
    return Declared([x])


@layer_type("Silence", bottoms=(1, MANY), tops=(0, 0))
def silence(layer: LayerParameter, shapes: Shapes, tops: int) -> Declared:
    return Declared([])
