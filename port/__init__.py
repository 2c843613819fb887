"""The product: Caffe's nets, SeeNet first, in PyTorch."""

from port.attention import attention_maps
from port.crelu import CReLU
from port.deeplab import DeepLabLargeFOV
from port.net import CaffeNet
from port.seenet import SeeNet
from prototxt.errors import InputError

__all__ = ["CReLU", "CaffeNet", "DeepLabLargeFOV", "InputError", "SeeNet", "attention_maps"]
