"""What Caffe's layer types declare about themselves: blob counts, weights, losses, forced gradients.

From the declarations in include/caffe/layers/*.hpp. The plan needs no more of a layer than this.
"""

from dataclasses import dataclass

from prototxt.caffe_pb2 import LayerParameter
from prototxt.errors import InputError
from prototxt.unknown import unknown_type

MANY = 1 << 30


@dataclass(frozen=True)
class LayerFacts:
    """Declarations of one layer type.

    Attributes:
        bottoms, tops: least and greatest number of bottom (top) blobs.
        loss: the first top is a loss of weight 1 unless the layer says otherwise, and is made if missing.
        no_forced_gradient: bottoms (labels, sequence markers) that `force_backward` leaves alone.
        equal: as many tops as bottoms.
    """

    bottoms: tuple[int, int] = (1, 1)
    tops: tuple[int, int] = (1, 1)
    loss: bool = False
    no_forced_gradient: tuple[int, ...] = ()
    equal: bool = False


_ONE_TO_ONE = LayerFacts()
_SOURCE = LayerFacts((0, 0), (1, MANY))
_LABELLED = LayerFacts((0, 0), (1, 2))
_LOSS = LayerFacts((2, 2), (1, 1), loss=True, no_forced_gradient=(1,))
_CONVOLUTION = LayerFacts((1, MANY), (1, MANY), equal=True)

LAYER_FACTS: dict[str, LayerFacts] = {
    "AbsVal": _ONE_TO_ONE,
    "Accuracy": LayerFacts((2, 2), (1, 2)),
    "ArgMax": _ONE_TO_ONE,
    "BNLL": _ONE_TO_ONE,
    "BatchNorm": _ONE_TO_ONE,
    "BatchReindex": LayerFacts((2, 2)),
    "Bias": LayerFacts((1, 2)),
    "Clip": _ONE_TO_ONE,
    "Concat": LayerFacts((1, MANY)),
    "ContrastiveLoss": LayerFacts((3, 3), (1, 1), loss=True, no_forced_gradient=(2,)),
    "Convolution": _CONVOLUTION,
    "Crop": LayerFacts((2, 2)),
    "Data": _LABELLED,
    "Deconvolution": _CONVOLUTION,
    "Dropout": _ONE_TO_ONE,
    "DummyData": _SOURCE,
    "ELU": _ONE_TO_ONE,
    "Eltwise": LayerFacts((2, MANY)),
    "Embed": _ONE_TO_ONE,
    "EuclideanLoss": LayerFacts((2, 2), (1, 1), loss=True),
    "Exp": _ONE_TO_ONE,
    "Filter": LayerFacts((2, MANY), (1, MANY)),
    "Flatten": _ONE_TO_ONE,
    "HDF5Data": _SOURCE,
    "HDF5Output": LayerFacts((2, 2), (0, 0)),
    "HingeLoss": _LOSS,
    "Im2col": _ONE_TO_ONE,
    "ImageData": LayerFacts((0, 0), (2, 2)),
    "ImageSegData": LayerFacts((0, 0), (2, 2)),
    "InfogainLoss": LayerFacts((2, 3), (1, 2), loss=True, no_forced_gradient=(1,)),
    "InnerProduct": _ONE_TO_ONE,
    "Input": _SOURCE,
    "Interp": _ONE_TO_ONE,
    "LRN": _ONE_TO_ONE,
    "LSTM": LayerFacts((2, 5), (1, 3), no_forced_gradient=(1,)),
    "LSTMUnit": LayerFacts((3, 3), (2, 2), no_forced_gradient=(2,)),
    "Log": _ONE_TO_ONE,
    "MVN": _ONE_TO_ONE,
    "MemoryData": LayerFacts((0, 0), (2, 2)),
    "MultinomialLogisticLoss": _LOSS,
    "PReLU": _ONE_TO_ONE,
    "Parameter": LayerFacts((0, 0)),
    "Pooling": LayerFacts((1, 1), (1, 2)),
    "Power": _ONE_TO_ONE,
    "Python": LayerFacts((0, MANY), (0, MANY)),
    "RNN": LayerFacts((2, 4), (1, 2), no_forced_gradient=(1,)),
    "ReLU": _ONE_TO_ONE,
    "Reduction": _ONE_TO_ONE,
    "Reshape": _ONE_TO_ONE,
    "SPP": _ONE_TO_ONE,
    "Scale": LayerFacts((1, 2)),
    "Sigmoid": _ONE_TO_ONE,
    "SigmoidCrossEntropyLoss": _LOSS,
    "Silence": LayerFacts((1, MANY), (0, 0)),
    "Slice": LayerFacts((1, 1), (1, MANY)),
    "Softmax": _ONE_TO_ONE,
    "SoftmaxWithLoss": LayerFacts((2, 2), (1, 2), loss=True, no_forced_gradient=(1,)),
    "Split": LayerFacts((1, 1), (1, MANY)),
    "Swish": _ONE_TO_ONE,
    "TanH": _ONE_TO_ONE,
    "Threshold": _ONE_TO_ONE,
    "Tile": _ONE_TO_ONE,
    "WindowData": LayerFacts((0, 0), (2, 2)),
}

# Layers with one weight blob and, unless bias_term is false, a bias: the message that says so.
_WITH_BIAS = {
    "Convolution": "convolution_param",
    "Deconvolution": "convolution_param",
    "InnerProduct": "inner_product_param",
    "Embed": "embed_param",
}
_FIXED_COUNT = {"BatchNorm": 3, "PReLU": 1, "Parameter": 1}


def facts_of(layer: LayerParameter) -> LayerFacts:
    """The declarations of the layer's type.

    Raises:
        InputError: a type that Caffe does not have; the nearest names are offered.
    """
    facts = LAYER_FACTS.get(layer.type)
    if facts is None:
        raise InputError(f'layer "{layer.name}": {unknown_type(layer.type, LAYER_FACTS)}')
    return facts


def param_count(layer: LayerParameter) -> int:
    """How many weight blobs a layer has. (A Python layer's are known only once it was set up: 0 here.)"""
    if layer.type in _WITH_BIAS:
        return 1 + getattr(layer, _WITH_BIAS[layer.type]).bias_term
    if layer.type == "Scale":
        return (len(layer.bottom) == 1) + layer.scale_param.bias_term
    if layer.type == "Bias":
        return int(len(layer.bottom) == 1)
    if layer.type in ("RNN", "LSTM"):
        # Without exposed state a third bottom is the static input, which has a weight of its own.
        states = {"RNN": 1, "LSTM": 2}[layer.type] if layer.recurrent_param.expose_hidden else 0
        static = int(len(layer.bottom) > 2 + states)
        return {"RNN": 5, "LSTM": 3}[layer.type] + static
    return _FIXED_COUNT.get(layer.type, 0)
