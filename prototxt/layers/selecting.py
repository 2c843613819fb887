"""Layers that pick: the largest values, or items of a batch."""

import math

from prototxt.caffe_pb2 import LayerParameter
from prototxt.errors import InputError
from prototxt.layers.declare import MANY, Declared, Shapes, layer_type, legacy_shape, refuse_in_place, text
from prototxt.layers.windows import canonical_axis


@layer_type("ArgMax")
def argmax(layer: LayerParameter, shapes: Shapes, tops: int) -> Declared:
    param, (shape,) = layer.argmax_param, shapes
    if not shape:
        raise InputError("ArgMax needs a bottom with axes, not a scalar")
    axis = canonical_axis(param.axis, len(shape)) if param.HasField("axis") else None
    candidates = math.prod(shape[1:]) if axis is None else shape[axis]
    if not 1 <= param.top_k <= candidates:
        raise InputError(
            f"argmax_param: top_k {param.top_k} is not from 1 to the {candidates} values to rank"
        )
    if axis is not None:
        return Declared([(*shape[:axis], param.top_k, *shape[axis + 1 :])])
    return Declared([(shape[0], 2 if param.out_max_val else 1, param.top_k, *(1,) * (len(shape) - 3))])


@layer_type("BatchReindex", bottoms=(2, 2))
def batch_reindex(layer: LayerParameter, shapes: Shapes, tops: int) -> Declared:
    shape, index = shapes
    if len(index) != 1:
        raise InputError(f"the index must have 1 axis, not {text(index)}")
    if not shape:
        raise InputError("BatchReindex needs a bottom with axes, not a scalar")
    return Declared([(*index, *shape[1:])])


@layer_type("Filter", bottoms=(2, MANY), tops=(1, MANY))
def filter_(layer: LayerParameter, shapes: Shapes, tops: int) -> Declared:
    """How many items the selector leaves is known in a forward pass; until then the tops are like the bottoms."""
    refuse_in_place(layer)  # the next pass would find fewer items than the selector has
    *filtered, selector = shapes
    if tops != len(filtered):
        raise InputError(
            f"the last bottom selects, the others make a top each: {len(shapes)} bottoms, {tops} tops"
        )
    if not selector or any(size != 1 for size in selector[1:]):
        raise InputError(f"the selector must hold one value for each item, not {text(selector)}")
    if any(shape[:1] != selector[:1] for shape in filtered):
        raise InputError(f"all bottoms must have the selector's {selector[0]} items")
    return Declared(filtered)


@layer_type("LabelSpecificAdd", bottoms=(2, 2), tops=(1, 2), needs_values=True)
def label_specific_add(layer: LayerParameter, shapes: Shapes, tops: int) -> Declared:
    """happynear's: `bias` is added to the score of each item's label. A second top has the bias."""
    scores, labels = shapes
    if not scores or math.prod(labels) < scores[0]:
        raise InputError(f"give one label for each item of {text(scores)}, not {text(labels)}")
    return Declared([scores, (1,)][:tops])


@layer_type("RandBI", bottoms=(2, MANY))
def rand_bi(layer: LayerParameter, shapes: Shapes, tops: int) -> Declared:
    """PixelNet's: rows of (image, y, x) pick pixels, whose features in all maps are joined, enlarged bilinearly."""
    param, (*maps, pixels) = layer.rand_comp_param, shapes
    if len(pixels) != 2 or pixels[1] != 3 or pixels[0] < 1:
        raise InputError(f"the last bottom must be (pixels, 3), rows of image, y and x, not {text(pixels)}")
    if len(param.compression_rate) != len(maps) or min(param.compression_rate, default=0) < 1:
        raise InputError(
            f"rand_comp_param: give compression_rate, at least 1, for each of the {len(maps)} maps, not "
            f"{len(param.compression_rate)}"
        )
    return Declared([(pixels[0], sum(legacy_shape(shape)[1] for shape in maps))])
