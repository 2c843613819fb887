"""Layers that pick images out of a batch."""

import torch
from torch import Tensor

from port.layer import Layer, Shape, layer
from port.layers.gradient import refuse_gradient
from prototxt.errors import InputError


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
