"""What the layers of SSD and of the R-CNN family become."""

from collections.abc import Sequence

from port.translate.loss_ops import normalization
from port.translate.ops import Expression, Slot, Text, learned, number, translates, whole
from prototxt.caffe_pb2 import MultiBoxLossParameter
from prototxt.errors import InputError
from prototxt.forks import meaning
from prototxt.layers.boxes import CENTER_SIZE, CORNER
from prototxt.layers.declare import Shape
from prototxt.layers.detection import outline, prior_ratios
from prototxt.layers.regions import anchors, pooled_sizes
from prototxt.plan import LayerPlan


def four_axes(layer: LayerPlan, *shapes: Shape) -> None:
    """Raises InputError for blobs of other than 4 axes, which Caffe gives 4."""
    if any(len(shape) != 4 for shape in shapes):
        raise InputError(f"{layer.type} of fewer than 4 axes has no counterpart here")


def _numbers(values: Sequence[float]) -> str:
    return f"({', '.join(map(whole, values))}{',' if len(values) == 1 else ''})"


@translates("PriorBox")
def _prior_box(layer: LayerPlan, shapes: Sequence[Shape]) -> Expression:
    four_axes(layer, *shapes)
    param = layer.param.prior_box_param
    if param.denser_prior_boxes:
        raise InputError("prior_box_param: denser_prior_boxes has no counterpart here")
    image = "{1}.shape"
    if param.HasField("img_size"):
        image = f"({param.img_size}, {param.img_size})"
    elif param.HasField("img_h"):
        image = f"({param.img_h}, {param.img_w})"
    settings = ["{0}", image, str(tuple(map(int, param.min_size)))]
    if param.max_size:
        settings.append(str(tuple(map(int, param.max_size))))
    ratios = prior_ratios(param)[1 :: 2 if param.flip else 1]
    if ratios:
        settings.append(f"ratios={_numbers(ratios)}")
    if param.HasField("step"):
        settings.append(f"step={_numbers([param.step] * 2)}")
    elif param.HasField("step_h"):
        settings.append(f"step={_numbers([param.step_h, param.step_w])}")
    if param.offset != 0.5:
        settings.append(f"offset={number(param.offset)}")
    if list(param.variance):
        settings.append(f"variances={_numbers(list(param.variance))}")
    if ratios and not param.flip:
        settings.append("flip=False")
    if param.clip:
        settings.append("clip=True")
    return Expression(f"prior_boxes({', '.join(settings)})")


@translates("DetectionOutput")
def _detection_output(layer: LayerPlan, shapes: Sequence[Shape]) -> Expression:
    param = layer.param.detection_output_param
    if outline(layer.param, shapes[0], shapes[2]):
        raise InputError("DetectionOutput with outlines has no counterpart here")
    nms = param.nms_param
    rule = {CENTER_SIZE: "centre_size_boxes", CORNER: "corner_boxes"}.get(
        param.code_type, "corner_size_boxes"
    )
    scaled = ", scaled=True" if param.variance_encoded_in_target else ""
    least = param.confidence_threshold if param.HasField("confidence_threshold") else float("-inf")
    settings = [
        f"{rule}({{0}}, {{2}}{scaled})",
        "{1}",
        f"classes={param.num_classes}",
        f"background={param.background_label_id}",
        f"confidence={number(least)}",
        f"nms={number(nms.nms_threshold)}",
    ]
    if nms.HasField("top_k") and nms.top_k >= 0:
        settings.append(f"top_k={nms.top_k}")
    if param.keep_top_k >= 0:
        settings.append(f"keep={param.keep_top_k}")
    if nms.eta < 1:
        settings.append(f"eta={number(nms.eta)}")
    return Expression(f"detections({', '.join(settings)})")


@translates("Normalize")
def _normalize(layer: LayerPlan, shapes: Sequence[Shape]) -> Expression:
    if meaning(layer.param) != "SSD":
        return _unit(layer, shapes[0])
    param, (shape,) = layer.param.norm_param, shapes
    slots = [Slot("inputs", 1 if param.channel_shared else shape[1])]
    if param.across_spatial:
        slots.append(Slot("axes", tuple(range(1, len(shape))), "axes"))
    if abs(param.eps - 1e-10) > 1e-16:
        slots.append(Slot("eps", Text(number(param.eps)), "eps"))
    module = learned(layer, "Normalize", slots, ("weight",))
    if param.channel_shared:
        module.state["weight"] = lambda blobs: blobs[0][0].reshape(1)
    return Expression("{m}({0})", module)


def _unit(layer: LayerPlan, shape: Shape) -> Expression:
    """happynear's: each place's channels over their norm; a second top is that norm."""
    param = layer.param.normalize_param
    four_axes(layer, shape)
    if len(layer.tops) > 1 and not param.bp_norm:
        raise InputError("Normalize whose second top gives no gradient has no counterpart here")
    absolute = param.normalize_type == "L1"
    norm = (
        "({0}.abs().sum(1, keepdim=True) + 1e-6)"
        if absolute
        else "({0}.square().sum(1, keepdim=True) + 1e-6).sqrt()"
    )
    return (
        Expression(f"{{0}} / {norm}", infix=True)
        if len(layer.tops) == 1
        else Expression(f"({{0}} / {norm}, {norm})")
    )


