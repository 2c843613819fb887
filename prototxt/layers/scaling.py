"""Scale and Bias: one factor or term for each place of some axes, learned or a bottom."""

from prototxt.caffe_pb2 import FillerParameter, LayerParameter
from prototxt.errors import InputError
from prototxt.layers.declare import Declared, Shape, Shapes, Weight, layer_type, text
from prototxt.layers.windows import canonical_axis


@layer_type("Scale", bottoms=(1, 2), reads_bottoms=True, keeps_copy_in_place=True)
def scale(layer: LayerParameter, shapes: Shapes, tops: int) -> Declared:
    param, (shape, *second) = layer.scale_param, shapes
    for operand in second:
        along(shape, operand, param.axis)
    weights = []
    if not second:
        filler = param.filler if param.HasField("filler") else FillerParameter(type="constant", value=1)
        weights.append(Weight(learned_shape(shape, param.axis, param.num_axes), filler))
    if param.bias_term:
        num_axes = len(second[0]) if second else param.num_axes
        weights.append(Weight(learned_shape(shape, param.axis, num_axes), param.bias_filler))
    return Declared([shape], weights)


@layer_type("Bias", bottoms=(1, 2))
def bias(layer: LayerParameter, shapes: Shapes, tops: int) -> Declared:
    param, (shape, *second) = layer.bias_param, shapes
    for operand in second:
        along(shape, operand, param.axis)
    weights = [] if second else [Weight(learned_shape(shape, param.axis, param.num_axes), param.filler)]
    return Declared([shape], weights)


def learned_shape(shape: Shape, axis: int, num_axes: int) -> Shape:
    """The shape of a learned operand: `num_axes` axes of the bottom from `axis` on, or (-1) all of them.

    Raises:
        InputError: axes that the bottom lacks.
    """
    start = canonical_axis(axis, len(shape))
    if num_axes < -1 or start + num_axes > len(shape):
        raise InputError(f"num_axes {num_axes} from axis {start} on does not fit a bottom {text(shape)}")
    return tuple(shape[start:] if num_axes == -1 else shape[start : start + num_axes])


def along(shape: Shape, operand: Shape, axis: int) -> Shape:
    """The operand's shape with ones around it, so that it goes with the bottom's from `axis` on.

    A single number goes anywhere, whatever the axis.

    Raises:
        InputError: where the operand does not fit the bottom.
    """
    start = canonical_axis(axis, len(shape)) if operand else 0
    if tuple(shape[start : start + len(operand)]) != tuple(operand):
        raise InputError(f"{text(operand)} does not fit a bottom {text(shape)} from axis {start} on")
    return (*(1,) * start, *operand, *(1,) * (len(shape) - start - len(operand)))
