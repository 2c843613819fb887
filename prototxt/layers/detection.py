"""SSD's layers that make priors, detections, and their evaluation (weiliu89/caffe, branch ssd)."""

import math
from collections.abc import Iterable

from prototxt.caffe_pb2 import LayerParameter, PriorBoxParameter
from prototxt.errors import InputError
from prototxt.layers.boxes import check_classes, check_nms, check_predictions
from prototxt.layers.declare import (
    Declared,
    Shape,
    Shapes,
    layer_type,
    legacy_shape,
    refuse_other_fields,
    text,
)

_PRIOR_FIELDS = (
    *("min_size", "max_size", "aspect_ratio", "flip", "clip", "variance"),
    *("img_size", "img_h", "img_w", "step", "step_h", "step_w", "offset"),
    "denser_prior_boxes",
)


@layer_type("PriorBox", bottoms=(2, 2))
def prior_box(layer: LayerParameter, shapes: Shapes, tops: int) -> Declared:
    """The bottoms are a feature map and the image; only their sizes matter."""
    param = layer.prior_box_param
    refuse_other_fields("prior_box_param", param, *_PRIOR_FIELDS)
    if not param.min_size:
        raise InputError("prior_box_param: give min_size")
    for name in ("min_size", "max_size", "aspect_ratio", "variance"):
        if not all(0 < value < math.inf for value in getattr(param, name)):
            raise InputError(f"prior_box_param: {name} must be above 0, and a number")
    if param.max_size:
        if len(param.max_size) != len(param.min_size):
            raise InputError(
                f"prior_box_param: {len(param.max_size)} max_size for {len(param.min_size)} min_size: give as many"
            )
        if any(most <= least for least, most in zip(param.min_size, param.max_size, strict=True)):
            raise InputError("prior_box_param: max_size must be greater than its min_size")
    if len(param.variance) not in (0, 1, 4):
        raise InputError(f"prior_box_param: {len(param.variance)} variance: give 1 or 4")
    _check_pair(param, "img_size", "img_h", "img_w")
    _check_pair(param, "step", "step_h", "step_w")
    _, _, height, width = legacy_shape(shapes[0])
    return Declared([(1, 2, height * width * len(prior_sizes(param)) * 4)])


def _check_pair(param: PriorBoxParameter, both: str, *each: str) -> None:
    """One size for height and width, or one for each; never both, and above 0."""
    given = [name for name in each if param.HasField(name)]
    if given and param.HasField(both):
        raise InputError(f"prior_box_param: give {both}, or {' and '.join(each)}, not both")
    names: Iterable[str] = each if given else [both] if param.HasField(both) else ()
    for name in names:
        if not 0 < getattr(param, name) < math.inf:
            raise InputError(f"prior_box_param: {name} must be above 0, and a number")


def prior_ratios(param: PriorBoxParameter) -> list[float]:
    """1, then the aspect ratios not yet there (within 1e-6), each followed by its reciprocal if they are flipped."""
    ratios = [1.0]
    for ratio in param.aspect_ratio:
        if all(abs(ratio - other) >= 1e-6 for other in ratios):
            ratios += [ratio, 1 / ratio] if param.flip else [ratio]
    return ratios


def prior_sizes(param: PriorBoxParameter) -> list[tuple[float, float]]:
    """Width and height in pixels of the boxes at each place of the map, in the fork's order.

    The fork cuts sizes to whole numbers: a min_size of 30.7 counts as 30. TextBoxes++'s `denser_prior_boxes` has each
    box twice: see `prior_offsets`.
    """
    sizes = []
    for i, least in enumerate(map(int, param.min_size)):
        sizes.append((float(least), float(least)))
        if param.max_size:
            sizes.append(((least * int(param.max_size[i])) ** 0.5,) * 2)
        sizes += [(least * ratio**0.5, least / ratio**0.5) for ratio in prior_ratios(param)[1:]]
    return [size for size in sizes for _ in range(1 + param.denser_prior_boxes)]


