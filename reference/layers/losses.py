"""The losses."""

import math
from abc import abstractmethod

import numpy as np

from prototxt.caffe_pb2 import HingeLossParameter, LossParameter
from prototxt.forks import meaning
from prototxt.layers.declare import legacy_shape
from prototxt.layers.losses import check_matrix, focal_settings, normalises
from prototxt.layers.windows import canonical_axis
from reference.arithmetic import added_up, sigmoid
from reference.checks import class_indices, refuse_gradient
from reference.layer import Arrays, Layer, flat_from, layer
from reference.layers.normalisation import softmax
from weights.binaryproto import read_binaryproto

SMALLEST_PROBABILITY = np.float32(1e-20)
"""Logarithms of Caffe's older losses are of at least this (kLOG_THRESHOLD)."""

FLT_MIN = np.finfo(np.float32).tiny
"""The same in SoftmaxWithLoss."""


def normaliser(param: LossParameter, default: int, outer: int, inner: int, valid: int) -> int:
    """What a loss over `outer` items of `inner` positions, `valid` of them not ignored, is divided by.

    `normalization` comes before the older `normalize` (true: VALID, false: BATCH_SIZE); `default` is what
    holds where neither is given. At least 1.
    """
    mode = default
    if param.HasField("normalization"):
        mode = param.normalization
    elif param.HasField("normalize"):
        mode = LossParameter.VALID if param.normalize else LossParameter.BATCH_SIZE
    counts: dict[int, int] = {
        LossParameter.FULL: outer * inner,
        LossParameter.VALID: valid,
        LossParameter.BATCH_SIZE: outer,
        LossParameter.NONE: 1,
    }
    return max(1, counts[mode])


class _Loss(Layer):
    """A number, of bottoms with as many items each. Gradients are for a top gradient of loss_weight."""

    def ignored(self) -> int | None:
        param = self.param.loss_param
        return param.ignore_label if param.HasField("ignore_label") else None


@layer("SigmoidCrossEntropyLoss")
class SigmoidCrossEntropyLoss(_Loss):
    """Cross-entropy of sigmoids against targets of 0 … 1, divided by the batch size unless told otherwise.

    With weights (bottom 2, caffe-mnc's) by their sum. Where that is not above 0 the top keeps what it held, and the
    gradient heeds neither the sum nor the loss weight.
    """

    def run(self, x: np.ndarray, target: np.ndarray, *weights: np.ndarray) -> np.floating | None:
        target = target.reshape(x.shape)
        for weight in weights:
            return self._weighed(x, target, weight.reshape(x.shape))
        # Targets are truncated before they are compared: 255.5 is ignored as 255, and -0.5 as 0.
        ignored = self.ignored()
        counted = np.ones(x.shape, bool) if ignored is None else np.trunc(target) != ignored
        losses = np.log1p(np.exp(-np.abs(x))) - x * (target - (x >= 0))
        inner, valid = math.prod(x.shape[1:]), counted.sum()
        count = normaliser(self.param.loss_param, LossParameter.BATCH_SIZE, len(x), inner, valid)
        self.count = self.dtype.type(count)
        self.errors = np.where(counted, sigmoid(x) - target, self.dtype.type(0))
        return added_up(losses[counted]) / self.count

    def grad(self, bottoms: Arrays, tops: Arrays, top_diffs: Arrays) -> list[np.ndarray | None]:
        refuse_gradient(self, 1, "targets")
        if len(bottoms) > 2 and not self.count > 0:
            return [self.errors, None, None]
        return [self.errors * (top_diffs[0] / self.count), None, None][: len(bottoms)]

    def _weighed(self, x: np.ndarray, target: np.ndarray, weights: np.ndarray) -> np.floating | None:
        losses = weights * (np.log1p(np.exp(-np.abs(x))) - x * (target - (x >= 0)))
        self.errors = (sigmoid(x) - target) * weights
        self.count = added_up(weights.reshape(-1))
        return added_up(losses.reshape(-1)) / self.count if self.count > 0 else None


