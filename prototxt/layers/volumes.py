"""C3D's layers over videos (num, channels, length, height, width), of facebook/C3D, versions 1.0 and 1.1.

Version 1.0 writes their settings into `convolution_param` and `pooling_param`, version 1.1 into messages of their own.
"""

import math
from collections.abc import Sequence

from prototxt.caffe_pb2 import (
    Convolution3DParameter,
    ConvolutionParameter,
    LayerParameter,
    Pooling3DParameter,
    PoolingParameter,
)
from prototxt.errors import InputError
from prototxt.layers.declare import Declared, Shape, Shapes, Weight, layer_type, refuse_in_place, text
from prototxt.layers.windows import Window


@layer_type("Convolution3D", "Deconvolution3D", reads_bottoms=True, needs_values=True)
def convolution3d(layer: LayerParameter, shapes: Shapes, tops: int) -> Declared:
    """`group` is not read; each of the `filter_group` groups of filters sees all channels."""
    where, param = _setting(layer)
    shape = _volume(layer, shapes[0])
    window = convolution3d_window(layer)
    outputs, channels = param.num_output, shape[1]
    if outputs < 1:
        raise InputError(f"{where}: num_output must be at least 1")
    transposed = layer.type == "Deconvolution3D"
    if not transposed and (param.filter_group < 1 or outputs % param.filter_group):
        raise InputError(f"{where}: filter_group {param.filter_group} must divide num_output {outputs}")
    sizes = (window.deconvolved if transposed else window.convolved)(shape[2:])
    rows, columns = (channels, outputs) if transposed else (outputs, channels)
    weights = [Weight((rows, columns, *window.kernel), param.weight_filler)]
    # Version 1.1's Deconvolution3D asks the other message for its bias.
    if layer.convolution_param.bias_term if transposed else param.bias_term:
        weights.append(Weight((1, 1, 1, 1, outputs), param.bias_filler))
    return Declared([(shape[0], outputs, *sizes)], weights)


@layer_type("Pooling3D", reads_bottoms=True, reads_tops=True, needs_values=True)
def pooling3d(layer: LayerParameter, shapes: Shapes, tops: int) -> Declared:
    refuse_in_place(layer)
    shape = _volume(layer, shapes[0])
    return Declared([(*shape[:2], *pooled3d_sizes(pooling3d_window(layer), shape[2:]))])


def convolution3d_window(layer: LayerParameter) -> Window:
    """The window over length, height and width.

    Raises:
        InputError: no kernel, a stride of 0, more than one number for height and width.
    """
    where, param = _setting(layer)
    kernel, stride, pad = (
        _single(where, name, getattr(param, name), default)
        for name, default in (("kernel_size", 0), ("stride", 1), ("pad", 0))
    )
    return _window(
        where,
        (param.kernel_depth, kernel, kernel),
        (param.temporal_stride, stride, stride),
        (param.temporal_pad, pad, pad),
    )


def pooling3d_window(layer: LayerParameter) -> Window:
    """The window over length, height and width.

    Raises:
        InputError: stochastic pooling, MAX with padding, no kernel, a stride of 0.
    """
    param: PoolingParameter | Pooling3DParameter = layer.pooling_param
    where = "pooling_param"
    if layer.HasField("pooling3d_param"):
        where, param = "pooling3d_param", layer.pooling3d_param
    if param.pool == Pooling3DParameter.STOCHASTIC:
        raise InputError(f"{where}: stochastic pooling exists on Caffe's GPU only: use MAX or AVE")
    if param.pad and param.pool != Pooling3DParameter.AVE:
        raise InputError(f"{where}: pad is for average pooling alone")
    return _window(
        where,
        (param.kernel_depth, param.kernel_size, param.kernel_size),
        (param.temporal_stride, param.stride, param.stride),
        (0, param.pad, param.pad),
    )


def averages(layer: LayerParameter) -> bool:
    """Whether a Pooling3D layer averages."""
    param = layer.pooling3d_param if layer.HasField("pooling3d_param") else layer.pooling_param
    return param.pool == Pooling3DParameter.AVE


def pooled3d_sizes(window: Window, sizes: Shape) -> tuple[int, ...]:
    """Output sizes: rounded up; a window that begins behind the map is kept.

    Raises:
        InputError: where no window fits.
    """
    out = tuple(
        -(-(size + 2 * p - k) // s) + 1
        for size, k, s, p in zip(sizes, window.kernel, window.stride, window.pad, strict=True)
    )
    if min(out) < 1:
        raise InputError(f"a {window.kernel} pooling window does not fit into {tuple(sizes)}")
    return out


def _setting(layer: LayerParameter) -> tuple[str, ConvolutionParameter | Convolution3DParameter]:
    """The message that holds a convolution's settings, and its name."""
    if layer.HasField("convolution3d_param"):
        return "convolution3d_param", layer.convolution3d_param
    return "convolution_param", layer.convolution_param


def _window(where: str, kernel: Shape, stride: Shape, pad: Shape) -> Window:
    if not all(kernel):
        raise InputError(f"{where}: kernel_size and kernel_depth must be at least 1")
    if not all(stride):
        raise InputError(f"{where}: stride and temporal_stride must be at least 1")
    return Window(kernel, stride, pad, (1, 1, 1))


def _single(where: str, name: str, value: int | Sequence[int], default: int) -> int:
    """A setting that BVLC's message may repeat and C3D's may not."""
    if isinstance(value, int):
        return value
    values = list(value)
    if len(values) > 1:
        raise InputError(f"{where}: {name} has {len(values)} values: give one")
    return values[0] if values else default


def _volume(layer: LayerParameter, shape: Shape) -> Shape:
    if len(shape) != 5:
        raise InputError(
            f"{layer.type} needs 5 axes (num, channels, length, height, width), not {text(shape)}"
        )
    return shape


@layer_type("VoxelSoftmax", reads_tops=True)
def voxel_softmax(layer: LayerParameter, shapes: Shapes, tops: int) -> Declared:
    return Declared([_volume(layer, shapes[0])])


@layer_type("VoxelSoftmaxWithLoss", bottoms=(2, 2), loss=True, no_forced_gradient=(1,))
def voxel_softmax_with_loss(layer: LayerParameter, shapes: Shapes, tops: int) -> Declared:
    """The labels are (num, 1 or more, length, height, width), of which the first channel counts."""
    scores, labels = _volume(layer, shapes[0]), _volume(layer, shapes[1])
    if (labels[0], *labels[2:]) != (scores[0], *scores[2:]) or not labels[1] or not math.prod(scores):
        raise InputError(
            f"labels {text(labels)} and scores {text(scores)} must have as many places, one or more"
        )
    return Declared([()])
