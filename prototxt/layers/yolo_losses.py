"""MobileNet-YOLO's losses, and how it evaluates segmentation (eric612/MobileNet-YOLO).

Its truths are 300 rows of [class, x, y, width, height] for each image, in fractions, the classes from 0 on; the first
row of zeros ends them.
"""

import math

from prototxt.caffe_pb2 import LayerParameter
from prototxt.errors import InputError
from prototxt.layers.declare import Declared, Shapes, layer_type, legacy_shape, text

TRUTHS = 300
"""Rows for each image."""


@layer_type("Yolov3", bottoms=(2, 2), loss=True, no_forced_gradient=(1,), needs_values=True)
def yolov3(layer: LayerParameter, shapes: Shapes, tops: int) -> Declared:
    """The bottoms are a map (num, (num_class + 5) for each anchor, height, width), and truths.

    `num` anchors of this map are those of all `biases` that `mask` names. (`side` and `noobject_scale` are not read.)
    """
    param, (num, channels, *_) = layer.yolov3_param, legacy_shape(shapes[0])
    if min(param.num, param.num_class, param.anchors_scale) < 1:
        raise InputError("yolov3_param: num, num_class and anchors_scale must be above 0")
    if len(param.biases) < 2 or min(param.biases) <= 0:
        raise InputError("yolov3_param: give biases, 2 above 0 for each anchor")
    anchors = len(param.biases) // 2
    if len(param.mask) < param.num or max(param.mask[: param.num]) >= anchors:
        raise InputError(f"yolov3_param: mask must name {param.num} of the {anchors} anchors, from 0 on")
    if channels != param.num * (param.num_class + 5):
        raise InputError(
            f"the map must have {param.num * (param.num_class + 5)} channels, {param.num} times num_class + 5, not "
            f"{text(shapes[0])}"
        )
    if math.prod(shapes[1]) < num * TRUTHS * 5 or legacy_shape(shapes[1])[0] != num:
        raise InputError(f"the truths must be ({num}, …, {TRUTHS} rows of 5), not {text(shapes[1])}")
    return Declared([()])


@layer_type("YoloSeg", bottoms=(3, 3), loss=True, no_forced_gradient=(1, 2), needs_values=True)
def yolo_seg(layer: LayerParameter, shapes: Shapes, tops: int) -> Declared:
    """The bottoms are scores and labels of one shape, and how many places each image's classes have."""
    scores, labels = map(legacy_shape, shapes[:2])
    if scores != labels:
        raise InputError(f"scores {text(shapes[0])} and labels {text(shapes[1])} must have one shape")
    if math.prod(shapes[2]) != scores[0] * scores[1]:
        raise InputError(
            f"the third bottom must have a number for each of {scores[0]} images and {scores[1]} classes, not "
            f"{text(shapes[2])}"
        )
    return Declared([()])


@layer_type("SegmentationEvaluate", bottoms=(2, 2), needs_values=True)
def segmentation_evaluate(layer: LayerParameter, shapes: Shapes, tops: int) -> Declared:
    """The top has for each class the overlap of scores and labels in the first image."""
    scores, labels = map(legacy_shape, shapes)
    if not layer.segmentation_evaluate_param.HasField("num_classes"):
        raise InputError("segmentation_evaluate_param: give num_classes")
    if scores[1] != labels[1]:
        raise InputError(f"scores {text(shapes[0])} and labels {text(shapes[1])} must have as many classes")
    return Declared([(1, 1, 1, labels[1])])
