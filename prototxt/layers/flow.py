"""Layers for optical flow (FlowNet2)."""

from prototxt.caffe_pb2 import CorrelationParameter, LayerParameter, ResampleParameter
from prototxt.errors import InputError
from prototxt.forks import meaning
from prototxt.layers.declare import Declared, Shapes, layer_type, legacy_shape, refuse_in_place, text


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


@layer_type("Correlation", bottoms=(2, 2))
def correlation(layer: LayerParameter, shapes: Shapes, tops: int) -> Declared:
    """FlowNet2's. (Tiny-DSOD has another layer of this name.)"""
    param, (first, second) = layer.correlation_param, map(legacy_shape, shapes)
    if meaning(layer) != "FlowNet2":
        raise InputError("correlation_param: displacement and dilation, Tiny-DSOD's, are not supported")
    if param.single_direction or param.do_abs or param.correlation_type != CorrelationParameter.MULTIPLY:
        raise InputError("correlation_param: single_direction, do_abs and SUBTRACT are not supported")
    if not param.HasField("max_displacement") or param.kernel_size % 2 == 0:
        raise InputError("correlation_param: give max_displacement, and an odd kernel_size")
    if min(param.stride_1, param.stride_2) < 1:
        raise InputError("correlation_param: stride_1 and stride_2 must be at least 1")
    if first != second:
        raise InputError(f"the bottoms {text(shapes[0])} and {text(shapes[1])} must have one shape")
    border = param.max_displacement + (param.kernel_size - 1) // 2
    sizes = [-(-(size + 2 * param.pad - 2 * border) // param.stride_1) for size in first[2:]]
    if min(sizes) < 1:
        raise InputError(
            f"correlation_param: displacement and kernel do not fit into {text(shapes[0])}: give a pad"
        )
    steps = 2 * (param.max_displacement // param.stride_2) + 1
    return Declared([(first[0], steps**2, *sizes)])


@layer_type("Resample", bottoms=(1, 2))
def resample(layer: LayerParameter, shapes: Shapes, tops: int) -> Declared:
    """FlowNet2's: to `height` × `width`, or to the size of bottom 1."""
    param, shape = layer.resample_param, legacy_shape(shapes[0])
    if param.type == ResampleParameter.AREA:
        raise InputError("resample_param: type must be NEAREST, LINEAR or CUBIC")
    sizes = legacy_shape(shapes[1])[2:] if len(shapes) > 1 else (param.height, param.width)
    if min(sizes) < 1:
        raise InputError("resample_param: height and width must be at least 1")
    return Declared([(*shape[:2], *sizes)])


@layer_type("Downsample", bottoms=(1, 2))
def downsample(layer: LayerParameter, shapes: Shapes, tops: int) -> Declared:
    """FlowNet2's: to `top_height` × `top_width`, or to the size of bottom 1; what is not a number is left out."""
    param, shape = layer.downsample_param, legacy_shape(shapes[0])
    sizes = legacy_shape(shapes[1])[2:] if len(shapes) > 1 else (param.top_height, param.top_width)
    if min(sizes) < 1 or any(to > size for to, size in zip(sizes, shape[2:], strict=True)):
        raise InputError(f"a map of {text(shapes[0])} cannot be made {text(sizes)}: it must become smaller")
    if sizes != shape[2:] and min(sizes) < 2:
        raise InputError("downsample_param: the size must be at least 2")
    return Declared([(*shape[:2], *sizes)])
