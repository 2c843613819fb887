"""The losses. A loss is one number; the net weighs it, through the gradient it sends in."""

import math
from abc import abstractmethod
from collections.abc import Sequence
from typing import ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from port.gradient import refuse_gradient, reread, with_slope
from port.labels import class_numbers
from port.layer import Layer, as_tuple, layer
from prototxt.caffe_pb2 import HingeLossParameter, LossParameter
from prototxt.forks import meaning
from prototxt.layers.declare import Shape, legacy_shape
from prototxt.layers.losses import check_matrix, focal_settings, normalises
from prototxt.layers.windows import canonical_axis
from weights.binaryproto import read_binaryproto


class Loss(Layer):
    """A loss class writes `loss`, and says which bottoms get no gradient."""

    no_gradient: ClassVar[dict[int, str]] = {1: "labels"}

    def forward(self, *bottoms: Tensor) -> Tensor | tuple[Tensor, ...]:
        loss, *others = as_tuple(self.loss(*bottoms))
        for index, what in self.no_gradient.items():
            if index < len(bottoms):
                loss = refuse_gradient(self, loss, bottoms[index], index, what)
        return (loss, *others) if others else loss

    @abstractmethod
    def loss(self, *bottoms: Tensor) -> Tensor | tuple[Tensor, ...]:
        """The loss, and the second top of those that have one."""


def ignored_label(param: LossParameter) -> int | None:
    return param.ignore_label if param.HasField("ignore_label") else None


def normalised(total: Tensor, mode: int, outer: int, inner: int, valid: Tensor | None) -> Tensor:
    """The summed loss over what `mode` counts, which is at least 1.

    Args:
        outer, inner: images, and places within one.
        valid: how many places are not ignored; None: all.
    """
    if mode == LossParameter.VALID and valid is not None:
        return total / valid.clamp(min=1).to(total.dtype)
    count = {LossParameter.NONE: 1, LossParameter.BATCH_SIZE: outer}.get(mode, outer * inner)
    return total / max(count, 1)


def around(shape: Sequence[int], axis: int) -> tuple[int, int, int]:
    """Counts before, along and behind an axis."""
    return math.prod(shape[:axis]), shape[axis], math.prod(shape[axis + 1 :])


FLOOR = float(np.finfo(np.float32).tiny)
"""SoftmaxWithLoss takes smaller probabilities for this one, FLT_MIN."""

LOG_THRESHOLD = float(np.float32(1e-20))
"""InfogainLoss and MultinomialLogisticLoss take smaller probabilities for this one."""


@layer("SigmoidCrossEntropyLoss")
class SigmoidCrossEntropyLoss(Loss):
    """Cross-entropy of sigmoid(x) with targets from 0 to 1, over the number of images unless told else.

    Weights, a third bottom (caffe-mnc's), and over their sum. If that is not above 0, the loss is the last pass's, and
    what goes back is neither over the sum nor times the loss weight.
    """

    def set_up(self) -> None:
        self._last: Tensor | None = None

    def loss(self, x: Tensor, targets: Tensor, weights: Tensor | None = None) -> Tensor:
        param, valid = self.param.loss_param, None
        targets = targets.detach().reshape(x.shape)
        positive = x >= 0
        # Each term for itself, so that a small loss is not the difference of large numbers.
        losses = F.softplus(torch.where(positive, -x, x)) - x * (targets - positive.to(x.dtype))
        ignored = ignored_label(param)
        if ignored is not None:
            counted = targets.trunc() != ignored
            losses, valid = losses.where(counted, 0), counted.sum()
        if weights is not None:
            weights = weights.detach().reshape(x.shape)
            total = weights.sum()
            if not total > 0:
                last = x.new_zeros(()) if self._last is None else self._last
                return _Unscaled.apply(x, last, (x.detach().sigmoid() - targets) * weights)
            loss = (losses * weights).sum() / total
            self._last = loss.detach()
            return loss
        mode = param.normalization
        if not param.HasField("normalization"):
            mode = LossParameter.VALID if param.normalize else LossParameter.BATCH_SIZE
        return normalised(losses.sum(), mode, x.shape[0], math.prod(x.shape[1:]), valid)


