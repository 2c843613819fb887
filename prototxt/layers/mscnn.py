"""The box layers of MS-CNN and Cascade R-CNN (zhaoweicai/mscnn, src/caffe/layers/).

A map of predictions has `cls_num` scores for each place, then 4 coordinates: shifts of the centre, and logarithms
of the sizes, in fields (`field_w` × `field_h` pixels) around the places, `downsample_rate` pixels apart. A map of
labels has the class, the truth's centre and size in pixels, and the overlap: (num, 2 + coord_num, height, width).
Regions are rows [image, x1, y1, x2, y2] in pixels.
"""

import math

from prototxt.caffe_pb2 import (
    TRAIN,
    BBoxRegParameter,
    DetectionAccuracyParameter,
    DetectionLossParameter,
    LayerParameter,
)
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

COORDINATES = 4


def box_statistics(param: BBoxRegParameter, above_zero: bool) -> tuple[list[float], list[float]]:
    """Means and deviations of coordinates, 4 each: predictions are in them. 0 and 1 where either is not given.

    Args:
        above_zero: whether the layer demands deviations above 0.

    Raises:
        InputError: other numbers of them, a deviation that is not above 0 where it must be.
    """
    means, deviations = list(param.bbox_mean), list(param.bbox_std)
    if not means or not deviations:
        return [0.0] * COORDINATES, [1.0] * COORDINATES
    if len(means) != COORDINATES or len(deviations) != COORDINATES:
        raise InputError(
            f"bbox_reg_param: {len(means)} bbox_mean and {len(deviations)} bbox_std: give 4 of each"
        )
    if above_zero and min(deviations) <= 0:
        raise InputError("bbox_reg_param: bbox_std must be above 0")
    return means, deviations


def _check_above_zero(where: str, **settings: float) -> None:
    for name, value in settings.items():
        if value <= 0:
            raise InputError(f"{where}: {name} must be above 0")


@layer_type("BoxOutput", bottoms=(1, MANY), tops=(1, 2))
def box_output(layer: LayerParameter, shapes: Shapes, tops: int) -> Declared:
    """How many boxes are found is known in a forward pass; until then the tops have one row, as in the fork."""
    param = layer.box_output_param
    box_statistics(layer.bbox_reg_param, above_zero=False)
    for name in ("field_h", "field_w", "downsample_rate"):
        if len(getattr(param, name)) != len(shapes):
            raise InputError(
                f"box_output_param: {len(getattr(param, name))} {name} for {len(shapes)} bottoms: give one for each"
            )
    _check_above_zero("box_output_param", field_whr=param.field_whr, field_xyr=param.field_xyr)
    first = legacy_shape(shapes[0])
    if first[1] <= COORDINATES:
        raise InputError(
            f"the predictions {text(shapes[0])} must have channels for scores before the 4 coordinates"
        )
    for shape in shapes[1:]:
        if legacy_shape(shape)[:2] != first[:2]:
            raise InputError(
                f"the bottoms {text(shapes[0])} and {text(shape)} must have the same first two axes"
            )
    return Declared([(1, 5, 1, 1), (1, 6, 1, 1)][:tops])


def _check_maps(
    where: str, param: DetectionLossParameter | DetectionAccuracyParameter, shapes: Shapes
) -> None:
    """Raises InputError where predictions and labels do not fit the settings, or each other."""
    if param.coord_num != COORDINATES:
        raise InputError(f"{where}: coord_num must be 4")
    _check_above_zero(where, cls_num=param.cls_num, field_w=param.field_w, field_h=param.field_h)
    _check_above_zero(where, field_whr=param.field_whr, field_xyr=param.field_xyr)
    if param.objectness and param.cls_num != 2:
        raise InputError(f"{where}: objectness needs cls_num 2, not {param.cls_num}")
    num, channels, height, width = legacy_shape(shapes[0])
    if channels != param.cls_num + COORDINATES:
        raise InputError(
            f"{where}: cls_num {param.cls_num} needs {param.cls_num + 4} channels, not {channels}"
        )
    if legacy_shape(shapes[1]) != (num, COORDINATES + 2, height, width):
        raise InputError(
            f"the labels must be {text((num, COORDINATES + 2, height, width))}, class, box and overlap for each "
            f"place, not {text(shapes[1])}"
        )
    if not num * height * width:
        raise InputError(f"the predictions {text(shapes[0])} have no place")


@layer_type("DetectionLoss", bottoms=(2, 2), loss=True, no_forced_gradient=(1,))
def detection_loss(layer: LayerParameter, shapes: Shapes, tops: int) -> Declared:
    """The top holds the loss, and the part of it that the coordinates make. Both count, the first alone goes back."""
    param = layer.detection_loss_param
    obeyed = (
        *(
            "cls_num",
            "coord_num",
            "lambda",
            "field_h",
            "field_w",
            "downsample_rate",
            "bb_smooth",
            "field_whr",
        ),
        *("field_xyr", "bg_threshold", "bg_multiple", "sample_mode", "objectness", "iou_weighted"),
        "pos_neg_weighted",
    )
    refuse_other_fields("detection_loss_param", param, *obeyed)
    box_statistics(layer.bbox_reg_param, above_zero=True)
    _check_maps("detection_loss_param", param, shapes)
    return Declared([(1, 1, 1, 2)])


