"""C3D's convolution, its transpose and pooling, over length, height and width."""

import math
from itertools import product

import numpy as np

from prototxt.layers.declare import Shape
from prototxt.layers.volumes import averages, convolution3d_window, pooled3d_sizes, pooling3d_window
from reference.arithmetic import added_up
from reference.checks import refuse_gradient
from reference.layer import Arrays, Layer, flat_from, layer
from reference.layers.losses import FLT_MIN
from reference.layers.normalisation import softmax
from reference.unfolding import col2im, im2col
from runtime.labels import LabelError


@layer("Convolution3D", "Deconvolution3D")
class Convolution3D(Layer):
    """A matrix product with the unfolded video, or its transpose (convolution3d_layer.cpp, vol2col.cpp).

    Each backward pass overwrites the weights' gradients.
    """

    def set_up(self) -> None:
        self.window = convolution3d_window(self.param)
        self.transposed = self.plan.type == "Deconvolution3D"

    def run(self, x: np.ndarray) -> np.ndarray:
        (shape,) = self.plan.top_shapes(x.shape)
        top = (self._folded if self.transposed else self._unfolded)(x, shape)
        if len(self.blobs) > 1:
            top += self.weight(1).reshape(-1, 1, 1, 1)
        return top

    def grad(self, bottoms: Arrays, tops: Arrays, top_diffs: Arrays) -> np.ndarray | None:
        (x,), (dy,) = bottoms, top_diffs
        if self.wants_weight(1):
            self.blobs[1].diff[...] = dy.sum(axis=(0, 2, 3, 4)).reshape(self.blobs[1].shape)
        if self.wants_weight(0):
            wide, narrow = (dy, x) if self.transposed else (x, dy)
            self.blobs[0].diff[...] = 0
            for image, small in zip(wide, narrow, strict=True):
                self.add_grad(0, flat_from(small, 1) @ im2col(image, self.window, small.shape[1:]).T)
        if not self.propagate_down[0]:
            return None
        return (self._unfolded if self.transposed else self._folded)(dy, x.shape)

    def _matrix(self) -> np.ndarray:
        return flat_from(self.weight(0), 1)

    def _unfolded(self, wide: np.ndarray, shape: Shape) -> np.ndarray:
        """The weights times the windows of `wide`."""
        out = np.empty(shape, self.dtype)
        for i, image in enumerate(wide):
            out[i] = (self._matrix() @ im2col(image, self.window, shape[2:])).reshape(shape[1:])
        return out

    def _folded(self, narrow: np.ndarray, shape: Shape) -> np.ndarray:
        """The transpose of `_unfolded`."""
        out = np.empty(shape, self.dtype)
        for i, image in enumerate(narrow):
            out[i] = col2im(self._matrix().T @ flat_from(image, 1), shape[1:], self.window, image.shape[1:])
        return out


