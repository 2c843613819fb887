"""Layers that pick: the largest values, or items of a batch."""

import math

import torch
from torch import Tensor

from port.gradient import refuse_gradient
from port.labels import class_numbers
from port.layer import Layer, layer
from prototxt.errors import InputError
from prototxt.layers.declare import legacy_shape
from prototxt.layers.windows import canonical_axis


@layer("BatchReindex")
class BatchReindex(Layer):
    """The images that the second bottom numbers, in its order, with repetitions. It gets no gradient."""

    def forward(self, x: Tensor, index: Tensor) -> Tensor:
        top = x.index_select(0, class_numbers(index, len(x), what="index"))
        return refuse_gradient(self, top, index, 1, "index")


@layer("Filter")
class Filter(Layer):
    """The images of all bottoms but the last for which the last, the selector, is not 0.

    How many that are is known only in a forward pass; until then the tops are as large as the bottoms. The
    selector gets no gradient.
    """

    def forward(self, *bottoms: Tensor) -> tuple[Tensor, ...]:
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

    def forward(self, x: Tensor) -> Tensor:
        param = self.param.argmax_param
        axis = canonical_axis(param.axis, x.ndim) if param.HasField("axis") else None
        x = x.detach()
        if axis is None:
            values, places = _largest(x.reshape(len(x), math.prod(x.shape[1:])), param.top_k, 1)
            top = torch.stack([places, values], 1) if param.out_max_val else places
            return top.reshape(self.plan.top_shapes(tuple(x.shape))[0])
        values, places = _largest(x, param.top_k, axis)
        return values if param.out_max_val else places


def _largest(x: Tensor, count: int, axis: int) -> tuple[Tensor, Tensor]:
    """The `count` largest values along an axis, and their places as floating point."""
    backwards = x.flip(axis)  # PyTorch prefers the first of equal values, Caffe the last
    if count == 1:
        values, places = backwards.max(axis, keepdim=True)
    else:
        values, places = backwards.sort(dim=axis, descending=True, stable=True)
        values, places = values.narrow(axis, 0, count), places.narrow(axis, 0, count)
    return values, (x.shape[axis] - 1 - places).to(x.dtype)


@layer("LabelSpecificAdd")
class LabelSpecificAdd(Layer):
    """In TRAIN, adds the bias to the score of each item's label, where that is above -bias.

    With `bias_base` the bias depends on how many passes there were. `transform_test` does nothing, as published.
    """

    def set_up(self) -> None:
        self.bias = self.param.label_specific_add_param.bias
        self.passes = self.param.label_specific_add_param.iteration

    def forward(self, scores: Tensor, labels: Tensor) -> tuple[Tensor, ...]:
        param = self.param.label_specific_add_param
        top = scores
        if self.phase == 0:
            if param.HasField("bias_base"):
                bias = param.bias_base + (1 + param.bias_gamma * self.passes) ** param.bias_power - 1
                self.bias = min(max(bias, param.bias_min), param.bias_max)
                self.passes += 1
            rows = scores.detach().reshape(len(scores), math.prod(scores.shape[1:]))
            numbers = class_numbers(labels.flatten()[: len(rows)], rows.shape[1])[:, None]
            above = rows.gather(1, numbers) > -self.bias
            added = torch.zeros_like(rows).scatter_(1, numbers, self.bias * above.to(rows))
            top = scores + added.reshape(scores.shape)
        return (top, scores.new_full((1,), self.bias if self.phase == 0 else 0))[: len(self.plan.tops)]


@layer("RandBI")
class RandBI(Layer):
    """PixelNet's hypercolumns, (rows, all channels): what the maps have, bilinearly, at places [item, y, x].

    A place is for each map less `pad`'s half of its compression_rate, and over it. None may be behind the last row or
    column. The first map decides whether the maps get a gradient.
    """

    def forward(self, *bottoms: Tensor) -> Tensor:
        *maps, places = bottoms
        if not maps[0].requires_grad:
            maps = [x.detach() for x in maps]
        return torch.cat([self._sampled(k, x, places.detach()) for k, x in enumerate(maps)], 1)

    def _sampled(self, k: int, x: Tensor, places: Tensor) -> Tensor:
        param = self.param.rand_comp_param
        x = x.reshape(legacy_shape(tuple(x.shape)))
        rate = param.compression_rate[k]
        at = (places[:, 1:] - (rate - 1) / 2 if param.pad else places[:, 1:]) / rate
        size = torch.tensor(x.shape[2:], device=x.device)
        for axis in (0, 1):
            wrong = ~(at[:, axis].ceil() < size[axis]) | at[:, axis].isinf()
            if wrong.any():
                raise InputError(
                    f"place {float(at[wrong, axis][0]):g} of a map of {int(size[axis])} rows or columns, bottom {k}, "
                    "is outside of it"
                )
        item = places[:, 0].long()
        wrong = (item < 0) | (item >= len(x))
        if wrong.any():
            raise InputError(f"a place is of item {int(item[wrong][0])}, of {len(x)}")
        at = at.clamp(min=0)
        (y, z), (below, beside) = at.floor().long().unbind(1), at.ceil().long().unbind(1)
        down, right = (at - at.floor()).unbind(1)
        upper, lower = (
            torch.lerp(x[item, :, row, z], x[item, :, row, beside], right[:, None]) for row in (y, below)
        )
        return torch.lerp(upper, lower, down[:, None])
