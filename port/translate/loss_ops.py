"""What losses and metrics become."""

from collections.abc import Sequence

from port.layers.losses import ignored_label
from port.translate.ops import Expression, Module, Slot, Text, number, translates
from prototxt.caffe_pb2 import HingeLossParameter, LossParameter
from prototxt.errors import InputError
from prototxt.forks import meaning
from prototxt.layers.box_losses import of_rcnn
from prototxt.layers.declare import Shape
from prototxt.layers.losses import focal_settings
from prototxt.layers.windows import canonical_axis
from prototxt.plan import LayerPlan
from weights.binaryproto import read_binaryproto


def normalization(param: LossParameter, default: str) -> str:
    if param.HasField("normalization"):
        return LossParameter.NormalizationMode.Name(param.normalization)
    if param.HasField("normalize"):
        return "VALID" if param.normalize else "BATCH_SIZE"
    return default


def _refuse_weights(layer: LayerPlan, shapes: Sequence[Shape]) -> None:
    """Raises InputError for a third bottom, of weights, which forks of Faster R-CNN have."""
    if len(shapes) == 3:
        raise InputError(f"{layer.type} with weights, a third bottom, has no counterpart here")


@translates("SoftmaxWithLoss")
def _softmax_loss(layer: LayerPlan, shapes: Sequence[Shape]) -> Expression:
    _refuse_weights(layer, shapes)
    axis = canonical_axis(layer.param.softmax_param.axis, len(shapes[0]))
    mode = normalization(layer.param.loss_param, "VALID")
    param = layer.param.loss_param
    weights = tuple(Text(number(weight)) for weight in param.class_weighting)
    more = f", {weights}" if param.weight_by_label_freqs else ""
    text = f'softmax_loss({{0}}, {{1}}, {axis}, {ignored_label(param)}, "{mode}"{more})'
    return _with_softmax(layer, text, axis)


@translates("SigmoidCrossEntropyLoss")
def _sigmoid_loss(layer: LayerPlan, shapes: Sequence[Shape]) -> Expression:
    _refuse_weights(layer, shapes)
    param = layer.param.loss_param
    text = f'sigmoid_loss({{0}}, {{1}}, {ignored_label(param)}, "{normalization(param, "BATCH_SIZE")}")'
    return Expression(text)


@translates("EuclideanLoss")
def _euclidean_loss(layer: LayerPlan, shapes: Sequence[Shape]) -> Expression:
    return Expression("euclidean_loss({0}, {1})")


@translates("HingeLoss")
def _hinge_loss(layer: LayerPlan, shapes: Sequence[Shape]) -> Expression:
    squared = layer.param.hinge_loss_param.norm == HingeLossParameter.L2
    return Expression(f"hinge_loss({{0}}, {{1}}, squared={squared})")


@translates("ContrastiveLoss")
def _contrastive_loss(layer: LayerPlan, shapes: Sequence[Shape]) -> Expression:
    param = layer.param.contrastive_loss_param
    legacy = ", legacy=True" if param.legacy_version else ""
    return Expression(f"contrastive_loss({{0}}, {{1}}, {{2}}, {number(param.margin)}{legacy})")


@translates("Accuracy")
def _accuracy(layer: LayerPlan, shapes: Sequence[Shape]) -> Expression:
    param = layer.param.accuracy_param
    axis = canonical_axis(param.axis, len(shapes[0]))
    ignored = param.ignore_label if param.HasField("ignore_label") else None
    rest = f"({{0}}, {{1}}, {axis}, {param.top_k}, {ignored})"
    return Expression(
        f"accuracy{rest}" if len(layer.tops) == 1 else f"(accuracy{rest}, class_accuracies{rest})"
    )


