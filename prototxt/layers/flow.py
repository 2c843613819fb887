"""Layers for optical flow (FlowNet2)."""

from prototxt.caffe_pb2 import CorrelationParameter, LayerParameter, ResampleParameter
from prototxt.errors import InputError
from prototxt.forks import meaning
from prototxt.layers.declare import (
    MANY,
    Declared,
    Shape,
    Shapes,
    layer_type,
    legacy_shape,
    refuse_in_place,
    text,
)


@layer_type("ChannelNorm", reads_bottoms=True, reads_tops=True)
def channel_norm(layer: LayerParameter, shapes: Shapes, tops: int) -> Declared:
    refuse_in_place(layer)
    num, _, height, width = legacy_shape(shapes[0])
    return Declared([(num, 1, height, width)])


@layer_type("FlowWarp", "Warp", bottoms=(2, 2), reads_bottoms=True)
def warp(layer: LayerParameter, shapes: Shapes, tops: int) -> Declared:
    """FlowNet2's, and PWC-Net's, which gives zeros for what is not between the outermost pixels' centres."""
    refuse_in_place(layer)
    image, flow = map(legacy_shape, shapes)
    if flow != (image[0], 2, *image[2:]):
        raise InputError(
            f"the flow {text(shapes[1])} must have 2 channels, x and y, and the image's size {text(shapes[0])}"
        )
    return Declared([image])


