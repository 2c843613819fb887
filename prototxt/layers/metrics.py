"""Layers that judge."""

from prototxt.caffe_pb2 import LayerParameter
from prototxt.errors import InputError
from prototxt.layers.declare import Declared, Shapes, check_label_count, layer_type, legacy_shape, text
from prototxt.layers.windows import canonical_axis


@layer_type("Accuracy", bottoms=(2, 2), tops=(1, 2))
def accuracy(layer: LayerParameter, shapes: Shapes, tops: int) -> Declared:
    param, (scores, labels) = layer.accuracy_param, shapes
    axis = canonical_axis(param.axis, len(scores))
    check_label_count(scores, labels, axis)
    if param.top_k > scores[axis]:
        raise InputError(f"accuracy_param: top_k {param.top_k} is more than the {scores[axis]} classes")
    return Declared([(), (scores[axis],)][:tops])


@layer_type("EltwiseAccuracy", bottoms=(2, 2))
def eltwise_accuracy(layer: LayerParameter, shapes: Shapes, tops: int) -> Declared:
    """Accuracy of HyeonwooNoh/caffe (DeconvNet, DecoupledNet): the labels are (num, 1, height, width)."""
    param, (num, classes, *size) = layer.eltwise_accuracy_param, legacy_shape(shapes[0])
    if legacy_shape(shapes[1]) != (num, 1, *size):
        raise InputError(
            f"the labels must be {text((num, 1, *size))}, one for each place, not {text(shapes[1])}"
        )
    if param.top_k > classes:
        raise InputError(f"eltwise_accuracy_param: top_k {param.top_k} is more than the {classes} classes")
    return Declared([(1, 1, 1, 1)])
