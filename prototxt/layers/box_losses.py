"""The losses of the R-CNN family: SmoothL1Loss, SSD's of that name too, and those of online hard examples.

From intel/caffe, which has CPU code for rbgirshick/caffe-fast-rcnn's and daijifeng001/caffe-rfcn's layers.
"""

from prototxt.caffe_pb2 import LayerParameter, LossParameter
from prototxt.errors import InputError
from prototxt.forks import meaning
from prototxt.layers.declare import (
    Declared,
    Shape,
    Shapes,
    check_label_count,
    layer_type,
    legacy_shape,
    refuse_other_fields,
    text,
)
from prototxt.layers.windows import canonical_axis


def of_rcnn(layer: LayerParameter) -> bool:
    """Whether a SmoothL1Loss is the R-CNN line's, and not SSD's."""
    return meaning(layer) == "Faster R-CNN"


def _check_alike(shapes: Shapes) -> None:
    first = legacy_shape(shapes[0])
    for shape in shapes[1:]:
        if legacy_shape(shape) != first:
            raise InputError(f"the bottoms {text(shapes[0])} and {text(shape)} must be of one shape")


@layer_type("SmoothL1Loss", bottoms=(2, 4), loss=True, own_weight=of_rcnn, reads_bottoms=True)
def smooth_l1(layer: LayerParameter, shapes: Shapes, tops: int) -> Declared:
    """Two bottoms, and in the R-CNN line two more: the weights inside and outside of the function.

    The R-CNN line's has no default loss weight. With one weight, inside, it is ShaoqingRen/caffe's.
    """
    refuse_other_fields("smooth_l1_loss_param", layer.smooth_l1_loss_param, "sigma")
    if len(shapes) == 3 and layer.HasField("smooth_l1_loss_param"):
        raise InputError("SmoothL1Loss with one weight, a third bottom, has no smooth_l1_loss_param")
    if layer.smooth_l1_loss_param.sigma == 0:
        raise InputError("smooth_l1_loss_param: sigma must not be 0")
    _check_alike(shapes)
    return Declared([()])


@layer_type("SmoothL1LossOHEM", bottoms=(2, 3), tops=(1, 2), loss=True, own_weight=lambda layer: True)
def smooth_l1_ohem(layer: LayerParameter, shapes: Shapes, tops: int) -> Declared:
    """A third bottom holds weights; a second top the loss of each position, (num, 1, height, width)."""
    _check_alike(shapes)
    num, _, height, width = legacy_shape(shapes[0])
    return Declared([(), (num, 1, height, width)][:tops])


@layer_type("SoftmaxWithLossOHEM", bottoms=(2, 2), tops=(1, 3), loss=True, no_forced_gradient=(1,))
def softmax_ohem(layer: LayerParameter, shapes: Shapes, tops: int) -> Declared:
    """The second top is shaped like the scores, the third, the loss of each position, like the labels."""
    scores, labels = shapes
    if not scores or scores[:1] != labels[:1]:
        raise InputError(f"the bottoms {text(scores)} and {text(labels)} must have the same first axis")
    check_label_count(scores, labels, canonical_axis(layer.softmax_param.axis, len(scores)))
    return Declared([(), scores, labels][:tops])


def ohem_normalizer(layer: LayerParameter, outer: int, inner: int, valid: int) -> float:
    """What the losses of online hard examples are divided by, at least 1.

    Args:
        outer, inner: images (for R-CNN: regions), and positions within one.
        valid: positions that are not ignored.
    """
    param = layer.loss_param
    mode = param.normalization
    if not param.HasField("normalization") and param.HasField("normalize"):
        mode = LossParameter.VALID if param.normalize else LossParameter.BATCH_SIZE
    counts = {
        LossParameter.FULL: outer * inner,
        LossParameter.VALID: valid,
        LossParameter.BATCH_SIZE: outer,
        LossParameter.NONE: 1,
        LossParameter.PRE_FIXED: param.pre_fixed_normalizer,
    }
    return max(1.0, float(counts[mode]))


@layer_type("BoxAnnotatorOHEM", bottoms=(4, 4), tops=(2, 2))
def box_annotator_ohem(layer: LayerParameter, shapes: Shapes, tops: int) -> Declared:
    """The bottoms are regions, each one's loss, label, and weights of its box; the tops labels and weights."""
    if layer.box_annotator_ohem_param.roi_per_img < 1:
        raise InputError("box_annotator_ohem_param: give roi_per_img, at least 1")
    rois, losses, labels, weights = map(legacy_shape, shapes)
    num, channels, height, width = rois
    if channels != 5:
        raise InputError(f"the regions must have 5 numbers each, not {text(shapes[0])}")
    if losses != (num, 1, height, width) or labels != losses or _but_channels(weights) != _but_channels(rois):
        raise InputError(
            f"losses {text(shapes[1])}, labels {text(shapes[2])} and weights {text(shapes[3])} must be for the "
            f"{num * height * width} regions of {text(shapes[0])}"
        )
    return Declared([losses, weights])


def _but_channels(shape: Shape) -> tuple[int, ...]:
    return (shape[0], *shape[2:])
