"""Gradients of Caffe's own, where they are not the mathematical ones."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from port.layer import Layer, being_exported
from prototxt.errors import InputError


def with_slope(
    x: Tensor,
    value: Tensor,
    slope: Callable[..., Tensor | float],
    *reads: Tensor,
    overwritten: bool = False,
) -> Tensor:
    """`value`, with `slope(*reads)` as its elementwise derivative by `x`.

    Args:
        x: what the gradient goes to, shaped like `value`.
        value: computed from `x.detach()`.
        slope: called in the backward pass.
        reads: the tensors that it is computed from, without graphs. Where Caffe's backward reads the bottom
            or the top, which something may have overwritten by then, it is `x`'s or `value`'s memory.
        overwritten: in place, some of Caffe's layers write the slope over the gradient that they were to
            multiply it with: what they pass on is the slope's square.
    """
    if not (torch.is_grad_enabled() and not being_exported() and x.requires_grad):
        return value
    return _WithSlope.apply(x, value, slope, overwritten, *reads)


class _WithSlope(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor, value: Tensor, slope: Callable, overwritten: bool, *reads: Tensor) -> Tensor:
        ctx.save_for_backward(*reads)
        ctx.slope, ctx.overwritten, ctx.reads = slope, overwritten, len(reads)
        return value.view_as(value)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor) -> tuple[Tensor | None, ...]:
        slope = torch.as_tensor(ctx.slope(*ctx.saved_tensors), dtype=grad.dtype, device=grad.device)
        if ctx.overwritten:
            grad = slope.expand_as(grad)
        return grad * slope, *(None,) * (3 + ctx.reads)


def reread(function: Callable[..., Tensor], *reads: Tensor) -> Tensor:
    """`function(*reads)`, differentiated in the backward pass at what `reads` hold by then.

    For arithmetic of which autograd would save copies, which nothing overwrites.
    """
    if not (torch.is_grad_enabled() and not being_exported() and any(read.requires_grad for read in reads)):
        return function(*reads)
    return _Reread.apply(function, *reads)


class _Reread(torch.autograd.Function):
    @staticmethod
    def forward(ctx, function: Callable[..., Tensor], *reads: Tensor) -> Tensor:
        ctx.save_for_backward(*reads)
        ctx.function = function
        return function(*reads)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor) -> tuple[Tensor | None, ...]:
        wanted = ctx.needs_input_grad[1:]
        reads = [read.detach().requires_grad_(w) for read, w in zip(ctx.saved_tensors, wanted, strict=True)]
        with torch.enable_grad():
            value = ctx.function(*reads)
        inputs = [read for read in reads if read.requires_grad]
        found = iter(torch.autograd.grad(value, inputs, grad, allow_unused=True))
        return None, *(next(found) if w else None for w in wanted)


def refuse_gradient(layer: Layer, top: Tensor, bottom: Tensor, index: int, what: str) -> Tensor:
    """`top`, through which no gradient may go back as long as the bottom (labels, an index) wants one.

    Raises:
        InputError: in the backward pass, as Caffe gives up there.
    """
    if not (torch.is_grad_enabled() and not being_exported() and bottom.requires_grad):
        return top
    message = (
        f'layer "{layer.plan.name}": {layer.plan.type} gives no gradient to its {what}: '
        f"set propagate_down: false for bottom {index}"
    )
    return _Refused.apply(top, bottom, message)


def refuse_if_forced(layer: Layer, top: Tensor, *bottoms: Tensor) -> Tensor:
    """`top` of a layer that FlowNet2 asks for no gradient; where `force_backward` asks all the same, it is refused."""
    if layer.plan.needs_backward:
        for i, bottom in enumerate(bottoms):
            top = refuse_gradient(layer, top, bottom, i, "input")
    return top


class _Refused(torch.autograd.Function):
    @staticmethod
    def forward(ctx, top: Tensor, bottom: Tensor, message: str) -> Tensor:
        ctx.message = message
        return top.view_as(top)

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor | None, ...]:
        raise InputError(ctx.message)


def without_gradient(top: Tensor, *bottoms: Tensor) -> Tensor:
    """`top`, of which the backward pass runs, as Caffe's does, and gives the bottoms nothing."""
    if not (
        torch.is_grad_enabled() and not being_exported() and any(bottom.requires_grad for bottom in bottoms)
    ):
        return top
    return _Nothing.apply(top, *bottoms)


class _Nothing(torch.autograd.Function):
    @staticmethod
    def forward(ctx, top: Tensor, *bottoms: Tensor) -> Tensor:
        ctx.bottoms = len(bottoms)
        return top.view_as(top)

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[None, ...]:
        return (None,) * (1 + ctx.bottoms)


def with_gradient(x: Tensor, value: Tensor, gradient: Callable[[], Tensor]) -> Tensor:
    """`value`, one number, with `gradient()`, shaped like `x`, as its derivative by `x`.

    Args:
        gradient: called in the backward pass.
    """
    if not (torch.is_grad_enabled() and not being_exported() and x.requires_grad):
        return value
    return _WithGradient.apply(x, value, gradient)


class _WithGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor, value: Tensor, gradient: Callable[[], Tensor]) -> Tensor:
        ctx.gradient = gradient
        return value.view_as(value)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor) -> tuple[Tensor | None, ...]:
        return grad * ctx.gradient(), None, None
