"""Convolution and its transpose."""

import math
from collections.abc import Sequence
from dataclasses import replace
from itertools import product

import torch
import torch.nn.functional as F
from torch import Tensor

from port.gradient import reread
from port.layer import Layer, being_traced, layer
from prototxt.layers.windows import Window, canonical_axis, convolution_window


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
    channels in one chain: eight times the error of oneDNN's kernel, and slower. A net that is traced, for another
    runtime or a compiler, has F.conv2d throughout: a map's size is no part of what it holds.
    """
    if being_traced():
        return F.conv2d(images, weight, bias, stride, pad, dilation, groups)
    on_cpu = images.device.type == "cpu" and images.dtype == torch.float32
    if on_cpu and 0 < images.numel() <= 20480 and torch.backends.mkldnn.is_available():
        return torch.mkldnn_convolution(images, weight, bias, pad, stride, dilation, groups)
    return F.conv2d(images, weight, bias, stride, pad, dilation, groups)


_COMMON = 1 << 10
"""Strides and dilations up to here are left as they are."""

_CONVOLVE = {1: F.conv1d, 2: _conv2d, 3: F.conv3d}
_DECONVOLVE = {1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d}


class _Convolving(Layer):
    deconvolve = False

    def set_up(self) -> None:
        axes = len(self.plan.bottom_shapes[0])
        self.axis = canonical_axis(self.param.convolution_param.axis, axes)
        self.window = convolution_window(self.param.convolution_param, axes - self.axis - 1)
        self.groups = self.param.convolution_param.group

    def forward(self, *bottoms: Tensor) -> Tensor | tuple[Tensor, ...]:
        return self._one(*bottoms) if len(bottoms) == 1 else tuple(map(self._one, bottoms))

    def _one(self, bottom: Tensor) -> Tensor:
        # In the others autograd saves copies of the bottom.
        saves_bottom = self.axis == 1 and len(self.window.kernel) in _CONVOLVE
        if self.plan.overwritten_reads and not saves_bottom:
            return reread(self._top, bottom, *self.blobs)
        return self._top(bottom, *self.blobs)

    def _top(self, bottom: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        batch = bottom.shape[: self.axis]
        images = bottom if self.axis == 1 else bottom.reshape(math.prod(batch), *bottom.shape[self.axis :])
        window, groups = self._usable(images.shape[2:]), self.groups
        spatial = len(window.kernel)
        padding_alone = not being_traced() and 0 in images.shape[2:]  # which PyTorch refuses
        if spatial not in _CONVOLVE or padding_alone:
            top = (_deconvolve_any if self.deconvolve else _convolve_any)(images, weight, window, groups)
            if bias is not None:
                top = top + bias.view(-1, *(1,) * spatial)
        elif self.deconvolve:
            top = _DECONVOLVE[spatial](
                images, weight, bias, window.stride, window.pad, 0, groups, window.dilation
            )
        else:
            top = _CONVOLVE[spatial](images, weight, bias, window.stride, window.pad, window.dilation, groups)
        return top if self.axis == 1 else top.reshape(*batch, *top.shape[1:])

    def _usable(self, sizes: Sequence[int]) -> Window:
        """The same window without strides and dilations so large that only their size counts.

        oneDNN ends the process in the backward pass with strides near 2^31.
        """
        if being_traced() or all(n <= _COMMON for n in (*self.window.stride, *self.window.dilation)):
            return self.window
        if self.deconvolve:
            most = tuple(s if n > 1 else 1 for s, n in zip(self.window.stride, sizes, strict=True))
        else:
            spare = zip(self.window.padded(sizes), self.window.extent, strict=True)
            most = tuple(padded - extent + 1 for padded, extent in spare)
        dilation = tuple(
            d if k > 1 else 1 for d, k in zip(self.window.dilation, self.window.kernel, strict=True)
        )
        return replace(self.window, stride=tuple(map(min, self.window.stride, most)), dilation=dilation)


def _convolve_any(x: Tensor, weight: Tensor, window: Window, groups: int) -> Tensor:
    """A convolution over any number of spatial axes: PyTorch has one to three."""
    out = window.convolved(x.shape[2:])
    padded = F.pad(x, [p for pad in reversed(window.pad) for p in (pad, pad)])
    top = 0
    for place in product(*map(range, window.kernel)):
        seen = padded[(..., *_taken(window, place, out))]
        top = top + _grouped_product(seen, weight[(..., *place)], groups)
    return top


def _deconvolve_any(x: Tensor, weight: Tensor, window: Window, groups: int) -> Tensor:
    """The transpose of `_convolve_any`."""
    sizes, out = x.shape[2:], window.deconvolved(x.shape[2:])
    columns = weight.shape[1] * groups
    padded = x.new_zeros((len(x), columns, *(n + 2 * p for n, p in zip(out, window.pad, strict=True))))
    for place in product(*map(range, window.kernel)):
        turned = weight[(..., *place)].unflatten(0, (groups, -1)).mT.flatten(0, 1)
        index = (..., *_taken(window, place, sizes))
        spread = torch.zeros_like(padded)
        spread[index] = _grouped_product(x, turned, groups)
        padded = padded + spread
    return padded[(..., *(slice(p, p + n) for p, n in zip(window.pad, out, strict=True)))]


def _taken(window: Window, place: Sequence[int], out: Sequence[int]) -> tuple[slice, ...]:
    """Where the kernel's value at `place` falls for each of the output's positions."""
    return tuple(
        slice(k * d, k * d + (n - 1) * s + 1, s)
        for k, d, s, n in zip(place, window.dilation, window.stride, out, strict=True)
    )


def _grouped_product(x: Tensor, weight: Tensor, groups: int) -> Tensor:
    """(outputs, inputs / groups) times each position's channels, which lie along axis 1."""
    outputs, inputs = weight.shape
    parts = x.reshape(len(x), groups, inputs, *x.shape[2:])
    return torch.einsum(
        "ngi...,goi->ngo...", parts, weight.reshape(groups, outputs // groups, inputs)
    ).flatten(1, 2)


@layer("Convolution", "DepthwiseConvolution")
class Convolution(_Convolving):
    """Cross-correlation over any number of spatial axes, with groups and dilation."""


@layer("ConvolutionDepthwise")
class ConvolutionDepthwise(_Convolving):
    """Each channel's cross-correlation with its own kernel. `axis`, `group` and `num_output` are not read."""

    def set_up(self) -> None:
        self.axis, self.groups = 1, self.plan.bottom_shapes[0][1]
        self.window = convolution_window(self.param.convolution_param, 2)


@layer("Deconvolution")
class Deconvolution(_Convolving):
    """The transpose of Convolution, with the same window."""

    deconvolve = True


@layer("Im2col")
class Im2col(Layer):
    """(…, channels, sizes…) to (…, channels · kernel, windows…), over any number of spatial axes."""

    def set_up(self) -> None:
        axes = len(self.plan.bottom_shapes[0])
        self.axis = canonical_axis(self.param.convolution_param.axis, axes)
        self.window = convolution_window(self.param.convolution_param, axes - self.axis - 1)

    def forward(self, x: Tensor) -> Tensor:
        (top_shape,) = self.plan.top_shapes(tuple(x.shape))
        window, first = self.window, self.axis + 1
        patches = F.pad(x, [p for pad in reversed(window.pad) for p in (pad, pad)])
        for axis, (extent, stride, dilation) in enumerate(
            zip(window.extent, window.stride, window.dilation, strict=True), first
        ):
            patches = patches.unfold(axis, extent, stride)[..., ::dilation]
        within = range(x.ndim, patches.ndim)  # unfold puts the places within a window last
        return patches.permute(*range(first), *within, *range(first, x.ndim)).reshape(top_shape)
