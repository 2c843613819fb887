"""Fully connected layers: of vectors, and of indices."""

import numpy as np

from reference.checks import class_indices, refuse_gradient
from reference.layer import Arrays, Layer, layer


@layer("InnerProduct")
class InnerProduct(Layer):
    """All axes from `axis` on, as one vector, times the weights: (num_output, size), or transposed."""

    def run(self, x: np.ndarray) -> np.ndarray:
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