class _OfSoftmax(_Loss):
    """A loss of the softmax along an axis, against one label for each position. Top 1 is the softmax."""

    @property
    @abstractmethod
    def axis_param(self) -> int:
        """The axis of the classes, as the message has it"""

    def run(self, scores: np.ndarray, labels: np.ndarray, *more: np.ndarray) -> list:
        axis = canonical_axis(self.axis_param, scores.ndim)
        self.classes = scores.shape[axis]
        self.outer, self.inner = math.prod(scores.shape[:axis]), math.prod(scores.shape[axis + 1 :])
        prob = softmax(scores, axis)
        self.prob = prob.reshape(self.outer, self.classes, self.inner)
        self.labels, self.counted = class_indices(
            labels.reshape(self.outer, self.inner), self.classes, self.ignored()
        )
        self.count = self.dtype.type(self.divisor(*more))
        loss = added_up(self.losses(*more)[self.counted].reshape(-1)) / self.count
        return [loss, prob][: len(self.plan.tops)]

    def grad(self, bottoms: Arrays, tops: Arrays, top_diffs: Arrays) -> list[np.ndarray | None]:
        refuse_gradient(self, 1, "labels")
        slopes = np.where(self.counted[:, None], self.slopes(*bottoms[2:]), self.dtype.type(0))
        dx = (slopes * (top_diffs[0] / self.count)).reshape(bottoms[0].shape)
        return [dx] + [None] * (len(bottoms) - 1)

    def divisor(self, *more: np.ndarray) -> float:
        """What the sum is divided by."""
        valid = self.counted.sum()
        return normaliser(self.param.loss_param, LossParameter.VALID, self.outer, self.inner, valid)

    @abstractmethod
    def losses(self, *more: np.ndarray) -> np.ndarray:
        """(outer, inner, …), what is added up for each position"""

    @abstractmethod
    def slopes(self, *more: np.ndarray) -> np.ndarray:
        """(outer, classes, inner), their derivatives by the scores"""


@layer("SoftmaxWithLoss")
class SoftmaxWithLoss(_OfSoftmax):
    """-log of the label's probability, divided by the labels that are not ignored unless told.

    With SegNet's `weight_by_label_freqs` each position's loss is times its label's `class_weighting`; what it is
    divided by is a count all the same, not the sum of the weights.

    With weights (bottom 2, ShaoqingRen/caffe's) it is the sum of those that are not ignored; where that is 0 the loss
    is, too.
    """

    @property
    def axis_param(self) -> int:
        return self.param.softmax_param.axis

    def set_up(self) -> None:
        param = self.param.loss_param
        self.weights = None
        if param.weight_by_label_freqs:
            self.weights = np.array(param.class_weighting, np.float32).astype(self.dtype)

    def divisor(self, *more: np.ndarray) -> float:
        if not more:
            return super().divisor()
        if not normalises(self.param):
            return self.outer
        total = added_up(more[0].reshape(self.counted.shape)[self.counted])
        return float(total) or math.inf

    def losses(self, *more: np.ndarray) -> np.ndarray:
        picked = np.take_along_axis(self.prob, self.labels[:, None], 1)[:, 0]
        losses = -np.log(np.maximum(picked, self.dtype.type(FLT_MIN)))
        if more:
            return losses * more[0].reshape(losses.shape)
        return losses if self.weights is None else losses * self.weights[self.labels]

    def slopes(self, *more: np.ndarray) -> np.ndarray:
        slopes = self.prob - (np.arange(self.classes)[:, None] == self.labels[:, None])
        if more:
            return slopes * more[0].reshape(self.labels.shape)[:, None]
        return slopes if self.weights is None else slopes * self.weights[self.labels][:, None]


@layer("FocalLoss")
class FocalLoss(_OfSoftmax):
    """-alpha (1 - p)^gamma log p of the label's probability p. The type LINEAR computes the same in the fork."""

    @property
    def axis_param(self) -> int:
        return self.param.softmax_param.axis

    def set_up(self) -> None:
        self.alpha, self.gamma = map(self.dtype.type, focal_settings(self.param.focal_loss_param))

    def losses(self) -> np.ndarray:
        picked = np.take_along_axis(self.prob, self.labels[:, None], 1)
        self.log = np.log(np.maximum(picked, self.dtype.type(FLT_MIN)))
        self.power = self.alpha * (1 - picked) ** self.gamma
        return -(self.power * self.log)[:, 0]

    def slopes(self) -> np.ndarray:
        picked = np.take_along_axis(self.prob, self.labels[:, None], 1)
        others = np.maximum(1 - picked, self.dtype.type(1e-10))
        factor = self.power - self.gamma * (self.power / others) * self.log * picked
        return factor * (self.prob - (np.arange(self.classes)[:, None] == self.labels[:, None]))


