"""Layers that reduce axes to fewer values: sums, places of maxima, accuracy."""

import torch
from torch import Tensor

from port.layer import Layer, Shape, layer
from port.layers.checks import check_label_count, class_numbers
from prototxt.errors import InputError
from prototxt.layers.windows import canonical_axis


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
