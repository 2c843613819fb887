"""Caffe's neuron layers: each value of the top comes from one value of the bottom."""

import math
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from port.gradient import with_slope
from port.layer import Layer, layer
from prototxt.layers.activations import log_of_base, selu_dropout_map
from runtime.rng import caffe_rng


@layer("ReLU")
class ReLU(Layer):
    """A second top has ones where the bottom, in place what became of it, is above 0; no gradient goes through it."""

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        slope = self.param.relu_param.negative_slope
        if slope:
            top = F.leaky_relu(x, slope)
        elif self.plan.overwritten_reads and not self.plan.in_place:
            top = F.threshold(x, 0, 0)  # of which autograd saves the bottom, and not the top
        else:
            top = F.relu(x)
        if len(self.plan.tops) == 1:
            return top
        return top, ((top if self.plan.in_place else x) > 0).to(x.dtype)


@layer("ReLU6")
class ReLU6(Layer):
    """A leaky ReLU that ends at 6, where the gradient is 0."""

    def forward(self, x: Tensor) -> Tensor:
        slope = self.param.relu6_param.negative_slope
        value = x.detach()
        top = torch.where(value > 0, value, slope * value).clamp(max=6)
        return with_slope(x, top, lambda x: torch.where(x > 0, (x < 6).to(x.dtype), slope), value)


@layer("NegReLU")
class NegReLU(Layer):
    """What is below 0; what is above, times `relu_param`'s slope."""

    def forward(self, x: Tensor) -> Tensor:
        slope = self.param.relu_param.negative_slope
        value = x.detach()
        top = value.clamp(max=0) + slope * value.clamp(min=0)
        return with_slope(x, top, lambda x: torch.where(x < 0, 1.0, slope), value)


@layer("SeLU")
class SeLU(Layer):
    """lambda · x above 0, lambda · alpha · (exp(x) - 1) below."""

    def forward(self, x: Tensor) -> Tensor:
        scale, alpha = getattr(self.param.selu_param, "lambda"), self.param.selu_param.alpha
        value = x.detach()
        top = scale * F.elu(value, alpha)
        return with_slope(
            x, top, lambda x: scale * torch.where(x > 0, 1, alpha * x.clamp(max=0).exp()), value
        )


@layer("SeLUDropout")
class SeLUDropout(Layer):
    """Dropout that sets units to `alpha` and keeps the mean and variance of a SELU's output; TEST: the identity."""

    def forward(self, x: Tensor) -> Tensor:
        if self.phase != 0:
            return x
        param = self.param.selu_dropout_param
        scale, shift = selu_dropout_map(param)
        mask = torch.from_numpy(caffe_rng().bernoulli(x.numel(), 1.0 - param.dropout_ratio))
        return scale * x.where(mask.to(x.device, torch.bool).reshape(x.shape), param.alpha) + shift


@layer("PReLU")
class PReLU(Layer):
    """Leaky ReLU whose slope is learned, one for each channel or one for all."""

    def forward(self, x: Tensor) -> Tensor:
        return F.prelu(x, self.blobs[0])


@layer("ELU")
class ELU(Layer):
    def forward(self, x: Tensor) -> Tensor:
        alpha = self.param.elu_param.alpha
        value = x.detach()
        top = F.elu(value, alpha)
        return with_slope(x, top, lambda x, y: torch.where(x > 0, 1, alpha + y), value, top)


@layer("Sigmoid")
class Sigmoid(Layer):
    def forward(self, x: Tensor) -> Tensor:
        top = _sigmoid(x.detach())
        return with_slope(x, top, lambda y: y * (1 - y), top)


@layer("TanH")
class TanH(Layer):
    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(x)


@layer("Swish")
class Swish(Layer):
    def forward(self, x: Tensor) -> Tensor:
        beta = self.param.swish_param.beta
        value = x.detach()
        gate = _sigmoid(beta * value)
        top = value * gate
        return with_slope(x, top, lambda y, gate: beta * y + gate * (1 - beta * y), top, gate)


@layer("AbsVal")
class AbsVal(Layer):
    def forward(self, x: Tensor) -> Tensor:
        return x.abs()


@layer("Threshold")
class Threshold(Layer):
    """1 above the threshold, else 0. Caffe has no gradient for it."""

    def forward(self, x: Tensor) -> Tensor:
        return (x > self.param.threshold_param.threshold).to(x.dtype)