class _Unscaled(torch.autograd.Function):
    """A value with a gradient of its own, whatever comes back."""

    @staticmethod
    def forward(ctx, x: Tensor, value: Tensor, gradient: Tensor) -> Tensor:
        ctx.save_for_backward(gradient)
        return value.clone()

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor) -> tuple[Tensor, None, None]:
        return *ctx.saved_tensors, None, None


@layer("SoftmaxWithLoss")
class SoftmaxWithLoss(Loss):
    """Minus the logarithm of the label's softmax probability, over the number of labels unless told else.

    A second top has the probabilities; the gradient that comes back to it is ignored. With weights, a third bottom,
    it is divided by the sum of those that count; if that is 0, so is the loss (ShaoqingRen/caffe).
    """

    def loss(
        self, x: Tensor, labels: Tensor, weights: Tensor | None = None
    ) -> Tensor | tuple[Tensor, Tensor]:
        param, axis = self.param.loss_param, self._axis(tuple(x.shape))
        outer, classes, inner = around(x.shape, axis)
        ignored = ignored_label(param)
        numbers = class_numbers(labels, classes, ignored).reshape(outer, inner)
        logs = F.log_softmax(x.reshape(outer, classes, inner), 1)
        losses = F.nll_loss(
            logs, numbers, ignore_index=_NONE if ignored is None else ignored, reduction="none"
        )
        # Caffe's gradient goes on below the floor.
        losses = with_slope(losses, losses.detach().clamp(max=-math.log(FLOOR)), lambda: 1.0)
        if weights is not None:
            weights = weights.detach().reshape(outer, inner)
            counted = torch.ones_like(numbers, dtype=torch.bool) if ignored is None else numbers != ignored
            total = weights[counted].sum() if normalises(self.param) else weights.new_tensor(outer)
            loss = (losses * weights).sum() / total.masked_fill(total == 0, math.inf)
            return (loss, x.detach().softmax(axis))[: len(self.plan.tops)]
        mode = param.normalization
        if not param.HasField("normalization") and param.HasField("normalize"):
            mode = LossParameter.VALID if param.normalize else LossParameter.BATCH_SIZE
        if param.weight_by_label_freqs:  # SegNet's; the divisor stays a count
            weights = torch.tensor(param.class_weighting, dtype=torch.float32).to(losses)
            losses = losses * weights[numbers if ignored is None else numbers.where(numbers != ignored, 0)]
        valid = None if ignored is None else (numbers != ignored).sum()
        loss = normalised(losses.sum(), mode, outer, inner, valid)
        return (loss, x.detach().softmax(axis))[: len(self.plan.tops)]

    def _axis(self, shape: Shape) -> int:
        return canonical_axis(self.param.softmax_param.axis, len(shape))


