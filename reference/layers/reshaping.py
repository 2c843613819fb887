"""Layers that only move values, or sum them away: Flatten, Reshape, Tile, Crop, Reduction."""

import math

import numpy as np

from prototxt.caffe_pb2 import ReductionParameter
from prototxt.errors import InputError
from prototxt.layers.windows import canonical_axis
from reference.layer import Arrays, Layer, Shape, layer
from reference.layers.checks import refuse_in_place
from runtime.blob import Blob


class _SharedMemory(Layer):
    """The bottom's memory in another shape, as in Caffe: what works in place on the top changes both."""

    def add_weights(self, shape: Shape) -> None:
        refuse_in_place(self)

    def reshape(self, bottom: list[Blob], top: list[Blob]) -> None:
        super().reshape(bottom, top)
        top[0].share_data(bottom[0])
        top[0].share_diff(bottom[0])

    def run(self, x: np.ndarray) -> None:
        return None

    def grad(self, bottoms: Arrays, tops: Arrays, top_diffs: Arrays) -> None:
        return None


@layer("Flatten")
class Flatten(_SharedMemory):
    """The axes `axis` … `end_axis` become one."""

    def top_shapes(self, shape: Shape) -> list[Shape]:
        param = self.param.flatten_param
        start, end = (canonical_axis(axis, len(shape)) for axis in (param.axis, param.end_axis))
        if end + 1 < start:
            raise InputError(f"end_axis {param.end_axis} is before axis {param.axis} of the bottom {shape}")
        return [(*shape[:start], math.prod(shape[start : end + 1]), *shape[end + 1 :])]


@layer("Reshape")
class Reshape(_SharedMemory):
    """`shape` instead of `num_axes` axes from `axis` on; 0 keeps a size, -1 (once) stands for the rest."""

    def top_shapes(self, shape: Shape) -> list[Shape]:
        param = self.param.reshape_param
        new = list(param.shape.dim)
        start = param.axis if param.axis >= 0 else len(shape) + param.axis + 1
        end = len(shape) if param.num_axes == -1 else start + param.num_axes
        if not 0 <= start <= end <= len(shape):
            raise InputError(f"axis {param.axis} and num_axes {param.num_axes} do not fit the bottom {shape}")
        for i, size in enumerate(new):
            if size == 0:
                if start + i >= len(shape):
                    raise InputError(f"shape has a 0 for axis {start + i}, which the bottom {shape} lacks")
                new[i] = shape[start + i]
        if new.count(-1) > 1:
            raise InputError(f"shape {list(param.shape.dim)} has more than one -1: give at most one")
        kept = math.prod(shape[:start]) * math.prod(shape[end:])
        if -1 in new:
            known = -math.prod(new) * kept
            new[new.index(-1)] = math.prod(shape) // known if known else 0
        top = (*shape[:start], *new, *shape[end:])
        if math.prod(top) != math.prod(shape) or min(top, default=0) < 0:
            raise InputError(f"shape {list(param.shape.dim)} does not fit the bottom {shape}: as many values")
        return [top]


@layer("Tile")
class Tile(Layer):
    """The bottom, `tiles` times along `axis`."""

    def top_shapes(self, shape: Shape) -> list[Shape]:
        param = self.param.tile_param
        self.axis = canonical_axis(param.axis, len(shape))
        if param.tiles < 1:
            raise InputError("tiles is missing or below 1")
        return [(*shape[: self.axis], shape[self.axis] * param.tiles, *shape[self.axis + 1 :])]

    def run(self, x: np.ndarray) -> np.ndarray:
        return np.concatenate([x] * self.param.tile_param.tiles, axis=self.axis)

    def grad(self, bottoms: Arrays, tops: Arrays, top_diffs: Arrays) -> np.ndarray:
        return sum(np.split(top_diffs[0], self.param.tile_param.tiles, axis=self.axis))


@layer("Crop")
class Crop(Layer):
    """Bottom 0 cut to bottom 1's sizes from `axis` on, beginning at `offset` (one, or one for each axis)."""

    def top_shapes(self, shape: Shape, like: Shape) -> list[Shape]:
        param = self.param.crop_param
        axis = canonical_axis(param.axis, len(shape))
        cropped = len(shape) - axis
        offsets = list(param.offset) or [0]
        if len(offsets) not in (1, cropped):
            raise InputError(f"{len(offsets)} offsets for the {cropped} cropped axes: give 1 or one each")
        if len(like) < len(shape):
            raise InputError(f"bottom 1 {like} has fewer axes than bottom 0 {shape}")
        starts = [0] * axis + (offsets if len(offsets) > 1 else offsets * cropped)
        sizes = (*shape[:axis], *like[axis : len(shape)])
        if any(start + size > n for start, size, n in zip(starts, sizes, shape, strict=True)):
            raise InputError(f"a crop to {sizes} from {tuple(starts)} does not fit into the bottom {shape}")
        self.inside = tuple(slice(start, start + size) for start, size in zip(starts, sizes, strict=True))
        return [sizes]

    def run(self, x: np.ndarray, like: np.ndarray) -> np.ndarray:
        return x[self.inside]

    def grad(self, bottoms: Arrays, tops: Arrays, top_diffs: Arrays) -> list[np.ndarray | None]:
        dx = np.zeros_like(bottoms[0])
        dx[self.inside] = top_diffs[0]
        return [dx, None]


@layer("Reduction")
class Reduction(Layer):
    """All axes from `axis` on become their sum, mean, sum of magnitudes or sum of squares, times `coeff`."""

    def top_shapes(self, shape: Shape) -> list[Shape]:
        param = self.param.reduction_param
        axis = canonical_axis(param.axis, len(shape))
        self.coeff = self.dtype.type(param.coeff)
        if param.operation == ReductionParameter.MEAN:
            self.coeff /= self.dtype.type(math.prod(shape[axis:]))
        return [shape[:axis]]

    def run(self, x: np.ndarray) -> np.ndarray:
        operation = self.param.reduction_param.operation
        rows = x.reshape(*self.top_shapes(x.shape)[0], -1)
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