@layer("InfogainLoss")
class InfogainLoss(_OfSoftmax):
    """-log of each class's probability, weighed by the label's row of H (bottom 2, or a .binaryproto)."""

    @property
    def axis_param(self) -> int:
        return self.param.infogain_loss_param.axis

    def set_up(self) -> None:
        if len(self.plan.bottoms) == 2:
            self.from_file = read_binaryproto(self.param.infogain_loss_param.source)
            scores = self.plan.bottom_shapes[0]
            check_matrix(self.from_file.size, scores[canonical_axis(self.axis_param, len(scores))])

    def losses(self, infogain: np.ndarray | None = None) -> np.ndarray:
        logs = np.log(np.maximum(self.prob, self.dtype.type(SMALLEST_PROBABILITY)))
        return -self._rows(infogain) * logs.swapaxes(1, 2)

    def slopes(self, infogain: np.ndarray | None = None) -> np.ndarray:
        rows = self._rows(infogain)
        return self.prob * rows.sum(axis=2)[:, None] - rows.swapaxes(1, 2)

    def grad(self, bottoms: Arrays, tops: Arrays, top_diffs: Arrays) -> list[np.ndarray | None]:
        if len(bottoms) > 2:
            refuse_gradient(self, 2, "infogain matrix")
        return super().grad(bottoms, tops, top_diffs)

    def _rows(self, infogain: np.ndarray | None) -> np.ndarray:
        """(outer, inner, classes), each position's row of H"""
        matrix = (self.from_file if infogain is None else infogain).reshape(self.classes, self.classes)
        return matrix.astype(self.dtype)[self.labels]


@layer("MultinomialLogisticLoss")
class MultinomialLogisticLoss(_Loss):
    """-log of the label's probability, the probabilities being the bottom; divided by the batch size."""

    def run(self, prob: np.ndarray, labels: np.ndarray) -> np.floating:
        return added_up(-np.log(self._picked(prob, labels))) / self.dtype.type(len(prob))

    def grad(self, bottoms: Arrays, tops: Arrays, top_diffs: Arrays) -> list[np.ndarray | None]:
        refuse_gradient(self, 1, "labels")
        (prob, labels), (dy,) = bottoms, top_diffs
        dx = np.zeros((len(prob), math.prod(prob.shape[1:])), self.dtype)
        picked = self._picked(prob, labels)
        dx[np.arange(len(prob)), self.labels] = -dy / self.dtype.type(len(prob)) / picked
        return [dx.reshape(prob.shape), None]

    def _picked(self, prob: np.ndarray, labels: np.ndarray) -> np.ndarray:
        rows = flat_from(prob, 1)
        self.labels, _ = class_indices(labels.reshape(-1), rows.shape[1])
        return np.maximum(rows[np.arange(len(rows)), self.labels], self.dtype.type(SMALLEST_PROBABILITY))


@layer("EuclideanLoss")
class EuclideanLoss(_Loss):
    """Half the squared distance, divided by the batch size. Both bottoms have gradients."""

    def run(self, a: np.ndarray, b: np.ndarray) -> np.floating:
        self.difference = a.reshape(-1) - b.reshape(-1)
        return np.dot(self.difference, self.difference) / self.dtype.type(len(a)) / self.dtype.type(2)

    def grad(self, bottoms: Arrays, tops: Arrays, top_diffs: Arrays) -> list[np.ndarray]:
        da = self.difference * (top_diffs[0] / self.dtype.type(len(bottoms[0])))
        return [da.reshape(bottoms[0].shape), -da.reshape(bottoms[1].shape)]