@layer("FocalLoss")
class FocalLoss(Loss):
    """-alpha (1 - p)^gamma log p, p being the label's softmax probability. LINEAR is no other type in the fork.

    A second top has the probabilities; the gradient that comes back to it is ignored.
    """

    def loss(self, x: Tensor, labels: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        param, axis = self.param.loss_param, canonical_axis(self.param.softmax_param.axis, x.ndim)
        alpha, gamma = focal_settings(self.param.focal_loss_param)
        outer, classes, inner = around(x.shape, axis)
        ignored = ignored_label(param)
        numbers = class_numbers(labels, classes, ignored).reshape(outer, inner)
        counted = None if ignored is None else numbers != ignored
        chosen = numbers if counted is None else numbers.where(counted, 0)
        logs = F.log_softmax(x.reshape(outer, classes, inner), 1).gather(1, chosen[:, None])[:, 0]

        # By the logarithm alone, whose derivative the fork has with 1 - p kept from 0.
        value = logs.detach()
        probability, floored = value.exp(), value.clamp(min=math.log(FLOOR))
        power = alpha * (1 - probability) ** gamma
        slope = gamma * power / (1 - probability).clamp(min=1e-10) * floored * probability - power
        losses = with_slope(logs, -power * floored, lambda slope: slope, slope)

        valid = None
        if counted is not None:
            losses, valid = losses.where(counted, 0), counted.sum()
        mode = param.normalization
        if not param.HasField("normalization") and param.HasField("normalize"):
            mode = LossParameter.VALID if param.normalize else LossParameter.BATCH_SIZE
        loss = normalised(losses.sum(), mode, outer, inner, valid)
        return (loss, x.detach().softmax(axis))[: len(self.plan.tops)]


_NONE = -(1 << 40)  # an index to ignore where none is: no label is it


@layer("InfogainLoss")
class InfogainLoss(Loss):
    """Minus the logarithms of all classes' softmax probabilities, weighed by the label's row of a matrix H.

    H is the third bottom, or is read from `source`. A second top has the probabilities.
    """

    no_gradient: ClassVar[dict[int, str]] = {1: "labels", 2: "infogain matrix"}

    def set_up(self) -> None:
        if len(self.plan.bottoms) == 2:
            matrix = read_binaryproto(self.param.infogain_loss_param.source)
            scores = self.plan.bottom_shapes[0]
            check_matrix(matrix.size, scores[self._axis(scores)])
            matrix = torch.from_numpy(matrix).to(torch.get_default_dtype())
            self.register_buffer("matrix", matrix, persistent=False)

    def loss(self, x: Tensor, labels: Tensor, matrix: Tensor | None = None) -> Tensor | tuple[Tensor, Tensor]:
        param, axis = self.param.loss_param, self._axis(tuple(x.shape))
        outer, classes, inner = around(x.shape, axis)
        ignored, valid = ignored_label(param), None
        numbers = class_numbers(labels, classes, ignored).reshape(outer, inner)
        if ignored is not None:
            counted = numbers != ignored
            numbers, valid = numbers.where(counted, 0), counted.sum()
        matrix = (self.matrix if matrix is None else matrix.detach()).to(x).reshape(classes, classes)
        weights = matrix[numbers].movedim(-1, 1)  # (outer, classes, inner)
        logs = F.log_softmax(x.reshape(outer, classes, inner), 1)
        logs = with_slope(logs, logs.detach().clamp(min=math.log(LOG_THRESHOLD)), lambda: 1.0)
        losses = -(weights * logs).sum(1)
        if ignored is not None:
            losses = losses.where(counted, 0)
        loss = normalised(losses.sum(), param.normalization, outer, inner, valid)
        return (loss, x.detach().softmax(axis))[: len(self.plan.tops)]

    def _axis(self, shape: Shape) -> int:
        return canonical_axis(self.param.infogain_loss_param.axis, len(shape))


@layer("MultinomialLogisticLoss")
class MultinomialLogisticLoss(Loss):
    """Minus the logarithm of the label's probability, which is what the bottom holds, per image."""

    def loss(self, x: Tensor, labels: Tensor) -> Tensor:
        # Autograd would save the labels' probabilities, not the bottom.
        return reread(self._mean, x, labels) if self.plan.overwritten_reads else self._mean(x, labels)

    def _mean(self, x: Tensor, labels: Tensor) -> Tensor:
        rows = x.flatten(1) if x.ndim > 1 else x[:, None]
        picked = rows.gather(1, class_numbers(labels, rows.shape[1]).reshape(-1, 1))
        probability = picked.detach().clamp(min=LOG_THRESHOLD)
        losses = with_slope(picked, -probability.log(), lambda: -1 / probability)
        return losses.sum() / len(x)


@layer("EuclideanLoss")
class EuclideanLoss(Loss):
    """Half the squared distance of the bottoms, per image. Both get a gradient."""

    no_gradient: ClassVar[dict[int, str]] = {}

    def loss(self, a: Tensor, b: Tensor) -> Tensor:
        return (a - b.reshape(a.shape)).square().sum() / len(a) / 2


@layer("L1Loss")
class L1Loss(Loss):
    """The sum of |a - b| per image; FlowNet2's own layer of this name also of one bottom, and with settings.

    Those: places that are not a number, or whose difference is below `plateau`, do not count; with
    `l2_per_location`, each place's length sqrt(sum of squares + epsilon) is summed.
    """

    no_gradient: ClassVar[dict[int, str]] = {}

    def loss(self, *bottoms: Tensor) -> Tensor:
        difference = bottoms[0] - bottoms[1] if len(bottoms) > 1 else bottoms[0]
        if meaning(self.param) != "FlowNet2":
            return difference.abs().sum() / legacy_shape(tuple(difference.shape))[0]
        param = self.param.l1_loss_param
        difference = difference.reshape(legacy_shape(tuple(difference.shape)))
        known = ~difference.detach().isnan()
        channels = difference.shape[1]
        count = known.sum() / channels if param.normalize_by_num_entries else len(difference)
        difference = difference.where(known, 0)
        if param.l2_per_location:
            squares = difference.square().sum(1) / (channels if param.l2_prescale_by_channels else 1)
            if param.plateau > 0:
                squares = squares.where(squares.detach() >= param.plateau**2, 0)
            return (squares + param.epsilon).sqrt().sum() / count
        value = difference.detach()
        counted = known & (value.abs() >= param.plateau)
        slope = torch.where(value > 0, 1, -1) * counted  # a difference of 0 counts as negative
        return with_slope(difference, value.abs() * counted, lambda: slope).sum() / count


@layer("EuclideanLossHeatmap")
class EuclideanLossHeatmap(Loss):
    """Mean squared difference, whose published gradient is the difference, for both maps and any weight of the loss."""

    no_gradient: ClassVar[dict[int, str]] = {}

    def loss(self, a: Tensor, b: Tensor, shown: Tensor) -> Tensor:
        return _Heatmap.apply(a, b)


class _Heatmap(torch.autograd.Function):
    @staticmethod
    def forward(ctx, a: Tensor, b: Tensor) -> Tensor:
        ctx.save_for_backward(a, b)
        return (a.reshape(b.shape) - b).square().mean()

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor) -> tuple[Tensor, Tensor]:
        a, b = ctx.saved_tensors
        difference = a - b.reshape(a.shape)
        return difference, difference.reshape(b.shape)


