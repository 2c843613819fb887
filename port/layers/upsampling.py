"""Layers that make a map larger: by a pooling's places, or by repeating."""

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from port.layer import Layer, layer
from prototxt.errors import InputError
from prototxt.forks import meaning


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
