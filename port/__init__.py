"""The product: Caffe's nets, SeeNet first, in PyTorch."""

from port.attention.maps import attention_maps
from port.models.crelu import CReLU
from port.models.deeplab import DeepLabLargeFOV
from port.models.seenet import SeeNet
from port.net import CaffeNet
from prototxt.errors import InputError

__all__ = ["CReLU", "CaffeNet", "DeepLabLargeFOV", "InputError", "SeeNet", "attention_maps"]
