"""Fully connected layers: of vectors, and of indices."""

import math

from prototxt.caffe_pb2 import LayerParameter
from prototxt.errors import InputError
from prototxt.layers.declare import Declared, Shapes, Weight, layer_type, text
from prototxt.layers.windows import canonical_axis


@layer_type("InnerProduct", reads_bottoms=True)
def inner_product(layer: LayerParameter, shapes: Shapes, tops: int) -> Declared:
    param, (shape,) = layer.inner_product_param, shapes
    axis = canonical_axis(param.axis, len(shape))
    if param.num_output < 1:
        raise InputError("inner_product_param: num_output must be at least 1")
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
    axis = canonical_axis(param.axis, len(shape))
    if param.transpose or param.update_center_only:
        raise InputError("inner_distance_param: transpose and update_center_only are not supported")
    if param.distance_type not in ("L1", "L2"):
        raise InputError(
            f'inner_distance_param: distance_type must be "L1" or "L2", not "{param.distance_type}"'
        )
    size = math.prod(shape[axis:])
    if len(shapes) > 1:
        if math.prod(shapes[1][1:]) != size:
            raise InputError(f"the centres {text(shapes[1])} must be (centres, {size})")
        return Declared([(*shape[:axis], shapes[1][0])])
    if param.num_output < 1:
        raise InputError("inner_distance_param: num_output must be at least 1")
    return Declared(
        [(*shape[:axis], param.num_output)], [Weight((param.num_output, size), param.weight_filler)]
    )
