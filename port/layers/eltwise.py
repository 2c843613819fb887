"""Several blobs, value by value."""

import functools
import operator

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from port.layer import Layer, Shape, layer
from port.layers.checks import refuse_in_place
from prototxt.caffe_pb2 import EltwiseParameter
from prototxt.errors import InputError


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
