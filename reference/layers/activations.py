"""Layers that treat every value alike."""

import math

import numpy as np

from prototxt.layers.activations import log_of_base, selu_dropout_map
from prototxt.layers.declare import Shape
from reference.arithmetic import added_up, sigmoid
from reference.checks import refuse_gradient
from reference.layer import Arrays, Layer, flat_from, layer
from runtime.rng import caffe_rng


@layer("ReLU")
class ReLU(Layer):
    """Top 1: 1 where the bottom is above 0, as it is by then; else 0. It has no gradient."""

    def run(self, x: np.ndarray) -> np.ndarray | Arrays:
        slope = self.dtype.type(self.param.relu_param.negative_slope)
        y = np.maximum(x, 0) + slope * np.minimum(x, 0)
        if len(self.plan.tops) == 1:
            return y
        return [y, (y if self.plan.in_place else x) > 0]

    def grad(self, bottoms: Arrays, tops: Arrays, top_diffs: Arrays) -> np.ndarray:
        (x,), (dy, *_) = bottoms, top_diffs
        slope = self.dtype.type(self.param.relu_param.negative_slope)
        return dy * np.where(x > 0, self.dtype.type(1), slope)


@layer("ReLU6")
class ReLU6(Layer):
    """A leaky ReLU that ends at 6."""

    def run(self, x: np.ndarray) -> np.ndarray:
        return np.minimum(np.maximum(x, 0) + self._slope() * np.minimum(x, 0), self.dtype.type(6))

    def grad(self, bottoms: Arrays, tops: Arrays, top_diffs: Arrays) -> np.ndarray:
        (x,), (dy,) = bottoms, top_diffs
        return dy * np.where(x > 0, (x < 6).astype(self.dtype), self._slope())

    def _slope(self) -> np.floating:
        return self.dtype.type(self.param.relu6_param.negative_slope)


@layer("NegReLU")
class NegReLU(Layer):
    """What is below 0; what is above, times `relu_param`'s slope. At 0 the slope is the gradient."""

    def run(self, x: np.ndarray) -> np.ndarray:
        return np.minimum(x, 0) + self._slope() * np.maximum(x, 0)

    def grad(self, bottoms: Arrays, tops: Arrays, top_diffs: Arrays) -> np.ndarray:
        (x,), (dy,) = bottoms, top_diffs
        return dy * np.where(x < 0, self.dtype.type(1), self._slope())

    def _slope(self) -> np.floating:
        return self.dtype.type(self.param.relu_param.negative_slope)


@layer("SeLU")
class SeLU(Layer):
    """lambda · x above 0, lambda · alpha · (exp(x) - 1) below."""

    def run(self, x: np.ndarray) -> np.ndarray:
        scale, alpha = self._settings()
        return np.where(x > 0, scale * x, scale * alpha * (np.exp(np.minimum(x, 0)) - 1))

    def grad(self, bottoms: Arrays, tops: Arrays, top_diffs: Arrays) -> np.ndarray:
        (x,), (dy,) = bottoms, top_diffs
        scale, alpha = self._settings()
        return dy * np.where(x > 0, scale, scale * alpha * np.exp(np.minimum(x, 0)))

    def _settings(self) -> tuple[np.floating, np.floating]:
        param = self.param.selu_param
        return self.dtype.type(getattr(param, "lambda")), self.dtype.type(param.alpha)


@layer("SeLUDropout")
class SeLUDropout(Layer):
    """In TRAIN sets units to `alpha`, then scales and shifts all so that mean and variance stay; TEST: x."""

    def run(self, x: np.ndarray) -> np.ndarray:
        if self.phase != 0:
            return x
        param = self.param.selu_dropout_param
        self.scale, shift = map(self.dtype.type, selu_dropout_map(param))
        self.mask = caffe_rng().bernoulli(x.size, 1.0 - param.dropout_ratio).reshape(x.shape)
        return self.scale * np.where(self.mask, x, self.dtype.type(param.alpha)) + shift

    def grad(self, bottoms: Arrays, tops: Arrays, top_diffs: Arrays) -> np.ndarray:
        (dy,) = top_diffs
        return dy if self.phase != 0 else dy * self.mask.astype(self.dtype) * self.scale


