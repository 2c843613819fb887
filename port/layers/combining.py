"""Several blobs, value by value."""

import functools
import operator
from itertools import pairwise

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from port.layer import Layer, Shape, layer
from port.layers.checks import refuse_in_place
from prototxt.caffe_pb2 import ConcatParameter, EltwiseParameter, SliceParameter
from prototxt.errors import InputError
from prototxt.layers.windows import canonical_axis


@layer("Eltwise")
class Eltwise(Layer):
    """The bottoms' sum (each times its `coeff`), product or maximum."""

    def set_up(self, *shapes: Shape) -> None:
        refuse_in_place(self)  # Caffe clears the top, and so a bottom, before it adds
        param = self.param.eltwise_param
        if len(param.coeff) not in (0, len(shapes)):
            raise InputError(f"eltwise_param: {len(param.coeff)} coeff for {len(shapes)} bottoms: one each")
        if param.coeff and param.operation == EltwiseParameter.PROD:
            raise InputError("eltwise_param: coeff goes with SUM, not with PROD")

    def top_shapes(self, *shapes: Shape) -> list[Shape]:
        if len(set(shapes)) > 1:
            raise InputError(f"all bottoms must have one shape, not {', '.join(map(str, shapes))}")
        return [shapes[0]]

    def forward(self, *bottoms: Tensor) -> Tensor:
        self.top_shapes(*(tuple(b.shape) for b in bottoms))
        param = self.param.eltwise_param
        if param.operation == EltwiseParameter.MAX:
            # Of equal values the second bottom's gets the gradient, else the earliest's.
            first, second, *others = bottoms
            top = torch.where(first > second, first, second)
            return functools.reduce(lambda top, x: torch.where(x > top, x, top), others, top)
        if param.operation == EltwiseParameter.SUM:
            coeffs = param.coeff or [1.0] * len(bottoms)
            first, *others = (x if c == 1 else c * x for x, c in zip(bottoms, coeffs, strict=True))
            return functools.reduce(operator.add, others, first)
        if param.stable_prod_grad:
            return functools.reduce(operator.mul, bottoms)
        return _UnstableProduct.apply(*bottoms)


class _UnstableProduct(torch.autograd.Function):
    """`stable_prod_grad: false`: Caffe divides the product by each factor, whatever that gives for a 0."""

    @staticmethod
    def forward(ctx, *bottoms: Tensor) -> Tensor:
        top = functools.reduce(operator.mul, bottoms)
        ctx.save_for_backward(top, *bottoms)
        return top

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor) -> tuple[Tensor, ...]:
        top, *bottoms = ctx.saved_tensors
        return tuple(top / x * grad for x in bottoms)


@layer("Concat")
class Concat(Layer):
    """The bottoms, one behind the other along `axis`."""

    def forward(self, *bottoms: Tensor) -> Tensor:
        first = bottoms[0]
        axis = _joining_axis(self.param.concat_param, "concat_dim", first.ndim)
        for bottom in bottoms:
            if _without(bottom.shape, axis) != _without(first.shape, axis) or bottom.ndim != first.ndim:
                shapes = ", ".join(str(tuple(b.shape)) for b in bottoms)
                raise InputError(f"the bottoms may differ along axis {axis} only: {shapes}")
        return torch.cat(bottoms, axis)


@layer("Slice")
class Slice(Layer):
    """The parts of the bottom along `axis`: cut at each `slice_point`, or into equal ones."""

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        param, tops = self.param.slice_param, len(self.plan.tops)
        axis = _joining_axis(param, "slice_dim", x.ndim)
        size = x.shape[axis]
        if param.slice_point:
            cuts = [0, *param.slice_point, size]
            sizes = [after - before for before, after in pairwise(cuts)]
            if len(sizes) != tops or min(sizes) < 1:
                raise InputError(
                    f"slice_point {list(param.slice_point)} does not cut axis {axis} ({size}) into {tops}: "
                    "give one point less than tops, rising"
                )
            return torch.split(x, sizes, axis)
        if size % tops:
            raise InputError(f"{tops} tops do not divide the size {size} of axis {axis}: give slice_point")
        return torch.split(x, [size // tops] * tops, axis)


def _joining_axis(param: ConcatParameter | SliceParameter, older: str, axes: int) -> int:
    """`axis`, or its older name, which knows no negative numbers."""
    if not param.HasField(older):
        return canonical_axis(param.axis, axes)
    if param.HasField("axis"):
        raise InputError(f"give axis or {older}, not both")
    if getattr(param, older) >= axes:
        raise InputError(f"{older} {getattr(param, older)} is out of range for a blob of {axes} axes")
    return getattr(param, older)


def _without(shape: torch.Size, axis: int) -> Shape:
    return (*shape[:axis], *shape[axis + 1 :])


@layer("Split")
class Split(Layer):
    """The bottom, once for each reader."""

    def set_up(self, shape: Shape) -> None:
        refuse_in_place(self)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        return (x,) * len(self.plan.tops)


@layer("Silence")
class Silence(Layer):
    """Nothing: it keeps blobs from being outputs."""

    def forward(self, *bottoms: Tensor) -> tuple[()]:
        return ()
