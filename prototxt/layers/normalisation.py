"""Layers that bring values to a common scale."""

from prototxt.caffe_pb2 import TEST, BatchNormParameter, FillerParameter, LayerParameter, LRNParameter
from prototxt.errors import InputError
from prototxt.forks import meaning
from prototxt.layers.declare import (
    Declared,
    Shapes,
    Weight,
    layer_type,
    legacy_shape,
    refuse_in_place,
    refuse_other_fields,
    text,
)
from prototxt.layers.windows import canonical_axis


@layer_type("Softmax", reads_tops=True)
def softmax(layer: LayerParameter, shapes: Shapes, tops: int) -> Declared:
    canonical_axis(layer.softmax_param.axis, len(shapes[0]))
    return Declared([shapes[0]])


@layer_type("LRN", reads_bottoms=True, reads_tops=True)
def lrn(layer: LayerParameter, shapes: Shapes, tops: int) -> Declared:
    param, (shape,) = layer.lrn_param, shapes
    if param.local_size % 2 == 0:
        raise InputError(f"lrn_param: local_size {param.local_size} must be odd")
    if param.norm_region == LRNParameter.ACROSS_CHANNELS:
        refuse_in_place(layer)  # Caffe overwrites the bottom before it has read it
    if len(shape) != 4:
        raise InputError(f"LRN needs 4 axes (num, channels, height, width), not {text(shape)}")
    around, (num, channels, height, width) = param.local_size - 1, shape
    if param.norm_region == LRNParameter.ACROSS_CHANNELS:
        return Declared([shape], scratch=[(num, channels + around, height, width)])
    return Declared([shape], scratch=[(num, channels, height + around, width + around)])


@layer_type("MVN", reads_tops=True)
def mvn(layer: LayerParameter, shapes: Shapes, tops: int) -> Declared:
    return Declared([legacy_shape(shapes[0])])


@layer_type("BatchNorm", weight_names=("mean", "variance", "factor", "scale", "shift"))
def batch_norm(layer: LayerParameter, shapes: Shapes, tops: int) -> Declared:
    param, (shape,) = layer.batch_norm_param, shapes
    if len(shape) < 2 or not shape[1]:
        raise InputError(f"BatchNorm needs at least 2 axes, the channels second, not {text(shape)}")
    batch = statistics_batch(layer, shape[0])
    if batch and shape[0] % batch:
        raise InputError(f"batch_norm_param: stats_batch_size {batch} must divide the batch of {shape[0]}")
    if scales_itself(param):
        if batch != shape[0]:
            raise InputError(
                "batch_norm_param: stats_batch_size, Intel's, does not go with NVCaffe's scale and bias"
            )
        still = ("lr_mult", "decay_mult")
        scale = param.scale_filler if param.HasField("scale_filler") else _constant(1)
        kept = [
            Weight(shape[1:2], fixed=still),
            Weight(shape[1:2], fixed=still),
            Weight((1,), _constant(1), still),
        ]
        return Declared([shape], [*kept, Weight(shape[1:2], scale), Weight(shape[1:2], param.bias_filler)])
    if any(spec.lr_mult for spec in layer.param):
        raise InputError("BatchNorm's blobs are running sums, not learned: set lr_mult: 0 in its param")
    return Declared([shape], [Weight(size, fixed=("lr_mult",)) for size in (shape[1:2], shape[1:2], (1,))])


def statistics_batch(layer: LayerParameter, images: int) -> int:
    """How many images a BatchNorm takes statistics of at a time: all, or Intel's stats_batch_size where it trains."""
    param = layer.batch_norm_param
    kept = param.use_global_stats if param.HasField("use_global_stats") else layer.phase == TEST
    return images if kept else param.stats_batch_size or images


def scales_itself(param: BatchNormParameter) -> bool:
    """Whether it is NVCaffe's BatchNorm with a scale and a bias, which are its weights 3 and 4."""
    return param.scale_bias or param.HasField("scale_filler") or param.HasField("bias_filler")


def _constant(value: float) -> FillerParameter:
    return FillerParameter(type="constant", value=value)


@layer_type("BN", tops=(1, 3), reads_bottoms=True, weight_names=("weight", "bias", "mean", "variance"))
def bn(layer: LayerParameter, shapes: Shapes, tops: int) -> Declared:
    """SegNet's with two weights, PSPNet's with four: `prototxt.forks.meaning` tells which."""
    param, (num, channels, height, width) = layer.bn_param, legacy_shape(shapes[0])
    shape = (1, channels, 1, 1)
    if meaning(layer) == "SegNet":
        weights = [Weight(shape, param.scale_filler), Weight(shape, param.shift_filler)]
        return Declared([(num, channels, height, width), shape, shape][:tops], weights)
    if tops > 1:
        raise InputError(
            "BN with running statistics (PSPNet's) makes one top: give scale_filler for SegNet's"
        )
    still = ("lr_mult", "decay_mult")
    learned = still if param.frozen else ()
    weights = [Weight(shape, filler, learned) for filler in (param.slope_filler, param.bias_filler)]
    variance = _constant(1 if param.frozen else 0)
    return Declared([shapes[0]], [*weights, Weight(shape, fixed=still), Weight(shape, variance, still)])


@layer_type("NormL2", reads_bottoms=True, reads_tops=True)
def norm_l2(layer: LayerParameter, shapes: Shapes, tops: int) -> Declared:
    refuse_in_place(layer)
    return Declared([legacy_shape(shapes[0])])


@layer_type("Normalize", tops=(1, 2), reads_bottoms=True, reads_tops=True, weight_names=("weight",))
def normalize(layer: LayerParameter, shapes: Shapes, tops: int) -> Declared:
    """SSD's (weiliu89/caffe): the norm of an image, or of each of its places, is brought to a learnt scale.

    happynear's, which has normalize_param or a second top, makes each place's norm 1; the second top has what it was.
    """
    if meaning(layer) != "SSD":
        given = layer.normalize_param
        refuse_other_fields("normalize_param", given, "normalize_type", "bp_norm")
        if given.normalize_type not in ("L1", "L2"):
            raise InputError(
                f'normalize_param: normalize_type must be "L2" or "L1", not "{given.normalize_type}"'
            )
        num, channels, height, width = legacy_shape(shapes[0])
        return Declared([(num, channels, height, width), (num, 1, height, width)][:tops])
    param, (shape,) = layer.norm_param, shapes
    refuse_other_fields("norm_param", param, "across_spatial", "scale_filler", "channel_shared", "eps")
    legacy_shape(shape)
    if len(shape) < 2:
        raise InputError(f"Normalize needs a bottom with 2 axes or more, not {text(shape)}")
    filler = param.scale_filler
    if not param.HasField("scale_filler"):
        filler = FillerParameter(type="constant", value=1)
    return Declared([shape], [Weight(() if param.channel_shared else (shape[1],), filler)])
