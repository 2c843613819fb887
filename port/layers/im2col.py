"""The patches that a convolution multiplies, laid out as channels."""

import math

import torch.nn.functional as F
from torch import Tensor

from port.layer import Layer, Shape, layer
from prototxt.errors import InputError
from prototxt.geometry import canonical_axis, convolution_window


@layer("Im2col")
class Im2col(Layer):
    """(…, channels, sizes…) to (…, channels · kernel, windows…), over any number of spatial axes."""

    def set_up(self, shape: Shape) -> None:
        param = self.param.convolution_param
        self.axis = canonical_axis(param.axis, len(shape))
        spatial = len(shape) - self.axis - 1
        if not spatial:
            raise InputError(f"no spatial axis follows the channel axis {self.axis} of a bottom {shape}")
        self.window = convolution_window(param, spatial)

    def top_shapes(self, shape: Shape) -> list[Shape]:
        sizes = self.window.convolved(shape[self.axis + 1 :])
        return [(*shape[: self.axis], shape[self.axis] * math.prod(self.window.kernel), *sizes)]

    def forward(self, x: Tensor) -> Tensor:
        top_shape = self.top_shapes(tuple(x.shape))[0]
        window, first = self.window, self.axis + 1
        patches = F.pad(x, [p for pad in reversed(window.pad) for p in (pad, pad)])
        for axis, (extent, stride, dilation) in enumerate(
            zip(window.extent, window.stride, window.dilation, strict=True), first
        ):
            patches = patches.unfold(axis, extent, stride)[..., ::dilation]
        within = range(x.ndim, patches.ndim)  # unfold puts the places within a window last
        return patches.permute(*range(first), *within, *range(first, x.ndim)).reshape(top_shape)