@translates("ROIPooling")
def _roi_pooling(layer: LayerPlan, shapes: Sequence[Shape]) -> Expression:
    param = layer.param.roi_pooling_param
    if param.pad_ratio:
        raise InputError("ROIPooling with pad_ratio has no counterpart in PyTorch")
    return Expression(f"roi_pool({{0}}, {{1}}, {pooled_sizes(param)}, {number(param.spatial_scale)})")


@translates("PSROIPooling")
def _psroi_pooling(layer: LayerPlan, shapes: Sequence[Shape]) -> Expression:
    four_axes(layer, shapes[0])
    param = layer.param.psroi_pooling_param
    return Expression(f"ps_roi_pool({{0}}, {{1}}, {param.group_size}, {number(param.spatial_scale)})")


@translates("ROIWarping")
def _roi_warping(layer: LayerPlan, shapes: Sequence[Shape]) -> Expression:
    four_axes(layer, shapes[0])
    param = layer.param.roi_warping_param
    size = (param.pooled_h, param.pooled_w)
    return Expression(f"roi_warp({{0}}, {{1}}, {size}, {number(param.spatial_scale)})")


@translates("MaskPooling")
def _mask_pooling(layer: LayerPlan, shapes: Sequence[Shape]) -> Expression:
    four_axes(layer, *shapes)
    return Expression("{0} * {1}", infix=True)


@translates("MaskResize")
def _mask_resize(layer: LayerPlan, shapes: Sequence[Shape]) -> Expression:
    four_axes(layer, *shapes)
    param = layer.param.mask_resize_param
    return Expression(f"resize_mask({{0}}, {param.output_height}, {param.output_width})")


@translates("Proposal")
def _proposal(layer: LayerPlan, shapes: Sequence[Shape]) -> Expression:
    param = layer.param.proposal_param
    boxes = ", ".join(map(_numbers, anchors(param)))
    settings = [
        *("{0}", "{1}", "{2}", f"[{boxes}]"),
        f"stride={param.feat_stride}",
        f"least={number(param.min_size)}",
        f"before={param.pre_nms_topn or None}",
        f"after={param.post_nms_topn or None}",
        f"nms={number(param.nms_thresh)}",
    ]
    return Expression(f"proposals({', '.join(settings)}){'[0]' if len(layer.tops) == 1 else ''}")


@translates("MultiBoxLoss")
def _multibox_loss(layer: LayerPlan, shapes: Sequence[Shape]) -> Expression:
    param, usual = layer.param.multibox_loss_param, MultiBoxLossParameter()
    for name in ("share_location", "use_prior_for_matching", "code_type", "conf_loss_type"):
        due = CENTER_SIZE if name == "code_type" else getattr(usual, name)
        if getattr(param, name) != due:
            raise InputError(f"MultiBoxLoss with {name} other than SSD's has no counterpart here")
    for name in ("encode_variance_in_target", "bp_inside", "map_object_to_agnostic"):
        if getattr(param, name):
            raise InputError(f"MultiBoxLoss with {name} has no counterpart here")
    if param.ignore_cross_boundary_bbox or not all(layer.param.propagate_down[:2]):
        raise InputError("MultiBoxLoss that leaves out boxes, or a part of itself, has no counterpart here")
    thinned = param.HasField("nms_param") and param.nms_param.nms_threshold > 0
    if param.mining_type == MultiBoxLossParameter.HARD_EXAMPLE or thinned:
        raise InputError("MultiBoxLoss that mines by HARD_EXAMPLE or nms_param has no counterpart here")
    settings = [
        *("{0}", "{1}", "{2}", "{3}"),
        f"classes={param.num_classes}",
        f"background={param.background_label_id}",
        f'by="{normalization(layer.param.loss_param, "VALID")}"',
    ]
    near = param.match_type == MultiBoxLossParameter.PER_PREDICTION
    mined = param.mining_type != MultiBoxLossParameter.NONE
    given = {
        "threshold": (number(param.overlap_threshold) if near else "None", "0.5"),
        "negatives": (number(param.neg_pos_ratio) if mined else "None", "3.0"),
        "below": (number(param.neg_overlap), "0.5"),
        "weight": (number(param.loc_weight), "1.0"),
        "difficult": (str(param.use_difficult_gt), "True"),
        "squared": (str(param.loc_loss_type == MultiBoxLossParameter.L2), "False"),
    }
    settings += [f"{name}={value}" for name, (value, default) in given.items() if value != default]
    return Expression(f"multibox_loss({', '.join(settings)})")


@translates("DetectionEvaluate")
def _detection_evaluate(layer: LayerPlan, shapes: Sequence[Shape]) -> Expression:
    param = layer.param.detection_evaluate_param
    if param.name_size_file:
        raise InputError("DetectionEvaluate with a name_size_file has no counterpart here")
    settings = [
        f"classes={param.num_classes}",
        f"background={param.background_label_id}",
        f"threshold={number(param.overlap_threshold)}",
        f"difficult={param.evaluate_difficult_gt}",
    ]
    return Expression(f"judged({{0}}, {{1}}, {', '.join(settings)})")
