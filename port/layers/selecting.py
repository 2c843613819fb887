"""Layers that pick images out of a batch."""

import math

import torch
from torch import Tensor

from port.gradient import refuse_gradient
from port.layer import Layer, Shape, layer
from prototxt.errors import InputError
from prototxt.layers.windows import canonical_axis


@layer("BatchReindex")
class BatchReindex(Layer):
    """The images that the second bottom numbers, in its order, with repetitions. It gets no gradient."""

    def top_shapes(self, shape: Shape, index: Shape) -> list[Shape]:
        if len(index) != 1:
            raise InputError(f"the index must have 1 axis, not {tuple(index)}")
        return [(*index, *shape[1:])]

    def forward(self, x: Tensor, index: Tensor) -> Tensor:
        self.top_shapes(tuple(x.shape), tuple(index.shape))
        if index.numel() and not 0 <= index.min() <= index.max() < len(x):
            raise InputError(f"the index holds values outside of 0 to {len(x) - 1}, the images of the batch")
        top = x.index_select(0, index.detach().long())
        return refuse_gradient(self, top, index, 1, "index")


@layer("Filter")
class Filter(Layer):
    """The images of all bottoms but the last for which the last, the selector, is not 0.

    How many that are is known only in a forward pass; until then the tops are as large as the bottoms. The
    selector gets no gradient.
    """

    def set_up(self, *shapes: Shape) -> None:
        if len(self.plan.tops) != len(shapes) - 1:
            raise InputError(
                f"the last bottom selects, the others make a top each: {len(shapes)} bottoms, "
                f"{len(self.plan.tops)} tops"
            )

    def top_shapes(self, *shapes: Shape) -> list[Shape]:
        *filtered, selector = shapes
        if any(size != 1 for size in selector[1:]):
            raise InputError(f"the selector must hold one value for each image, not {tuple(selector)}")
        if any(shape[:1] != selector[:1] for shape in filtered):
            raise InputError(f"all bottoms must have the selector's {selector[0]} images")
        return filtered

    def forward(self, *bottoms: Tensor) -> tuple[Tensor, ...]:
        self.top_shapes(*(tuple(b.shape) for b in bottoms))
        *filtered, selector = bottoms
        chosen = torch.nonzero(selector.detach().flatten()).flatten()
        last = len(filtered)
        return tuple(
            refuse_gradient(self, x.index_select(0, chosen), selector, last, "selector") for x in filtered
        )


@layer("ArgMax")
class ArgMax(Layer):
    """Places of the `top_k` largest values, as floating point; of equal ones, the later comes first.

    Along `axis`, with `out_max_val` the values instead. Or over all of an image: (num, 1, top_k), with
    `out_max_val` (num, 2, top_k), places and values. Caffe has no gradient for it.
    """

    def set_up(self, shape: Shape) -> None:
        self._ranked(shape)

    def top_shapes(self, shape: Shape) -> list[Shape]:
        param, axis = self.param.argmax_param, self._ranked(shape)
        if axis is not None:
            return [(*shape[:axis], param.top_k, *shape[axis + 1 :])]
        return [(shape[0], 1 + param.out_max_val, param.top_k, *(1,) * (len(shape) - 3))]

    def forward(self, x: Tensor) -> Tensor:
        param, axis = self.param.argmax_param, self._ranked(tuple(x.shape))
        x = x.detach()
        if axis is None:
            values, places = _largest(x.reshape(len(x), -1), param.top_k, 1)
            top = torch.stack([places, values], 1) if param.out_max_val else places
            return top.reshape(self.top_shapes(tuple(x.shape))[0])
        values, places = _largest(x, param.top_k, axis)
        return values if param.out_max_val else places

    def _ranked(self, shape: Shape) -> int | None:
        """The axis to rank along, or None for all but the first."""
        param = self.param.argmax_param
        axis = canonical_axis(param.axis, len(shape)) if param.HasField("axis") else None
        if not shape:
            raise InputError("ArgMax needs a bottom with axes, not a single number")
        candidates = math.prod(shape[1:]) if axis is None else shape[axis]
        if not 1 <= param.top_k <= candidates:
            raise InputError(
                f"argmax_param: top_k {param.top_k} is not from 1 to the {candidates} values to rank"
            )
        return axis


def _largest(x: Tensor, count: int, axis: int) -> tuple[Tensor, Tensor]:
    """The `count` largest values along an axis, and their places as floating point."""
    backwards = x.flip(axis)  # PyTorch prefers the first of equal values, Caffe the last
    if count == 1:
        values, places = backwards.max(axis, keepdim=True)
    else:
        values, places = backwards.sort(dim=axis, descending=True, stable=True)
        values, places = values.narrow(axis, 0, count), places.narrow(axis, 0, count)
    return values, (x.shape[axis] - 1 - places).to(x.dtype)
