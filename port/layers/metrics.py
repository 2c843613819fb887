"""Layers that judge."""

import torch
from torch import Tensor

from port.labels import class_numbers
from port.layer import Layer, layer
from prototxt.layers.declare import legacy_shape


@layer("Accuracy")
class Accuracy(Layer):
    """The share of labels that are among the `top_k` scores; a second top has each class's own share.

    A score equal to the label's counts against it. Caffe has no gradient for it.
    """

    @torch.no_grad()
    def forward(self, scores: Tensor, labels: Tensor) -> Tensor | tuple[Tensor, Tensor]:
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


@layer("EltwiseAccuracy")
class EltwiseAccuracy(Layer):
    """The share of places that are right, (1, 1, 1, 1): whose label is among the `top_k` scores, equal ones last first.

    Labels that no class has are wrong. Where all are ignored it is not a number. Caffe has no gradient for it.
    """

    @torch.no_grad()
    def forward(self, scores: Tensor, labels: Tensor) -> Tensor:
        param = self.param.eltwise_accuracy_param
        num, classes, height, width = legacy_shape(tuple(scores.shape))
        rows = scores.reshape(num, classes, height * width).transpose(1, 2).flatten(0, 1)
        numbers = labels.flatten().long()
        ranks = classes - 1 - rows.flip(1).argsort(dim=1, descending=True, stable=True)
        right = (ranks[:, : param.top_k] == numbers[:, None]).any(1)
        if param.HasField("ignore_label"):
            right = right[numbers != param.ignore_label]
        return right.to(scores.dtype).mean().reshape(1, 1, 1, 1)
