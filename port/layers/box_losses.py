"""The losses of the R-CNN family, SSD's SmoothL1Loss too, in PyTorch."""

import math
from typing import ClassVar

import torch
from torch import Tensor

from port.gradient import with_gradient, with_slope, without_gradient
from port.labels import class_numbers
from port.layer import Layer, layer
from port.layers.losses import FLOOR, Loss, around, ignored_label
from prototxt.caffe_pb2 import LossParameter
from prototxt.errors import InputError
from prototxt.layers.box_losses import of_rcnn, ohem_normalizer
from prototxt.layers.declare import legacy_shape
from prototxt.layers.windows import canonical_axis


def huber(difference: Tensor, sigma: float = 1) -> Tensor:
    """(sigma · d)² / 2 up to 1 / sigma², then |d| - 1 / (2 sigma²)."""
    steep = sigma * sigma
    size = difference.abs()
    return torch.where(size < 1 / steep, difference.square() * (steep / 2), size - 0.5 / steep)


@layer("SmoothL1Loss")
class SmoothL1Loss(Loss):
    """The sum of `huber` of the differences, over the number of items.

    The R-CNN line's weighs the differences before (third bottom), and what comes of them (fourth). With the third
    alone it is ShaoqingRen/caffe's: over the places, too, and its gradient is not times the weight.
    """

    no_gradient: ClassVar[dict[int, str]] = {}

    def loss(
        self, a: Tensor, b: Tensor, inside: Tensor | None = None, outside: Tensor | None = None
    ) -> Tensor:
        rcnn = of_rcnn(self.param)
        difference = a - b.reshape(a.shape)
        if inside is not None and outside is None:
            weighted = difference.detach() * inside.detach().reshape(a.shape)
            num, _, height, width = legacy_shape(tuple(a.shape))
            return huber(with_slope(difference, weighted, lambda: 1.0)).sum() / (num * height * width)
        if inside is not None:
            difference = difference * inside.detach().reshape(a.shape)
        losses = huber(difference, self.param.smooth_l1_loss_param.sigma if rcnn else 1)
        if outside is not None:
            losses = losses * outside.detach().reshape(a.shape)
        if rcnn and self.param.loss_param.normalization == LossParameter.NONE:
            return losses.sum()
        return losses.sum() / legacy_shape(tuple(a.shape))[0]


@layer("SmoothL1LossOHEM")
class SmoothL1LossOHEM(Loss):
    """As SmoothL1Loss, with sigma 1 and one weight; the second top is the loss at each position.

    Caffe's gradient is that of the weighted difference: not times the weight. The second top has none.
    """

    no_gradient: ClassVar[dict[int, str]] = {}

    def loss(self, a: Tensor, b: Tensor, weights: Tensor | None = None) -> tuple[Tensor, ...]:
        difference = a - b.reshape(a.shape)
        if weights is not None:
            weighted = difference.detach() * weights.detach().reshape(a.shape)
            difference = with_slope(difference, weighted, lambda: 1.0)
        losses = huber(difference)
        num, channels, height, width = legacy_shape(tuple(a.shape))
        size = ohem_normalizer(self.param, num, height * width, num * height * width)
        each = losses.detach().reshape(num, channels, height, width).sum(1, keepdim=True)
        return (losses.sum() / size, each)[: len(self.plan.tops)]


@layer("SoftmaxWithLossOHEM")
class SoftmaxWithLossOHEM(Loss):
    """Minus the logarithms of the labels' probabilities. Tops: the loss, the probabilities, each position's loss.

    Three quirks of Caffe's: the second top is filled only where it is the last; the loss is the sum of the first
    `n` positions, n being the number that is not ignored; and an ignored position holds what the bottom's gradient
    held there, the last backward pass's.
    """

    def set_up(self) -> None:
        self._held: Tensor | None = None

    def loss(self, x: Tensor, labels: Tensor) -> tuple[Tensor, ...]:
        axis = canonical_axis(self.param.softmax_param.axis, x.ndim)
        outer, classes, inner = around(x.shape, axis)
        ignored = ignored_label(self.param.loss_param)
        numbers = class_numbers(labels, classes, ignored).reshape(outer, inner)
        counted = torch.ones_like(numbers, dtype=torch.bool) if ignored is None else numbers != ignored
        numbers = numbers.where(counted, 0)
        logs = x.detach().reshape(outer, classes, inner).log_softmax(1)
        losses = -logs.gather(1, numbers[:, None])[:, 0].clamp(min=math.log(FLOOR))
        held = self._held
        if held is None or held.numel() != x.numel():
            held = torch.zeros_like(x.detach())
        each = losses.where(counted, held.flatten()[: losses.numel()].view_as(losses).to(losses)).flatten()
        self._held = None
        count = int(counted.sum())
        size = ohem_normalizer(self.param, outer, inner, count)

        def gradient() -> Tensor:
            slopes = logs.exp().scatter_add(1, numbers[:, None], -torch.ones_like(losses)[:, None])
            return (slopes.where(counted[:, None], 0) / size).reshape(x.shape)

        loss = with_gradient(x, each[:count].abs().sum() / size, gradient)
        if loss.requires_grad and x.requires_grad:
            x.register_hook(self._hold)
        prob = logs.exp().reshape(x.shape)
        if len(self.plan.tops) == 3:
            prob = torch.zeros_like(prob)
        return (loss, prob, each.view(labels.shape))[: len(self.plan.tops)]

    def _hold(self, gradient: Tensor) -> None:
        self._held = gradient.detach()


@layer("BoxAnnotatorOHEM")
class BoxAnnotatorOHEM(Layer):
    """Keeps labels and weights of the `roi_per_img` hardest regions of an image; ignores the others."""

    def forward(self, rois: Tensor, losses: Tensor, labels: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
        param = self.param.box_annotator_ohem_param
        num, _, height, width = legacy_shape(tuple(rois.shape))
        image = rois.detach().reshape(num, 5, -1)[:, 0].flatten().long()
        if (image < 0).any():
            raise InputError(f"a region is of image {int(image.min())}")
        order = losses.detach().flatten().argsort(dim=0, descending=True, stable=True)
        # Regions of one image side by side, the hardest first; each one's place in its image.
        order = order[image[order].argsort(dim=0, stable=True)]
        sorted_ = image[order]
        place = torch.arange(len(order), device=order.device) - torch.searchsorted(sorted_, sorted_)
        chosen = torch.zeros_like(image, dtype=torch.bool)
        chosen[order[place < param.roi_per_img]] = True
        chosen = chosen.view(num, 1, height, width)
        kept = labels.detach().reshape(chosen.shape).where(chosen, param.ignore_label)
        boxes = weights.detach().reshape(num, -1, height, width).where(chosen, 0)
        bottoms = (rois, losses, labels, weights)
        return without_gradient(kept, *bottoms), without_gradient(boxes, *bottoms)