@layer_type("Correlation", "Correlation1D", bottoms=(2, 2))
def correlation(layer: LayerParameter, shapes: Shapes, tops: int) -> Declared:
    """FlowNet2's. (Tiny-DSOD has another Correlation.) Its code never reads do_abs."""
    param, (first, second) = layer.correlation_param, map(legacy_shape, shapes)
    if layer.type == "Correlation" and meaning(layer) != "FlowNet2":
        raise InputError("correlation_param: displacement and dilation, Tiny-DSOD's, are not supported")
    if param.correlation_type != CorrelationParameter.MULTIPLY:
        raise InputError("correlation_param: SUBTRACT is not supported")
    if not param.HasField("max_displacement") or param.kernel_size % 2 == 0:
        raise InputError("correlation_param: give max_displacement, and an odd kernel_size")
    if min(param.stride_1, param.stride_2) < 1:
        raise InputError("correlation_param: stride_1 and stride_2 must be at least 1")
    if first != second:
        raise InputError(f"the bottoms {text(shapes[0])} and {text(shapes[1])} must have one shape")
    beyond = -min(displacements(layer)[1]) - param.max_displacement
    if beyond > param.pad:
        raise InputError(f"correlation_param: single_direction -1 needs a pad of at least {beyond}")
    edge, reach = (param.kernel_size - 1) // 2, param.max_displacement
    borders = (edge if layer.type == "Correlation1D" else edge + reach - param.pad, edge + reach - param.pad)
    sizes = [
        -(-(size - 2 * border) // param.stride_1) for size, border in zip(first[2:], borders, strict=True)
    ]
    if min(sizes) < 1:
        raise InputError(
            f"correlation_param: displacement and kernel do not fit into {text(shapes[0])}: give a pad"
        )
    down, right = displacements(layer)
    return Declared([(first[0], len(down) * len(right), *sizes)])


def displacements(layer: LayerParameter) -> tuple[list[int], list[int]]:
    """How far image 1's patches lie below and to the right of image 0's: a top channel for each pair.

    Correlation1D's lie in the same row, and with `single_direction` to one side only, which to the left begins one
    step further out than `max_displacement`, and leaves out 0.
    """
    param = layer.correlation_param
    reach = param.max_displacement // param.stride_2
    both = [step * param.stride_2 for step in range(-reach, reach + 1)]
    if layer.type == "Correlation":
        return both, both
    if param.single_direction not in (-1, 0, 1):
        raise InputError("correlation_param: single_direction must be -1, 0 or 1")
    aside = {
        0: both,
        1: both[reach:],
        -1: [step * param.stride_2 for step in range(-reach - 1, 0)],
    }
    return [0], aside[param.single_direction]


@layer_type("Resample", bottoms=(1, 2), ends_gradient=True)
def resample(layer: LayerParameter, shapes: Shapes, tops: int) -> Declared:
    """FlowNet2's: to `height` × `width`, or to the size of bottom 1."""
    param, shape = layer.resample_param, legacy_shape(shapes[0])
    if param.type == ResampleParameter.AREA:
        raise InputError("resample_param: type must be NEAREST, LINEAR or CUBIC")
    sizes = legacy_shape(shapes[1])[2:] if len(shapes) > 1 else (param.height, param.width)
    if min(sizes) < 1:
        raise InputError("resample_param: height and width must be at least 1")
    return Declared([(*shape[:2], *sizes)])


@layer_type("Downsample", bottoms=(1, 2), ends_gradient=True)
def downsample(layer: LayerParameter, shapes: Shapes, tops: int) -> Declared:
    """FlowNet2's: to `top_height` × `top_width`, or to the size of bottom 1; what is not a number is left out."""
    param, shape = layer.downsample_param, legacy_shape(shapes[0])
    sizes = legacy_shape(shapes[1])[2:] if len(shapes) > 1 else (param.top_height, param.top_width)
    if min(sizes) < 1 or any(to > size for to, size in zip(sizes, shape[2:], strict=True)):
        raise InputError(f"a map of {text(shapes[0])} cannot be made {text(sizes)}: it must become smaller")
    if sizes != shape[2:] and min(sizes) < 2:
        raise InputError("downsample_param: the size must be at least 2")
    return Declared([(*shape[:2], *sizes)])


@layer_type("Accum", bottoms=(1, MANY))
def accum(layer: LayerParameter, shapes: Shapes, tops: int) -> Declared:
    """FlowNet2's: maps of several sizes as channels of one, of the largest size or that of a last bottom."""
    param, found = layer.accum_param, [legacy_shape(shape) for shape in shapes]
    refuse_in_place(layer)
    sizes: Shape = tuple(max(shape[axis] for shape in found) for axis in (2, 3))
    if param.have_reference:
        if len(found) < 2:
            raise InputError("accum_param: have_reference needs a last bottom of the size that is wanted")
        sizes = found.pop()[2:]
    else:
        given: Shape = (param.top_height, param.top_width)
        if param.HasField("size_divisible_by"):
            by = param.size_divisible_by
            if by < 1:
                raise InputError("accum_param: size_divisible_by must be at least 1")
            given = tuple(-(-size // by) * by for size in sizes)
        if all(to > size for to, size in zip(given, sizes, strict=True)):
            sizes = given
    if len({shape[0] for shape in found}) > 1:
        raise InputError("the bottoms must have as many images each")
    if min(sizes) < 2:
        raise InputError(f"Accum makes maps of at least 2×2, not {text(sizes)}")
    return Declared([(found[0][0], sum(shape[1] for shape in found), *sizes)])


@layer_type("Mean", bottoms=(1, MANY), tops=(1, MANY), equal=True)
def mean(layer: LayerParameter, shapes: Shapes, tops: int) -> Declared:
    """FlowNet2's: the values of a file, of one image or of parts of its channels, or one for each channel, added."""
    param, found = layer.mean_param, [legacy_shape(shape) for shape in shapes]
    if not param.HasField("operation"):
        raise InputError("mean_param: give operation, ADD or SUBTRACT")
    if not param.HasField("file") and not param.value:
        raise InputError("mean_param: give a file, or values")
    for shape in found if not param.HasField("file") else ():
        if shape[1] % len(param.value):
            raise InputError(f"mean_param: {len(param.value)} values must divide the {shape[1]} channels")
    return Declared(found)


@layer_type("FLOWriter", tops=(0, 0), needs_values=True)
def flow_writer(layer: LayerParameter, shapes: Shapes, tops: int) -> Declared:
    if legacy_shape(shapes[0])[1] != 2:
        raise InputError(f"the flow {text(shapes[0])} must have 2 channels, x and y")
    if not (layer.writer_param.folder or layer.writer_param.file):
        raise InputError("writer_param: give a folder, or a file")
    return Declared([])
