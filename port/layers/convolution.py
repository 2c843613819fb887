"""Convolution and its transpose."""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from port.layer import Layer, Shape, layer
from prototxt.errors import InputError
from prototxt.layers.windows import canonical_axis, convolution_window


def _conv2d(
    images: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: Sequence[int],
    pad: Sequence[int],
    dilation: Sequence[int],
    groups: int,
) -> Tensor:
    """F.conv2d, kept on oneDNN for small maps too.

    PyTorch gives a single small map (up to 20480 values) to a matrix product, which sums a window of 512
    channels in one chain: eight times the error of oneDNN's kernel, and slower.
    """
    on_cpu = images.device.type == "cpu" and images.dtype == torch.float32
    if on_cpu and 0 < images.numel() <= 20480 and torch.backends.mkldnn.is_available():
        return torch.mkldnn_convolution(images, weight, bias, pad, stride, dilation, groups)
    return F.conv2d(images, weight, bias, stride, pad, dilation, groups)


_CONVOLVE = {1: F.conv1d, 2: _conv2d, 3: F.conv3d}
_DECONVOLVE = {1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d}


class _Convolving(Layer):
    deconvolve = False

    def set_up(self, *shapes: Shape) -> None:
        param = self.param.convolution_param
        self.axis = canonical_axis(param.axis, len(shapes[0]))
        spatial = len(shapes[0]) - self.axis - 1
        if spatial not in _CONVOLVE:
            raise InputError(f"convolution over {spatial} spatial axes is not carried by the port: 1, 2 or 3")
        self.window = convolution_window(param, spatial)
        channels, outputs, groups = shapes[0][self.axis], param.num_output, param.group
        if outputs < 1:
            raise InputError("num_output must be at least 1")
        if channels % groups or outputs % groups:
            raise InputError(f"group {groups} must divide {channels} channels and num_output {outputs}")
        if any(shape != shapes[0] for shape in shapes):
            raise InputError(f"all bottoms must have one shape, not {', '.join(map(str, shapes))}")
        rows, columns = (channels, outputs) if self.deconvolve else (outputs, channels)
        self.add_weight((rows, columns // groups, *self.window.kernel), param.weight_filler)
        if param.bias_term:
            self.add_weight((outputs,), param.bias_filler)

    def top_shapes(self, *shapes: Shape) -> list[Shape]:
        param, tops = self.param.convolution_param, []
        rows, columns = self.blobs[0].shape[:2]
        channels = rows if self.deconvolve else columns * param.group
        for shape in shapes:
            if shape[self.axis] != channels:
                raise InputError(f"the weights are for {channels} channels, the bottom is {shape}")
            sizes = shape[self.axis + 1 :]
            out = self.window.deconvolved(sizes) if self.deconvolve else self.window.convolved(sizes)
            tops.append((*shape[: self.axis], param.num_output, *out))
        return tops

    def forward(self, *bottoms: Tensor) -> tuple[Tensor, ...]:
        return tuple(self._one(bottom) for bottom in bottoms)

    def _one(self, bottom: Tensor) -> Tensor:
        weight, bias = (*self.blobs, None)[:2]
        batch = bottom.shape[: self.axis]
        images = bottom if self.axis == 1 else bottom.reshape(-1, *bottom.shape[self.axis :])
        window, groups = self.window, self.param.convolution_param.group
        spatial = len(window.kernel)
        if self.deconvolve:
            top = _DECONVOLVE[spatial](
                images, weight, bias, window.stride, window.pad, 0, groups, window.dilation
            )
        else:
            top = _CONVOLVE[spatial](images, weight, bias, window.stride, window.pad, window.dilation, groups)
        return top if self.axis == 1 else top.reshape(*batch, *top.shape[1:])


@layer("Convolution")
class Convolution(_Convolving):
    """Cross-correlation over one to three spatial axes, with groups and dilation."""


@layer("Deconvolution")
class Deconvolution(_Convolving):
    """The transpose of Convolution, with the same window."""

    deconvolve = True


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
