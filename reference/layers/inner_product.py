"""Fully connected layers: of vectors, and of indices."""

import math

import numpy as np

from prototxt.layers.inner_product import annealed, margin_settings
from prototxt.layers.windows import canonical_axis
from reference.checks import class_indices, refuse_gradient
from reference.layer import Arrays, Layer, flat_from, layer


def of_length_1(weight: np.ndarray) -> None:
    """Divide the rows by their lengths, where they are."""
    weight /= np.sqrt((weight * weight).sum(axis=1, keepdims=True) + weight.dtype.type(1e-6))


@layer("InnerProduct")
class InnerProduct(Layer):
    """All axes from `axis` on, as one vector, times the weights: (num_output, size), or transposed.

    happynear's `normalize` first makes the weight's rows of length 1, for good.
    """

    def run(self, x: np.ndarray) -> np.ndarray:
        if self.param.inner_product_param.normalize:
            of_length_1(self.weight(0))
        y = self._rows(x) @ self._matrix().T
        if len(self.blobs) > 1:
            y += self.weight(1)
        return y.reshape(self.plan.top_shapes(x.shape)[0])

    def grad(self, bottoms: Arrays, tops: Arrays, top_diffs: Arrays) -> np.ndarray:
        x, dy = self._rows(bottoms[0]), top_diffs[0].reshape(-1, self._matrix().shape[0])
        if self.wants_weight(0):
            self.add_grad(0, x.T @ dy if self.param.inner_product_param.transpose else dy.T @ x)
        if self.wants_weight(1):
            self.add_grad(1, dy.sum(axis=0))
        return (dy @ self._matrix()).reshape(bottoms[0].shape)

    def _matrix(self) -> np.ndarray:
        """(outputs, inputs)"""
        return self.weight(0).T if self.param.inner_product_param.transpose else self.weight(0)

    def _rows(self, x: np.ndarray) -> np.ndarray:
        return x.reshape(-1, self._matrix().shape[1])


@layer("Embed")
class Embed(Layer):
    """Row `index` of (input_dim, num_output) weights for each index of the bottom."""

    def run(self, x: np.ndarray) -> np.ndarray:
        self.indices, _ = class_indices(x, self.blobs[0].shape[0], what="index")
        y = self.weight(0)[self.indices]
        return y + self.weight(1) if len(self.blobs) > 1 else y

    def grad(self, bottoms: Arrays, tops: Arrays, top_diffs: Arrays) -> None:
        refuse_gradient(self, 0, "indices")
        (dy,) = top_diffs
        if self.wants_weight(0):
            rows = np.zeros(self.blobs[0].shape, self.dtype)
            np.add.at(rows, self.indices, dy)
            self.add_grad(0, rows)
        if self.wants_weight(1):
            self.add_grad(1, dy.reshape(-1, dy.shape[-1]).sum(axis=0))


@layer("InnerDistance")
class InnerDistance(Layer):
    """Squared (or L1) distances of each item to each centre: weight 0, or bottom 1.

    `normalize` first makes the weight's rows of length 1, in place, as happynear's code does.
    """

    def run(self, x: np.ndarray, centers: np.ndarray | None = None) -> np.ndarray:
        if centers is None and self.param.inner_distance_param.normalize:
            of_length_1(self.weight(0))
        difference = self._difference(x, centers)
        distances = np.abs(difference) if self._l1() else difference * difference
        (top,) = self.plan.top_shapes(x.shape, *([] if centers is None else [centers.shape]))
        return distances.sum(axis=2).reshape(top)

    def grad(self, bottoms: Arrays, tops: Arrays, top_diffs: Arrays) -> list[np.ndarray]:
        x, *second = bottoms
        difference = self._difference(x, second[0] if second else None)
        slopes = np.sign(difference) if self._l1() else 2 * difference
        slopes = slopes * top_diffs[0].reshape(*difference.shape[:2], 1)
        dx = slopes.sum(axis=1).reshape(x.shape)
        if second:
            return [dx, -slopes.sum(axis=0).reshape(second[0].shape)]
        self.add_grad(0, -slopes.sum(axis=0))
        return [dx]

    def _l1(self) -> bool:
        return self.param.inner_distance_param.distance_type == "L1"

    def _difference(self, x: np.ndarray, centers: np.ndarray | None) -> np.ndarray:
        """(items, centres, values)"""
        centers = self.weight(0) if centers is None else flat_from(centers, 1)
        axis = canonical_axis(self.param.inner_distance_param.axis, x.ndim)
        return x.reshape(math.prod(x.shape[:axis]), 1, centers.shape[1]) - centers


