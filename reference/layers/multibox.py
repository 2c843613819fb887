"""MultiBoxLoss, SSD's loss."""

from dataclasses import dataclass

import numpy as np

from prototxt.caffe_pb2 import LossParameter, MultiBoxLossParameter
from prototxt.layers.multibox import wants
from reference.arithmetic import added_up, sigmoid
from reference.checks import class_indices, refuse_gradient
from reference.layer import Arrays, Layer, layer
from reference.layers.boxes import areas, decoded, encoded, intersections, outside, priors_of, truths_of
from reference.layers.losses import FLT_MIN, normaliser
from reference.layers.normalisation import softmax

NONE, LEFT_OUT = -1, -2
"""In place of a truth's number: a prior that matches none, and one that reaches outside of the image."""


@dataclass
class _Matches:
    """Of one image and one class of locations (-1: shared by all).

    Attributes:
        truth: for each prior the number of the truth that it matches, among the image's, or NONE, or LEFT_OUT.
        overlap: its intersection over union with that, or the largest with any.
    """

    image: int
    label: int
    truth: np.ndarray
    overlap: np.ndarray


@layer("MultiBoxLoss")
class MultiBoxLoss(Layer):
    """Location loss of the priors that match ground truth, and confidence loss of them and of hard negatives.

    Caffe forgets its matches only in the backward pass, so that of two forward passes without one the second
    would go by the first one's matches; here each has its own.
    """

    def run(self, loc: np.ndarray, conf: np.ndarray, priors: np.ndarray, truth: np.ndarray) -> np.floating:
        param = self.param.multibox_loss_param
        self.num, self.classes = len(loc), param.num_classes
        self.conf = conf.reshape(self.num, -1, self.classes)
        count = self.conf.shape[1]
        self.loc = loc.reshape(self.num, count, -1, 4)
        self.priors, self.variances = priors_of(priors, count)
        self._read(truth.reshape(-1, 8))
        matches = [match for i in range(self.num) if i in self.truths for match in self._matched(i)]
        negatives = np.zeros((self.num, count), bool)
        if param.mining_type != MultiBoxLossParameter.NONE:
            losses = self._mining_losses(matches)
            for match in matches:
                negatives[match.image] = self._mined(match, losses[match.image])
        positives = sum(int((match.truth >= 0).sum()) for match in matches)
        total = self.dtype.type(0)
        # As Caffe, which counts a part only where its propagate_down is not false.
        loc_loss, self.loc_diff = self._location_loss(matches)
        conf_loss, self.conf_diff = self._confidence_loss(matches, negatives)
        size = normaliser(self.param.loss_param, LossParameter.VALID, self.num, count, positives)
        self.size = self.dtype.type(size)
        if wants(self.param, 0):
            total = total + self.dtype.type(param.loc_weight) * loc_loss / self.size
        if wants(self.param, 1):
            total = total + conf_loss / self.size
        return np.asarray(total, self.dtype)[()]

    def grad(self, bottoms: Arrays, tops: Arrays, top_diffs: Arrays) -> list[np.ndarray | None]:
        refuse_gradient(self, 2, "priors")
        refuse_gradient(self, 3, "ground truth")
        share = top_diffs[0] / self.size
        weight = self.dtype.type(self.param.multibox_loss_param.loc_weight)
        return [
            (self.loc_diff * (weight * share)).reshape(bottoms[0].shape),
            (self.conf_diff * share).reshape(bottoms[1].shape),
            None,
            None,
        ]

    def _read(self, rows: np.ndarray) -> None:
        """The truths of each image that has any: boxes and labels."""
        param = self.param.multibox_loss_param
        images, labels, boxes, difficult = truths_of(rows, param.background_label_id)
        counted = ~difficult | param.use_difficult_gt
        self.truths = {}
        for image in np.unique(images[counted]):
            mine = counted & (images == image)
            self.truths[int(image)] = boxes[mine], labels[mine]

    # ---- matching

    def _matched(self, image: int) -> list[_Matches]:
        param = self.param.multibox_loss_param
        truths, labels = self.truths[image]
        background = param.background_label_id
        if param.share_location:
            boxes = self.priors if param.use_prior_for_matching else self._decoded(image, 0)
            return [_Matches(image, -1, *self._match(boxes, truths, np.arange(len(truths))))]
        classes = [c for c in range(self.classes) if c != background]
        if not param.use_prior_for_matching:
            return [
                _Matches(image, c, *self._match(self._decoded(image, c), truths, np.flatnonzero(labels == c)))
                for c in classes
            ]
        truth, overlap = self._match(self.priors, truths, np.arange(len(truths)))
        of = np.where(truth >= 0, labels[truth], background)
        return [_Matches(image, c, np.where(of == c, truth, NONE), overlap) for c in classes]

    def _decoded(self, image: int, label: int) -> np.ndarray:
        param = self.param.multibox_loss_param
        variances = np.ones_like(self.variances) if param.encode_variance_in_target else self.variances
        return decoded(param.code_type, self.priors, variances, self.loc[image, :, label])

    def _match(
        self, boxes: np.ndarray, truths: np.ndarray, among: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """For each box the truth (of those numbered in `among`) that it matches, and its overlap."""
        param = self.param.multibox_loss_param
        truth = np.full(len(boxes), NONE)
        if not len(among):
            return truth, np.zeros(len(boxes), self.dtype)
        overlaps = intersections(boxes[:, None], truths[among])
        overlaps[overlaps <= 1e-6] = 0
        if param.ignore_cross_boundary_bbox:
            crossing = outside(boxes).any(axis=1)
            truth[crossing] = LEFT_OUT
            overlaps[crossing] = 0
        overlap = overlaps.max(axis=1)
        # The best pair of all first; of equal ones that of the lower box, then of the lower truth.
        open_ = overlaps.copy()
        for _ in among:
            box, column = np.unravel_index(open_.argmax(), open_.shape)
            if not open_[box, column] > 0:
                break
            truth[box], overlap[box] = among[column], open_[box, column]
            open_[box] = 0
            open_[:, column] = 0
        if param.match_type == MultiBoxLossParameter.PER_PREDICTION:
            best = overlaps.max(axis=1)
            free = (truth == NONE) & (best > 0) & (best >= self.dtype.type(param.overlap_threshold))
            truth[free], overlap[free] = among[overlaps.argmax(axis=1)[free]], best[free]
        return truth, overlap

    # ---- mining

    def _mining_losses(self, matches: list[_Matches]) -> np.ndarray:
        """(images, priors), by which examples are hard."""
        param = self.param.multibox_loss_param
        labels = np.full(self.conf.shape[:2], param.background_label_id)
        for match in matches:
            mine = match.truth >= 0
            labels[match.image, mine] = self.truths[match.image][1][match.truth[mine]]
        labels, _ = class_indices(labels, self.classes)
        if param.conf_loss_type == MultiBoxLossParameter.SOFTMAX:
            losses = self._softmax_losses(self.conf, labels)[0]
        else:
            targets = (labels[..., None] == np.arange(self.classes)).astype(self.dtype)
            losses = _logistic(self.conf, targets).sum(axis=-1, dtype=self.dtype)
        if param.mining_type == MultiBoxLossParameter.HARD_EXAMPLE:
            for match in matches:
                mine = np.flatnonzero(match.truth >= 0)
                difference = self._differences(match, mine)
                losses[match.image, mine] += self._norm(difference)[0].sum(axis=-1, dtype=self.dtype)
        return losses

    def _mined(self, match: _Matches, losses: np.ndarray) -> np.ndarray:
        """The negatives (priors) of an image. Its matches that are not hard are dropped, when all are judged."""
        param = self.param.multibox_loss_param
        hard_only = param.mining_type == MultiBoxLossParameter.HARD_EXAMPLE
        if hard_only:
            candidates, most = np.arange(len(losses)), param.sample_size
        else:
            apart = match.overlap < self.dtype.type(param.neg_overlap)
            candidates = np.flatnonzero((match.truth == NONE) & apart)
            most = int(self.dtype.type(int((match.truth >= 0).sum())) * self.dtype.type(param.neg_pos_ratio))
        most = min(most, len(candidates))
        if param.HasField("nms_param") and param.nms_param.nms_threshold > 0:
            boxes = self.priors if param.use_prior_for_nms else self._decoded(match.image, 0)
            chosen = candidates[self._suppressed(boxes[candidates], losses[candidates])[:most]]
        else:
            chosen = candidates[np.argsort(-losses[candidates], kind="stable")[:most]]
        selected = np.zeros(len(losses), bool)
        selected[chosen] = True
        negatives = selected & (match.truth == NONE)
        if hard_only:
            match.truth[(match.truth >= 0) & ~selected] = NONE
        return negatives

    def _suppressed(self, boxes: np.ndarray, scores: np.ndarray) -> np.ndarray:
        """Places of boxes, the best first, that overlap no better one too much.

        top_k limits what is looked at and what is found; Caffe reads it as 0 where it is not given.
        """
        param = self.param.multibox_loss_param.nms_param
        order = np.argsort(-scores, kind="stable")
        if param.top_k > -1:
            order = order[: param.top_k]
        order = order[areas(boxes[order]) >= 1e-5]
        kept: list[int] = []
        while len(order):
            kept.append(order[0])
            if param.top_k > -1 and len(kept) >= param.top_k:
                break
            overlap = intersections(boxes[order[0]], boxes[order[1:]])
            order = order[1:][~(overlap > self.dtype.type(param.nms_threshold))]
        return np.array(kept, np.int64)

    # ---- losses

    def _differences(self, match: _Matches, mine: np.ndarray) -> np.ndarray:
        """Predictions less what they should be, (priors `mine`, 4)."""
        param = self.param.multibox_loss_param
        ones = np.ones_like(self.variances)
        truths = self.truths[match.image][0][match.truth[mine]]
        priors, variances = self.priors[mine], self.variances[mine]
        due = encoded(param.code_type, priors, variances, truths)
        label = max(match.label, 0)
        predicted = self.loc[match.image, mine, label]
        if param.encode_variance_in_target:
            predicted = predicted / variances
        difference = predicted - due
        if param.bp_inside:
            boxes = priors
            if not param.use_prior_for_matching:
                given = ones[mine] if param.encode_variance_in_target else variances
                boxes = decoded(param.code_type, priors, given, self.loc[match.image, mine, label])
            difference[outside(boxes)] = 0  # counts as exact
        return difference

    def _norm(self, difference: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Each difference's loss, and its slope."""
        squares = self.dtype.type(0.5) * difference * difference
        if self.param.multibox_loss_param.loc_loss_type == MultiBoxLossParameter.L2:
            return squares, difference
        size = np.abs(difference)
        near = size < 1
        return np.where(near, squares, size - self.dtype.type(0.5)), np.where(
            near, difference, np.sign(difference)
        )

    def _location_loss(self, matches: list[_Matches]) -> tuple[np.floating, np.ndarray]:
        total, diff = self.dtype.type(0), np.zeros_like(self.loc)
        for match in matches:
            mine = np.flatnonzero(match.truth >= 0)
            # With the variance in the target, Caffe's gradient is that by the prediction over its variance.
            losses, diff[match.image, mine, max(match.label, 0)] = self._norm(self._differences(match, mine))
            total = total + losses.sum(dtype=self.dtype)
        return total, diff

    def _confidence_loss(
        self, matches: list[_Matches], negatives: np.ndarray
    ) -> tuple[np.floating, np.ndarray]:
        param = self.param.multibox_loss_param
        background = param.background_label_id
        mined = param.mining_type != MultiBoxLossParameter.NONE
        labels = np.full(self.conf.shape[:2], background)
        counted = negatives.copy() if mined else np.ones(labels.shape, bool)
        # Logistic targets begin as the NUMBER of the background's label.
        targets = np.full(self.conf.shape, background, self.dtype)
        flat = targets.reshape(-1)
        for match in matches:
            mine = np.flatnonzero(match.truth >= 0)
            own, _ = class_indices(self.truths[match.image][1][match.truth[mine]], self.classes)
            if param.map_object_to_agnostic:
                own = np.full_like(own, background + 1)
            labels[match.image, mine] = own
            counted[match.image, mine] = True
            if mined:
                targets[match.image, mine, own] = 1
            else:
                # Caffe steps from image to image by the number of priors, and not by that times the classes.
                flat[match.image * labels.shape[1] + mine * self.classes + own] = 1
        if mined and background < self.classes:
            targets[..., background][negatives] = 1
        if param.conf_loss_type == MultiBoxLossParameter.SOFTMAX:
            losses, diff = self._softmax_losses(self.conf, labels)
        else:
            losses = _logistic(self.conf, targets).sum(axis=-1, dtype=self.dtype)
            diff = sigmoid(self.conf) - targets
        loss = added_up(losses[counted]) if counted.any() else self.dtype.type(0)
        return loss, np.where(counted[..., None], diff, self.dtype.type(0))

    def _softmax_losses(self, scores: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """-log of the labels' probabilities (images, priors), and its slopes by the scores."""
        probabilities = softmax(scores, 2)
        picked = np.take_along_axis(probabilities, labels[..., None], -1)[..., 0]
        losses = -np.log(np.maximum(picked, self.dtype.type(FLT_MIN)))
        return losses, probabilities - (labels[..., None] == np.arange(self.classes))


def _logistic(x: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Cross-entropies of sigmoids with their targets."""
    return np.log1p(np.exp(-np.abs(x))) - x * (targets - (x >= 0))
