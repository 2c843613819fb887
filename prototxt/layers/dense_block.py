"""DenseBlock: a whole dense block of DenseNet as one layer, of Tongcheng/caffe and caffe_ocr."""

from prototxt.caffe_pb2 import FillerParameter, LayerParameter
from prototxt.errors import InputError
from prototxt.layers.declare import Declared, Shapes, Weight, layer_type, refuse_other_fields, text

_OBEYED = (
    *("numTransition", "initChannel", "growthRate", "Filter_Filler", "BN_Scaler_Filler", "BN_Bias_Filler"),
    *("use_BC", "moving_average_fraction", "use_dropout", "dropout_amount"),
    *("gpuIdx", "BC_ultra_space_efficient", "workspace_MB"),  # of the GPU's memory
)


@layer_type("DenseBlock")
def dense_block(layer: LayerParameter, shapes: Shapes, tops: int) -> Declared:
    """The weights lie by kind, each kind with one blob for each transition; they are filled transition by transition.

    The kinds: 3×3 filters, scales, biases, running means and variances and, with `use_BC`, the same five of the 1×1
    convolution; at last one number, the running statistics' divisor. `initChannel` has no say: caffe_ocr's copy of the
    layer does not read it, and Tongcheng's works only where it is the bottom's channels.
    """
    param, (shape,) = layer.denseblock_param, shapes
    refuse_other_fields("denseblock_param", param, *_OBEYED)
    if len(shape) != 4:
        raise InputError(f"DenseBlock needs 4 axes (num, channels, height, width), not {text(shape)}")
    count, growth, channels = param.numTransition, param.growthRate, shape[1]
    if count < 1 or growth < 1:
        raise InputError("denseblock_param: numTransition and growthRate must be at least 1")
    if layer.param:
        raise InputError("DenseBlock takes no param: its set-up gives each weight its own")
    if param.use_dropout and param.dropout_amount and layer.phase == 0:
        raise InputError(
            "denseblock_param: use_dropout exists on the fork's GPU only, with cuDNN's random numbers"
        )

    wide, inner = [channels + i * growth for i in range(count)], 4 * growth
    kinds = _norms(layer, wide)
    order: tuple[int, ...] = (0, 1, 2, 3, 4)
    if param.use_BC:
        filters = [Weight((growth, inner, 3, 3), param.Filter_Filler)] * count
        narrow = [Weight((inner, n, 1, 1), param.Filter_Filler) for n in wide]
        kinds = [filters, *kinds, narrow, *_norms(layer, [inner] * count)]
        order = (0, 5, 1, 6, 2, 7, 3, 8, 4, 9)
    else:
        kinds = [[Weight((growth, n, 3, 3), param.Filter_Filler) for n in wide], *kinds]
    weights = [*(weight for kind in kinds for weight in kind), Weight((1,), fixed=_FIXED)]
    filled = [kind * count + i for i in range(count) for kind in order]
    top = (shape[0], channels + count * growth, *shape[2:])
    return Declared([top], weights, filled=(*filled, len(weights) - 1))


_FIXED = ("lr_mult", "decay_mult")


def _norms(layer: LayerParameter, channels: list[int]) -> list[list[Weight]]:
    """Scales, biases, running means and running variances of normalised maps with so many channels."""
    param, one = layer.denseblock_param, FillerParameter(type="constant", value=1)
    return [
        [Weight((1, n, 1, 1), filler, fixed) for n in channels]
        for filler, fixed in (
            (param.BN_Scaler_Filler, ()),
            (param.BN_Bias_Filler, ()),
            (None, _FIXED),
            (one, _FIXED),
        )
    ]
