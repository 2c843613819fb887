"""Fully connected layers: of vectors, and of indices."""

import math

from prototxt.caffe_pb2 import (
    LargeMarginInnerProductParameter,
    LayerParameter,
    MarginInnerProductParameter,
)
from prototxt.errors import InputError
from prototxt.layers.declare import Declared, Shapes, Weight, layer_type, refuse_in_place, text
from prototxt.layers.windows import canonical_axis


@layer_type("InnerProduct", reads_bottoms=True)
def inner_product(layer: LayerParameter, shapes: Shapes, tops: int) -> Declared:
    param, (shape,) = layer.inner_product_param, shapes
    refuse_in_place(layer)  # Caffe gives its BLAS one memory for a factor and the product
    axis = canonical_axis(param.axis, len(shape))
    if param.num_output < 1:
        raise InputError("inner_product_param: num_output must be at least 1")
    if (
        param.normalize and param.transpose
    ):  # happynear's code takes rows of the memory then, which mixes the outputs
        raise InputError("inner_product_param: normalize with transpose is not supported")
    sizes = (param.num_output, math.prod(shape[axis:]))
    weights = [Weight(sizes[::-1] if param.transpose else sizes, param.weight_filler)]
    if param.bias_term:
        weights.append(Weight((param.num_output,), param.bias_filler))
    return Declared([(*shape[:axis], param.num_output)], weights)


@layer_type("Embed")
def embed(layer: LayerParameter, shapes: Shapes, tops: int) -> Declared:
    param, (shape,) = layer.embed_param, shapes
    if param.num_output < 1 or param.input_dim < 1:
        raise InputError("embed_param: num_output and input_dim must be at least 1")
    weights = [Weight((param.input_dim, param.num_output), param.weight_filler)]
    if param.bias_term:
        weights.append(Weight((param.num_output,), param.bias_filler))
    return Declared([(*shape, param.num_output)], weights)


@layer_type("InnerDistance", bottoms=(1, 2), reads_bottoms=True)
def inner_distance(layer: LayerParameter, shapes: Shapes, tops: int) -> Declared:
    """happynear's: distances to `num_output` centres, which are a weight, or to the items of bottom 1."""
    param, shape = layer.inner_distance_param, shapes[0]
    refuse_in_place(layer)  # the published code reads what it has written
    axis = canonical_axis(param.axis, len(shape))
    if param.transpose or param.update_center_only:
        raise InputError("inner_distance_param: transpose and update_center_only are not supported")
    if param.distance_type not in ("L1", "L2"):
        raise InputError(
            f'inner_distance_param: distance_type must be "L1" or "L2", not "{param.distance_type}"'
        )
    size = math.prod(shape[axis:])
    if len(shapes) > 1:
        if len(shapes[1]) < 2 or math.prod(shapes[1][1:]) != size:
            raise InputError(f"the centres {text(shapes[1])} must be (centres, {size})")
        return Declared([(*shape[:axis], shapes[1][0])])
    if param.num_output < 1:
        raise InputError("inner_distance_param: num_output must be at least 1")
    return Declared(
        [(*shape[:axis], param.num_output)], [Weight((param.num_output, size), param.weight_filler)]
    )


@layer_type("LargeMarginInnerProduct", "MarginInnerProduct", bottoms=(2, 2), tops=(1, 2), reads_bottoms=True)
def margin_inner_product(layer: LayerParameter, shapes: Shapes, tops: int) -> Declared:
    """L-Softmax's and SphereFace's: the label's angle counts 1 to 4 times. A second top has lambda."""
    param, (shape, labels) = margin_settings(layer), shapes
    refuse_in_place(layer)  # as InnerProduct
    axis = canonical_axis(param.axis, len(shape))
    if param.num_output < 1:
        raise InputError("num_output must be at least 1")
    if math.prod(labels) != math.prod(shape[:axis]):
        raise InputError(f"give one label for each item of {text(shape)}, not {text(labels)}")
    weights = [Weight((param.num_output, math.prod(shape[axis:])), param.weight_filler)]
    return Declared([(*shape[:axis], param.num_output), (1,)][:tops], weights)


MarginSettings = LargeMarginInnerProductParameter | MarginInnerProductParameter


def margin_settings(layer: LayerParameter) -> MarginSettings:
    """The settings of LargeMarginInnerProduct, or of MarginInnerProduct; both have the same."""
    if layer.type == "MarginInnerProduct":
        return layer.margin_inner_product_param
    return layer.largemargin_inner_product_param


def annealed(param: MarginSettings, passes: int) -> float:
    """lambda, the share of the plain product, after so many forward passes."""
    return max(param.base * _power(1 + param.gamma * passes, -param.power), param.lambda_min)


def _power(base: float, exponent: float) -> float:
    """As C's pow: infinity, or not a number, where Python raises an error."""
    try:
        return math.pow(base, exponent)
    except OverflowError:
        return math.inf
    except ValueError:
        return math.inf if base == 0 else math.nan