@layer_type("DetectionAccuracy", bottoms=(2, 2), tops=(1, 2), no_forced_gradient=(1,))
def detection_accuracy(layer: LayerParameter, shapes: Shapes, tops: int) -> Declared:
    """The tops hold the share of labels that are right, and that of the foreground's; the boxes' mean overlap."""
    param = layer.detection_accuracy_param
    box_statistics(layer.bbox_reg_param, above_zero=False)
    _check_maps("detection_accuracy_param", param, shapes)
    if param.top_k > param.cls_num:
        raise InputError(
            f"detection_accuracy_param: top_k {param.top_k} is more than the {param.cls_num} classes"
        )
    return Declared([(1, 1, 1, 2), (1, 1, 1, 1)][:tops])


def _check_rows(what: str, shape: Shape, width: int) -> int:
    """How many rows there are.

    Raises:
        InputError: rows of another width.
    """
    if shape[1:2] != (width,) or math.prod(shape[2:]) != 1:
        raise InputError(f"{what} must be (rows, {width}), not {text(shape)}")
    return shape[0]


@layer_type("BboxAccuracy", bottoms=(3, 3), tops=(1, 2), no_forced_gradient=(1,))
def bbox_accuracy(layer: LayerParameter, shapes: Shapes, tops: int) -> Declared:
    """The bottoms are predictions (rows, 4 for each class), regions (rows, 5), and truths [class, box, overlap]."""
    box_statistics(layer.bbox_reg_param, above_zero=False)
    rows = _check_rows("the regions", shapes[1], 5)
    if not shapes[0] or len(shapes[0]) < 2 or math.prod(shapes[0][2:]) != 1 or shapes[0][1] % 4:
        raise InputError(f"the predictions must be (rows, 4 for each class), not {text(shapes[0])}")
    if shapes[0][0] != rows or _check_rows("the truths", shapes[2], 6) != rows:
        raise InputError(
            f"the bottoms {text(shapes[0])}, {text(shapes[1])} and {text(shapes[2])} must have as many rows"
        )
    return Declared([(1, 1, 1, 1)] * tops)


@layer_type("DecodeBBox", bottoms=(2, 3))
def decode_bbox(layer: LayerParameter, shapes: Shapes, tops: int) -> Declared:
    """The bottoms are predictions (rows, 8), of which the last 4 count, regions (rows, 5), and truths.

    How many rows are left is known in a forward pass; until then all are.
    """
    box_statistics(layer.bbox_reg_param, above_zero=True)
    rows = _check_rows("the predictions", shapes[0], 8)
    if _check_rows("the regions", shapes[1], 5) != rows:
        raise InputError(
            f"predictions {text(shapes[0])} and regions {text(shapes[1])} must have as many rows"
        )
    if len(shapes) == 3:
        if layer.phase != TRAIN:
            raise InputError("DecodeBBox takes the truths (third bottom) in phase TRAIN only")
        if not shapes[2] or shapes[2][0] != rows or not math.prod(shapes[2][1:]):
            raise InputError(f"the truths {text(shapes[2])} must have a row for each of {rows} regions")
    return Declared([(rows, 5, 1, 1)])


@layer_type("ProposalTarget", bottoms=(2, 2), tops=(6, 7), own_random=True)
def proposal_target(layer: LayerParameter, shapes: Shapes, tops: int) -> Declared:
    """The bottoms are regions (rows, 5) and truths (rows, 7), [image, box, class, ignored].

    The tops are regions, classes, what to predict, two weights of it, truths [class, box, overlap], and weights of
    the rows. With batch_size -1 a forward pass knows how many rows there are.
    """
    param = layer.proposal_target_param
    obeyed = (
        *("cls_num", "batch_size", "fg_fraction", "num_img_per_batch", "fg_thr", "bg_thr_hg", "bg_thr_lw"),
        *("img_width", "img_height", "iou_weighted"),
    )
    refuse_other_fields("proposal_target_param", param, *obeyed)
    box_statistics(layer.bbox_reg_param, above_zero=False)
    rows = _check_rows("the regions", shapes[0], 5)
    _check_rows("the truths", shapes[1], 7)
    if param.batch_size != -1 and param.batch_size < 1:
        raise InputError("proposal_target_param: batch_size must be above 0, or -1 for all")
    if not 0 <= param.fg_fraction <= 1:
        raise InputError("proposal_target_param: fg_fraction must be from 0 to 1")
    _check_above_zero("proposal_target_param", fg_thr=param.fg_thr, num_img_per_batch=param.num_img_per_batch)
    if param.fg_thr < param.bg_thr_hg:
        raise InputError("proposal_target_param: bg_thr_hg must not be above fg_thr")
    if layer.bbox_reg_param.cls_aware and param.cls_num < 1:
        raise InputError("proposal_target_param: give cls_num")
    count = max(rows, 1) if param.batch_size == -1 else param.batch_size
    return Declared([(count, width, 1, 1) for width in proposal_widths(layer)][:tops])


def proposal_widths(layer: LayerParameter) -> tuple[int, ...]:
    """Numbers in a row of each of ProposalTarget's tops."""
    targets = 4 * layer.proposal_target_param.cls_num if layer.bbox_reg_param.cls_aware else 8
    return 5, 1, targets, targets, targets, 6, 1
