"""Layers that pick: the largest values, or items of a batch."""

import math

import torch
from torch import Tensor

from port.devices import divided
from port.gradient import refuse_gradient
from port.labels import class_numbers
from port.layer import Layer, layer
from prototxt.layers.declare import legacy_shape
from prototxt.layers.windows import canonical_axis
from runtime.labels import check_pixels


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
    """(pixels, channels of all maps): each pixel's features, between the four nearest cells of each map.

    A coordinate becomes (x - pad) / rate, pad being (rate - 1) / 2 or 0, and at least the first cell. The gradient goes
    to all maps, or, where the first wants none, to none.
    """

    def forward(self, *bottoms: Tensor) -> Tensor:
        *maps, pixels = bottoms
        pixels = pixels.detach()
        image = pixels[:, 0].long()
        features = []
        for rate, each in zip(self.param.rand_comp_param.compression_rate, maps, strict=True):
            if not self.plan.propagate_down[0]:
                each = each.detach()
            each = each.reshape(legacy_shape(tuple(each.shape)))
            pad = (rate - 1) / 2 if self.param.rand_comp_param.pad else 0.0
            rows, columns = (_between(divided(pixels[:, i] - pad, rate), each.shape[i + 1]) for i in (1, 2))
            check_pixels(rows[1].max(), columns[1].max(), image.min(), image.max(), tuple(each.shape), rate)
            found = torch.zeros((), dtype=torch.float64, device=each.device)
            for row, by_row in zip(rows[:2], (1 - rows[2], rows[2]), strict=True):
                for column, by_column in zip(columns[:2], (1 - columns[2], columns[2]), strict=True):
                    found = found + each[image, :, row, column] * (by_row * by_column)[:, None]
            features.append(found.to(each.dtype))
        return torch.cat(features, 1)


def _between(place: Tensor, size: int) -> tuple[Tensor, Tensor, Tensor]:
    """The cells before and behind each place, and the share of the one behind (double precision)."""
    before, behind = place.floor().long().clamp(min=0), place.ceil().long().clamp(min=0)
    share = torch.where(before == behind, 0, place.double() - before)
    return before, behind, share