@layer("Dropout", "SpatialDropout")
class Dropout(Layer):
    """Zeroes units with probability `dropout_ratio` in TRAIN, scaling the rest; the identity in TEST.

    SpatialDropout zeroes whole channels. SegNet's `sample_weights_test` drops in TEST too; Fast R-CNN's
    `scale_train: false` scales in TEST, by the probability of keeping, and not in TRAIN. The mask is drawn as
    float Caffe draws it, whatever the net's dtype.
    """

    def set_up(self) -> None:
        param = self.param.dropout_param
        self.keep = 1.0 - param.dropout_ratio  # in double, as Caffe passes it on
        self.drops = self.phase == 0 or param.sample_weights_test
        scale = np.float32(1.0 / self.keep) if self.keep else np.float32(np.inf)
        if not param.scale_train:
            scale = np.float32(1) if self.drops else 1 / scale
        elif not self.drops:
            scale = np.float32(1)
        self.scale = self.dtype.type(scale)

    def run(self, x: np.ndarray) -> np.ndarray:
        self.mask = self._mask(x.shape) if self.drops else self.dtype.type(1)
        return x * self.mask * self.scale

    def grad(self, bottoms: Arrays, tops: Arrays, top_diffs: Arrays) -> np.ndarray:
        return top_diffs[0] * self.mask * self.scale

    def _mask(self, shape: Shape) -> np.ndarray:
        if self.type == "SpatialDropout":
            shape = (*shape[:2], *(1,) * (len(shape) - 2))
        return caffe_rng().bernoulli(math.prod(shape), self.keep).reshape(shape).astype(self.dtype)


@layer("Sigmoid")
class Sigmoid(Layer):
    def run(self, x: np.ndarray) -> np.ndarray:
        return sigmoid(x)

    def grad(self, bottoms: Arrays, tops: Arrays, top_diffs: Arrays) -> np.ndarray:
        (y,), (dy,) = tops, top_diffs
        return dy * y * (1 - y)


@layer("TanH")
class TanH(Layer):
    def run(self, x: np.ndarray) -> np.ndarray:
        return np.tanh(x)

    def grad(self, bottoms: Arrays, tops: Arrays, top_diffs: Arrays) -> np.ndarray:
        (y,), (dy,) = tops, top_diffs
        return dy * (1 - y * y)


@layer("ELU")
class ELU(Layer):
    def run(self, x: np.ndarray) -> np.ndarray:
        alpha = self.dtype.type(self.param.elu_param.alpha)
        return np.maximum(x, 0) + alpha * (np.exp(np.minimum(x, 0)) - 1)

    def grad(self, bottoms: Arrays, tops: Arrays, top_diffs: Arrays) -> np.ndarray:
        (x,), (y,), (dy,) = bottoms, tops, top_diffs
        alpha = self.dtype.type(self.param.elu_param.alpha)
        return dy * np.where(x > 0, self.dtype.type(1), alpha + y)


@layer("BNLL")
class BNLL(Layer):
    """log(1 + exp(x)). In place, the gradient is taken at the top's values, as in Caffe."""

    def run(self, x: np.ndarray) -> np.ndarray:
        return np.maximum(x, 0) + np.log1p(np.exp(-np.abs(x)))

    def grad(self, bottoms: Arrays, tops: Arrays, top_diffs: Arrays) -> np.ndarray:
        (x,), (dy,) = bottoms, top_diffs
        exp = np.exp(np.minimum(x, 50))
        return dy * (exp / (exp + 1))


@layer("AbsVal")
class AbsVal(Layer):
    def run(self, x: np.ndarray) -> np.ndarray:
        return np.abs(x)

    def grad(self, bottoms: Arrays, tops: Arrays, top_diffs: Arrays) -> np.ndarray:
        (x,), (dy,) = bottoms, top_diffs
        return dy * np.sign(x)


@layer("Swish")
class Swish(Layer):
    """x · sigmoid(beta x)"""

    def run(self, x: np.ndarray) -> np.ndarray:
        self.beta = self.dtype.type(self.param.swish_param.beta)
        self.gate = sigmoid(self.beta * x)
        return x * self.gate

    def grad(self, bottoms: Arrays, tops: Arrays, top_diffs: Arrays) -> np.ndarray:
        (y,), (dy,) = tops, top_diffs
        return dy * (self.beta * y + self.gate * (1 - self.beta * y))


@layer("Clip")
class Clip(Layer):
    """The bounds themselves pass the gradient on; so in place, where the bottom is clipped, all do."""

    def run(self, x: np.ndarray) -> np.ndarray:
        low, high = self._bounds()
        return np.maximum(low, np.minimum(x, high))

    def grad(self, bottoms: Arrays, tops: Arrays, top_diffs: Arrays) -> np.ndarray:
        (x,), (dy,) = bottoms, top_diffs
        low, high = self._bounds()
        return dy * ((x >= low) & (x <= high))

    def _bounds(self) -> tuple[np.floating, np.floating]:
        param = self.param.clip_param
        return self.dtype.type(param.min), self.dtype.type(param.max)


