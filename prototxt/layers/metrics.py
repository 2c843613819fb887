"""Layers that judge."""

from prototxt.caffe_pb2 import LayerParameter
from prototxt.errors import InputError
from prototxt.layers.declare import Declared, Shapes, check_label_count, layer_type
from prototxt.layers.windows import canonical_axis


@layer_type("Accuracy", bottoms=(2, 2), tops=(1, 2))
def accuracy(layer: LayerParameter, shapes: Shapes, tops: int) -> Declared:
    param, (scores, labels) = layer.accuracy_param, shapes
    axis = canonical_axis(param.axis, len(scores))
    check_label_count(scores, labels, axis)
    if param.top_k > scores[axis]:
        raise InputError(f"accuracy_param: top_k {param.top_k} is more than the {scores[axis]} classes")
    return Declared([(), (scores[axis],)][:tops])