@layer("Pooling3D")
class Pooling3D(Layer):
    """MAX and AVE pooling (pool3d_layer.cpp).

    MAX's backward compares the bottom with the top: every position that equals its window's value gets the gradient.
    AVE divides by the window's size cut at the padded map's far border, padding included.
    """

    def set_up(self) -> None:
        self.window, self.averages = pooling3d_window(self.param), averages(self.param)

    def run(self, x: np.ndarray) -> np.ndarray:
        value = 0.0 if self.averages else -float(np.finfo(np.float32).max)
        windows = self._windows(x, value)
        if not self.averages:
            return windows.max(axis=-1)
        with np.errstate(all="ignore"):  # a window behind the map has no size
            return windows.sum(axis=-1) / self._sizes(x.shape[2:])

    def grad(self, bottoms: Arrays, tops: Arrays, top_diffs: Arrays) -> np.ndarray:
        (x,), (y,), (dy,) = bottoms, tops, top_diffs
        if self.averages:
            with np.errstate(all="ignore"):
                share = dy / self._sizes(x.shape[2:])
            shares = np.repeat(share[..., None], math.prod(self.window.kernel), axis=-1)
        else:
            shares = dy[..., None] * (self._windows(x, np.nan) == y[..., None])
        return self._added(shares, x.shape)

    def _pads(self, sizes: Shape, out: Shape) -> list[tuple[int, int]]:
        w = self.window
        return [
            (p, max(p, (n - 1) * s + k - p - size))
            for n, s, k, p, size in zip(out, w.stride, w.kernel, w.pad, sizes, strict=True)
        ]

    def _windows(self, x: np.ndarray, value: float) -> np.ndarray:
        """(num, channels, *out, values of a window)"""
        out = pooled3d_sizes(self.window, x.shape[2:])
        padded = np.pad(x, [(0, 0), (0, 0), *self._pads(x.shape[2:], out)], constant_values=value)
        view = np.lib.stride_tricks.sliding_window_view(padded, self.window.kernel, (2, 3, 4))
        steps = tuple(slice(0, n * s, s) for n, s in zip(out, self.window.stride, strict=True))
        return flat_from(view[(slice(None), slice(None), *steps)], 5)

    def _sizes(self, sizes: Shape) -> np.ndarray:
        spans = []
        for n, s, k, p, size in zip(
            pooled3d_sizes(self.window, sizes),
            self.window.stride,
            self.window.kernel,
            self.window.pad,
            sizes,
            strict=True,
        ):
            start = np.arange(n) * s - p
            spans.append(np.minimum(start + k, size + p) - start)
        return np.einsum("i,j,k->ijk", *spans).astype(self.dtype)

    def _added(self, shares: np.ndarray, shape: Shape) -> np.ndarray:
        """Each window's shares, added up at the positions that it sees."""
        out = shares.shape[2:5]
        pads = self._pads(shape[2:], out)
        padded = np.zeros(
            (*shape[:2], *(n + sum(p) for n, p in zip(shape[2:], pads, strict=True))), self.dtype
        )
        for i, place in enumerate(product(*map(range, self.window.kernel))):
            where = tuple(
                slice(k, k + (n - 1) * s + 1, s)
                for k, n, s in zip(place, out, self.window.stride, strict=True)
            )
            padded[(slice(None), slice(None), *where)] += shares[..., i]
        inside = tuple(slice(p, p + n) for (p, _), n in zip(pads, shape[2:], strict=True))
        return padded[(slice(None), slice(None), *inside)]


@layer("VoxelSoftmax")
class VoxelSoftmax(Layer):
    """The softmax over the channels of each place."""

    def run(self, x: np.ndarray) -> np.ndarray:
        return softmax(x, 1)

    def grad(self, bottoms: Arrays, tops: Arrays, top_diffs: Arrays) -> np.ndarray:
        (y,), (dy,) = tops, top_diffs
        return y * (dy - (dy * y).sum(axis=1, keepdims=True))


@layer("VoxelSoftmaxWithLoss")
class VoxelSoftmaxWithLoss(Layer):
    """-log of the labels' probabilities over the number of all places.

    A label that no class has costs nothing, but the gradient there is the probabilities all the same, as published.
    """

    def run(self, x: np.ndarray, labels: np.ndarray) -> np.floating:
        labels = labels[:, :1].astype(np.int64)
        if (labels < 0).any():
            raise LabelError(labels.min(), x.shape[1])
        prob = softmax(x, 1)
        known = labels < x.shape[1]
        picked = np.take_along_axis(prob, np.where(known, labels, 0), 1)
        self.count = self.dtype.type(labels.size)
        self.slopes = prob - (np.arange(x.shape[1])[:, None, None, None] == labels)
        losses = -np.log(np.maximum(picked, self.dtype.type(FLT_MIN)))
        return added_up(losses[known]) / self.count

    def grad(self, bottoms: Arrays, tops: Arrays, top_diffs: Arrays) -> list[np.ndarray | None]:
        refuse_gradient(self, 1, "labels")
        return [self.slopes * (top_diffs[0] / self.count), None]
