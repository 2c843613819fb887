"""Layers that bring values to a common scale."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from port.layer import Layer, layer
from prototxt.caffe_pb2 import LRNParameter
from prototxt.layers.declare import legacy_shape
from prototxt.layers.windows import canonical_axis


@layer("Softmax")
class Softmax(Layer):
    def forward(self, x: Tensor) -> Tensor:
        return torch.softmax(x, canonical_axis(self.param.softmax_param.axis, x.ndim))


@layer("LRN")
class LRN(Layer):
    """x / (k + alpha · mean of the neighbourhood's squares) ^ beta.

    The neighbourhood is `local_size` channels, or a square of that side within the channel; outside there
    are zeros, which count in the mean. Within a channel Caffe does not heed `k`: it is 1.
    """

    def forward(self, x: Tensor) -> Tensor:
        param = self.param.lrn_param
        if param.norm_region == LRNParameter.ACROSS_CHANNELS:
            wanted = torch.is_grad_enabled() and x.requires_grad
            return _AcrossChannels.apply(x, param) if wanted else _across_channels(x, param)[0]
        mean = F.avg_pool2d(x.square(), param.local_size, 1, param.local_size // 2)
        return x * (1 + param.alpha * mean) ** -param.beta


class _AcrossChannels(torch.autograd.Function):
    """LRN over channels, whose backward reads the top, as Caffe's does."""

    @staticmethod
    def forward(ctx, x: Tensor, param: LRNParameter) -> Tensor:
        top, size = _across_channels(x, param)
        ctx.save_for_backward(x, top, size)
        ctx.param = param
        return top

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor) -> tuple[Tensor, None]:
        (x, top, size), param = ctx.saved_tensors, ctx.param
        ratios = _channel_sums(grad * top / size, param.local_size)
        factor = 2 * param.alpha * param.beta / param.local_size
        return grad * size**-param.beta - factor * x * ratios, None


def _across_channels(x: Tensor, param: LRNParameter) -> tuple[Tensor, Tensor]:
    """The top, and what a power of it was divided by."""
    size = param.k + param.alpha / param.local_size * _channel_sums(x.square(), param.local_size)
    return x * size**-param.beta, size


def _channel_sums(x: Tensor, count: int) -> Tensor:
    """Sums over `count` channels, an odd number, around each; its own adjoint."""
    padded = F.pad(x.unsqueeze(1), (0, 0, 0, 0, count // 2, count // 2))
    return F.avg_pool3d(padded, (count, 1, 1), 1, divisor_override=1).squeeze(1)


@layer("MVN")
class MVN(Layer):
    """Each channel, or image (`across_channels`), less its mean, over deviation + eps. The top has 4 axes."""

    def forward(self, x: Tensor) -> Tensor:
        param = self.param.mvn_param
        x = x.reshape(legacy_shape(tuple(x.shape)))
        axes = (1, 2, 3) if param.across_channels else (2, 3)
        if not param.normalize_variance:
            return x - x.mean(axes, keepdim=True)
        variance, mean = _moments(x, axes)
        overwritten = self.plan.in_place and not self.exact
        return _Standardised.apply(x, mean, variance.sqrt() + param.eps, axes, overwritten)


@layer("BatchNorm")
class BatchNorm(Layer):
    """Each channel less its mean, over its deviation: the batch's own in TRAIN, the running ones in TEST.

    Its blobs are the running sums of means and of (unbiased) variances, and the count to divide both by.
    A forward pass on the batch's own updates them; no solver does.
    """

    def set_up(self) -> None:
        for blob in self.owned:
            blob.requires_grad_(False)
        param = self.param.batch_norm_param
        given = param.HasField("use_global_stats")
        self.global_stats = param.use_global_stats if given else self.phase == 1

    def forward(self, x: Tensor) -> Tensor:
        eps = self.param.batch_norm_param.eps
        per_channel = (1, -1, *(1,) * (x.ndim - 2))
        if self.global_stats:
            means, variances, count = self.blobs
            factor = torch.where(count == 0, 0, 1 / count)  # empty sums count as 0
            mean = (means * factor).view(per_channel)
            return (x - mean) / ((variances * factor).view(per_channel) + eps).sqrt()
        axes = (0, *range(2, x.ndim))
        variance, mean = _moments(x, axes)
        self._update(mean.flatten(), variance.flatten(), x.numel() // x.shape[1])
        return _Standardised.apply(x, mean, (variance + eps).sqrt(), axes, False)

    @torch.no_grad()
    def _update(self, mean: Tensor, variance: Tensor, size: int) -> None:
        fraction = self.param.batch_norm_param.moving_average_fraction
        unbiased = variance * (size / (size - 1)) if size > 1 else variance
        for blob, term in zip(self.blobs, (mean, unbiased, 1), strict=True):
            blob.mul_(fraction).add_(term)


def _moments(x: Tensor, axes: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Biased variance and mean over `axes`, which stay as ones."""
    return torch.var_mean(x.detach(), tuple(axes), correction=0, keepdim=True)


class _Standardised(torch.autograd.Function):
    """(x - mean) / deviation, both over `axes` of x.

    Backward takes the divisor for the deviation itself, as Caffe does. So it is: but for MVN's eps, which is
    added to the deviation, and with which Caffe's gradient is finite on a constant map. `overwritten`: in
    place, Caffe's MVN writes over the gradient that it is still to read, and one term, twice, is all that is left.
    """

    @staticmethod
    def forward(
        ctx, x: Tensor, mean: Tensor, deviation: Tensor, axes: Sequence[int], overwritten: bool
    ) -> Tensor:
        top = (x - mean) / deviation
        ctx.save_for_backward(top, deviation)
        ctx.axes, ctx.overwritten = axes, overwritten
        return top

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor) -> tuple[Tensor | None, ...]:
        top, deviation = ctx.saved_tensors
        share = (grad * top).mean(ctx.axes, keepdim=True)
        if ctx.overwritten:
            left = -2 * share * (top + top.sum(ctx.axes, keepdim=True))
            return left / deviation, None, None, None, None
        common = grad.mean(ctx.axes, keepdim=True) + top * share
        return (grad - common) / deviation, None, None, None, None
