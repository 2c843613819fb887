"""Convolution, its transpose, and the unfolding under both (base_conv_layer.cpp, im2col_layer.cpp)."""

import math

from prototxt.caffe_pb2 import LayerParameter
from prototxt.errors import InputError
from prototxt.layers.declare import MANY, Declared, Shapes, Weight, layer_type, refuse_in_place, text
from prototxt.layers.windows import Window, canonical_axis, convolution_window

_EACH = {"bottoms": (1, MANY), "tops": (1, MANY), "equal": True, "reads_bottoms": True}


@layer_type("Convolution", "Deconvolution", "DepthwiseConvolution", **_EACH)
def convolution(layer: LayerParameter, shapes: Shapes, tops: int) -> Declared:
    param, shape = layer.convolution_param, shapes[0]
    axis = canonical_axis(param.axis, len(shape))
    window = convolution_window(param, len(shape) - axis - 1)
    if _is_product(window):
        refuse_in_place(layer)  # Caffe gives its BLAS one memory for a factor and the product
    channels, outputs, group = shape[axis], param.num_output, param.group
    if outputs < 1:
        raise InputError("convolution_param: num_output must be at least 1")
    if group < 1 or channels % group or outputs % group:
        raise InputError(
            f"convolution_param: group {group} must divide {channels} channels and num_output {outputs}"
        )
    if any(s != shape for s in shapes):
        raise InputError(f"all bottoms must have one shape, not {', '.join(map(text, shapes))}")
    transposed = layer.type == "Deconvolution"
    if transposed and 0 in shape[axis + 1 :]:
        raise InputError(f"Deconvolution needs a map with values, not {text(shape)}")
    sizes = (window.deconvolved if transposed else window.convolved)(shape[axis + 1 :])
    rows, columns = (channels, outputs) if transposed else (outputs, channels)
    weights = [Weight((rows, columns // group, *window.kernel), param.weight_filler)]
    if param.bias_term:
        weights.append(Weight((outputs,), param.bias_filler))
    scratch = [] if transposed else [(*shape[: axis + 1], *window.padded(shape[axis + 1 :]))]
    return Declared([(*shape[:axis], outputs, *sizes)] * tops, weights, scratch=scratch)


def _is_product(window: Window) -> bool:
    """Whether each place is its channels times the weights: Caffe then unfolds nothing."""
    return {*window.kernel, *window.stride} <= {1} and not any(window.pad)


@layer_type("ConvolutionDepthwise", reads_bottoms=True)
def convolution_depthwise(layer: LayerParameter, shapes: Shapes, tops: int) -> Declared:
    """One kernel for each channel: `num_output` and `group` are not read (Tiny-DSOD's conv_dw_layer.cpp)."""
    param, (shape,) = layer.convolution_param, shapes
    refuse_in_place(layer)  # the fork's code reads places again that it has written
    if len(shape) != 4:
        raise InputError(
            f"ConvolutionDepthwise needs 4 axes (num, channels, height, width), not {text(shape)}"
        )
    if not param.pad and not (param.HasField("pad_h") and param.HasField("pad_w")):
        raise InputError("convolution_param: give pad, or pad_h and pad_w (0 for none)")
    window = convolution_window(param, 2)
    weights = [Weight((shape[1], 1, *window.kernel), param.weight_filler)]
    if param.bias_term:
        weights.append(Weight((shape[1],), param.bias_filler))
    scratch = [(*shape[:2], *window.padded(shape[2:]))]
    return Declared([(*shape[:2], *window.convolved(shape[2:]))], weights, scratch=scratch)


@layer_type("Im2col")
def im2col(layer: LayerParameter, shapes: Shapes, tops: int) -> Declared:
    refuse_in_place(layer)
    param, (shape,) = layer.convolution_param, shapes
    axis = canonical_axis(param.axis, len(shape))
    if axis == len(shape) - 1:
        raise InputError(f"no spatial axis follows the channel axis {axis} of a bottom {text(shape)}")
    window = convolution_window(param, len(shape) - axis - 1)
    channels = shape[axis] * math.prod(window.kernel)
    scratch = [(*shape[: axis + 1], *window.padded(shape[axis + 1 :]))]
    return Declared([(*shape[:axis], channels, *window.convolved(shape[axis + 1 :]))], scratch=scratch)