@layer("LpqLoss")
class LpqLoss(Loss):
    """FlowNet2's: sum over places of (q_epsilon + sum over channels of (p_epsilon + |a - b|)^p)^q, per item.

    Places that are not a number count as a difference of 0 and get no gradient. A power's slope is the power divided by
    its base, as in Caffe, and so not a number at a base of 0; powers 1 and 2 are spared.
    """

    no_gradient: ClassVar[dict[int, str]] = {}

    def loss(self, a: Tensor, b: Tensor) -> Tensor:
        param = self.param.lpq_loss_param
        difference = (a - b).reshape(legacy_shape(tuple(a.shape)))
        known = ~difference.detach().isnan()
        channels = difference.shape[1]
        count = known.sum() / channels if param.normalize_by_num_entries else len(difference)
        difference = difference.where(known, 0)
        value = difference.detach()
        sign = torch.where(value > 0, 1.0, -1.0).to(value)
        sizes = with_slope(difference, value.abs(), lambda: sign)
        sums = _power(sizes, param.p[0], param.p_epsilon, known).sum(1)
        if param.l2_prescale_by_channels:
            sums = sums / channels
        return _power(sums, param.q[0], param.q_epsilon).sum() / count


def _power(x: Tensor, power: float, shift: float, counted: Tensor | None = None) -> Tensor:
    """(x + shift) ^ power with Caffe's slope, of those places that are `counted`."""
    base = x.detach() + shift
    top = base**power

    def slope() -> Tensor:
        found = base if power == 2 else torch.ones_like(base) if power in (0, 1) else top / base
        return power * found if counted is None else (power * found).where(counted, 0)

    return with_slope(x, top, slope)