@layer("Threshold")
class Threshold(Layer):
    """1 above the threshold, else 0; no gradient, as in Caffe."""

    def run(self, x: np.ndarray) -> np.ndarray:
        return (x > self.dtype.type(self.param.threshold_param.threshold)).astype(self.dtype)

    def grad(self, bottoms: Arrays, tops: Arrays, top_diffs: Arrays) -> None:
        refuse_gradient(self, 0, "input")


class _Transcendental(Layer):
    """Power and Log: functions of shift + scale · x whose gradient Caffe spoils in place."""

    scale: np.floating
    shift: np.floating

    def inner(self, x: np.ndarray) -> np.ndarray:
        return x * self.scale + self.shift

    def times(self, dy: np.ndarray, slope: np.ndarray) -> np.ndarray:
        """In place, Caffe writes the slope over the top's gradient and multiplies it by itself."""
        return slope * slope if self.plan.in_place else dy * slope


@layer("Power")
class Power(_Transcendental):
    """(shift + scale · x) ^ power"""

    def set_up(self) -> None:
        param = self.param.power_param
        self.power, self.scale, self.shift = map(self.dtype.type, (param.power, param.scale, param.shift))

    def run(self, x: np.ndarray) -> np.ndarray:
        if self.power * self.scale == 0:  # Caffe does not look at x then: NaN stays out
            return np.full_like(x, 1 if self.power == 0 else self.shift**self.power)
        with np.errstate(all="ignore"):
            return self.inner(x) if self.power == 1 else self.inner(x) ** self.power

    def grad(self, bottoms: Arrays, tops: Arrays, top_diffs: Arrays) -> np.ndarray:
        (x,), (y,), (dy,) = bottoms, tops, top_diffs
        factor = self.power * self.scale
        if factor == 0:
            return np.zeros_like(dy)
        if self.power == 1:
            return self.times(dy, np.full_like(dy, factor))
        if self.power == 2:
            return self.times(dy, factor * self.inner(x))
        with np.errstate(all="ignore"):  # NaN where shift + scale x is 0, in Caffe too
            return self.times(dy, factor * y / self.inner(x))


@layer("Log")
class Log(_Transcendental):
    """log_base(shift + scale · x); base -1 is e"""

    def set_up(self) -> None:
        param = self.param.log_param
        self.scale, self.shift = self.dtype.type(param.scale), self.dtype.type(param.shift)
        self.per_e = 1 / self.dtype.type(log_of_base(param.base))

    def run(self, x: np.ndarray) -> np.ndarray:
        with np.errstate(all="ignore"):
            return np.log(self.inner(x)) * self.per_e

    def grad(self, bottoms: Arrays, tops: Arrays, top_diffs: Arrays) -> np.ndarray:
        (x,), (dy,) = bottoms, top_diffs
        with np.errstate(all="ignore"):
            return self.times(dy, self.scale * self.per_e / self.inner(x))


@layer("Exp")
class Exp(Layer):
    """base ^ (shift + scale · x); base -1 is e"""

    def set_up(self) -> None:
        param = self.param.exp_param
        log_base = self.dtype.type(log_of_base(param.base))
        self.inner = log_base * self.dtype.type(param.scale)
        self.outer = np.exp(log_base * self.dtype.type(param.shift))

    def run(self, x: np.ndarray) -> np.ndarray:
        with np.errstate(over="ignore"):
            return np.exp(self.inner * x) * self.outer

    def grad(self, bottoms: Arrays, tops: Arrays, top_diffs: Arrays) -> np.ndarray:
        (y,), (dy,) = tops, top_diffs
        return y * dy * self.inner


@layer("PReLU")
class PReLU(Layer):
    """x above 0, slope · x up to 0, with one learned slope for each channel, or one for all."""

    def run(self, x: np.ndarray) -> np.ndarray:
        self.x = x.copy() if self.plan.in_place else None
        return np.maximum(x, 0) + self._slope(x) * np.minimum(x, 0)

    def grad(self, bottoms: Arrays, tops: Arrays, top_diffs: Arrays) -> np.ndarray:
        (dy,) = top_diffs
        x = bottoms[0] if self.x is None else self.x
        products = dy * x * (x <= 0)
        slopes = self.blobs[0].shape
        rows = products.swapaxes(0, 1) if slopes else products
        self.add_grad(0, added_up(flat_from(rows, len(slopes))))
        return dy * np.where(x > 0, self.dtype.type(1), self._slope(x))

    def _slope(self, x: np.ndarray) -> np.ndarray:
        """The slopes, shaped to go with `x`."""
        slope = self.weight(0)
        return slope.reshape(-1, *(1,) * (x.ndim - 2)) if slope.ndim else slope