@translates("SmoothL1Loss")
def _smooth_l1_loss(layer: LayerPlan, shapes: Sequence[Shape]) -> Expression:
    _refuse_weights(layer, shapes)
    text = ", ".join(f"{{{i}}}" for i in range(len(shapes)))
    if of_rcnn(layer.param):
        sigma = layer.param.smooth_l1_loss_param.sigma
        text += f", sigma={number(sigma)}" if sigma != 1 else ""
        summed = layer.param.loss_param.normalization == LossParameter.NONE
        text += ", normalize=False" if summed else ""
    return Expression(f"smooth_l1_loss({text})")


@translates("L1Loss")
def _l1_loss(layer: LayerPlan, shapes: Sequence[Shape]) -> Expression:
    if meaning(layer.param) == "FlowNet2":
        raise InputError("FlowNet2's L1Loss has no counterpart here")
    return Expression("l1_loss({0}, {1})")


@translates("MultinomialLogisticLoss")
def _log_loss(layer: LayerPlan, shapes: Sequence[Shape]) -> Expression:
    return Expression("log_loss({0}, {1})")


@translates("InfogainLoss")
def _infogain_loss(layer: LayerPlan, shapes: Sequence[Shape]) -> Expression:
    param = layer.param.infogain_loss_param
    axis = canonical_axis(param.axis, len(shapes[0]))
    ignored = ignored_label(layer.param.loss_param)
    mode = LossParameter.NormalizationMode.Name(layer.param.loss_param.normalization)
    if len(shapes) == 3:
        return _with_softmax(layer, f'infogain_loss({{0}}, {{1}}, {{2}}, {axis}, {ignored}, "{mode}")', axis)
    classes, matrix = shapes[0][axis], read_binaryproto(param.source)
    slots = [Slot("", classes), Slot("", axis), Slot("", Text(ignored)), Slot("", Text(f'"{mode}"'))]
    state = {"matrix": lambda blobs: matrix.reshape(classes, classes)}
    module = Module("InfogainLoss", tuple(slots), (layer,), state)
    return _with_softmax(layer, "{m}({0}, {1})", axis, module)


def _with_softmax(layer: LayerPlan, text: str, axis: int, module: Module | None = None) -> Expression:
    """The loss and, where the layer has a second top, the probabilities."""
    return Expression(
        text if len(layer.tops) == 1 else f"({text}, F.softmax({{0}}.detach(), {axis}))", module
    )


@translates("WarpCTCLoss")
def _ctc_loss(layer: LayerPlan, shapes: Sequence[Shape]) -> Expression:
    return Expression(f"ctc_loss({{0}}, {{1}}, blank={layer.param.ctc_loss_param.blank_index})")


@translates("SegAccuracy")
def _seg_accuracy(layer: LayerPlan, shapes: Sequence[Shape]) -> Expression:
    param = layer.param.seg_accuracy_param
    if not param.reset or len(shapes[0]) != 4:
        raise InputError("SegAccuracy that counts on, with reset: false, has no counterpart here")
    return Expression(f"segmentation_scores({{0}}, {{1}}, {tuple(param.ignore_label)})")


@translates("FocalLoss")
def _focal_loss(layer: LayerPlan, shapes: Sequence[Shape]) -> Expression:
    axis = canonical_axis(layer.param.softmax_param.axis, len(shapes[0]))
    alpha, gamma = map(number, focal_settings(layer.param.focal_loss_param))
    param = layer.param.loss_param
    mode = normalization(param, LossParameter.NormalizationMode.Name(param.normalization))
    text = f'focal_loss({{0}}, {{1}}, {axis}, {ignored_label(param)}, "{mode}", {alpha}, {gamma})'
    return _with_softmax(layer, text, axis)


@translates("EltwiseAccuracy")
def _eltwise_accuracy(layer: LayerPlan, shapes: Sequence[Shape]) -> Expression:
    param = layer.param.eltwise_accuracy_param
    if len(shapes[0]) != 4:
        raise InputError("EltwiseAccuracy of fewer than 4 axes has no counterpart here")
    ignored = param.ignore_label if param.HasField("ignore_label") else None
    return Expression(f"pixel_accuracy({{0}}, {{1}}, {param.top_k}, {ignored})")
