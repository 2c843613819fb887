"""Layers that make a map larger: by a pooling's places, or by repeating."""

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from port.gradient import with_slope
from port.layer import Layer, layer
from prototxt.caffe_pb2 import UnpoolingParameter
from prototxt.errors import InputError
from prototxt.forks import meaning
from prototxt.layers.upsampling import unpooling_window
from prototxt.layers.windows import Window


@layer("Upsample")
class Upsample(Layer):
    """SegNet's: the values at the places that a pooling took its own from; with one bottom, nearest neighbour."""

    def forward(self, x: Tensor, places: Tensor | None = None) -> Tensor:
        if meaning(self.param) != "SegNet":
            scale = self.param.upsample_param.scale or 1
            return x.repeat_interleave(scale, 2).repeat_interleave(scale, 3)
        (shape,) = self.plan.top_shapes(tuple(x.shape), tuple(places.shape))
        return put_at(x, places, shape)


def put_at(x: Tensor, places: Tensor, shape: tuple[int, ...]) -> Tensor:
    """A blob of `shape`, zeros but for x's values, each at its place within its plane (rows after rows).

    Where values share a place, the last one is put there, and all get that place's gradient.

    Raises:
        InputError: a place outside of the plane.
    """
    count = shape[2] * shape[3]
    index = places.detach().flatten(2).long()
    if index.device.type != "meta":
        wrong = (index < 0) | (index >= count)
        if wrong.any():
            raise InputError(
                f"place {index[wrong][0].item()} is outside of a map of {count} values: give the size of the map that "
                "was pooled"
            )
    return _Put.apply(x.flatten(2), index, count).reshape(shape)


@layer("Unpooling")
class Unpooling(Layer):
    """DeconvNet's. MAX: each value at its place, or at its window's start; AVE, TILE: over its window, summed.

    TILE's gradient is a mean over the window, as published. Every pass begins with zeros, as in the GPU code.
    """

    def forward(self, x: Tensor, places: Tensor | None = None) -> Tensor:
        bottoms = (x,) if places is None else (x, places)
        (shape,) = self.plan.top_shapes(*(tuple(bottom.shape) for bottom in bottoms))
        param = self.param.unpooling_param
        window = unpooling_window(param)
        if param.unpool == UnpoolingParameter.MAX:
            if places is None:
                rows, columns = (
                    (torch.arange(n, device=x.device) * step).clamp(max=size - 1)
                    for n, step, size in zip(x.shape[2:], window.stride, shape[2:], strict=True)
                )
                places = (rows[:, None] * shape[3] + columns).expand(x.shape)
            return put_at(x, places, shape)
        rows, columns = (_spans(window, axis, x.shape[2 + axis], shape[2 + axis], x) for axis in (0, 1))
        sizes = rows.sum(0)[:, None] * columns.sum(0)
        if param.unpool == UnpoolingParameter.TILE:
            value = x.detach()
            x = with_slope(x, value * sizes, lambda: 1.0)
        return rows @ (x / sizes) @ columns.T


def _spans(window: Window, axis: int, count: int, size: int, like: Tensor) -> Tensor:
    """(positions, windows), 1 where a position lies in a window"""
    start = torch.arange(count, device=like.device) * window.stride[axis]
    position = torch.arange(size, device=like.device)[:, None]
    return ((position >= start) & (position < start + window.kernel[axis])).to(like.dtype)


class _Put(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor, index: Tensor, count: int) -> Tensor:
        ctx.save_for_backward(index)
        order = torch.arange(x.shape[2], device=x.device).expand_as(index)
        last = index.new_full((*index.shape[:2], count), -1).scatter_reduce_(2, index, order, "amax")
        return x.gather(2, last.clamp(min=0)).where(last >= 0, 0)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor) -> tuple[Tensor, None, None]:
        (index,) = ctx.saved_tensors
        return grad.gather(2, index), None, None
