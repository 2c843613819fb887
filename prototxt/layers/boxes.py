"""What the layers of SSD (weiliu89/caffe, branch ssd) have in common: priors and how boxes are coded."""

import math
from typing import Any

from prototxt.caffe_pb2 import NonMaximumSuppressionParameter, PriorBoxParameter
from prototxt.errors import InputError
from prototxt.layers.declare import Shape, legacy_shape, refuse_other_fields, text

CORNER, CENTER_SIZE, CORNER_SIZE = (
    PriorBoxParameter.CORNER,
    PriorBoxParameter.CENTER_SIZE,
    PriorBoxParameter.CORNER_SIZE,
)
"""How a box is coded: shifts of its corners; of its centre and size; of its corners, in the prior's sizes."""


def check_predictions(
    loc: Shape, conf: Shape, priors: Shape, loc_classes: int, classes: int, numbers: int = 4
) -> int:
    """The number of priors, 4 numbers each along the third axis, with which both predictions must agree.

    Args:
        numbers: that a location has.

    Raises:
        InputError: predictions for another number of priors, or of images.
    """
    num, channels = legacy_shape(loc)[:2]
    conf_num, conf_channels = legacy_shape(conf)[:2]
    count = legacy_shape(priors)[2] // 4
    if legacy_shape(priors)[1] < 2 or not count:
        raise InputError(f"the priors must be (1, 2, 4 for each), boxes and variances, not {text(priors)}")
    if num != conf_num:
        raise InputError(f"locations {text(loc)} and scores {text(conf)} must have the same number of images")
    for what, found, each in (
        ("locations", channels, loc_classes * numbers),
        ("scores", conf_channels, classes),
    ):
        if found != count * each:
            raise InputError(
                f"{found} {what} for {count} priors: there must be {each} for each, {count * each} together"
            )
    for what, shape, each in (("locations", loc, channels), ("scores", conf, conf_channels)):
        if math.prod(shape) != num * each:
            raise InputError(f"the {what} must be (num, channels), {num}×{each}, not {text(shape)}")
    if math.prod(priors) < 8 * count:
        raise InputError(f"{text(priors)} priors have no room for {count} boxes and their variances")
    return count


def check_classes(where: str, param: Any) -> None:
    """Raise InputError where `num_classes` is missing or 0; `param` may be any message with it."""
    if not param.HasField("num_classes") or param.num_classes < 1:
        raise InputError(f"{where}: give num_classes, at least 1")


def check_nms(where: str, param: NonMaximumSuppressionParameter) -> None:
    """Raise InputError for thresholds out of range, and for ways of suppression that other forks added."""
    refuse_other_fields(f"{where}.nms_param", param, "nms_threshold", "top_k", "eta")
    if param.nms_threshold < 0:
        raise InputError(f"{where}.nms_param: nms_threshold must not be negative")
    if not 0 < param.eta <= 1:
        raise InputError(f"{where}.nms_param: eta must be above 0 and at most 1")
