"""Fully connected layers: of vectors, and of indices."""

import math

import numpy as np

from prototxt.errors import InputError
from prototxt.layers.windows import canonical_axis
from reference.layer import Arrays, Layer, Shape, layer
from reference.layers.checks import class_indices, refuse_gradient


@layer("InnerProduct")
class InnerProduct(Layer):
    """All axes from `axis` on, as one vector, times the weights: (num_output, size), or transposed."""

    def add_weights(self, shape: Shape) -> None:
        param = self.param.inner_product_param
        size = math.prod(shape[canonical_axis(param.axis, len(shape)) :])
        self.add_weight(
            (size, param.num_output) if param.transpose else (param.num_output, size), param.weight_filler
        )
        if param.bias_term:
            self.add_weight((param.num_output,), param.bias_filler)

    def top_shapes(self, shape: Shape) -> list[Shape]:
        axis = canonical_axis(self.param.inner_product_param.axis, len(shape))
        outputs, size = self._matrix().shape
        given = math.prod(shape[axis:])
        if given != size:
            raise InputError(f"the weights are for {size} inputs, the bottom {shape} has {given}")
        return [(*shape[:axis], outputs)]

    def run(self, x: np.ndarray) -> np.ndarray:
        y = self._rows(x) @ self._matrix().T
        if len(self.blobs) > 1:
            y += self.weight(1)
        return y.reshape(self.top_shapes(x.shape)[0])

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

    def add_weights(self, shape: Shape) -> None:
        param = self.param.embed_param
        if param.num_output < 1 or param.input_dim < 1:
            raise InputError("num_output and input_dim must be at least 1")
        self.add_weight((param.input_dim, param.num_output), param.weight_filler)
        if param.bias_term:
            self.add_weight((param.num_output,), param.bias_filler)

    def top_shapes(self, shape: Shape) -> list[Shape]:
        return [(*shape, self.blobs[0].shape[1])]

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