@layer("L1Loss")
class L1Loss(_Loss):
    """The sum of |a - b| over the number of items. FlowNet2's layer of this name has more settings.

    There, what is not a number in a - b is left out, and so are differences below `plateau`; `l2_per_location`
    takes the length of each place's difference, sqrt(sum of squares + epsilon), instead. At 0 its gradient is that
    of a negative difference.
    """

    def run(self, *bottoms: np.ndarray) -> np.floating:
        first, *second = bottoms
        difference = first - second[0] if second else first
        self.count = self.dtype.type(legacy_shape(first.shape)[0])
        if meaning(self.param) != "FlowNet2":
            self.slopes = np.sign(difference)
            return np.abs(difference).sum() / self.count
        param = self.param.l1_loss_param
        difference = difference.reshape(legacy_shape(first.shape))
        known = ~np.isnan(difference)
        if param.normalize_by_num_entries:
            self.count = self.dtype.type(known.sum() / difference.shape[1])
        difference = np.where(known, difference, self.dtype.type(0))
        plateau = self.dtype.type(param.plateau)
        if not param.l2_per_location:
            counted = known & (np.abs(difference) >= plateau)
            difference = np.where(counted, difference, self.dtype.type(0))
            self.slopes = np.where(difference > 0, self.dtype.type(1), self.dtype.type(-1)) * counted
            return np.abs(difference).sum() / self.count
        share = self.dtype.type(1 / difference.shape[1] if param.l2_prescale_by_channels else 1)
        squares = (difference * difference).sum(axis=1, keepdims=True) * share
        steep = squares >= plateau * plateau if param.plateau > 0 else np.ones(squares.shape, bool)
        lengths = np.sqrt(np.where(steep, squares, 0) + self.dtype.type(param.epsilon))
        self.slopes = steep * share * difference / lengths
        return lengths.sum() / self.count

    def grad(self, bottoms: Arrays, tops: Arrays, top_diffs: Arrays) -> list[np.ndarray]:
        da = (self.slopes * (top_diffs[0] / self.count)).reshape(bottoms[0].shape)
        return [da, -da][: len(bottoms)]


@layer("EuclideanLossHeatmap")
class EuclideanLossHeatmap(_Loss):
    """The mean of squared differences. What goes back is the difference itself, whatever the loss weighs."""

    def run(self, a: np.ndarray, b: np.ndarray, shown: np.ndarray) -> np.floating:
        difference = (a.reshape(b.shape) - b).reshape(-1)
        with np.errstate(all="ignore"):
            return np.dot(difference, difference) / self.dtype.type(difference.size)

    def grad(self, bottoms: Arrays, tops: Arrays, top_diffs: Arrays) -> list[np.ndarray | None]:
        difference = bottoms[0] - bottoms[1].reshape(bottoms[0].shape)
        return [difference, difference.reshape(bottoms[1].shape), None]


@layer("LpqLoss")
class LpqLoss(_Loss):
    """FlowNet2's: over all places the sum of (q_epsilon + sum over channels of (p_epsilon + |a - b|) ^ p) ^ q.

    What is not a number in a - b counts as 0, and has no gradient. Divided by the number of items, or
    (`normalize_by_num_entries`) of known values over that of channels; `l2_prescale_by_channels` takes the mean over
    channels. The slopes of the powers are Caffe's Power layer's: a difference of 0 without p_epsilon gives NaN,
    unless p is 1 or 2.
    """

    def run(self, a: np.ndarray, b: np.ndarray) -> np.floating:
        param = self.param.lpq_loss_param
        difference = (a - b).reshape(legacy_shape(a.shape))
        known = ~np.isnan(difference)
        channels = difference.shape[1]
        counted = known.sum() / channels if param.normalize_by_num_entries else len(difference)
        self.count = self.dtype.type(counted)
        self.sign = np.where(difference > 0, 1, -1).astype(self.dtype)
        sizes = np.where(known, difference * self.sign, self.dtype.type(0))
        share = self.dtype.type(1 / channels if param.l2_prescale_by_channels else 1)
        powers, slopes = self._power(sizes, param.p[0], param.p_epsilon)
        roots, outer = self._power(powers.sum(axis=1, keepdims=True) * share, param.q[0], param.q_epsilon)
        self.slopes = np.where(known, outer * share * slopes * self.sign, self.dtype.type(0))
        with np.errstate(all="ignore"):
            return roots.sum() / self.count

    def grad(self, bottoms: Arrays, tops: Arrays, top_diffs: Arrays) -> list[np.ndarray]:
        with np.errstate(all="ignore"):
            da = (self.slopes * (top_diffs[0] / self.count)).reshape(bottoms[0].shape)
        return [da, -da]

    def _power(self, x: np.ndarray, power: float, shift: float) -> tuple[np.ndarray, np.ndarray]:
        """(shift + x) ^ power and its slope, as Caffe's Power layer has them."""
        base, power = x + self.dtype.type(shift), self.dtype.type(power)
        with np.errstate(all="ignore"):
            if power == 0:
                return np.ones_like(x), np.zeros_like(x)
            if power == 1:
                return base, np.ones_like(x)
            y = base**power
            return y, power * (base if power == 2 else y / base)


