"""The losses. Each is one number; a second top, where there is one, holds what it was computed from."""

import math

from prototxt.caffe_pb2 import FocalLossParameter, LayerParameter
from prototxt.errors import InputError
from prototxt.layers.declare import (
    Declared,
    Shape,
    Shapes,
    Weight,
    check_label_count,
    layer_type,
    legacy_shape,
    refuse_other_fields,
    text,
)
from prototxt.layers.windows import canonical_axis

_LOSS = {"bottoms": (2, 2), "loss": True}
_LABELLED = {**_LOSS, "no_forced_gradient": (1,)}


def _check_first_axis(first: Shape, second: Shape) -> None:
    if not first or not second or first[0] != second[0]:
        raise InputError(f"the bottoms {text(first)} and {text(second)} must have the same first axis")


@layer_type("SigmoidCrossEntropyLoss", bottoms=(2, 3), loss=True, no_forced_gradient=(1,))
def sigmoid_cross_entropy(layer: LayerParameter, shapes: Shapes, tops: int) -> Declared:
    """A third bottom, caffe-mnc's, has a weight for each value."""
    scores, targets, *weights = shapes
    for shape in weights:
        if math.prod(shape) != math.prod(scores):
            raise InputError(f"scores {text(scores)} and weights {text(shape)} must hold as many values")
        if layer.loss_param.ListFields():
            raise InputError("SigmoidCrossEntropyLoss with weights, a third bottom, takes no loss_param")
    _check_first_axis(scores, targets)
    if math.prod(scores) != math.prod(targets):
        raise InputError(f"scores {text(scores)} and targets {text(targets)} must hold as many values")
    return Declared([()])


@layer_type("SoftmaxWithLoss", bottoms=(2, 3), loss=True, no_forced_gradient=(1,), tops=(1, 2))
def softmax_with_loss(layer: LayerParameter, shapes: Shapes, tops: int) -> Declared:
    """A third bottom, ShaoqingRen/caffe's (Faster R-CNN in MATLAB), has a weight for each label."""
    scores, labels, *weights = shapes
    _check_first_axis(scores, labels)
    axis = canonical_axis(layer.softmax_param.axis, len(scores))
    for shape in weights:
        if legacy_shape(shape) != legacy_shape(labels) or legacy_shape(labels)[1] != 1:
            raise InputError(
                f"labels {text(labels)} and weights {text(shape)} must be (num, 1, height, width) both"
            )
        if axis != 1 or layer.loss_param.HasField("normalization") or layer.loss_param.weight_by_label_freqs:
            raise InputError(
                "SoftmaxWithLoss with weights, a third bottom, takes normalize alone, and classes along axis 1"
            )
    check_label_count(scores, labels, axis)
    given = len(layer.loss_param.class_weighting)
    if layer.loss_param.weight_by_label_freqs and given != scores[axis]:
        raise InputError(f"loss_param: {given} class_weighting for {scores[axis]} classes: give one for each")
    return Declared([(), scores][:tops])


@layer_type("FocalLoss", **_LABELLED, tops=(1, 2))
def focal(layer: LayerParameter, shapes: Shapes, tops: int) -> Declared:
    """zimenglan-sysu-512's, which makefile/frcnn has; happynear's (ONEADDP) and Tiny-DSOD's settings are refused."""
    param, (scores, labels) = layer.focal_loss_param, shapes
    refuse_other_fields("focal_loss_param", param, "type", "gamma", "alpha", "beta")
    if param.type == FocalLossParameter.ONEADDP:
        raise InputError("focal_loss_param: type ONEADDP, of happynear/caffe-windows, is not supported")
    alpha, gamma = focal_settings(param)
    if gamma < 0 or alpha <= 0:
        raise InputError("focal_loss_param: gamma must be at least 0, and alpha above 0")
    _check_first_axis(scores, labels)
    check_label_count(scores, labels, canonical_axis(layer.softmax_param.axis, len(scores)))
    return Declared([(), scores][:tops])


def focal_settings(param: FocalLossParameter) -> tuple[float, float]:
    """alpha and gamma, with the fork's defaults."""
    return param.alpha if param.HasField("alpha") else 0.25, param.gamma if param.HasField("gamma") else 2


def normalises(layer: LayerParameter) -> bool:
    """ShaoqingRen/caffe's `normalize`, which is true unless it is given."""
    return layer.loss_param.normalize or not layer.loss_param.HasField("normalize")


@layer_type("InfogainLoss", bottoms=(2, 3), tops=(1, 2), loss=True, no_forced_gradient=(1,))
def infogain(layer: LayerParameter, shapes: Shapes, tops: int) -> Declared:
    scores, labels, *matrix = shapes
    if layer.loss_param.HasField("normalize"):
        raise InputError("InfogainLoss has no normalize: use normalization")
    if not matrix and not layer.infogain_loss_param.source:
        raise InputError("infogain_loss_param: give the matrix's file as source, or a third bottom")
    _check_first_axis(scores, labels)
    axis = canonical_axis(layer.infogain_loss_param.axis, len(scores))
    check_label_count(scores, labels, axis)
    for shape in matrix:
        check_matrix(math.prod(shape), scores[axis])
    return Declared([(), scores][:tops])


def check_matrix(values: int, classes: int) -> None:
    """Raises InputError where an infogain matrix does not hold classes × classes values."""
    if values != classes**2:
        raise InputError(f"the infogain matrix holds {values} values: it must hold {classes} × {classes}")


