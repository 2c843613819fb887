"""Layers that join, part or drop blobs: Concat, Slice, Split, Eltwise, Silence."""

from functools import reduce
from itertools import pairwise

import numpy as np

from prototxt.caffe_pb2 import EltwiseParameter
from prototxt.errors import InputError
from prototxt.layers.windows import canonical_axis
from reference.layer import Arrays, Layer, Shape, layer
from reference.layers.checks import refuse_in_place
from runtime.blob import Blob


@layer("Concat")
class Concat(Layer):
    """The bottoms, one after another along `axis`."""

    def add_weights(self, *shapes: Shape) -> None:
        param = self.param.concat_param
        if param.HasField("axis") and param.HasField("concat_dim"):
            raise InputError("axis and concat_dim are the same setting: give one")

    def top_shapes(self, *shapes: Shape) -> list[Shape]:
        param = self.param.concat_param
        axis = param.concat_dim if param.HasField("concat_dim") else param.axis
        self.axis = canonical_axis(axis, len(shapes[0]))
        others = {(len(s), s[: self.axis], s[self.axis + 1 :]) for s in shapes}
        if len(others) > 1:
            given = ", ".join(map(str, shapes))
            raise InputError(f"the bottoms {given} must be equal but for axis {self.axis}")
        joined = sum(s[self.axis] for s in shapes)
        return [(*shapes[0][: self.axis], joined, *shapes[0][self.axis + 1 :])]

    def reshape(self, bottom: list[Blob], top: list[Blob]) -> None:
        super().reshape(bottom, top)
        _share_if_single(bottom, top)

    def run(self, *bottoms: np.ndarray) -> np.ndarray | None:
        return np.concatenate(bottoms, axis=self.axis) if len(bottoms) > 1 else None

    def grad(self, bottoms: Arrays, tops: Arrays, top_diffs: Arrays) -> Arrays | None:
        if len(bottoms) == 1:
            return None
        ends = np.cumsum([b.shape[self.axis] for b in bottoms])
        return np.split(top_diffs[0], ends[:-1], axis=self.axis)


@layer("Slice")
class Slice(Layer):
    """Consecutive parts along `axis`, parted at the `slice_point`s, or equal."""

    def add_weights(self, shape: Shape) -> None:
        param = self.param.slice_param
        if param.HasField("axis") and param.HasField("slice_dim"):
            raise InputError("axis and slice_dim are the same setting: give one")

    def top_shapes(self, shape: Shape) -> list[Shape]:
        param, count = self.param.slice_param, len(self.plan.tops)
        axis = param.slice_dim if param.HasField("slice_dim") else param.axis
        self.axis = canonical_axis(axis, len(shape))
        size = shape[self.axis]
        self.points = list(param.slice_point)
        if self.points:
            bounds = [0, *self.points]
            if len(bounds) != count:
                raise InputError(f"{len(self.points)} slice_points for {count} tops: give {count - 1}")
            if any(b <= a for a, b in pairwise([*bounds, size])):
                raise InputError(f"slice_points {self.points} must rise, above 0 and below size {size}")
        elif size % count:
            raise InputError(f"{count} tops do not divide size {size}: give slice_points")
        else:
            self.points = [size // count * i for i in range(1, count)]
        sizes = np.diff([0, *self.points, size]).tolist()
        return [(*shape[: self.axis], n, *shape[self.axis + 1 :]) for n in sizes]

    def reshape(self, bottom: list[Blob], top: list[Blob]) -> None:
        super().reshape(bottom, top)
        _share_if_single(bottom, top)

    def run(self, x: np.ndarray) -> Arrays | None:
        return np.split(x, self.points, axis=self.axis) if self.points else None

    def grad(self, bottoms: Arrays, tops: Arrays, top_diffs: Arrays) -> np.ndarray | None:
        return np.concatenate(top_diffs, axis=self.axis) if len(tops) > 1 else None


def _share_if_single(bottom: list[Blob], top: list[Blob]) -> None:
    """One bottom and one top are one memory, as in Caffe."""
    if len(bottom) == len(top) == 1:
        top[0].share_data(bottom[0])
        top[0].share_diff(bottom[0])


@layer("Split")
class Split(Layer):
    """The bottom, several times; in the same memory, as in Caffe. Gradients are added in the tops' order."""

    def add_weights(self, shape: Shape) -> None:
        refuse_in_place(self)

    def reshape(self, bottom: list[Blob], top: list[Blob]) -> None:
        super().reshape(bottom, top)
        for blob in top:
            blob.share_data(bottom[0])

    def run(self, x: np.ndarray) -> None:
        return None

    def grad(self, bottoms: Arrays, tops: Arrays, top_diffs: Arrays) -> np.ndarray:
        return reduce(np.add, top_diffs)


@layer("Eltwise")
class Eltwise(Layer):
    """Sum (with `coeff`s), product or maximum of the bottoms.

    Of two equal values in bottoms 0 and 1 the maximum is bottom 1's; a later bottom must be above it.
    """

    def add_weights(self, *shapes: Shape) -> None:
        param = self.param.eltwise_param
        if len(param.coeff) not in (0, len(shapes)):
            raise InputError(f"{len(param.coeff)} coeffs for {len(shapes)} bottoms: give none or one each")
        if param.coeff and param.operation == EltwiseParameter.PROD:
            raise InputError("coeffs are for the operation SUM")
        refuse_in_place(self)  # Caffe clears the top, and so a bottom, before it adds
        self.coeffs = [self.dtype.type(c) for c in param.coeff] or [self.dtype.type(1)] * len(shapes)

    def top_shapes(self, *shapes: Shape) -> list[Shape]:
        if any(shape != shapes[0] for shape in shapes):
            raise InputError(f"the bottoms must have one shape, not {', '.join(map(str, shapes))}")
        return [shapes[0]]

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

    def grad(self, bottoms: Arrays, tops: Arrays, top_diffs: Arrays) -> Arrays:
        (y,), (dy,) = tops, top_diffs
        param = self.param.eltwise_param
        if param.operation == EltwiseParameter.SUM:
            return [c * dy for c in self.coeffs]
        if param.operation == EltwiseParameter.MAX:
            return [np.where(self.winner == i, dy, self.dtype.type(0)) for i in range(len(bottoms))]
        if not param.stable_prod_grad:
            with np.errstate(divide="ignore", invalid="ignore"):  # NaN where a bottom is 0, as in Caffe
                return [y / bottom * dy for bottom in bottoms]
        others = [[b for j, b in enumerate(bottoms) if j != i] for i in range(len(bottoms))]
        return [reduce(np.multiply, factors) * dy for factors in others]


@layer("Silence")
class Silence(Layer):
    """Reads blobs so that they are not outputs of the net; their gradients are 0."""

    def run(self, *bottoms: np.ndarray) -> None:
        return None

    def grad(self, bottoms: Arrays, tops: Arrays, top_diffs: Arrays) -> Arrays:
        return [np.zeros_like(b) for b in bottoms]
