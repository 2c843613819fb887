"""A whole dense block as one layer (Tongcheng/caffe)."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from port.layer import Layer, layer
from prototxt.layers.declare import Shape

_AXES, _EPS = (0, 2, 3), 1e-5


@layer("DenseBlock")
class DenseBlock(Layer):
    """Transitions of normalisation, ReLU and a convolution, each of which adds `growthRate` channels to the map.

    The fork's CPU code turns its kernels around (cuDNN's CUDNN_CONVOLUTION does too). TRAIN divides by the unbiased
    variance of the batch; the gradient takes its derivative for the biased one's. In TEST the backward pass is that
    of a batch of mean and variance 0. Each backward pass overwrites the weights' gradients. (The CPU code also adds
    to each pass's gradient of the statistics those of all passes before, which its GPU code does not: not followed.)
    """

    def set_up(self) -> None:
        self.count, self.bottleneck = (
            self.param.denseblock_param.numTransition,
            self.param.denseblock_param.use_BC,
        )
        for blob, fixed in zip(self.owned, self.plan.declared.weights, strict=True):
            blob.requires_grad_(blob.requires_grad and not fixed.fixed)

    def replaced_gradients(self, *shapes: Shape) -> Sequence[int]:
        return range(len(self.owned))

    def forward(self, x: Tensor) -> Tensor:
        for i in range(self.count):
            new = _positive(self._normalised(x, i, 0))
            if self.bottleneck:
                new = F.conv2d(new, self._weight(i, 5))
                new = _positive(self._normalised(new, i, 5))
            x = torch.cat([x, F.conv2d(new, self._weight(i, 0).flip(2, 3), padding=1)], 1)
        if self.phase == 0:
            with torch.no_grad():
                divisor = self.blobs[-1]
                divisor.mul_(self.param.denseblock_param.moving_average_fraction).add_(1)
        return x

    def _weight(self, transition: int, kind: int) -> Tensor:
        return self.blobs[kind * self.count + transition]

    def _normalised(self, x: Tensor, transition: int, first: int) -> Tensor:
        scale, bias, means, variances = (self._weight(transition, first + kind) for kind in (1, 2, 3, 4))
        if self.phase == 1:
            divisor = self.blobs[-1]
            factor = torch.where(divisor == 0, 0, 1 / divisor)
            mean, variance = means * factor, variances * factor
            normal = (x.detach() - mean) / (variance + _EPS).sqrt()
            value, zero = normal * scale.detach() + bias.detach(), torch.zeros_like(mean)
            return _Norm.apply(x, scale, bias, value, torch.zeros_like(value), zero, zero)
        value = x.detach()
        mean = value.mean(_AXES, keepdim=True)
        variance = (value - mean).square().sum(_AXES, keepdim=True) / (value.numel() // value.shape[1] - 1)
        with torch.no_grad():
            decay = self.param.denseblock_param.moving_average_fraction
            means.mul_(decay).add_(mean)
            variances.mul_(decay).add_(variance)
        normal = (value - mean) / (variance + _EPS).sqrt()
        return _Norm.apply(x, scale, bias, normal * scale.detach() + bias.detach(), normal, mean, variance)


def _positive(x: Tensor) -> Tensor:
    """ReLU, whose slope at 0 is 1."""
    return torch.where(x >= 0, x, 0)


class _Norm(torch.autograd.Function):
    """`value`, with the gradient that the fork gives it, by the batch's `mean` and (unbiased) `variance`."""

    @staticmethod
    def forward(
        ctx,
        x: Tensor,
        scale: Tensor,
        bias: Tensor,
        value: Tensor,
        normal: Tensor,
        mean: Tensor,
        variance: Tensor,
    ) -> Tensor:
        ctx.save_for_backward(x, scale, normal, mean, variance)
        return value.view_as(value)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, scale, normal, mean, variance = ctx.saved_tensors
        along = (grad * normal).sum(_AXES, keepdim=True)
        deviation, centred, count = (variance + _EPS).sqrt(), x - mean, x.numel() // x.shape[1]
        inner = grad * scale
        of_variance = (inner * centred).sum(_AXES, keepdim=True) * -0.5 / ((variance + _EPS) * deviation)
        of_mean = -inner.sum(_AXES, keepdim=True) / deviation
        of_mean = of_mean - of_variance * 2 * centred.sum(_AXES, keepdim=True) / count
        dx = inner / deviation + of_variance * 2 * centred / count + of_mean / count
        return dx, along, grad.sum(_AXES, keepdim=True), None, None, None, None
