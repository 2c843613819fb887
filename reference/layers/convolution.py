"""Convolution, its transpose, and the unfolding under both."""

import math

import numpy as np

from prototxt.layers.declare import Shape
from prototxt.layers.windows import canonical_axis, convolution_window
from reference.layer import Arrays, Layer, flat_from, layer
from reference.unfolding import col2im, im2col


class _Convolving(Layer):
    """What Convolution and Deconvolution share: weights, groups, several bottoms (base_conv_layer.cpp)."""

    deconvolve = False

    def set_up(self) -> None:
        param, axes = self.param.convolution_param, len(self.plan.bottom_shapes[0])
        self.axis = canonical_axis(param.axis, axes)
        self.window = convolution_window(param, axes - self.axis - 1)
        self.groups = param.group

    def run(self, *bottoms: np.ndarray) -> list[np.ndarray]:
        tops = []
        for bottom, shape in zip(bottoms, self.plan.top_shapes(*(b.shape for b in bottoms)), strict=True):
            top = self._apply(bottom, shape)
            if len(self.blobs) > 1:
                top += self.weight(1).reshape(-1, *(1,) * len(self.window.kernel))
            tops.append(top)
        return tops

    def grad(self, bottoms: Arrays, tops: Arrays, top_diffs: Arrays) -> list[np.ndarray | None]:
        diffs = []
        for i, (bottom, diff) in enumerate(zip(bottoms, top_diffs, strict=True)):
            if self.wants_weight(1):
                others = tuple(a for a in range(diff.ndim) if a != self.axis)
                self.add_grad(1, diff.sum(axis=others))
            if self.wants_weight(0):
                self._add_weight_grad(bottom, diff)
            diffs.append(self._transposed(diff, bottom.shape) if self.propagate_down[i] else None)
        return diffs

    def _apply(self, bottom: np.ndarray, shape: Shape) -> np.ndarray:
        return self._scatter(bottom, shape) if self.deconvolve else self._gather(bottom, shape)

    def _transposed(self, diff: np.ndarray, shape: Shape) -> np.ndarray:
        return self._gather(diff, shape) if self.deconvolve else self._scatter(diff, shape)

    def _add_weight_grad(self, bottom: np.ndarray, diff: np.ndarray) -> None:
        wide, narrow = (diff, bottom) if self.deconvolve else (bottom, diff)
        for image, small in zip(self._images(wide), self._images(narrow), strict=True):
            columns = self._grouped(im2col(image, self.window, small.shape[1:]))
            rows = self._grouped(flat_from(small, 1))
            self.add_grad(0, rows @ columns.swapaxes(1, 2))

    def _gather(self, wide: np.ndarray, shape: Shape) -> np.ndarray:
        """Weights times windows of `wide`: a convolution's forward."""
        weight = self._grouped(self.weight(0).reshape(self.blobs[0].shape[0], -1))
        out = shape[self.axis + 1 :]
        images = [
            (weight @ self._grouped(im2col(image, self.window, out))).reshape(-1, *out)
            for image in self._images(wide)
        ]
        return np.stack(images).reshape(shape) if images else np.zeros(shape, self.dtype)

    def _scatter(self, narrow: np.ndarray, shape: Shape) -> np.ndarray:
        """The transpose of `_gather`: a convolution's gradient, a deconvolution's forward."""
        weight = self._grouped(self.weight(0).reshape(self.blobs[0].shape[0], -1)).swapaxes(1, 2)
        images = []
        for image in self._images(narrow):
            columns = weight @ self._grouped(flat_from(image, 1))
            columns = columns.reshape(math.prod(columns.shape[:2]), columns.shape[2])
            images.append(col2im(columns, shape[self.axis :], self.window, image.shape[1:]))
        return np.stack(images).reshape(shape) if images else np.zeros(shape, self.dtype)

    def _images(self, blob: np.ndarray) -> np.ndarray:
        return blob.reshape(math.prod(blob.shape[: self.axis]), *blob.shape[self.axis :])

    def _grouped(self, matrix: np.ndarray) -> np.ndarray:
        """(groups, rows / groups, columns) of a matrix whose rows are ordered by group."""
        return matrix.reshape(self.groups, len(matrix) // self.groups, matrix.shape[-1])


@layer("Convolution", "DepthwiseConvolution")
class Convolution(_Convolving):
    """Cross-correlation over any number of spatial axes, with groups and dilation."""


@layer("ConvolutionDepthwise")
class ConvolutionDepthwise(_Convolving):
    """Cross-correlation of each channel with a kernel of its own; `axis`, `group` and `num_output` are not read."""

    def set_up(self) -> None:
        self.axis, self.window = 1, convolution_window(self.param.convolution_param, 2)
        self.groups = self.plan.bottom_shapes[0][1]


@layer("Deconvolution")
class Deconvolution(_Convolving):
    """The transpose of Convolution, with the same window."""

    deconvolve = True


@layer("Im2col")
class Im2col(Layer):
    """The windows that a Convolution with the same settings would see, as channels."""

    def set_up(self) -> None:
        param, axes = self.param.convolution_param, len(self.plan.bottom_shapes[0])
        self.axis = canonical_axis(param.axis, axes)
        self.window = convolution_window(param, axes - self.axis - 1)

    def run(self, x: np.ndarray) -> np.ndarray:
        (top,) = self.plan.top_shapes(x.shape)
        images = x.reshape(math.prod(x.shape[: self.axis]), *x.shape[self.axis :])
        columns = [im2col(image, self.window, top[self.axis + 1 :]) for image in images]
        return np.array(columns, x.dtype).reshape(top)

    def grad(self, bottoms: Arrays, tops: Arrays, top_diffs: Arrays) -> np.ndarray:
        (x,), (dy,) = bottoms, top_diffs
        shape, out = x.shape[self.axis :], dy.shape[self.axis + 1 :]
        images = dy.reshape(math.prod(dy.shape[: self.axis]), *dy.shape[self.axis :])
        found = [col2im(image, shape, self.window, out) for image in images]
        return np.array(found, x.dtype).reshape(x.shape)
