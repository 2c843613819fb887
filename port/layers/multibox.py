"""MultiBoxLoss, SSD's loss, in PyTorch."""

import math
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from port.gradient import with_slope
from port.labels import class_numbers
from port.layer import layer
from port.layers.boxes import area, decode, encode, overlaps, read_priors, size_of, truths
from port.layers.losses import FLOOR, Loss, normalised
from prototxt.caffe_pb2 import LossParameter, MultiBoxLossParameter
from prototxt.errors import InputError
from prototxt.layers.boxes import CORNER
from prototxt.layers.multibox import wants

UNMATCHED, IGNORED = -1, -2


@layer("MultiBoxLoss")
class MultiBoxLoss(Loss):
    """The loss of locations where priors match ground truth, and of confidences there and at hard negatives.

    A pass goes by its own matches. (Caffe keeps the first pass's until a backward pass.)
    """

    no_gradient: ClassVar[dict[int, str]] = {2: "priors", 3: "ground truth"}

    def loss(self, loc: Tensor, conf: Tensor, priors: Tensor, truth: Tensor) -> Tensor:
        param = self.param.multibox_loss_param
        boxes, variances = read_priors(priors)
        count = len(boxes)
        scores = conf.reshape(len(conf), count, param.num_classes)
        codes = loc.reshape(len(loc), count, -1, 4)
        with torch.no_grad():
            rows = self._truths(truth.detach().reshape(-1, 8))
            owner, overlap = self._matches(codes.detach(), boxes, variances, rows)
            negative = self._mine(codes.detach(), scores.detach(), boxes, variances, rows, owner, overlap)
        positive = owner >= 0
        matched = positive.sum()
        total = codes.new_zeros(())
        if wants(self.param, 0):
            difference = self._differences(codes, boxes, variances, rows, owner)
            total = total + param.loc_weight * self._norm(difference).sum()
        if wants(self.param, 1):
            total = total + self._confidence_loss(scores, rows, owner, negative)
        mode = self.param.loss_param.normalization
        if not self.param.loss_param.HasField("normalization") and self.param.loss_param.HasField(
            "normalize"
        ):
            mode = LossParameter.VALID if self.param.loss_param.normalize else LossParameter.BATCH_SIZE
        return normalised(total, mode, len(loc), count, matched)

    def _truths(self, rows: Tensor) -> Tensor:
        """The rows of ground truth that count."""
        param = self.param.multibox_loss_param
        image, _ = truths(rows, param.background_label_id)
        counts = image != -1
        if not param.use_difficult_gt:
            counts &= rows[:, 7] == 0
        return rows[counts]

    def _classes(self) -> list[int]:
        """The classes that have locations of their own, but the background; [-1] where all share one."""
        param = self.param.multibox_loss_param
        if param.share_location:
            return [-1]
        return [c for c in range(param.num_classes) if c != param.background_label_id]

    def _boxes(self, codes: Tensor, priors: Tensor, variances: Tensor) -> Tensor:
        """The boxes predicted."""
        param = self.param.multibox_loss_param
        return decode(param.code_type, priors, None if param.encode_variance_in_target else variances, codes)

    # ---- which prior is for which truth

    def _matches(
        self, codes: Tensor, priors: Tensor, variances: Tensor, rows: Tensor
    ) -> tuple[Tensor, Tensor]:
        """For each image, prior and class of locations: the row of ground truth, and the overlap with it.

        A prior without a truth is UNMATCHED, one that reaches out of the image IGNORED (where those are).
        """
        param = self.param.multibox_loss_param
        owner = torch.full(codes.shape[:3], UNMATCHED, device=codes.device)
        overlap = codes.new_zeros(codes.shape[:3])
        for image in range(len(codes)):
            mine = torch.nonzero(rows[:, 0].long() == image).flatten()
            if not len(mine):
                continue
            if param.use_prior_for_matching:
                found, shared = self._match(priors, rows, mine)
            for c in self._classes():
                at = max(c, 0)
                if param.use_prior_for_matching and c >= 0:
                    other = (found >= 0) & (rows[found, 1].long() != c)
                    # Caffe forgets there which priors reach out of the image.
                    owner[image, :, at] = found.masked_fill(other | (found == IGNORED), UNMATCHED)
                    overlap[image, :, at] = shared
                    continue
                if not param.use_prior_for_matching:
                    own = mine if c < 0 else mine[rows[mine, 1].long() == c]
                    found, shared = self._match(
                        self._boxes(codes[image, :, at], priors, variances), rows, own
                    )
                owner[image, :, at], overlap[image, :, at] = found, shared
        return owner, overlap

    def _match(self, boxes: Tensor, rows: Tensor, own: Tensor) -> tuple[Tensor, Tensor]:
        """Match boxes (n, 4) with the rows numbered in `own`: their numbers, and the overlaps."""
        param = self.param.multibox_loss_param
        owner = torch.full((len(boxes),), UNMATCHED, device=boxes.device)
        if not len(own):
            return owner, boxes.new_zeros(len(boxes))
        table = overlaps(boxes, rows[own, 3:7])
        table = table.where(table > 1e-6, 0)
        if param.ignore_cross_boundary_bbox:
            out = ((boxes < 0) | (boxes > 1)).any(-1)
            owner[out] = IGNORED
            table[out] = 0
        best, which = table.max(1)
        which = table.eq(best[:, None]).int().argmax(1)  # the first of equal ones
        shared = best.clone()
        left = table.clone()
        for _ in range(len(own)):
            largest = left.max()
            if not largest > 0:
                break
            box, column = divmod(int(left.eq(largest).flatten().int().argmax()), len(own))
            owner[box], shared[box] = own[column], largest
            left[box], left[:, column] = 0, 0
        if param.match_type == MultiBoxLossParameter.PER_PREDICTION:
            near = (owner == UNMATCHED) & (best > 0) & (best >= param.overlap_threshold)
            owner[near], shared[near] = own[which[near]], best[near]
        return owner, shared

    # ---- hard examples

    def _mine(
        self,
        codes: Tensor,
        scores: Tensor,
        priors: Tensor,
        variances: Tensor,
        rows: Tensor,
        owner: Tensor,
        overlap: Tensor,
    ) -> Tensor:
        """Which priors are negatives, (images, priors). Matches that are too easy are taken out of `owner`."""
        param = self.param.multibox_loss_param
        negative = torch.zeros(owner.shape[:2], dtype=torch.bool, device=owner.device)
        if param.mining_type == MultiBoxLossParameter.NONE:
            return negative
        hard_examples = param.mining_type == MultiBoxLossParameter.HARD_EXAMPLE
        labels = self._labels(rows, owner, agnostic=False)
        losses = self._cross_entropy(scores, labels)
        if hard_examples:
            differences = self._differences(codes, priors, variances, rows, owner)
            losses[(owner >= 0)[..., 0]] += self._norm(differences).sum(-1)
        for image in rows[:, 0].long().unique().tolist():
            if not 0 <= image < len(codes):
                continue
            mine, loss = owner[image, :, 0], losses[image]
            if hard_examples:
                among, most = torch.arange(len(mine), device=mine.device), param.sample_size
            else:
                among = torch.nonzero(
                    (mine == UNMATCHED) & (overlap[image, :, 0] < param.neg_overlap)
                ).flatten()
                most = int(torch.tensor(param.neg_pos_ratio) * (mine >= 0).sum())
            order = loss[among].argsort(dim=0, descending=True, stable=True)
            if param.HasField("nms_param") and param.nms_param.nms_threshold > 0:
                boxes = priors
                if not param.use_prior_for_nms:
                    boxes = self._boxes(codes[image, :, 0], priors, variances)
                order = order[self._apart(boxes[among[order]])]
            selected = torch.zeros_like(mine, dtype=torch.bool)
            selected[among[order[:most]]] = True
            negative[image] = selected & (mine == UNMATCHED)
            if hard_examples:
                mine[(mine >= 0) & ~selected] = UNMATCHED
        return negative

    def _apart(self, boxes: Tensor) -> Tensor:
        """Of boxes, the hardest first, the places of those that no harder one overlaps.

        At most top_k of the first top_k, which counts as 0 where it is not given.
        """
        param = self.param.multibox_loss_param.nms_param
        boxes = boxes if param.top_k < 0 else boxes[: param.top_k]
        big = torch.nonzero(~(area(boxes) < 1e-5)).flatten()
        hits = overlaps(boxes[big], boxes[big]) > param.nms_threshold
        left = torch.ones(len(big), dtype=torch.bool, device=boxes.device)
        for i in range(len(big)):
            if left[i]:
                left[i + 1 :] &= ~hits[i, i + 1 :]
        return big[left]

    # ---- the two losses

    def _labels(self, rows: Tensor, owner: Tensor, agnostic: bool | None = None) -> Tensor:
        """Each prior's class, (images, priors): the background's where it matches none."""
        param = self.param.multibox_loss_param
        agnostic = param.map_object_to_agnostic if agnostic is None else agnostic
        # Where the classes have locations of their own, a prior may match for several: Caffe's last one counts.
        kind = ((owner >= 0) * torch.arange(1, owner.shape[2] + 1, device=owner.device)).argmax(-1)
        row = owner.gather(-1, kind[..., None])[..., 0]
        if not len(rows):
            return torch.full_like(row, param.background_label_id)
        own = rows[row.clamp(min=0), 1].long()
        if agnostic:
            own = torch.full_like(own, param.background_label_id + 1)
        class_numbers(own[row >= 0], param.num_classes)  # refuses labels that no class has
        return own.where(row >= 0, param.background_label_id)

    def _differences(
        self, codes: Tensor, priors: Tensor, variances: Tensor, rows: Tensor, owner: Tensor
    ) -> Tensor:
        """Predictions less what they should be, (matches, 4)."""
        param = self.param.multibox_loss_param
        image, prior, kind = torch.nonzero(owner >= 0, as_tuple=True)
        boxes, given = priors[prior], variances[prior]
        if not (given > 0).all():
            raise InputError(f"variances of priors must be above 0, not {float(given.min())}")
        predicted = codes[image, prior, kind]
        if param.code_type != CORNER:
            size_of(priors[prior], "the prior")
        due = encode(param.code_type, boxes, rows[owner[image, prior, kind], 3:7]) / given
        inside = None
        if param.bp_inside:
            if not param.use_prior_for_matching:
                boxes = self._boxes(predicted.detach(), boxes, given)
            inside = (boxes >= 0) & (boxes <= 1)
        if param.encode_variance_in_target:
            # Caffe's gradient is by the prediction over its variance.
            predicted = with_slope(predicted, predicted.detach() / given, lambda: 1.0)
        difference = predicted - due
        return difference if inside is None else difference.where(inside, 0)

    def _norm(self, difference: Tensor) -> Tensor:
        if self.param.multibox_loss_param.loc_loss_type == MultiBoxLossParameter.L2:
            return difference.square() / 2
        return F.smooth_l1_loss(difference, torch.zeros_like(difference), reduction="none")

    def _cross_entropy(self, scores: Tensor, labels: Tensor) -> Tensor:
        """Of each prior with its label, (images, priors)."""
        param = self.param.multibox_loss_param
        if param.conf_loss_type == MultiBoxLossParameter.SOFTMAX:
            losses = -scores.log_softmax(-1).gather(-1, labels[..., None])[..., 0]
            # Probabilities have a floor, below which Caffe's gradient goes on.
            return with_slope(losses, losses.detach().clamp(max=-math.log(FLOOR)), lambda: 1.0)
        targets = F.one_hot(labels, param.num_classes).to(scores)
        return F.binary_cross_entropy_with_logits(scores, targets, reduction="none").sum(-1)

    def _confidence_loss(self, scores: Tensor, rows: Tensor, owner: Tensor, negative: Tensor) -> Tensor:
        param = self.param.multibox_loss_param
        mined = param.mining_type != MultiBoxLossParameter.NONE
        positive = (owner >= 0).any(-1)
        counted = (positive | negative) if mined else torch.ones_like(negative)
        if param.conf_loss_type == MultiBoxLossParameter.SOFTMAX:
            return self._cross_entropy(scores[counted], self._labels(rows, owner)[counted]).sum()
        # Caffe begins with the background's number as everyone's target.
        targets = torch.full_like(scores, param.background_label_id)
        image, prior, kind = torch.nonzero(owner >= 0, as_tuple=True)
        label = class_numbers(rows[owner[image, prior, kind], 1], param.num_classes)
        if param.map_object_to_agnostic:
            label = torch.full_like(label, param.background_label_id + 1)
        if mined:
            targets[image, prior, label] = 1
            targets[..., param.background_label_id][negative] = 1
        else:
            # An image's targets begin after as many VALUES as there are priors, in Caffe.
            targets.view(-1)[image * scores.shape[1] + prior * param.num_classes + label] = 1
        return F.binary_cross_entropy_with_logits(scores[counted], targets[counted], reduction="sum")
