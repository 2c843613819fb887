"""Bilinear resizing, a layer of the DeepLab line of Caffe forks and of the SeeNet group's."""

import numpy as np
import torch
from torch import Tensor

from port.layer import Layer, layer
from prototxt.layers.declare import legacy_shape
from prototxt.layers.interp import cropped_sizes, interp_sizes


@layer("Interp")
class Interp(Layer):
    """Bilinear, with the corner pixels of bottom and top aligned; negative padding crops the bottom first."""

    def forward(self, x: Tensor) -> Tensor:
        param = self.param.interp_param
        x = x.reshape(legacy_shape(tuple(x.shape)))
        rows, columns = cropped_sizes(param, x.shape[2:])
        start = -param.pad_beg
        cropped = x[:, :, start : start + rows, start : start + columns]
        return resize_bilinear(cropped, *interp_sizes(param, (rows, columns)))


def resize_bilinear(x: Tensor, height: int, width: int) -> Tensor:
    """(…, height, width) of (…, rows, columns), corner on corner."""
    # As matrix products: the gradient sums that F.interpolate adds up one by one come out closer so.
    return _resizing(x.shape[-2], height, x) @ (x @ _resizing(x.shape[-1], width, x).T)


def _resizing(size: int, out: int, like: Tensor) -> Tensor:
    """(out, size): what each of `size` places gives to each of `out`.

    The places are in single precision whatever the blob's, as in Caffe.
    """
    ratio = float(np.float32(size - 1) / np.float32(out - 1)) if out > 1 else 0.0
    place = torch.arange(out, dtype=torch.float32, device=like.device)[:, None] * ratio
    before = place.long()
    after = (before + 1).clamp(max=size - 1)
    share = (place - before).to(like.dtype)
    each = torch.arange(size, device=like.device)
    return (1 - share) * (each == before) + share * (each == after)