@layer("CenterLoss")
class CenterLoss(Loss):
    """Half the squared distance (or the L1 distance) to the centre of each item's class, per item."""

    def loss(self, x: Tensor, labels: Tensor) -> Tensor:
        centers = self.blobs[0]
        numbers = class_numbers(labels, len(centers)).flatten()
        l1 = self.param.center_loss_param.distance_type == "L1"
        return _Center.apply(x, centers, numbers, l1)


class _Center(torch.autograd.Function):
    """The centre loss. The centres' gradient is an update of its own, which no loss weight scales.

    For each item it is the sum of (centre - x) over the items of its class, over 1 + their number (happynear's
    code; caffe-face has it once for each class). The signs that L1 needs are taken where the centres get a gradient:
    else the items' gradient is the distance's.
    """

    @staticmethod
    def forward(ctx, x: Tensor, centers: Tensor, numbers: Tensor, l1: bool) -> Tensor:
        difference = x.reshape(len(numbers), -1) - centers[numbers]
        ctx.save_for_backward(difference, numbers)
        ctx.l1, ctx.shape, ctx.classes = l1, x.shape, len(centers)
        total = difference.abs().sum() if l1 else difference.square().sum() / 2
        return total / len(x)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor) -> tuple[Tensor | None, ...]:
        slope, numbers = ctx.saved_tensors
        d_centers = None
        if ctx.needs_input_grad[1]:
            slope = slope.sign() if ctx.l1 else slope
            sums = slope.new_zeros(ctx.classes, slope.shape[1]).index_add_(0, numbers, -slope)
            seen = torch.bincount(numbers, minlength=ctx.classes)[:, None].to(slope)
            d_centers = sums / (seen + 1) * seen
        return (slope * (grad / ctx.shape[0])).reshape(ctx.shape), d_centers, None, None


@layer("HingeLoss")
class HingeLoss(Loss):
    """What scores lack to a margin of 1, the label's above 0, the others below; squared by L2. Per image."""

    def loss(self, x: Tensor, labels: Tensor) -> Tensor:
        rows = x.reshape(len(x), math.prod(x.shape[1:]))
        numbers = class_numbers(labels.flatten()[: len(x)], rows.shape[1])
        signs = torch.ones_like(rows).scatter_(1, numbers[:, None], -1)
        lacking = (1 + signs * rows).relu()
        if self.param.hinge_loss_param.norm == HingeLossParameter.L2:
            lacking = lacking.square()
        return lacking.sum() / len(x)


@layer("ContrastiveLoss")
class ContrastiveLoss(Loss):
    """Half the squared distance of similar pairs; of dissimilar ones, half its squared lack to `margin`.

    With `legacy_version`, half of what the squared distance lacks to the margin. The mean over the pairs.
    """

    no_gradient: ClassVar[dict[int, str]] = {}

    def loss(self, a: Tensor, b: Tensor, similar: Tensor) -> Tensor:
        param = self.param.contrastive_loss_param
        margin = param.margin
        squares = (a - b.reshape(a.shape)).square().reshape(len(a), math.prod(a.shape[1:])).sum(1)
        alike = similar.detach().flatten()[: len(a)].trunc() != 0
        square = squares.detach()
        if param.legacy_version:
            lacking = (margin - square).clamp(min=0)
            apart, slope = lacking, -torch.ones_like(square)
        else:
            distance = square.sqrt()
            lacking = (margin - distance).clamp(min=0)
            # Caffe's guard against a distance of 0 is in every gradient.
            apart, slope = lacking.square(), -lacking / (distance + 1e-4)
        slope = torch.where(alike, 1, torch.where(lacking > 0, slope, 0))
        losses = with_slope(squares, torch.where(alike, square, apart), lambda: slope)
        return losses.sum() / len(a) / 2
