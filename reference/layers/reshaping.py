"""Layers that only move values, or sum them away: Flatten, Reshape, Tile, Crop, Reduction."""

import math

import numpy as np

from prototxt.caffe_pb2 import ReductionParameter
from prototxt.layers.reshaping import crop_starts
from prototxt.layers.windows import canonical_axis
from reference.layer import Arrays, Layer, layer
from runtime.blob import Blob


@layer("Reshape")
class Reshape(Layer):
    """The bottom's memory in another shape, as in Caffe: what works in place on the top changes both."""

    def run(self, x: np.ndarray) -> None:
        return None

    def grad(self, bottoms: Arrays, tops: Arrays, top_diffs: Arrays) -> None:
        return None


@layer("Flatten")
class Flatten(Reshape):
    """As Reshape; but the diff is shared in the backward pass only, and from the top to the bottom."""

    def backward(self, top: list[Blob], propagate_down: list[bool], bottom: list[Blob]) -> None:
        bottom[0].share_diff(top[0])


@layer("Tile")
class Tile(Layer):
    """The bottom, `tiles` times along `axis`."""

    def run(self, x: np.ndarray) -> np.ndarray:
        return np.concatenate([x] * self.param.tile_param.tiles, axis=self._axis(x))

    def grad(self, bottoms: Arrays, tops: Arrays, top_diffs: Arrays) -> np.ndarray:
        return sum(np.split(top_diffs[0], self.param.tile_param.tiles, axis=self._axis(bottoms[0])))

    def _axis(self, bottom: np.ndarray) -> int:
        return canonical_axis(self.param.tile_param.axis, bottom.ndim)


@layer("Crop")
class Crop(Layer):
    """Bottom 0 cut to bottom 1's sizes from `axis` on, beginning at `offset` (one, or one for each axis)."""

    def run(self, x: np.ndarray, like: np.ndarray) -> np.ndarray:
        (top,) = self.plan.top_shapes(x.shape, like.shape)
        starts = crop_starts(self.param, x.shape, like.shape)
        self.inside = tuple(slice(start, start + size) for start, size in zip(starts, top, strict=True))
        return x[self.inside]

    def grad(self, bottoms: Arrays, tops: Arrays, top_diffs: Arrays) -> list[np.ndarray | None]:
        dx = np.zeros_like(bottoms[0])
        dx[self.inside] = top_diffs[0]
        return [dx, None]


@layer("Reduction")
class Reduction(Layer):
    """All axes from `axis` on become their sum, mean, sum of magnitudes or sum of squares, times `coeff`."""

    def run(self, x: np.ndarray) -> np.ndarray:
        param = self.param.reduction_param
        operation, axis = param.operation, canonical_axis(param.axis, x.ndim)
        self.coeff = self.dtype.type(param.coeff)
        if operation == ReductionParameter.MEAN:
            self.coeff /= self.dtype.type(math.prod(x.shape[axis:]))
        rows = x.reshape(*x.shape[:axis], -1)
        if operation == ReductionParameter.ASUM:
            rows = np.abs(rows)
        if operation == ReductionParameter.SUMSQ:
            rows = rows * rows
        return rows.sum(axis=-1) * self.coeff

    def grad(self, bottoms: Arrays, tops: Arrays, top_diffs: Arrays) -> np.ndarray:
        (x,), (dy,) = bottoms, top_diffs
        operation = self.param.reduction_param.operation
        dy = (dy * self.coeff).reshape(*dy.shape, *(1,) * (x.ndim - dy.ndim))
        if operation == ReductionParameter.ASUM:
            return dy * np.sign(x)
        if operation == ReductionParameter.SUMSQ:
            return 2 * dy * x
        return np.broadcast_to(dy, x.shape)
