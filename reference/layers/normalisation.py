"""Layers that divide by a local or global size: LRN, MVN, BatchNorm."""

import numpy as np

from prototxt.caffe_pb2 import LRNParameter
from prototxt.layers.declare import legacy_shape
from prototxt.layers.windows import canonical_axis
from reference.layer import Arrays, Layer, layer


@layer("LRN")
class LRN(Layer):
    """x · (k + alpha · m) ^ -beta, m the mean of the squares around x.

    Around means `local_size` channels, or `local_size`² positions of the channel (WITHIN_CHANNEL, where
    Caffe, building it of other layers, takes 1 for `k`); what lies outside counts as 0.
    """

    def set_up(self) -> None:
        param = self.param.lrn_param
        within = param.norm_region == LRNParameter.WITHIN_CHANNEL
        self.axes = (2, 3) if within else (1,)
        self.k = self.dtype.type(1 if within else param.k)
        self.alpha = self.dtype.type(param.alpha) / self.dtype.type(param.local_size ** len(self.axes))
        self.beta = self.dtype.type(param.beta)

    def run(self, x: np.ndarray) -> np.ndarray:
        self.size = self.k + self.alpha * self._sums(x * x)
        return x * self.size**-self.beta

    def grad(self, bottoms: Arrays, tops: Arrays, top_diffs: Arrays) -> np.ndarray:
        (x,), (y,), (dy,) = bottoms, tops, top_diffs
        if self.axes == (2, 3):  # built of other layers, which read the bottom only
            y = x * self.size**-self.beta
        ratios = self._sums(dy * y / self.size)
        return dy * self.size**-self.beta - 2 * self.alpha * self.beta * x * ratios

    def _sums(self, x: np.ndarray) -> np.ndarray:
        """Sums over the window around each position; its own adjoint."""
        size = self.param.lrn_param.local_size
        pads = [(size // 2,) * 2 if axis in self.axes else (0, 0) for axis in range(4)]
        windows = np.lib.stride_tricks.sliding_window_view(
            np.pad(x, pads), (size,) * len(self.axes), self.axes
        )
        return windows.sum(axis=tuple(range(4, windows.ndim)))


@layer("MVN")
class MVN(Layer):
    """Subtracts the mean and divides by the deviation, of each channel or of each image."""

    def run(self, x: np.ndarray) -> np.ndarray:
        param = self.param.mvn_param
        rows = self._rows(x)
        centred = rows - rows.mean(axis=1, keepdims=True)
        if param.normalize_variance:
            variance = (centred * centred).mean(axis=1, keepdims=True)
            self.deviation = np.sqrt(variance) + self.dtype.type(param.eps)  # not sqrt(variance + eps)
            with np.errstate(invalid="ignore"):
                centred = centred / self.deviation
        return centred.reshape(legacy_shape(x.shape))

    def grad(self, bottoms: Arrays, tops: Arrays, top_diffs: Arrays) -> np.ndarray:
        x, y, dy = bottoms[0], self._rows(tops[0]), self._rows(top_diffs[0])
        if not self.param.mvn_param.normalize_variance:
            return (dy - dy.mean(axis=1, keepdims=True)).reshape(x.shape)
        share = (dy * y).mean(axis=1, keepdims=True)
        if self.plan.in_place:  # Caffe has by now overwritten the gradient that it goes on to read
            dx = -2 * share * (y + y.sum(axis=1, keepdims=True))
        else:
            dx = dy - dy.mean(axis=1, keepdims=True) - share * y
        return (dx / self.deviation).reshape(x.shape)

    def _rows(self, x: np.ndarray) -> np.ndarray:
        """(what is normalised apart, its values)"""
        num, channels = legacy_shape(x.shape)[:2]
        return x.reshape(num if self.param.mvn_param.across_channels else num * channels, -1)


@layer("BatchNorm")
class BatchNorm(Layer):
    """Normalises each channel by the batch's statistics, or by those kept (in TEST, or as told).

    Weights: running sums of means and (unbiased) variances, and the sum of their weights, by which both
    are divided. A forward pass that uses the batch's statistics adds them to the sums, in every net that
    runs one. Weights have no gradients.
    """

    def run(self, x: np.ndarray) -> np.ndarray:
        param = self.param.batch_norm_param
        self.kept = param.use_global_stats if param.HasField("use_global_stats") else self.phase == 1
        if self.kept:
            weight = self.weight(2)[0]
            factor = 1 / weight if weight != 0 else self.dtype.type(0)
            mean, variance = self.weight(0) * factor, self.weight(1) * factor
            centred = x - self._spread(mean, x)
        else:
            mean = self._mean(x)
            centred = x - self._spread(mean, x)
            variance = self._mean(centred * centred)
            self._add_to_sums(mean, variance, x.size // x.shape[1])
        self.deviation = self._spread(np.sqrt(variance + self.dtype.type(param.eps)), x)
        self.y = centred / self.deviation  # kept: a later layer may work in place on the top
        return self.y

    def grad(self, bottoms: Arrays, tops: Arrays, top_diffs: Arrays) -> np.ndarray:
        (dy,) = top_diffs
        if self.kept:
            return dy / self.deviation
        along = self._spread(self._mean(dy * self.y), dy) * self.y
        return (dy - self._spread(self._mean(dy), dy) - along) / self.deviation

    def _add_to_sums(self, mean: np.ndarray, variance: np.ndarray, count: int) -> None:
        fraction = self.dtype.type(self.param.batch_norm_param.moving_average_fraction)
        unbiased = variance * self.dtype.type(count / (count - 1) if count > 1 else 1)
        for blob, new in zip(self.blobs, (mean, unbiased, self.dtype.type(1)), strict=True):
            blob.data[...] = new + fraction * blob.data

    def _mean(self, x: np.ndarray) -> np.ndarray:
        return x.mean(axis=tuple(a for a in range(x.ndim) if a != 1))

    def _spread(self, channels: np.ndarray, x: np.ndarray) -> np.ndarray:
        return channels.reshape(-1, *(1,) * (x.ndim - 2))


def softmax(x: np.ndarray, axis: int) -> np.ndarray:
    """exp(x) over its sum along `axis`, the maximum subtracted first."""
    exp = np.exp(x - x.max(axis=axis, keepdims=True))
    return exp / exp.sum(axis=axis, keepdims=True)


@layer("Softmax")
class Softmax(Layer):
    def run(self, x: np.ndarray) -> np.ndarray:
        return softmax(x, self._axis(x))

    def grad(self, bottoms: Arrays, tops: Arrays, top_diffs: Arrays) -> np.ndarray:
        (y,), (dy,) = tops, top_diffs
        return y * (dy - (dy * y).sum(axis=self._axis(y), keepdims=True))

    def _axis(self, x: np.ndarray) -> int:
        return canonical_axis(self.param.softmax_param.axis, x.ndim)