@layer_type("MultinomialLogisticLoss", **_LABELLED, reads_bottoms=True)
def multinomial_logistic(layer: LayerParameter, shapes: Shapes, tops: int) -> Declared:
    probabilities, labels = shapes
    legacy_shape(probabilities)
    _check_first_axis(probabilities, labels)
    if legacy_shape(labels)[1:] != (1, 1, 1):
        raise InputError(f"give one label for each item, not {text(labels)}")
    return Declared([()])


@layer_type("EuclideanLoss", **_LOSS)
def euclidean(layer: LayerParameter, shapes: Shapes, tops: int) -> Declared:
    """BVLC's Caffe takes at most 4 axes; facebook/C3D's takes volumes, of 5, by the same rule."""
    a, b = shapes
    if len(a) != 5:
        legacy_shape(a)
    _check_first_axis(a, b)
    if math.prod(a[1:]) != math.prod(b[1:]):
        raise InputError(f"the bottoms {text(a)} and {text(b)} must hold as many values")
    return Declared([()])


@layer_type(
    "CenterLoss",
    **_LABELLED,
    own_weight=lambda layer: True,
    reads_bottoms=True,
    weight_names=("centers",),
    needs_values=True,
)
def center(layer: LayerParameter, shapes: Shapes, tops: int) -> Declared:
    param, (x, labels) = layer.center_loss_param, shapes
    axis = canonical_axis(param.axis, len(x))
    if param.num_output < 1:
        raise InputError("center_loss_param: num_output, the number of classes, must be at least 1")
    if param.distance_type not in ("L1", "L2"):
        raise InputError(
            f'center_loss_param: distance_type must be "L1" or "L2", not "{param.distance_type}"'
        )
    if math.prod(labels) != math.prod(x[:axis]):
        raise InputError(f"give one label for each item of {text(x)}, not {text(labels)}")
    return Declared([()], [Weight((param.num_output, math.prod(x[axis:])), param.center_filler)])


@layer_type("L1Loss", bottoms=(1, 2), loss=True)
def l1(layer: LayerParameter, shapes: Shapes, tops: int) -> Declared:
    """NVCaffe's takes two bottoms; FlowNet2's, known by its `l1_loss_param` or a lone bottom, one or two."""
    if len(set(shapes)) > 1:
        raise InputError(f"the bottoms must have one shape, not {text(shapes[0])} and {text(shapes[1])}")
    legacy_shape(shapes[0])
    return Declared([()])


@layer_type("EuclideanLossHeatmap", bottoms=(3, 3), loss=True, no_forced_gradient=(1,), reads_bottoms=True)
def heatmap_loss(layer: LayerParameter, shapes: Shapes, tops: int) -> Declared:
    """caffe-heatmap's; the third bottom is an image to show. (RMPE's layer of this name has another gradient.)"""
    a, b = map(legacy_shape, shapes[:2])
    if a != b:
        raise InputError(f"the maps {text(shapes[0])} and {text(shapes[1])} must have one shape")
    if a[2] != a[3]:
        raise InputError(
            f"EuclideanLossHeatmap needs square maps, not {text(shapes[0])}: its code mixes sides up"
        )
    return Declared([()])


@layer_type("LpqLoss", bottoms=(1, 2), loss=True)
def lpq(layer: LayerParameter, shapes: Shapes, tops: int) -> Declared:
    """FlowNet2's. Of one bottom its code overwrites the values by their sizes."""
    param = layer.lpq_loss_param
    if len(shapes) == 1:
        raise InputError("LpqLoss of one bottom is not supported: its code overwrites the bottom")
    if len(set(shapes)) > 1:
        raise InputError(f"the bottoms must have one shape, not {text(shapes[0])} and {text(shapes[1])}")
    legacy_shape(shapes[0])
    if len(shapes[0]) < 2:
        raise InputError(f"LpqLoss needs at least 2 axes, the channels second, not {text(shapes[0])}")
    starts = list(param.pq_episode_starts_at_iter)
    if len(param.p) > 1 or len(param.q) > 1 or len(starts) > 1:
        raise InputError(
            "lpq_loss_param: p and q that change with the iterations are not supported: give one of each"
        )
    if len(param.p) != 1 or len(param.q) != 1 or any(starts):
        raise InputError("lpq_loss_param: give one p and one q, which start at iteration 0")
    return Declared([()])


@layer_type("HingeLoss", **_LABELLED)
def hinge(layer: LayerParameter, shapes: Shapes, tops: int) -> Declared:
    scores, labels = shapes
    legacy_shape(scores)
    _check_first_axis(scores, labels)
    if math.prod(labels) < scores[0]:
        raise InputError(f"give one label for each item of {text(scores)}, not {text(labels)}")
    return Declared([()])


@layer_type("ContrastiveLoss", bottoms=(3, 3), loss=True, no_forced_gradient=(2,))
def contrastive(layer: LayerParameter, shapes: Shapes, tops: int) -> Declared:
    a, b, similar = shapes
    flat_a, flat_b, flat_similar = map(legacy_shape, shapes)
    _check_first_axis(a, b)
    # Caffe reads as many similarities as there are pairs, and does not ask whether there are more.
    if (
        flat_a != flat_b
        or flat_a[2:] != (1, 1)
        or flat_similar[1:] != (1, 1, 1)
        or flat_similar[0] < flat_a[0]
    ):
        raise InputError(
            f"the bottoms must be (pairs, values), the same again, and (pairs), not {text(a)}, {text(b)} and "
            f"{text(similar)}"
        )
    return Declared([()])
