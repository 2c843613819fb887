"""Layers that join, part or drop blobs: Concat, Slice, Split, Eltwise, Silence."""

from functools import reduce

import numpy as np

from prototxt.caffe_pb2 import EltwiseParameter
from prototxt.layers.combining import joining_axis, slice_sizes
from prototxt.layers.declare import legacy_shape
from reference.layer import Arrays, Gradients, Layer, layer


@layer("Concat")
class Concat(Layer):
    """The bottoms, one after another along `axis`."""

    def run(self, *bottoms: np.ndarray) -> np.ndarray | None:
        return np.concatenate(bottoms, axis=self._axis(bottoms[0])) if len(bottoms) > 1 else None

    def grad(self, bottoms: Arrays, tops: Arrays, top_diffs: Arrays) -> Arrays | None:
        if len(bottoms) == 1:
            return None
        axis = self._axis(bottoms[0])
        ends = np.cumsum([b.shape[axis] for b in bottoms])
        return np.split(top_diffs[0], ends[:-1], axis=axis)

    def _axis(self, bottom: np.ndarray) -> int:
        return joining_axis(self.param.concat_param, "concat_dim", bottom.ndim)


@layer("Slice")
class Slice(Layer):
    """Consecutive parts along `axis`, parted at the `slice_point`s, or equal."""

    def run(self, x: np.ndarray) -> Arrays | None:
        if len(self.plan.tops) == 1:
            return None
        axis = self._axis(x)
        sizes = slice_sizes(self.param.slice_param, x.shape[axis], len(self.plan.tops))
        return np.split(x, np.cumsum(sizes)[:-1], axis=axis)

    def grad(self, bottoms: Arrays, tops: Arrays, top_diffs: Arrays) -> np.ndarray | None:
        return np.concatenate(top_diffs, axis=self._axis(bottoms[0])) if len(tops) > 1 else None

    def _axis(self, bottom: np.ndarray) -> int:
        return joining_axis(self.param.slice_param, "slice_dim", bottom.ndim)


@layer("Split")
class Split(Layer):
    """The bottom, several times; in the same memory, as in Caffe. Gradients are added in the tops' order."""

    def run(self, x: np.ndarray) -> None:
        return None

    def grad(self, bottoms: Arrays, tops: Arrays, top_diffs: Arrays) -> np.ndarray:
        return reduce(np.add, top_diffs)


@layer("Gather")
class Gather(Layer):
    """Each bottom, as it is: there is one process."""

    def run(self, *bottoms: np.ndarray) -> list[np.ndarray]:
        return [bottom.copy() for bottom in bottoms]

    def grad(self, bottoms: Arrays, tops: Arrays, top_diffs: Arrays) -> list[np.ndarray]:
        return [diff.copy() for diff in top_diffs]


@layer("Eltwise")
class Eltwise(Layer):
    """Sum (with `coeff`s), product or maximum of the bottoms.

    Of two equal values in bottoms 0 and 1 the maximum is bottom 1's; a later bottom must be above it.
    """

    def set_up(self) -> None:
        given = self.param.eltwise_param.coeff or [1] * len(self.plan.bottoms)
        self.coeffs = [self.dtype.type(coeff) for coeff in given]

    def run(self, *bottoms: np.ndarray) -> np.ndarray:
        operation = self.param.eltwise_param.operation
        if operation == EltwiseParameter.PROD:
            return reduce(np.multiply, bottoms)
        if operation == EltwiseParameter.SUM:
            return reduce(np.add, (c * b for c, b in zip(self.coeffs, bottoms, strict=True)))
        self.winner = np.where(bottoms[0] > bottoms[1], 0, 1)
        top = np.where(self.winner == 0, bottoms[0], bottoms[1])
        for i, bottom in enumerate(bottoms[2:], 2):
            above = bottom > top
            top, self.winner = np.where(above, bottom, top), np.where(above, i, self.winner)
        return top

    def grad(self, bottoms: Arrays, tops: Arrays, top_diffs: Arrays) -> Gradients:
        (y,), (dy,) = tops, top_diffs
        param = self.param.eltwise_param
        if param.operation == EltwiseParameter.SUM:
            return [c * dy for c in self.coeffs]
        if param.operation == EltwiseParameter.MAX:
            return [np.where(self.winner == i, dy, self.dtype.type(0)) for i in range(len(bottoms))]
        diffs: list[np.ndarray | None] = []
        for i, bottom in enumerate(bottoms):
            if not self.propagate_down[i]:
                diffs.append(None)
                continue
            if param.stable_prod_grad:
                slope = reduce(np.multiply, [b for j, b in enumerate(bottoms) if j != i])
            else:
                with np.errstate(divide="ignore", invalid="ignore"):  # NaN where a bottom is 0, as in Caffe
                    slope = y / bottom
            if self.plan.in_place and i == 0:
                dy = slope  # Caffe writes the slope over the top's gradient, then multiplies it by itself
            diff = slope * dy
            diffs.append(diff)
            if self.plan.in_place and i == 0:
                dy = diff
        return diffs


@layer("Axpy")
class Axpy(Layer):
    """a · x + y, with one factor a for each channel of each image."""

    def run(self, a: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        return self._spread(a, x) * x + y

    def grad(self, bottoms: Arrays, tops: Arrays, top_diffs: Arrays) -> list[np.ndarray]:
        (a, x, _), (dy,) = bottoms, top_diffs
        da = (x * dy).reshape(*x.shape[:2], -1).sum(axis=2)
        return [da.reshape(a.shape), self._spread(a, x) * dy, dy]

    def _spread(self, a: np.ndarray, x: np.ndarray) -> np.ndarray:
        return a.reshape(*x.shape[:2], *(1,) * (x.ndim - 2))


@layer("ChannelScale")
class ChannelScale(Layer):
    """x times bottom 1, which has one factor for each place; each of the three passes can be left out."""

    def run(self, x: np.ndarray, scale: np.ndarray) -> np.ndarray:
        return x * self._spread(scale, x) if self.param.channel_scale_param.do_forward else x

    def grad(self, bottoms: Arrays, tops: Arrays, top_diffs: Arrays) -> list[np.ndarray]:
        (x, scale), (dy,), param = bottoms, top_diffs, self.param.channel_scale_param
        dx = dy * self._spread(scale, x) if param.do_backward_feature else dy
        ds = (
            (x * dy).reshape(legacy_shape(x.shape)).sum(axis=1).reshape(scale.shape)
            if param.do_backward_scale
            else np.zeros_like(scale)
        )
        return [dx, ds]

    def _spread(self, scale: np.ndarray, x: np.ndarray) -> np.ndarray:
        num, _, height, width = legacy_shape(x.shape)
        return np.broadcast_to(scale.reshape(num, 1, height, width), legacy_shape(x.shape)).reshape(x.shape)


@layer("Silence")
class Silence(Layer):
    """Reads blobs so that they are not outputs of the net; their gradients are 0."""

    def run(self, *bottoms: np.ndarray) -> None:
        return None

    def grad(self, bottoms: Arrays, tops: Arrays, top_diffs: Arrays) -> Arrays:
        return [np.zeros_like(b) for b in bottoms]
