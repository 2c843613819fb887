"""Bilinear resizing, a layer of the DeepLab line of Caffe forks and of the SeeNet group's."""

import numpy as np
import torch
from torch import Tensor

from port.layer import Layer, Shape, layer
from port.layers.checks import legacy_shape
from prototxt.errors import InputError


@layer("Interp")
class Interp(Layer):
    """Bilinear, with the corner pixels of bottom and top aligned; negative padding crops the bottom first."""

    def set_up(self, shape: Shape) -> None:
        param = self.param.interp_param
        if param.pad_beg > 0 or param.pad_end > 0:
            raise InputError("interp_param: pad_beg and pad_end crop: give 0 or less")

    def top_shapes(self, shape: Shape) -> list[Shape]:
        num, channels, *sizes = legacy_shape(shape)
        return [(num, channels, *self._sizes(self._cropped(sizes)))]

    def forward(self, x: Tensor) -> Tensor:
        x = x.reshape(legacy_shape(tuple(x.shape)))
        rows, columns = self._cropped(x.shape[2:])
        start = -self.param.interp_param.pad_beg
        cropped = x[:, :, start : start + rows, start : start + columns]
        return resize_bilinear(cropped, *self._sizes((rows, columns)))

    def _cropped(self, sizes: tuple[int, ...]) -> tuple[int, ...]:
        param = self.param.interp_param
        cropped = tuple(size + param.pad_beg + param.pad_end for size in sizes)
        if min(cropped) < 1:
            raise InputError(f"interp_param: nothing is left of {tuple(sizes)} after cropping")
        return cropped

    def _sizes(self, sizes: tuple[int, ...]) -> tuple[int, ...]:
        """The top's height and width: one factor goes before both sizes, and those before both factors."""
        param = self.param.interp_param
        shrink, zoom = param.HasField("shrink_factor"), param.HasField("zoom_factor")
        if shrink == zoom and param.HasField("height") and param.HasField("width"):
            sizes = (param.height, param.width)
            if min(sizes) < 1:
                raise InputError("interp_param: height and width must be at least 1")
            return sizes
        if not shrink and not zoom:
            raise InputError("interp_param: give height and width, zoom_factor or shrink_factor")
        if min(param.shrink_factor, param.zoom_factor) < 1:  # what is not given is 1
            raise InputError("interp_param: shrink_factor and zoom_factor must be at least 1")
        return tuple((size - 1) // param.shrink_factor * param.zoom_factor + 1 for size in sizes)


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
