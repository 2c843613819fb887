"""C3D's convolution, its transpose and pooling, over length, height and width."""

import math
from collections.abc import Sequence
from itertools import product

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from port.gradient import with_gradient
from port.layer import Layer, being_exported, layer
from port.layers.losses import FLOOR, Loss
from prototxt.layers.declare import Shape
from prototxt.layers.volumes import averages, convolution3d_window, pooled3d_sizes, pooling3d_window
from prototxt.layers.windows import Window
from runtime.labels import LabelError

_LEAST = torch.finfo(torch.float32).min
"""What MAX gives for a window behind the map, in Caffe's doubles too."""


@layer("Convolution3D", "Deconvolution3D")
class Convolution3D(Layer):
    """Cross-correlation over three axes, or its transpose. Each backward pass overwrites the weights' gradients."""

    def set_up(self) -> None:
        self.window = convolution3d_window(self.param)

    def forward(self, x: Tensor) -> Tensor:
        weight, *bias = self.blobs
        convolve = F.conv_transpose3d if self.plan.type == "Deconvolution3D" else F.conv3d
        return convolve(
            x, weight, *(blob.flatten() for blob in bias), stride=self.window.stride, padding=self.window.pad
        )

    def replaced_gradients(self, *shapes: Shape) -> Sequence[int]:
        return range(len(self.blobs))


@layer("Pooling3D")
class Pooling3D(Layer):
    """MAX, whose gradient goes to every position of a window that holds its largest value, and AVE."""

    def set_up(self) -> None:
        self.window, self.averages = pooling3d_window(self.param), averages(self.param)

    def forward(self, x: Tensor) -> Tensor:
        out = pooled3d_sizes(self.window, tuple(x.shape[2:]))
        if self.averages:
            return _average(x, self.window, out)
        if torch.is_grad_enabled() and x.requires_grad and not being_exported():
            return _Max.apply(x, self.window, out)
        return _largest(x, self.window, out)


def _largest(x: Tensor, window: Window, out: Sequence[int]) -> Tensor:
    padded = _reached(x, window, out, _LEAST)
    return F.max_pool3d(padded, window.kernel, window.stride)[:, :, : out[0], : out[1], : out[2]]


class _Max(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor, window: Window, out: Sequence[int]) -> Tensor:
        top = _largest(x, window, out).contiguous()
        ctx.save_for_backward(x, top)
        ctx.window, ctx.out = window, out
        return top

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor) -> tuple[Tensor, None, None]:
        (x, top), window, out = ctx.saved_tensors, ctx.window, ctx.out
        padded = _reached(x, window, out, torch.nan)  # which equals nothing
        spread = torch.zeros_like(padded)
        for place in product(*map(range, window.kernel)):
            seen = (
                ...,
                *(
                    slice(k, k + (n - 1) * s + 1, s)
                    for k, s, n in zip(place, window.stride, out, strict=True)
                ),
            )
            spread[seen] += grad * (padded[seen] == top)
        return spread[:, :, : x.shape[2], : x.shape[3], : x.shape[4]], None, None


def _average(x: Tensor, window: Window, out: Sequence[int]) -> Tensor:
    """Sums over the windows, divided by their size within the padded map."""
    padded = _reached(x, window, out, 0)
    sums = F.avg_pool3d(padded, window.kernel, window.stride, divisor_override=1)
    sums = sums[:, :, : out[0], : out[1], : out[2]]
    for axis, (n, s, k, p, size) in enumerate(
        zip(out, window.stride, window.kernel, window.pad, x.shape[2:], strict=True), 2
    ):
        start = torch.arange(n, device=x.device) * s - p
        span = (start + k).clamp(max=size + p) - start
        sums = sums / span.to(sums).view(-1, *(1,) * (4 - axis))
    return sums


def _reached(x: Tensor, window: Window, out: Sequence[int], value: float) -> Tensor:
    """`x` with its padding, and as much more as lets the last windows be whole ones."""
    pads: list[int] = []
    for n, s, k, p, size in zip(out, window.stride, window.kernel, window.pad, x.shape[2:], strict=True):
        pads = [p, max(p, (n - 1) * s + k - p - size), *pads]
    return F.pad(x, pads, value=value) if any(pads) else x


@layer("VoxelSoftmax")
class VoxelSoftmax(Layer):
    """Softmax over the channels."""

    def forward(self, x: Tensor) -> Tensor:
        return x.softmax(1)


@layer("VoxelSoftmaxWithLoss")
class VoxelSoftmaxWithLoss(Loss):
    """Minus the logarithms of the labels' probabilities, over all places; labels without a class count as 0.

    Their places have a gradient all the same, as published: that of no class being right.
    """

    def loss(self, x: Tensor, labels: Tensor) -> Tensor:
        numbers = labels.detach()[:, :1].long()
        if (numbers < 0).any():
            raise LabelError(int(numbers.min()), x.shape[1])
        known = numbers < x.shape[1]
        logs = x.detach().log_softmax(1)
        picked = logs.gather(1, numbers.where(known, 0)).clamp(min=math.log(FLOOR))
        loss = -picked[known].sum() / numbers.numel()

        def gradient() -> Tensor:
            right = torch.zeros_like(logs).scatter_(1, numbers.where(known, 0), known.to(logs))
            return (logs.exp() - right) / numbers.numel()

        return with_gradient(x, loss, gradient)