@layer("LargeMarginInnerProduct", "MarginInnerProduct")
class MarginInnerProduct(Layer):
    """An inner product in which the label's cosine is that of the angle times `type` + 1, mixed with the plain one.

    The angle's function is |x||w| psi(cos), psi falling from 1 to 1 - 2 · (type + 1); the label's top is
    (lambda · x·w + |x||w| psi) / (1 + lambda). lambda falls with each forward pass.

    MarginInnerProduct (SphereFace's) makes the weights' rows of length 1, in place. Its weights' gradient is the plain
    product's; for x it makes the label's two coefficients a vector of length 1, as published.
    """

    def set_up(self) -> None:
        self.settings, self.passes = margin_settings(self.param), 0
        self.sphere = self.type == "MarginInnerProduct"

    def run(self, x: np.ndarray, labels: np.ndarray) -> list[np.ndarray]:
        weight, tiny = self.weight(0), self.dtype.type(0 if self.sphere else 1e-9)
        if self.sphere:
            weight /= np.sqrt((weight * weight).sum(axis=1, keepdims=True))
        self.passes += 1
        self.share = self.dtype.type(annealed(self.settings, self.passes))
        rows = x.reshape(-1, weight.shape[1])
        self.lengths = np.sqrt((rows * rows).sum(axis=1))
        self.sizes = (
            np.ones(len(weight), self.dtype) if self.sphere else np.sqrt((weight * weight).sum(axis=1))
        )
        y = rows @ weight.T
        if self.settings.type:
            self.labels, _ = class_indices(labels.reshape(-1), len(weight))
            items = np.arange(len(rows))
            product = self.lengths * self.sizes[self.labels] + tiny
            self.cosine = y[items, self.labels] / product
            self.psi, self.slope = self._psi(self.cosine)
            y[items, self.labels] = (self.share * y[items, self.labels] + product * self.psi) / (
                1 + self.share
            )
        (top, *_) = self.plan.top_shapes(x.shape, labels.shape)
        return [y.reshape(top), self.share][: len(self.plan.tops)]

    def _psi(self, cosine: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """psi and its derivative, for 2, 3 or 4 times the angle."""
        sign = np.sign(cosine)
        if self.settings.type == 1:
            return 2 * sign * cosine**2 - 1, 4 * sign * cosine
        if self.settings.type == 2:
            outer = np.sign(np.abs(cosine) - self.dtype.type(0.5))
            return outer * (4 * cosine**3 - 3 * cosine) + sign * (1 + outer) - 2, outer * (12 * cosine**2 - 3)
        outer = sign * np.sign(2 * cosine**2 - 1)
        psi = outer * (8 * cosine**4 - 8 * cosine**2 + 1) + 2 * sign + outer - 3
        return psi, outer * (32 * cosine**3 - 16 * cosine)

    def grad(self, bottoms: Arrays, tops: Arrays, top_diffs: Arrays) -> list[np.ndarray | None]:
        weight, tiny = self.weight(0), self.dtype.type(0 if self.sphere else 1e-9)
        x, dy = bottoms[0].reshape(-1, weight.shape[1]), top_diffs[0].reshape(-1, len(weight))
        if not self.settings.type:
            self.add_grad(0, dy.T @ x)
            return [(dy @ weight).reshape(bottoms[0].shape), None]
        items, own = np.arange(len(x)), weight[self.labels]
        plain, part = dy.copy(), dy[items, self.labels] / (1 + self.share)
        plain[items, self.labels] *= self.share / (1 + self.share)
        rest = self.psi - self.cosine * self.slope
        sizes = self.sizes[self.labels]
        to_w, to_x = self.slope, rest * sizes / self.lengths
        if self.sphere:
            self.add_grad(0, dy.T @ x)
            length = np.sqrt(to_w * to_w + to_x * to_x)
            to_w, to_x = to_w / length, to_x / length
        else:
            moved = self.slope[:, None] * x + (self.lengths / (sizes + tiny) * rest)[:, None] * own
            dw = plain.T @ x
            np.add.at(dw, self.labels, part[:, None] * moved)
            self.add_grad(0, dw)
        dx = plain @ weight + part[:, None] * (to_w[:, None] * own + to_x[:, None] * x)
        return [dx.reshape(bottoms[0].shape), None]
