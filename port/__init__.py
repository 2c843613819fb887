"""The product: Caffe's nets, SeeNet first, in PyTorch."""

from port.crelu import CReLU
from port.net import CaffeNet

__all__ = ["CReLU", "CaffeNet"]