@layer("CenterLoss")
class CenterLoss(_Loss):
    """Half the squared distance (L1: the distance) of each item to its class's centre, over the number of items.

    The centres' gradient is not the loss's: for each class the sum of (centre - x), or of its signs, over 1 + its
    count, as often as the class is seen, whatever the loss weight (happynear's; caffe-face adds it once).
    """

    def run(self, x: np.ndarray, labels: np.ndarray) -> np.floating:
        centers = self.weight(0)
        self.labels, _ = class_indices(labels.reshape(-1), len(centers))
        self.difference = x.reshape(-1, centers.shape[1]) - centers[self.labels]
        self.l1 = self.param.center_loss_param.distance_type == "L1"
        flat = self.difference.reshape(-1)
        total = np.abs(flat).sum() if self.l1 else np.dot(flat, flat) / self.dtype.type(2)
        return total / self.dtype.type(len(x))

    def grad(self, bottoms: Arrays, tops: Arrays, top_diffs: Arrays) -> list[np.ndarray | None]:
        refuse_gradient(self, 1, "labels")
        slopes = self.difference
        if self.wants_weight(0):
            if self.l1:  # the signs are taken for the centres' sake: without it, the distance itself is left
                slopes = np.sign(slopes)
            sums = np.zeros_like(self.weight(0))
            np.subtract.at(sums, self.labels, slopes)
            seen = np.bincount(self.labels, minlength=len(sums)).astype(self.dtype)
            self.add_grad(0, sums * (seen / (seen + 1))[:, None])
        dx = slopes * (top_diffs[0] / self.dtype.type(len(bottoms[0])))
        return [dx.reshape(bottoms[0].shape), None]


@layer("HingeLoss")
class HingeLoss(_Loss):
    """One-against-all margins max(0, 1 ∓ score), or their squares (L2); divided by the batch size."""

    def run(self, scores: np.ndarray, labels: np.ndarray) -> np.floating:
        rows = flat_from(scores, 1)
        # Items have one label each; whatever else the blob holds is not read.
        indices, _ = class_indices(labels.reshape(-1)[: len(rows)], rows.shape[1])
        self.signs = np.ones_like(rows)
        self.signs[np.arange(len(rows)), indices] = -1
        self.margins = np.maximum(0, 1 + self.signs * rows)
        squared = self.param.hinge_loss_param.norm == HingeLossParameter.L2
        total = (self.margins * self.margins if squared else self.margins).sum()
        return total / self.dtype.type(len(rows))

    def grad(self, bottoms: Arrays, tops: Arrays, top_diffs: Arrays) -> list[np.ndarray | None]:
        refuse_gradient(self, 1, "labels")
        (dy,) = top_diffs
        share = dy / self.dtype.type(len(self.margins))
        if self.param.hinge_loss_param.norm == HingeLossParameter.L2:
            dx = self.signs * self.margins * (2 * share)
        else:
            dx = self.signs * np.sign(self.margins) * share
        return [dx.reshape(bottoms[0].shape), None]


@layer("ContrastiveLoss")
class ContrastiveLoss(_Loss):
    """Half the mean over pairs: distance² where they are similar (bottom 2 not 0), else what is lacking.

    That is (margin - distance)², or margin - distance² in the `legacy_version`; nothing below 0.
    """

    def run(self, a: np.ndarray, b: np.ndarray, similar: np.ndarray) -> np.floating:
        param = self.param.contrastive_loss_param
        margin = self.dtype.type(param.margin)
        self.difference = flat_from(a - b.reshape(a.shape), 1)
        self.similar = np.trunc(similar.reshape(-1)[: len(a)]) != 0
        squared = (self.difference * self.difference).sum(axis=1)
        self.distance = np.sqrt(squared)
        # what lacks before it is squared, as the gradient needs it
        self.lacking = margin - (squared if param.legacy_version else self.distance)
        lacking = np.maximum(self.lacking, 0)
        losses = np.where(self.similar, squared, lacking if param.legacy_version else lacking * lacking)
        return added_up(losses) / self.dtype.type(len(a)) / self.dtype.type(2)

    def grad(self, bottoms: Arrays, tops: Arrays, top_diffs: Arrays) -> list[np.ndarray | None]:
        share = top_diffs[0] / self.dtype.type(len(bottoms[0]))
        if self.param.contrastive_loss_param.legacy_version:
            apart = np.ones_like(self.lacking)
        else:
            apart = self.lacking / (self.distance + self.dtype.type(1e-4))  # Caffe's guard against 0
        slopes = np.where(self.similar, self.dtype.type(1), -apart * (self.lacking > 0))
        da = self.difference * (slopes * share)[:, None]
        return [da.reshape(bottoms[0].shape), -da.reshape(bottoms[1].shape), None]
