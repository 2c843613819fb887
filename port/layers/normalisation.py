"""Layers that bring values to a common scale."""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from port.layer import Layer, being_exported, layer
from prototxt.caffe_pb2 import BNParameter, LRNParameter
from prototxt.forks import meaning
from prototxt.layers.declare import Shape, legacy_shape
from prototxt.layers.normalisation import statistics_batch
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
            wanted = torch.is_grad_enabled() and x.requires_grad and not being_exported()
            return _AcrossChannels.apply(x, param) if wanted else _across_channels(x, param)[0]
        if not x.numel():
            return x.clone()  # which avg_pool2d does not take
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
    if x.numel() == 0:
        return x  # which avg_pool3d does not take
    padded = F.pad(x.unsqueeze(1), (0, 0, 0, 0, count // 2, count // 2))
    if being_exported():  # to ONNX the divisor is dropped without a word
        return F.avg_pool3d(padded, (count, 1, 1), 1).squeeze(1) * count
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

    NVCaffe's has a scale and a bias too, whose gradients replace those that were there. Its blobs are running
    averages, of variances with eps in them, which the first two passes replace.

    Intel's `stats_batch_size`: so many images at a time are taken as a batch.
    """

    def set_up(self) -> None:
        for blob in self.owned[:3]:
            blob.requires_grad_(False)
        self.passes = 0
        param = self.param.batch_norm_param
        self.told = param.use_global_stats if param.HasField("use_global_stats") else None

    def replaced_gradients(self, *shapes: Shape) -> Sequence[int]:
        return (3, 4)[: len(self.owned) - 3]

    def forward(self, x: Tensor) -> Tensor:
        eps = self.param.batch_norm_param.eps
        if len(self.owned) == 3:
            return self._normalised(x, eps)
        scale, bias = (blob.view(-1, *(1,) * (x.ndim - 2)) for blob in self.blobs[3:])
        return self._normalised(x, max(eps, 1e-5)) * scale + bias

    def _normalised(self, x: Tensor, eps: float) -> Tensor:
        per_channel = (1, -1, *(1,) * (x.ndim - 2))
        if self.phase == 1 if self.told is None else self.told:
            means, variances, count = self.blobs[:3]
            factor = torch.where(count == 0, 0, 1 / count)  # empty sums count as 0
            mean = (means * factor).view(per_channel)
            return (x - mean) / ((variances * factor).view(per_channel) + eps).sqrt()
        batch = statistics_batch(self.param, len(x))
        if len(x) > batch:
            return torch.cat([self._normalised(part, eps) for part in x.split(batch)])
        axes = (0, *range(2, x.ndim))
        variance, mean = _moments(x, axes)
        if len(self.owned) == 3:
            self._update(mean.flatten(), variance.flatten(), x.numel() // x.shape[1])
        else:
            self._average(mean.flatten(), variance.flatten() + eps)
        return _Standardised.apply(x, mean, (variance + eps).sqrt(), axes, False)

    @torch.no_grad()
    def _average(self, *moments: Tensor) -> None:
        fraction = self.param.batch_norm_param.moving_average_fraction if self.passes > 1 else 0
        for blob, new in zip(self.blobs[:2], moments, strict=True):
            blob.lerp_(new, 1 - fraction)
        self.passes += 1

    @torch.no_grad()
    def _update(self, mean: Tensor, variance: Tensor, size: int) -> None:
        fraction = self.param.batch_norm_param.moving_average_fraction
        unbiased = variance * (size / (size - 1)) if size > 1 else variance
        for blob, term in zip(self.blobs, (mean, unbiased, 1), strict=True):
            blob.mul_(fraction).add_(term)


@layer("BN")
class BN(Layer):
    """Standardised channels, scaled and shifted; PSPNet's by the batch or by running statistics, SegNet's by the batch.

    PSPNet's gradient is the batch's in TEST too; `frozen`, it has none for its weights. SegNet's INFERENCE scales and
    shifts only, and its weights' gradients replace what was there.
    """

    def set_up(self) -> None:
        param = self.param.bn_param
        self.segnet = meaning(self.param) == "SegNet"
        if not self.segnet:
            for blob in self.owned if param.frozen else self.owned[2:]:
                blob.requires_grad_(False)

    def replaced_gradients(self, *shapes: Shape) -> Sequence[int]:
        return (0, 1) if self.segnet else ()

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, ...]:
        param, (scale, shift, *running) = self.param.bn_param, self.blobs
        shape = x.shape
        x = x.reshape(legacy_shape(tuple(shape)))
        if self.segnet:
            if param.bn_mode == BNParameter.INFERENCE:
                # The further tops are never written.
                return (x * scale + shift, torch.zeros_like(scale), torch.zeros_like(scale))[
                    : len(self.plan.tops)
                ]
            value = x.detach()
            mean = value.mean(_EACH_CHANNEL, keepdim=True)
            variance = value.square().mean(_EACH_CHANNEL, keepdim=True) - mean.square()
            normal = _Standardised.apply(x, mean, (variance + 1e-9).sqrt(), _EACH_CHANNEL, False)
            return (normal * scale + shift, mean, variance)[: len(self.plan.tops)]
        if param.frozen:
            mean, variance = running
            return ((x - mean) / (variance + param.eps).sqrt() * scale + shift).reshape(shape)
        if self.phase == 1:
            mean, variance = running
        else:
            variance, mean = _moments(x, _EACH_CHANNEL)
            self._update(mean, variance)
        normal = _Standardised.apply(x, mean, (variance + param.eps).sqrt(), _EACH_CHANNEL, False)
        return (normal * scale + shift).reshape(shape)

    @torch.no_grad()
    def _update(self, *moments: Tensor) -> None:
        momentum = self.param.bn_param.momentum
        for blob, new in zip(self.blobs[2:], moments, strict=True):
            blob.mul_(momentum).add_(new * (1 - momentum))


@layer("NormL2")
class NormL2(Layer):
    """Each item over its length, sqrt(sum of squares + 1e-7)."""

    def forward(self, x: Tensor) -> Tensor:
        num, *item = legacy_shape(tuple(x.shape))
        return _NormL2.apply(x.reshape(num, math.prod(item))).reshape(num, *item)


class _NormL2(torch.autograd.Function):
    """Its backward takes the top for x over x's own length, so that the 1e-7 is not in it as it should be."""

    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:
        length = (x.square().sum(1, keepdim=True) + 1e-7).sqrt()
        top = x / length
        ctx.save_for_backward(x, top)
        return top

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor) -> Tensor:
        x, top = ctx.saved_tensors
        along = (top * grad).sum(1, keepdim=True)
        return (grad - top * along) / (x.square().sum(1, keepdim=True) + 1e-7).sqrt()


_EACH_CHANNEL = (0, 2, 3)


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


@layer("Normalize")
class Normalize(Layer):
    """SSD's: x over its norm, times a learnt scale, one for all or one for each channel.

    The norm, with eps under its root, is an image's, or with `across_spatial: false` that of the channels at a place.

    happynear's: over the norm (L2 or L1, 1e-6 added to the sum) of the channels at each place. A second top is that
    norm; with `bp_norm` its gradient goes back too.
    """

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, ...]:
        if meaning(self.param) != "SSD":
            absolute = self.param.normalize_param.normalize_type == "L1"
            x = x.reshape(legacy_shape(tuple(x.shape)))
            tops = _Unit.apply(x, absolute, self.param.normalize_param.bp_norm)
            return tops[: len(self.plan.tops)]
        param = self.param.norm_param
        axes = tuple(range(1, x.ndim)) if param.across_spatial else (1,)
        norm = (x.detach().square().sum(axes, keepdim=True) + param.eps).sqrt()
        (scale,) = self.blobs
        return _Normalized.apply(x, scale, norm, axes)


