"""Layers that reduce axes to fewer values: sums, places of maxima, accuracy."""

import math

import torch
from torch import Tensor

from port.layer import Layer, Shape, layer
from port.layers.checks import check_label_count, class_numbers
from prototxt.caffe_pb2 import ReductionParameter
from prototxt.errors import InputError
from prototxt.geometry import canonical_axis


@layer("Reduction")
class Reduction(Layer):
    """The axes from `axis` on as one number: `coeff` times SUM, MEAN, ASUM (absolutes) or SUMSQ (squares)."""

    def forward(self, x: Tensor) -> Tensor:
        param = self.param.reduction_param
        rows = x.flatten(canonical_axis(param.axis, x.ndim))
        coeff = param.coeff
        if param.operation == ReductionParameter.ASUM:
            rows = rows.abs()
        elif param.operation == ReductionParameter.SUMSQ:
            rows = rows.square()
        elif param.operation == ReductionParameter.MEAN:
            coeff /= rows.shape[-1]
        return rows.sum(-1) * coeff


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


@layer("Accuracy")
class Accuracy(Layer):
    """The share of labels that are among the `top_k` scores; a second top has each class's own share.

    A score equal to the label's counts against it. Caffe has no gradient for it.
    """

    def set_up(self, scores: Shape, labels: Shape) -> None:
        self.top_shapes(scores, labels)

    def top_shapes(self, scores: Shape, labels: Shape) -> list[Shape]:
        param = self.param.accuracy_param
        axis = canonical_axis(param.axis, len(scores))
        check_label_count(scores, labels, axis)
        if param.top_k > scores[axis]:
            raise InputError(f"accuracy_param: top_k {param.top_k} is more than the {scores[axis]} classes")
        return [(), (scores[axis],)][: len(self.plan.tops)]

    @torch.no_grad()
    def forward(self, scores: Tensor, labels: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        self.top_shapes(tuple(scores.shape), tuple(labels.shape))
        param = self.param.accuracy_param
        scores = scores.movedim(param.axis, -1)
        scores = scores.reshape(-1, scores.shape[-1])
        ignored = param.ignore_label if param.HasField("ignore_label") else None
        numbers = class_numbers(labels, scores.shape[1], ignored).flatten()
        counted = torch.ones_like(numbers, dtype=torch.bool) if ignored is None else numbers != ignored
        numbers = numbers.where(counted, 0)
        right = scores.gather(1, numbers[:, None])
        hit = counted & ((scores >= right).sum(1) <= param.top_k)
        accuracy = _share(hit.sum(), counted.sum(), scores)
        if len(self.plan.tops) == 1:
            return accuracy
        hits, labelled = (
            torch.zeros(scores.shape[1], dtype=torch.long, device=scores.device).index_add_(
                0, numbers, each.long()
            )
            for each in (hit, counted)
        )
        return accuracy, _share(hits, labelled, scores)


def _share(part: Tensor, whole: Tensor, like: Tensor) -> Tensor:
    """part / whole, 0 of nothing."""
    return part.to(like.dtype) / whole.clamp(min=1).to(like.dtype)
