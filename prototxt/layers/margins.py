"""ArcFace's margins (xialuxi/arcface-caffe: cosin_add_m_layer.cpp, AdaCos/adacos_add_m_scale_layer.cpp)."""

import math

from prototxt.caffe_pb2 import LayerParameter
from prototxt.errors import InputError
from prototxt.layers.declare import Declared, Shapes, layer_type, legacy_shape, refuse_in_place, text


def _check(shapes: Shapes) -> None:
    cosines, labels = shapes
    if not cosines or not cosines[0] or math.prod(labels) != cosines[0]:
        raise InputError(f"{text(labels)} labels for cosines {text(cosines)}: give one for each item")
    legacy_shape(cosines)


@layer_type("CosinAddm", bottoms=(2, 2))
def cosin_add_m(layer: LayerParameter, shapes: Shapes, tops: int) -> Declared:
    """The bottoms are cosines (num, classes) and labels; `transform_test` has no effect, as published."""
    _check(shapes)
    return Declared([shapes[0]])


@layer_type("AdaCosAddmScale", bottoms=(2, 2))
def ada_cos(layer: LayerParameter, shapes: Shapes, tops: int) -> Declared:
    """The same, scaled by what goes on from pass to pass. A label below 0 has no margin."""
    refuse_in_place(layer)  # the published code reads the cosines again when they are overwritten
    if layer.adacos_add_m_scale_param.num_classes < 2:
        raise InputError("adacos_add_m_scale_param: give num_classes, at least 2")
    _check(shapes)
    return Declared([shapes[0]])
