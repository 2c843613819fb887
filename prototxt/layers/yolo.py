"""The layers of YOLO v2 as intel/caffe has them (src/caffe/layers/{region_loss,eval_detection}_layer.cpp).

A map has, for each anchor, 4 coordinates, how likely there is an object, and scores of classes. Truths are SSD's
rows [image, class from 1 on, …, x1, y1, x2, y2, …] in fractions of the image; image -1 is none.
"""

from collections.abc import Sequence

from prototxt.caffe_pb2 import LayerParameter
from prototxt.errors import InputError
from prototxt.layers.declare import (
    MANY,
    Declared,
    Shape,
    Shapes,
    layer_type,
    legacy_shape,
    refuse_other_fields,
    text,
)

EVALUATED_ANCHORS = 5
"""EvalDetection reads so many, whatever its settings say."""


def _check_truths(shape: Shape) -> None:
    if not (1 < len(shape) <= 4 and shape[-1] == 8) or legacy_shape((1,) * (4 - len(shape)) + shape)[:2] != (
        1,
        1,
    ):
        raise InputError(
            f"the truths must be (1, 1, rows, 8), as AnnotatedData has them, not {text(shape)}: MobileNet-YOLO's, 300 "
            "rows of 5 for each image, are not supported"
        )


def _check_anchors(where: str, biases: Sequence[float], anchors: int) -> None:
    if len(biases) < 2 * anchors or min(biases[: 2 * anchors]) <= 0:
        raise InputError(f"{where}: give biases, 2 above 0 for each of {anchors} anchors")


@layer_type("RegionLoss", bottoms=(2, 2), loss=True, no_forced_gradient=(1,))
def region_loss(layer: LayerParameter, shapes: Shapes, tops: int) -> Declared:
    """The bottoms are a map (num, (num_class + 5) for each anchor, side, side), and truths."""
    param = layer.region_loss_param
    obeyed = (
        *(
            "side",
            "num_class",
            "bias_match",
            "coords",
            "num",
            "object_scale",
            "class_scale",
            "noobject_scale",
        ),
        *("coord_scale", "thresh", "biases"),
    )
    without_effect = ("softmax", "jitter", "rescore", "absolute", "random")
    refuse_other_fields("region_loss_param", param, *obeyed, *without_effect)
    if param.coords != 4:
        raise InputError("region_loss_param: coords must be 4")
    if min(param.side, param.num_class, param.num) < 1:
        raise InputError("region_loss_param: side, num_class and num must be above 0")
    _check_anchors("region_loss_param", param.biases, param.num)
    num, *others = legacy_shape(shapes[0])
    wanted = [param.num * (param.num_class + 5), param.side, param.side]
    if not num or others != wanted:
        raise InputError(f"the map must be (num, {', '.join(map(str, wanted))}), not {text(shapes[0])}")
    _check_truths(shapes[1])
    return Declared([()])


@layer_type("EvalDetection", bottoms=(2, MANY))
def eval_detection(layer: LayerParameter, shapes: Shapes, tops: int) -> Declared:
    """The top has for each image the number of truths of each class, then [class, score, true, false] rows."""
    param = layer.eval_detection_param
    obeyed = ("side", "num_class", "num_object", "threshold", "score_type", "nms", "biases")
    refuse_other_fields("eval_detection_param", param, *obeyed, "sqrt", "constriant")
    if min(param.side, param.num_class) < 1:
        raise InputError("eval_detection_param: side and num_class must be above 0")
    if param.num_object < EVALUATED_ANCHORS:
        raise InputError(
            f"eval_detection_param: num_object must be at least {EVALUATED_ANCHORS}: it evaluates so many anchors"
        )
    _check_anchors("eval_detection_param", param.biases, EVALUATED_ANCHORS)
    num, *others = legacy_shape(shapes[0])
    if not num:
        raise InputError("EvalDetection needs images to evaluate")
    wanted = [param.num_object * (param.num_class + 5), param.side, param.side]
    if others != wanted:
        raise InputError(f"the map must be (num, {', '.join(map(str, wanted))}), not {text(shapes[0])}")
    _check_truths(shapes[1])
    return Declared([(num, param.num_class + param.side**2 * param.num_object * 4)])