def prior_offsets(param: PriorBoxParameter) -> list[float]:
    """How far down its cell each of `prior_sizes` has its centre; a box's second one is on the cell's lower edge."""
    if param.denser_prior_boxes:
        return [param.offset, 1.0] * (len(prior_sizes(param)) // 2)
    return [param.offset] * len(prior_sizes(param))


_OUTPUT_FIELDS = (
    *("num_classes", "share_location", "background_label_id", "nms_param", "code_type"),
    *("variance_encoded_in_target", "keep_top_k", "confidence_threshold", "save_output_param"),
    *("visualize_threshold", "save_file", "use_polygon"),
)


@layer_type("DetectionOutput", bottoms=(3, 4))
def detection_output(layer: LayerParameter, shapes: Shapes, tops: int) -> Declared:
    """How many boxes are found is known in a forward pass; until then the top has one row, as in the fork.

    TextBoxes++'s has each box's outline too: see `outline`.
    """
    param = layer.detection_output_param
    refuse_other_fields("detection_output_param", param, *_OUTPUT_FIELDS)
    check_classes("detection_output_param", param)
    check_nms("detection_output_param", param.nms_param)
    if param.share_location and param.background_label_id == -1:
        raise InputError(
            "detection_output_param: background_label_id -1 is also the label of shared locations: give one "
            "from 0 on, or share_location: false"
        )
    loc_classes = 1 if param.share_location else param.num_classes
    further = outline(layer, shapes[0], shapes[2])
    check_predictions(shapes[0], shapes[1], shapes[2], loc_classes, param.num_classes, 4 + further)
    if further and (param.code_type != PriorBoxParameter.CENTER_SIZE or param.variance_encoded_in_target):
        raise InputError(
            "detection_output_param: TextBoxes++'s outlines are coded as CENTER_SIZE, and without their variance: its "
            "code leaves others unset"
        )
    if further and saves_output(layer):
        raise InputError(
            "detection_output_param: TextBoxes++'s outlines are not saved: remove save_output_param"
        )
    return Declared([(1, 1, 1, 7 + further)])


def outline(layer: LayerParameter, loc: Shape, priors: Shape) -> int:
    """How many numbers describe the outline of TextBoxes++'s boxes: 8, a polygon's corners, or 5, a turned box's.

    0 for SSD's boxes, which have none. `use_polygon` is true where it is not given; there the locations tell: of 12
    numbers they are TextBoxes++'s.
    """
    param = layer.detection_output_param
    if param.HasField("use_polygon"):
        return 8 if param.use_polygon else 5
    loc_classes = 1 if param.share_location else param.num_classes
    return 8 if legacy_shape(loc)[1] == legacy_shape(priors)[2] // 4 * loc_classes * 12 else 0


def saves_output(layer: LayerParameter) -> bool:
    """Whether a DetectionOutput writes files: where it has all that it takes."""
    saved = layer.detection_output_param.save_output_param
    return bool(saved.output_directory and saved.label_map_file and saved.name_size_file)


@layer_type("DetectionEvaluate", bottoms=(2, 2))
def detection_evaluate(layer: LayerParameter, shapes: Shapes, tops: int) -> Declared:
    """The bottoms are detections (1, 1, n, 7) and ground truth (1, 1, n, 8). Detections of label -1 get no row."""
    param = layer.detection_evaluate_param
    obeyed = ("num_classes", "background_label_id", "overlap_threshold", "evaluate_difficult_gt")
    refuse_other_fields("detection_evaluate_param", param, *obeyed, "name_size_file", "resize_param")
    check_classes("detection_evaluate_param", param)
    if param.overlap_threshold <= 0:
        raise InputError("detection_evaluate_param: overlap_threshold must be above 0")
    check_rows("the detections", shapes[0], 7)
    check_rows("the ground truth", shapes[1], 8)
    return Declared([(1, 1, evaluated_classes(layer) + legacy_shape(shapes[0])[2], 5)])


def evaluated_classes(layer: LayerParameter) -> int:
    """The number of classes but the background."""
    param = layer.detection_evaluate_param
    return param.num_classes - (param.background_label_id < param.num_classes)


def check_rows(what: str, shape: tuple[int, ...], width: int) -> None:
    """Raises InputError where a blob is not (1, 1, rows, width)."""
    num, channels, _, found = legacy_shape(shape)
    if (num, channels, found) != (1, 1, width):
        raise InputError(f"{what} must be (1, 1, rows, {width}), not {text(shape)}")
