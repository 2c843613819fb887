"""Layers that only move values, or sum them away: Flatten, Reshape, Tile, Crop, Reduction."""

import math
from functools import reduce

import numpy as np

from prototxt.caffe_pb2 import ReductionParameter
from prototxt.layers.declare import Shape, legacy_shape
from prototxt.layers.reshaping import crop_starts, moves_nothing, permuted_axes
from prototxt.layers.windows import canonical_axis
from reference.layer import Arrays, Layer, flat_from, layer
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
        parts = np.split(top_diffs[0], self.param.tile_param.tiles, axis=self._axis(bottoms[0]))
        return reduce(np.add, parts)

    def _axis(self, bottom: np.ndarray) -> int:
        return canonical_axis(self.param.tile_param.axis, bottom.ndim)


@layer("Crop", "AutoCrop")
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
            count = self.dtype.type(math.prod(x.shape[axis:]))
            self.coeff = self.coeff / count if count else self.dtype.type(math.nan)  # Caffe: 0 times infinity
        rows = flat_from(x, axis)
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


@layer("ShuffleChannel")
class ShuffleChannel(Layer):
    """The channels dealt out in turn to `group` groups: channel j · group + i comes from i · (C / group) + j."""

    def run(self, x: np.ndarray) -> np.ndarray:
        return self._turned(x, self.param.shuffle_channel_param.group)

    def grad(self, bottoms: Arrays, tops: Arrays, top_diffs: Arrays) -> np.ndarray:
        (dy,) = top_diffs
        return self._turned(dy, dy.shape[1] // self.param.shuffle_channel_param.group)

    def _turned(self, x: np.ndarray, rows: int) -> np.ndarray:
        table = x.reshape(len(x), rows, x.shape[1] // max(rows, 1), *x.shape[2:])
        return table.swapaxes(1, 2).reshape(x.shape)


@layer("Reorg")
class Reorg(Layer):
    """Darknet's rearranging of blocks of stride × stride places into channels, or back (`reverse`).

    As Darknet has it, the positions are counted in a blob of other sizes than the bottom's: what comes where is
    no space-to-depth. Its published backward reads a buffer that nothing filled; the gradient here is the inverse.
    """

    def run(self, x: np.ndarray) -> np.ndarray:
        param = self.param.reorg_param
        (top,) = self.plan.top_shapes(x.shape)
        order = _reorg_order(x.shape, param.stride)
        self.source = np.argsort(order) if param.reverse else order
        return x.reshape(-1)[self.source].reshape(top)

    def grad(self, bottoms: Arrays, tops: Arrays, top_diffs: Arrays) -> np.ndarray:
        dx = np.zeros(bottoms[0].size, self.dtype)
        dx[self.source] = top_diffs[0].reshape(-1)
        return dx.reshape(bottoms[0].shape)


def _reorg_order(shape: Shape, stride: int) -> np.ndarray:
    """For each flat position of a blob of `shape`, its flat position among blocks of stride × stride."""
    _, channels, height, width = shape
    n, c, h, w = np.indices(shape)
    blocks = channels // stride**2
    block, offset = c % blocks, c // blocks
    row, column = h * stride + offset // stride, w * stride + offset % stride
    flat = ((n * blocks + block) * (height * stride) + row) * (width * stride) + column
    return flat.reshape(-1)


@layer("Padding")
class Padding(Layer):
    """Zeros around each map; with negative numbers, the map without its borders."""

    def run(self, x: np.ndarray) -> np.ndarray:
        (top,) = self.plan.top_shapes(x.shape)
        return self._moved(x.reshape(legacy_shape(x.shape)), top, self.param.padding_param.pad_beg)

    def grad(self, bottoms: Arrays, tops: Arrays, top_diffs: Arrays) -> np.ndarray:
        shape = bottoms[0].shape
        dx = self._moved(top_diffs[0], legacy_shape(shape), -self.param.padding_param.pad_beg)
        return dx.reshape(shape)

    def _moved(self, x: np.ndarray, shape: Shape, by: int) -> np.ndarray:
        y = np.zeros(shape, self.dtype)
        height, width = (min(a, b) for a, b in zip(x.shape[2:], shape[2:], strict=True))
        to, since = max(by, 0), max(-by, 0)
        y[:, :, to : to + height, to : to + width] = x[:, :, since : since + height, since : since + width]
        return y


@layer("Transpose")
class Transpose(Layer):
    """Top axis i is bottom axis `dim`[i]."""

    def run(self, x: np.ndarray) -> np.ndarray:
        return x.transpose(list(self.param.transpose_param.dim))

    def grad(self, bottoms: Arrays, tops: Arrays, top_diffs: Arrays) -> np.ndarray:
        return top_diffs[0].transpose(np.argsort(list(self.param.transpose_param.dim)))


@layer("Reverse", "Flip")
class Reverse(Layer):
    """Reverse: the other way around along `axis`. Flip: along the width, the height, or both."""

    def set_up(self) -> None:
        flip = self.param.flip_param
        chosen = [axis for axis, wanted in ((2, flip.flip_height), (3, flip.flip_width)) if wanted]
        self.axes = [self.param.reverse_param.axis] if self.type == "Reverse" else chosen

    def run(self, x: np.ndarray) -> np.ndarray:
        shape = x.shape if self.type == "Reverse" else legacy_shape(x.shape)
        return np.flip(x.reshape(shape), self.axes).reshape(x.shape)

    def grad(self, bottoms: Arrays, tops: Arrays, top_diffs: Arrays) -> np.ndarray:
        return self.run(top_diffs[0])


@layer("Permute")
class Permute(Layer):
    """The axes in another order. Where it is the same one, the top is the bottom's memory, as Flatten's is."""

    def run(self, x: np.ndarray) -> np.ndarray | None:
        if moves_nothing(self.param):
            return None
        return x.transpose(permuted_axes(self.param, x.ndim))

    def grad(self, bottoms: Arrays, tops: Arrays, top_diffs: Arrays) -> np.ndarray:
        return top_diffs[0].transpose(np.argsort(permuted_axes(self.param, bottoms[0].ndim)))

    def backward(self, top: list[Blob], propagate_down: list[bool], bottom: list[Blob]) -> None:
        if moves_nothing(self.param):
            bottom[0].share_diff(top[0])
        else:
            super().backward(top, propagate_down, bottom)