@layer("BNLL")
class BNLL(Layer):
    """log(1 + exp(x))."""

    def forward(self, x: Tensor) -> Tensor:
        value = x.detach()
        top = F.softplus(value, threshold=50)
        return with_slope(x, top, torch.sigmoid, value)


@layer("Clip")
class Clip(Layer):
    """Between `min` and `max`, bounds included in what passes the gradient on."""

    def forward(self, x: Tensor) -> Tensor:
        low, high = self.param.clip_param.min, self.param.clip_param.max
        value = x.detach()
        top = value.clamp(max=high).clamp(min=low)  # where min > max, Caffe's min wins
        return with_slope(x, top, lambda x: (x >= low) & (x <= high), value)


@layer("Power")
class Power(Layer):
    """(shift + scale · x) ^ power."""

    def forward(self, x: Tensor) -> Tensor:
        param = self.param.power_param
        scale, shift, power = param.scale, param.shift, param.power
        value = x.detach()
        if scale * power == 0:
            return with_slope(x, torch.full_like(value, shift) ** power, lambda: 0.0)
        top = (value * scale + shift) ** power
        overwritten = self.plan.in_place and not self.exact
        if power == 1:
            return with_slope(x, top, lambda: scale, overwritten=overwritten)

        def slope(x: Tensor, y: Tensor) -> Tensor:
            base = x * scale + shift
            # Caffe divides by the base, so the gradient at a base of 0 is not a number.
            return scale * power * (base if power == 2 else y / base)

        return with_slope(x, top, slope, value, top, overwritten=overwritten)


@layer("Exp")
class Exp(Layer):
    """base ^ (shift + scale · x), base e by default."""

    def set_up(self) -> None:
        param = self.param.exp_param
        log_base = log_of_base(param.base)
        self.inner = log_base * param.scale
        self.outer = float(np.exp(log_base * param.shift))

    def forward(self, x: Tensor) -> Tensor:
        top = torch.exp(self.inner * x.detach()) * self.outer
        return with_slope(x, top, lambda y: y * self.inner, top)


@layer("Log")
class Log(Layer):
    """log_base(shift + scale · x), base e by default."""

    def set_up(self) -> None:
        self.log_base = log_of_base(self.param.log_param.base)

    def forward(self, x: Tensor) -> Tensor:
        scale, shift = self.param.log_param.scale, self.param.log_param.shift
        value = x.detach()
        top = torch.log(value * scale + shift) * (1 / self.log_base)

        def slope(x: Tensor) -> Tensor:
            return scale / self.log_base / (x * scale + shift)

        return with_slope(x, top, slope, value, overwritten=self.plan.in_place and not self.exact)


@layer("Dropout")
class Dropout(Layer):
    """Zeroes units with probability `dropout_ratio` in TRAIN, scaling the rest; the identity in TEST.

    The mask is drawn from Caffe's generator, so the same seed drops the same units. SegNet's
    `sample_weights_test` drops in TEST too. With Fast R-CNN's `scale_train: false` TEST scales, by the share that
    TRAIN keeps, and TRAIN does not.
    """

    def forward(self, x: Tensor) -> Tensor:
        param = self.param.dropout_param
        keep = 1.0 - param.dropout_ratio  # in double, as Caffe passes it on
        if self.phase != 0 and not param.sample_weights_test:
            return x if param.scale_train else x * keep
        shape = self.drawn(x)
        mask = torch.from_numpy(caffe_rng().bernoulli(math.prod(shape), keep)).to(x.device).to(x.dtype)
        kept = x * mask.reshape(shape)
        return kept * float(np.float32(1.0 / keep)) if param.scale_train else kept

    def drawn(self, x: Tensor) -> Sequence[int]:
        """The shape of the mask."""
        return x.shape


@layer("SpatialDropout")
class SpatialDropout(Dropout):
    """Dropout of whole channels."""

    def drawn(self, x: Tensor) -> Sequence[int]:
        return (*x.shape[:2], *(1,) * (x.ndim - 2))


def _sigmoid(x: Tensor) -> Tensor:
    """From its small side, where single precision comes near Caffe's, which is computed in double."""
    large = x > 0
    small = torch.sigmoid(torch.where(large, -x, x))
    return torch.where(large, 1 - small, small)
