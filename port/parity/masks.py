"""SeeNet's masks by the names that its prototxts call them, for engines that have no such layer."""

from torch import nn

from port.crelu import BackgroundMask, CReLU
from prototxt.caffe_pb2 import LayerParameter

MASKS: dict[tuple[str, str], type[nn.Module]] = {
    ("crelu_layer", "CReLULayer"): CReLU,
    ("scan_background_layer", "BackgroundMaskLayer"): BackgroundMask,
}
"""(module, layer) → the port's; called with features, scores and labels."""


def is_mask(param: LayerParameter) -> bool:
    return (param.python_param.module, param.python_param.layer) in MASKS