class _Unit(torch.autograd.Function):
    """Its backward reads the bottom (L1) and both tops again, as Caffe's does."""

    @staticmethod
    def forward(ctx, x: Tensor, absolute: bool, counts: bool) -> tuple[Tensor, Tensor]:
        norm = x.abs().sum(1, keepdim=True) + 1e-6
        if not absolute:
            norm = (x.square().sum(1, keepdim=True) + 1e-6).sqrt()
        top = x / norm
        ctx.save_for_backward(x, top, norm)
        ctx.absolute, ctx.counts = absolute, counts
        return top, norm

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor, of_norm: Tensor) -> tuple[Tensor, None, None]:
        x, top, norm = ctx.saved_tensors
        slope = x.sign() if ctx.absolute else top
        dx = (grad - slope * (top * grad).sum(1, keepdim=True)) / norm
        return dx + of_norm * slope if ctx.counts else dx, None, None


class _Normalized(torch.autograd.Function):
    """Its backward reads bottom and top again, as Caffe's does: the top for the scale's gradient."""

    @staticmethod
    def forward(ctx, x: Tensor, scale: Tensor, norm: Tensor, axes: Sequence[int]) -> Tensor:
        top = x / norm * _by_channel(scale, x)
        ctx.save_for_backward(x, top, scale, norm)
        ctx.axes = axes
        return top

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, top, scale, norm = ctx.saved_tensors
        dx = dscale = None
        if ctx.needs_input_grad[0]:
            share = (x * grad).sum(ctx.axes, keepdim=True) / norm.square()
            dx = (grad - x * share) / norm * _by_channel(scale, x)
        if ctx.needs_input_grad[1]:
            products = (top * grad).movedim(1, 0).flatten(1).sum(1)
            dscale = (products if scale.ndim else products.sum()) / scale
        return dx, dscale, None, None


def _by_channel(scale: Tensor, x: Tensor) -> Tensor:
    return scale.view(-1, *(1,) * (x.ndim - 2)) if scale.ndim else scale
