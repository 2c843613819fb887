"""Layers that divide by a local or global size: LRN, MVN, BatchNorm."""

import math

import numpy as np

from prototxt.caffe_pb2 import BNParameter, LRNParameter
from prototxt.forks import meaning
from prototxt.layers.declare import legacy_shape
from prototxt.layers.normalisation import statistics_batch
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
        if not x.size:
            return x  # which sliding_window_view does not take
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
        num, channels, height, width = legacy_shape(x.shape)
        if self.param.mvn_param.across_channels:
            return x.reshape(num, channels * height * width)
        return x.reshape(num * channels, height * width)


@layer("BatchNorm")
class BatchNorm(Layer):
    """Normalises each channel by the batch's statistics, or by those kept (in TEST, or as told).

    Weights: running sums of means and (unbiased) variances, and the sum of their weights, by which both
    are divided. A forward pass that uses the batch's statistics adds them to the sums, in every net that
    runs one. These weights have no gradients.

    With a scale and a bias (weights 3 and 4) it is NVCaffe's: the first weights are running averages, the variance
    biased and with eps in it, and the first two passes replace them. Its gradients of scale and bias replace what was
    there.

    With Intel's `stats_batch_size` each so many images are normalised by their own statistics, in turn.
    """

    def set_up(self) -> None:
        self.passes = 0

    def run(self, x: np.ndarray) -> np.ndarray:
        param = self.param.batch_norm_param
        self.kept = param.use_global_stats if param.HasField("use_global_stats") else self.phase == 1
        if self.kept:
            weight = self.weight(2)[0]
            factor = 1 / weight if weight != 0 else self.dtype.type(0)
            mean, variance = self.weight(0) * factor, self.weight(1) * factor
            centred = x - self._spread(mean, x)
            self.deviation = self._spread(np.sqrt(variance + self._eps()), x)
            self.y = centred / self.deviation
        else:
            parts = [self._standardised(part) for part in self._batches(x)]
            self.y, self.deviation = (np.concatenate(each) for each in zip(*parts, strict=True))
        # self.y is kept: a later layer may work in place on the top.
        if len(self.blobs) == 5:
            return self.y * self._spread(self.weight(3), x) + self._spread(self.weight(4), x)
        return self.y

    def grad(self, bottoms: Arrays, tops: Arrays, top_diffs: Arrays) -> np.ndarray:
        (dy,) = top_diffs
        if len(self.blobs) == 5:
            others = tuple(axis for axis in range(dy.ndim) if axis != 1)
            for index, products in ((3, dy * self.y), (4, dy)):
                if self.wants_weight(index):
                    self.blobs[index].diff[...] = products.sum(axis=others)
            dy = dy * self._spread(self.weight(3), dy)
        if self.kept:
            return dy / self.deviation
        parts = zip(*map(self._batches, (dy, self.y, self.deviation)), strict=True)
        return np.concatenate([self._slopes(*part) for part in parts])

    def _batches(self, x: np.ndarray) -> list[np.ndarray]:
        return np.split(x, len(x) // max(statistics_batch(self.param, len(x)), 1) or 1)

    def _standardised(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """`x` by its own statistics, which are kept, and its deviation for each image."""
        mean = self._mean(x)
        centred = x - self._spread(mean, x)
        variance = self._mean(centred * centred)
        self._keep(mean, variance, x.size // x.shape[1])
        deviation = self._spread(np.sqrt(variance + self._eps()), x)
        return centred / deviation, np.broadcast_to(deviation, (len(x), *deviation.shape))

    def _slopes(self, dy: np.ndarray, y: np.ndarray, deviation: np.ndarray) -> np.ndarray:
        along = self._spread(self._mean(dy * y), dy) * y
        return (dy - self._spread(self._mean(dy), dy) - along) / deviation

    def _eps(self) -> np.floating:
        eps = self.param.batch_norm_param.eps
        return self.dtype.type(max(eps, 1e-5) if len(self.blobs) == 5 else eps)

    def _keep(self, mean: np.ndarray, variance: np.ndarray, count: int) -> None:
        fraction = self.dtype.type(self.param.batch_norm_param.moving_average_fraction)
        if len(self.blobs) == 5:
            fraction = fraction if self.passes > 1 else self.dtype.type(0)
            for blob, new in zip(self.blobs, (mean, variance + self._eps()), strict=False):
                blob.data[...] = (1 - fraction) * new + fraction * blob.data
            self.passes += 1
            return
        unbiased = variance * self.dtype.type(count / (count - 1) if count > 1 else 1)
        for blob, new in zip(self.blobs, (mean, unbiased, self.dtype.type(1)), strict=True):
            blob.data[...] = new + fraction * blob.data

    def _mean(self, x: np.ndarray) -> np.ndarray:
        return x.mean(axis=tuple(a for a in range(x.ndim) if a != 1))

    def _spread(self, channels: np.ndarray, x: np.ndarray) -> np.ndarray:
        return channels.reshape(-1, *(1,) * (x.ndim - 2))


@layer("BN")
class BN(Layer):
    """Normalises each channel, then scales and shifts it. The forks' layers of this name differ.

    PSPNet's keeps running statistics in weights 2 and 3, and in TEST, or `frozen`, uses them. Its gradient is the
    batch's all the same, unless it is `frozen`: then no weight has one. SegNet's has no running statistics: LEARN
    takes the batch's in both phases, eps being 1e-9, and INFERENCE only scales and shifts; its weights' gradients
    replace what was there.
    """

    def set_up(self) -> None:
        param = self.param.bn_param
        self.segnet = meaning(self.param) == "SegNet"
        self.plain = self.segnet and param.bn_mode == BNParameter.INFERENCE
        self.eps = self.dtype.type(1e-9 if self.segnet else param.eps)

    def run(self, x: np.ndarray) -> list[np.ndarray]:
        shape, x = x.shape, x.reshape(legacy_shape(x.shape))
        if self.plain:
            return [x * self.weight(0) + self.weight(1), None, None][: len(self.plan.tops)]
        mean, variance = self._statistics(x)
        self.deviation = np.sqrt(variance + self.eps)
        self.normal = (x - mean) / self.deviation
        y = self.normal * self.weight(0) + self.weight(1)
        return [y if self.segnet else y.reshape(shape), mean, variance][: len(self.plan.tops)]

    def _statistics(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        param, axes = self.param.bn_param, (0, 2, 3)
        if not self.segnet and (param.frozen or self.phase == 1):
            return self.weight(2), self.weight(3)
        mean = x.mean(axis=axes, keepdims=True)
        if self.segnet:
            return mean, (x * x).mean(axis=axes, keepdims=True) - mean * mean
        variance = ((x - mean) ** 2).mean(axis=axes, keepdims=True)
        momentum = self.dtype.type(param.momentum)
        for blob, new in ((self.blobs[2], mean), (self.blobs[3], variance)):
            blob.data[...] = (1 - momentum) * new + momentum * blob.data
        return mean, variance

    def grad(self, bottoms: Arrays, tops: Arrays, top_diffs: Arrays) -> np.ndarray:
        x, scale = bottoms[0], self.weight(0)
        dy = top_diffs[0].reshape(legacy_shape(x.shape))
        if not self.segnet and self.param.bn_param.frozen:
            return (dy * (scale / self.deviation)).reshape(x.shape)
        normal = x.reshape(dy.shape) if self.plain else self.normal
        for index, products in enumerate((dy * normal, dy)):
            if self.segnet and self.wants_weight(index):
                self.blobs[index].diff[...] = 0
            self.add_grad(index, products.sum(axis=(0, 2, 3)))
        dx = dy * scale
        if not self.plain:
            common = dx.mean(axis=(0, 2, 3), keepdims=True)
            along = (dx * normal).mean(axis=(0, 2, 3), keepdims=True)
            dx = (dx - common - normal * along) / self.deviation
        return dx.reshape(x.shape)


@layer("NormL2")
class NormL2(Layer):
    """Each item over its length; arcface's."""

    def run(self, x: np.ndarray) -> np.ndarray:
        return (self._rows(x) / self._length(x)).reshape(legacy_shape(x.shape))

    def grad(self, bottoms: Arrays, tops: Arrays, top_diffs: Arrays) -> np.ndarray:
        x, y, dy = map(self._rows, (bottoms[0], tops[0], top_diffs[0]))
        dx = (dy - y * (y * dy).sum(axis=1, keepdims=True)) / self._length(x)
        return dx.reshape(bottoms[0].shape)

    def _rows(self, x: np.ndarray) -> np.ndarray:
        num, *item = legacy_shape(x.shape)
        return x.reshape(num, math.prod(item))

    def _length(self, x: np.ndarray) -> np.ndarray:
        rows = self._rows(x)
        return np.sqrt((rows * rows).sum(axis=1, keepdims=True) + self.dtype.type(1e-7))


def softmax(x: np.ndarray, axis: int) -> np.ndarray:
    """exp(x) over its sum along `axis`, the maximum subtracted first."""
    exp = np.exp(x - x.max(axis=axis, keepdims=True, initial=-np.inf))
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


@layer("Normalize")
class Normalize(Layer):
    """x / norm · scale: the norm over an image, or over the channels at each place; eps is added under the root.

    happynear's: without a scale, over the channels at each place, of L2 or L1, 1e-6 being added to the sum. Top 1 is
    the norm, whose gradient counts with `bp_norm`.
    """

    def run(self, x: np.ndarray) -> np.ndarray | list[np.ndarray]:
        if meaning(self.param) != "SSD":
            return self._to_unit(x)
        param = self.param.norm_param
        axes = tuple(range(1, x.ndim)) if param.across_spatial else (1,)
        self.axes = axes
        squares = (x * x).sum(axis=axes, keepdims=True, dtype=self.dtype)
        self.norm = np.sqrt(squares + self.dtype.type(param.eps))
        return x / self.norm * self._scale(x)

    def grad(self, bottoms: Arrays, tops: Arrays, top_diffs: Arrays) -> np.ndarray:
        if meaning(self.param) != "SSD":
            return self._of_unit(bottoms[0], tops, top_diffs)
        (x,), (y,), (dy,) = bottoms, tops, top_diffs
        if self.wants_weight(0):
            # Caffe divides what it has of the top by the scale again: nothing that is finite where that is 0.
            channels = tuple(axis for axis in range(x.ndim) if axis != 1)
            sums = (y * dy).sum(axis=None if self.param.norm_param.channel_shared else channels)
            with np.errstate(divide="ignore", invalid="ignore"):
                self.add_grad(0, np.asarray(sums / self.weight(0), self.dtype))
        along = (x * dy).sum(axis=self.axes, keepdims=True, dtype=self.dtype)
        return (dy - x * (along / self.norm / self.norm)) / self.norm * self._scale(x)

    def _to_unit(self, x: np.ndarray) -> list[np.ndarray]:
        x = x.reshape(legacy_shape(x.shape))
        small = self.dtype.type(1e-6)
        if self.param.normalize_param.normalize_type == "L1":
            self.norm = np.abs(x).sum(axis=1, keepdims=True, dtype=self.dtype) + small
        else:
            self.norm = np.sqrt((x * x).sum(axis=1, keepdims=True, dtype=self.dtype) + small)
        return [x / self.norm, self.norm][: len(self.plan.tops)]

    def _of_unit(self, x: np.ndarray, tops: Arrays, top_diffs: Arrays) -> np.ndarray:
        y, dy, norm = tops[0], top_diffs[0], tops[1] if len(tops) > 1 else self.norm
        absolute = self.param.normalize_param.normalize_type == "L1"
        slope = np.sign(x.reshape(y.shape)) if absolute else y
        dx = (dy - slope * (y * dy).sum(axis=1, keepdims=True, dtype=self.dtype)) / norm
        if len(tops) > 1 and self.param.normalize_param.bp_norm:
            dx = dx + top_diffs[1] * slope
        return dx.reshape(x.shape)

    def _scale(self, x: np.ndarray) -> np.ndarray:
        scale = self.weight(0)
        return scale.reshape(-1, *(1,) * (x.ndim - 2)) if scale.ndim else scale
