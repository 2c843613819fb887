"""Layers that join, part or drop blobs."""

import functools
import operator

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from port.layer import Layer, layer
from prototxt.caffe_pb2 import EltwiseParameter
from prototxt.layers.combining import joining_axis, slice_sizes
from prototxt.layers.declare import legacy_shape


@layer("Eltwise")
class Eltwise(Layer):
    """The bottoms' sum (each times its `coeff`), product or maximum."""

    def forward(self, *bottoms: Tensor) -> Tensor:
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
        overwritten = self.plan.in_place and self.plan.propagate_down[0] and not self.exact
        if param.stable_prod_grad and not overwritten:
            return functools.reduce(operator.mul, bottoms)
        return _Product.apply(param.stable_prod_grad, overwritten, *bottoms)


class _Product(torch.autograd.Function):
    """A product whose gradient is Caffe's and not the mathematical one.

    `stable_prod_grad: false` divides the product by each factor, whatever that gives for a 0. In place
    (`overwritten`) the first bottom's gradient is written over the top's, which is then read for all bottoms.
    """

    @staticmethod
    def forward(ctx, stable: bool, overwritten: bool, *bottoms: Tensor) -> Tensor:
        top = functools.reduce(operator.mul, bottoms)
        ctx.stable, ctx.overwritten = stable, overwritten
        ctx.save_for_backward(top, *bottoms)
        return top

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor) -> tuple[Tensor | None, ...]:
        top, *bottoms = ctx.saved_tensors
        grads = []
        for i, x in enumerate(bottoms):
            others = [other for j, other in enumerate(bottoms) if j != i]
            slope = functools.reduce(operator.mul, others) if ctx.stable else top / x
            if ctx.overwritten and i == 0:
                grad = slope
            grads.append(slope * grad)
            if ctx.overwritten and i == 0:
                grad = grads[0]
        return None, None, *grads


@layer("Axpy")
class Axpy(Layer):
    """a · x + y, with one factor a for each channel of each image."""

    def forward(self, a: Tensor, x: Tensor, y: Tensor) -> Tensor:
        return a.reshape(*x.shape[:2], *(1,) * (x.ndim - 2)) * x + y


@layer("ChannelScale")
class ChannelScale(Layer):
    """x times one factor for each place; forward, and the gradient of either bottom, can be left out."""

    def forward(self, x: Tensor, scale: Tensor) -> Tensor:
        param = self.param.channel_scale_param
        shape = legacy_shape(tuple(x.shape))
        factor = scale.reshape(shape[0], 1, *shape[2:])
        ways = param.do_forward, param.do_backward_feature, param.do_backward_scale
        return _Scaled.apply(x.reshape(shape), factor, *ways).reshape(x.shape)


class _Scaled(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor, factor: Tensor, forth: bool, to_x: bool, to_factor: bool) -> Tensor:
        ctx.save_for_backward(x, factor)
        ctx.back = to_x, to_factor
        return x * factor if forth else x.clone()

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor) -> tuple[Tensor | None, ...]:
        (x, factor), (to_x, to_factor) = ctx.saved_tensors, ctx.back
        d_factor = (grad * x).sum(1, keepdim=True) if to_factor else torch.zeros_like(factor)
        return grad * factor if to_x else grad, d_factor, None, None, None


@layer("Concat")
class Concat(Layer):
    """The bottoms, one behind the other along `axis`."""

    def forward(self, *bottoms: Tensor) -> Tensor:
        return torch.cat(bottoms, joining_axis(self.param.concat_param, "concat_dim", bottoms[0].ndim))


@layer("Slice")
class Slice(Layer):
    """The parts of the bottom along `axis`: cut at each `slice_point`, or into equal ones."""

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        axis = joining_axis(self.param.slice_param, "slice_dim", x.ndim)
        return torch.split(x, slice_sizes(self.param.slice_param, x.shape[axis], len(self.plan.tops)), axis)


@layer("Split")
class Split(Layer):
    """The bottom, once for each reader."""

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        return (x,) * len(self.plan.tops)


@layer("Gather")
class Gather(Layer):
    """Each bottom, as it is: TSN's layer joins the batches of several processes, and here runs one."""

    def forward(self, *bottoms: Tensor) -> tuple[Tensor, ...]:
        return bottoms


@layer("Silence")
class Silence(Layer):
    """Nothing: it keeps blobs from being outputs."""

    def forward(self, *bottoms: Tensor) -> tuple[()]:
        return ()
