"""Gradients of Caffe's own, where they are not the mathematical ones."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


def with_slope(x: Tensor, value: Tensor, slope: Callable[[], Tensor | float]) -> Tensor:
    """`value`, with `slope()` as its elementwise derivative by `x`.

    Args:
        x: what the gradient goes to, shaped like `value`.
        value: computed from `x.detach()`.
        slope: called only where a gradient is wanted.
    """
    if not (torch.is_grad_enabled() and x.requires_grad):
        return value
    with torch.no_grad():
        factor = slope()
    return _WithSlope.apply(x, value, torch.as_tensor(factor, dtype=value.dtype, device=value.device))


class _WithSlope(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor, value: Tensor, slope: Tensor) -> Tensor:
        ctx.save_for_backward(slope)
        return value.view_as(value)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor) -> tuple[Tensor, None, None]:
        (slope,) = ctx.saved_tensors
        return grad * slope, None, None
