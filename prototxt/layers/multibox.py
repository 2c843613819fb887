"""MultiBoxLoss, SSD's loss over locations and confidences (weiliu89/caffe, branch ssd)."""

from prototxt.caffe_pb2 import LayerParameter, MultiBoxLossParameter
from prototxt.errors import InputError
from prototxt.layers.boxes import check_classes, check_nms, check_predictions
from prototxt.layers.declare import Declared, Shapes, layer_type, legacy_shape, refuse_other_fields, text

_FIELDS = (
    *("loc_loss_type", "conf_loss_type", "loc_weight", "num_classes", "share_location", "match_type"),
    *("overlap_threshold", "use_prior_for_matching", "background_label_id", "use_difficult_gt"),
    *("do_neg_mining", "neg_pos_ratio", "neg_overlap", "code_type", "encode_variance_in_target"),
    *("map_object_to_agnostic", "ignore_cross_boundary_bbox", "bp_inside", "mining_type", "nms_param"),
    *("sample_size", "use_prior_for_nms"),
)


@layer_type("MultiBoxLoss", bottoms=(4, 4), loss=True, no_forced_gradient=(1,))
def multibox_loss(layer: LayerParameter, shapes: Shapes, tops: int) -> Declared:
    """The bottoms are locations, confidences, priors, and the ground truth (1, 1, n, 8).

    As in every loss of Caffe's, `force_backward` leaves bottom 1 alone, which here are the confidences.
    """
    param = layer.multibox_loss_param
    refuse_other_fields("multibox_loss_param", param, *_FIELDS)
    check_classes("multibox_loss_param", param)
    check_nms("multibox_loss_param", param.nms_param)
    mined = param.mining_type != MultiBoxLossParameter.NONE
    softmax = param.conf_loss_type == MultiBoxLossParameter.SOFTMAX
    if param.HasField("do_neg_mining") and param.do_neg_mining != mined:
        raise InputError("multibox_loss_param: do_neg_mining contradicts mining_type: take it out")
    if mined and not param.share_location:
        raise InputError("multibox_loss_param: mining needs share_location: or give mining_type: NONE")
    if param.mining_type == MultiBoxLossParameter.HARD_EXAMPLE and param.sample_size < 1:
        raise InputError("multibox_loss_param: sample_size must be at least 1")
    if param.background_label_id >= param.num_classes and (softmax or mined):
        raise InputError(
            f"multibox_loss_param: background_label_id {param.background_label_id} is not one of the "
            f"{param.num_classes} classes"
        )
    if param.map_object_to_agnostic and param.num_classes != 2:
        raise InputError("multibox_loss_param: map_object_to_agnostic needs num_classes: 2")
    loc_classes = 1 if param.share_location else param.num_classes
    check_predictions(shapes[0], shapes[1], shapes[2], loc_classes, param.num_classes)
    if legacy_shape(shapes[3])[3] != 8:
        raise InputError(f"the ground truth must be (1, 1, rows, 8), not {text(shapes[3])}")
    return Declared([()])


def wants(layer: LayerParameter, bottom: int) -> bool:
    """Whether the part of the loss that bottom 0 or 1 is for is counted: not where its propagate_down is false."""
    return layer.propagate_down[bottom] if layer.propagate_down else True
