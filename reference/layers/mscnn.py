"""The box layers of MS-CNN and Cascade R-CNN (zhaoweicai/mscnn)."""

import math

import numpy as np

from prototxt.caffe_pb2 import BoxOutputParameter, DetectionAccuracyParameter, DetectionLossParameter
from prototxt.errors import InputError
from prototxt.layers.declare import legacy_shape
from prototxt.layers.mscnn import COORDINATES, box_statistics
from prototxt.layers.windows import canonical_axis
from reference.checks import class_indices, refuse_gradient
from reference.layer import Arrays, Layer, flat_from, layer
from reference.layers.losses import FLT_MIN
from reference.layers.normalisation import softmax
from runtime.blob import Blob
from runtime.data.ground_truth import overlap
from runtime.rng import caffe_rng

SINGLE = np.float32
"""Overlaps that are held against thresholds are in single precision, whatever the net's."""


def _clamped(t: np.ndarray, low: np.floating, high: np.floating) -> np.ndarray:
    """What is not a number becomes the lower bound, as std::max gives it."""
    return np.minimum(np.where(t > low, t, low), high)


def _bounds(
    param: BoxOutputParameter | DetectionLossParameter | DetectionAccuracyParameter, kind: type
) -> tuple[np.ndarray, np.ndarray]:
    """The least and the greatest prediction for each of the 4 coordinates, (4, 1)."""
    most = [kind(1) / kind(param.field_xyr), np.log(kind(param.field_whr))]
    least = [kind(-1) / kind(param.field_xyr), np.log(kind(1) / kind(param.field_whr))]
    return np.repeat(np.array(least, kind), 2)[:, None], np.repeat(np.array(most, kind), 2)[:, None]


def _statistics(given: Layer, above_zero: bool = False) -> tuple[np.ndarray, np.ndarray]:
    means, deviations = box_statistics(given.param.bbox_reg_param, above_zero)
    return np.array(means, given.dtype), np.array(deviations, given.dtype)


def _centres(shape: tuple[int, ...], rate: float, kind: type) -> np.ndarray:
    """Pixels of each place's centre, x then y, (2, height · width)."""
    height, width = shape
    x, y = np.meshgrid(np.arange(width), np.arange(height))
    return (np.stack([x.reshape(-1), y.reshape(-1)]).astype(kind) + kind(0.5)) * kind(rate)


def _decoded(
    t: np.ndarray,
    bounds: tuple[np.ndarray, np.ndarray],
    field: tuple[float, float],
    centres: np.ndarray,
) -> np.ndarray:
    """Boxes [x, y, width, height], (4, places), of predictions that the statistics are out of."""
    t = _clamped(t, *bounds)
    fields = np.array(field, t.dtype)[:, None]
    size = fields * np.exp(t[2:])
    middle = t[:2] * fields + centres
    return np.concatenate([middle - size / t.dtype.type(2), size])


class _NoGradient(Layer):
    """A layer whose tops' rows are known in a forward pass, and which has no gradient."""

    def forward(self, bottom: list[Blob], top: list[Blob]) -> None:
        rows = self.run(*(blob.data for blob in bottom))
        for blob, values in zip(top, rows, strict=True):
            blob.reshape(*values.shape, 1, 1)
            blob.data[...] = values.reshape(blob.shape)

    def grad(self, bottoms: Arrays, tops: Arrays, top_diffs: Arrays) -> None:
        raise InputError(f"{self.type} has no gradient to give, in Caffe neither")


@layer("BoxOutput")
class BoxOutput(_NoGradient):
    """Regions (rows, 5), and with their scores (rows, 6), of each image's best predictions from several maps.

    A place's score is that of its best class less the background's. Of equal scores the later place comes first.
    Without any box the tops have one row of the fork's own.
    """

    def run(self, *maps: np.ndarray) -> list[np.ndarray]:
        found = [self._of_image([values[i] for values in maps]) for i in range(len(maps[0]))]
        boxes = np.concatenate([np.zeros((0, 5), self.dtype), *found])
        image = np.repeat(np.arange(len(found)), [len(rows) for rows in found]).astype(self.dtype)
        if not len(boxes):
            nothing = [np.array([[0, 1, 1, 10, 10]], self.dtype), np.zeros((1, 6), self.dtype)]
            return nothing[: len(self.plan.tops)]
        rows = np.column_stack([image, boxes[:, :2], boxes[:, :2] + boxes[:, 2:4], boxes[:, 4]])
        return [rows[:, :5], rows][: len(self.plan.tops)]

    def _of_image(self, maps: list[np.ndarray]) -> np.ndarray:
        """Rows [x, y, width, height, score] that are left of one image, the best first."""
        param = self.param.box_output_param
        boxes = np.concatenate([self._of_map(j, values) for j, values in enumerate(maps)], axis=1).T
        boxes = boxes[np.lexsort((-np.arange(len(boxes)), -boxes[:, 4]))]
        if param.max_nms_num:
            boxes = boxes[: param.max_nms_num]
        boxes = boxes[self._kept(boxes)]
        return boxes[: param.max_post_nms_num or None]

    def _of_map(self, j: int, values: np.ndarray) -> np.ndarray:
        """(5, boxes) of one map, in the order of its places."""
        param, kind = self.param.box_output_param, self.dtype.type
        values = values.reshape(values.shape[0], *legacy_shape((1, *values.shape))[2:])
        scores, t = np.split(flat_from(values, 1), [len(values) - COORDINATES])
        best = np.fmax.reduce(scores[1:], axis=0, initial=-np.finfo(SINGLE).max)
        score = best - scores[0]
        chosen = score >= kind(param.fg_thr)
        means, deviations = _statistics(self)
        t = t[:, chosen] * deviations[:, None] + means[:, None]
        rate = kind(param.downsample_rate[j])
        centres = _centres(values.shape[1:], rate, kind)[:, chosen]
        field = param.field_w[j], param.field_h[j]
        x, y, width, height = _decoded(t, _bounds(param, kind), field, centres)
        x, y = np.maximum(x, kind(0)), np.maximum(y, kind(0))
        width = np.minimum(width, values.shape[2] * rate - x)
        height = np.minimum(height, values.shape[1] * rate - y)
        large = (width >= kind(param.min_size)) & (height >= kind(param.min_size))
        return np.stack([x, y, width, height, score[chosen]])[:, large]

    def _kept(self, boxes: np.ndarray) -> np.ndarray:
        param = self.param.box_output_param
        open_ = np.ones(len(boxes), bool)
        for i in range(len(boxes)):
            if open_[i]:
                shared = overlap(boxes[i, :4], boxes[i + 1 :, :4], param.nms_type)
                open_[i + 1 :] &= ~(shared > self.dtype.type(param.iou_thr))
        return open_


def _label_map(labels: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Classes (num, places), boxes [centre, size] (num, 4, places), and overlaps (num, places) of a label blob."""
    rows = flat_from(labels, 2)
    return rows[:, 0].astype(np.int64), rows[:, 1:5], rows[:, 5]


@layer("DetectionLoss")
class DetectionLoss(Layer):
    """The softmax loss of classes at all positive places and at chosen negative ones, and the boxes' smooth L1 loss.

    `sample_mode` chooses the negatives: "random" by Caffe's generator, "bootstrap" those of each class's largest
    scores, "mixture" half of both, any other all. Where a place's class counts, labels are cut to 1 with `objectness`;
    where its box does, they are not. Predicted coordinates are clamped, and the gradient goes on beyond, as published.
    Only the first value's gradient goes back.
    """

    def run(self, x: np.ndarray, labels: np.ndarray) -> np.ndarray:
        param = self.param.detection_loss_param
        self.shape = legacy_shape(x.shape)
        x = flat_from(x, 2)
        scores, t = x[:, : param.cls_num], x[:, param.cls_num :]
        truth, boxes, shared = _label_map(labels)
        classes, _ = class_indices(np.minimum(truth, 1) if param.objectness else truth, param.cls_num)
        candidates = (truth == 0) & (shared < self.dtype.type(param.bg_threshold))
        chosen = np.stack([self._chosen(*each) for each in zip(scores, classes, candidates, strict=True)])
        weights = self._weights(truth, classes, chosen, shared)
        class_loss = self._of_classes(scores, classes, chosen, weights)
        box_loss = self._of_boxes(t, truth, boxes)
        return np.array([class_loss + box_loss, box_loss], self.dtype).reshape(1, 1, 1, 2)

    def _chosen(self, scores: np.ndarray, classes: np.ndarray, candidates: np.ndarray) -> np.ndarray:
        """Which places of one image are negatives that count."""
        param = self.param.detection_loss_param
        mode, places = param.sample_mode, classes.size
        if mode not in ("random", "bootstrap", "mixture"):
            return candidates
        part = SINGLE(0.5 if mode == "mixture" else 1)
        counts = np.bincount(classes, minlength=param.cls_num)
        found = np.zeros(places, bool)
        if mode != "bootstrap":
            draws = max(int(SINGLE(counts[1:].sum() * param.bg_multiple) * part), 4 * (param.cls_num - 1))
            found[(caffe_rng().words(draws) % places).astype(np.int64)] = True
            found &= candidates
        if mode != "random":
            open_ = np.flatnonzero(candidates)
            if np.isnan(scores[1:, open_]).any():
                raise InputError("a score is not a number: the hardest negatives cannot be told")
            for k in range(1, param.cls_num):
                most = max(4, int(SINGLE(counts[k] * param.bg_multiple) * part))
                found[open_[np.lexsort((-open_, -scores[k, open_]))[:most]]] = True
        return found

    def _weights(
        self, truth: np.ndarray, classes: np.ndarray, chosen: np.ndarray, shared: np.ndarray
    ) -> np.ndarray:
        """Of each place's class, (num, places)."""
        param, kind = self.param.detection_loss_param, self.dtype.type
        positive = truth != 0
        weights = np.where(positive, shared, kind(1)) if param.iou_weighted else np.ones_like(shared)
        if not param.pos_neg_weighted:
            return weights
        above = weights[positive].sum(dtype=self.dtype)
        below = weights[~positive & chosen].sum(dtype=self.dtype)
        if above == 0:
            return weights
        share = kind(1) / kind(1 + param.bg_multiple)
        count = kind(chosen.sum() + (classes != 0).sum())
        with np.errstate(divide="ignore"):
            return weights * np.where(positive, share * count / above, (kind(1) - share) * count / below)

    def _of_classes(
        self, scores: np.ndarray, classes: np.ndarray, chosen: np.ndarray, weights: np.ndarray
    ) -> np.floating:
        param, loss = self.param.detection_loss_param, self.param.loss_param
        as_map = scores.reshape(len(scores), param.cls_num, *self.shape[2:])
        prob = softmax(as_map, canonical_axis(self.param.softmax_param.axis, 4)).reshape(scores.shape)
        counted = (classes != 0) | chosen
        if loss.HasField("ignore_label"):
            counted &= classes != loss.ignore_label
        picked = np.take_along_axis(prob, classes[:, None], 1)[:, 0]
        each = -np.log(np.maximum(picked, self.dtype.type(FLT_MIN)))[counted] * weights[counted]
        self.count = self.dtype.type(max(int(counted.sum()), 1))
        slopes = prob - (np.arange(param.cls_num)[:, None] == classes[:, None])
        with np.errstate(invalid="ignore"):  # a weight that is infinite, as published
            self.slopes = np.where(counted[:, None], slopes, self.dtype.type(0)) * weights[:, None]
        return each.sum(dtype=self.dtype) / self.count

    def _of_boxes(self, t: np.ndarray, truth: np.ndarray, boxes: np.ndarray) -> np.floating:
        param, kind, loss = self.param.detection_loss_param, self.dtype.type, self.param.loss_param
        counted = truth != 0
        if loss.HasField("ignore_label"):
            counted &= truth != loss.ignore_label
        means, deviations = (values[:, None] for values in _statistics(self, above_zero=True))
        fields = np.array([param.field_w, param.field_h], self.dtype)[:, None]
        centres = _centres(self.shape[2:], param.downsample_rate, kind)
        shifts = (boxes[:, :2] - centres) / fields
        scales = np.log(np.maximum(boxes[:, 2:], kind(2)) / fields)
        due = (np.concatenate([shifts, scales], axis=1) - means) / deviations
        # The bounds have the mean of both axes' means, and the geometric mean of their deviations.
        middle = np.repeat(means.reshape(2, 2).sum(axis=1) / 2, 2)[:, None].astype(self.dtype)
        spread = np.repeat(np.sqrt(deviations.reshape(2, 2).prod(axis=1)), 2)[:, None]
        low, high = ((bound - middle) / spread for bound in _bounds(param, kind))
        d = np.where(counted[:, None], _clamped(t, low, high) - due, kind(0))
        self.box_count = kind(max(int(counted.sum()) * COORDINATES, 1))
        self.box_slopes = d
        values = kind(0.5) * d * d
        if param.bb_smooth:
            near = np.abs(d) < 1
            values = np.where(near, values, np.abs(d) - kind(0.5))
            self.box_slopes = np.where(d <= -1, kind(-1), np.where(d < 1, d, kind(1)))
        return kind(getattr(param, "lambda")) * (values.sum(dtype=self.dtype) / self.box_count)

    def grad(self, bottoms: Arrays, tops: Arrays, top_diffs: Arrays) -> list[np.ndarray | None]:
        refuse_gradient(self, 1, "labels")
        by = top_diffs[0].reshape(-1)[0]
        factor = self.dtype.type(getattr(self.param.detection_loss_param, "lambda"))
        parts = [self.slopes * (by / self.count), self.box_slopes * (by * factor / self.box_count)]
        return [np.concatenate(parts, axis=1).reshape(bottoms[0].shape), None]


@layer("DetectionAccuracy")
class DetectionAccuracy(Layer):
    """The share of places whose class is among the `top_k` best, and of positive ones; the boxes' mean overlap.

    -1 where there is none. A background place that overlaps a truth by `bg_threshold` or more does not count. Of
    equal scores the higher class is better.
    """

    def run(self, x: np.ndarray, labels: np.ndarray) -> list[np.ndarray]:
        param, loss = self.param.detection_accuracy_param, self.param.loss_param
        shape = legacy_shape(x.shape)
        x = flat_from(x, 2)
        scores, t = x[:, : param.cls_num], x[:, param.cls_num :]
        truth, boxes, shared = _label_map(labels)
        classes = np.minimum(truth, 1) if param.objectness else truth
        counted = ~((classes == 0) & (shared >= self.dtype.type(param.bg_threshold)))
        boxed = truth != 0
        if loss.HasField("ignore_label"):
            counted &= classes != loss.ignore_label
            boxed &= truth != loss.ignore_label
        known = (classes >= 0) & (classes < param.cls_num)
        own = np.take_along_axis(scores, np.where(known, classes, 0)[:, None], 1)
        higher = np.arange(param.cls_num)[:, None] > classes[:, None]
        better = ((scores > own) | ((scores == own) & higher)).sum(axis=1)
        right = known & (better < param.top_k)
        shares = [_mean(right[counted], self.dtype), _mean(right[counted & (classes != 0)], self.dtype)]
        tops = [np.array(shares, self.dtype).reshape(1, 1, 1, 2)]
        if len(self.plan.tops) > 1:
            means, deviations = _statistics(self)
            centres = _centres(shape[2:], param.downsample_rate, self.dtype.type)
            field, bounds = (param.field_w, param.field_h), _bounds(param, self.dtype.type)
            found = [
                _decoded(each * deviations[:, None] + means[:, None], bounds, field, centres) for each in t
            ]
            due = np.concatenate([boxes[:, :2] - boxes[:, 2:] / self.dtype.type(2), boxes[:, 2:]], axis=1)
            overlaps = overlap(np.stack(found).transpose(0, 2, 1), due.transpose(0, 2, 1))
            tops.append(np.full((1, 1, 1, 1), _mean(overlaps[boxed], self.dtype)))
        return tops

    def grad(self, bottoms: Arrays, tops: Arrays, top_diffs: Arrays) -> None:
        refuse_gradient(self, 0, "scores")
        refuse_gradient(self, 1, "labels")


def _mean(values: np.ndarray, dtype: np.dtype) -> np.floating:
    """-1 of nothing."""
    return values.sum(dtype=dtype) / dtype.type(len(values)) if len(values) else dtype.type(-1)


def _sizes(corners: np.ndarray) -> np.ndarray:
    """[x, y, width, height] of corners (…, 4) whose last pixels belong to them."""
    return np.concatenate([corners[..., :2], corners[..., 2:] - corners[..., :2] + 1], axis=-1)


@layer("BboxAccuracy")
class BboxAccuracy(Layer):
    """The mean overlap with their truths of the boxes predicted for positive regions; top 1: of the regions themselves.

    Regions that overlap their truth by more than 0.975 do not count. -1 without any.
    """

    def run(self, t: np.ndarray, regions: np.ndarray, truths: np.ndarray) -> list[np.ndarray]:
        truths = truths.reshape(len(truths), 6)
        fixed = truths[:, 5].astype(np.float64) > 0.975
        count = int(((truths[:, 0] > 0) & ~fixed).sum())
        rows = np.flatnonzero((truths[:, 0].astype(np.int64) > 0) & ~fixed)
        classes, _ = class_indices(truths[rows, 0], t.shape[1] // 4)
        means, deviations = _statistics(self)
        t = t.reshape(len(t), t.shape[1] // 4, 4)[rows, classes] * deviations + means
        regions = _sizes(regions.reshape(-1, 5)[rows, 1:])
        half = self.dtype.type(0.5)
        size = regions[:, 2:] * np.exp(t[:, 2:])
        middle = t[:, :2] * regions[:, 2:] + (regions[:, :2] + half * regions[:, 2:])
        found = np.concatenate([middle - size / self.dtype.type(2), size], axis=1)
        due = _sizes(truths[rows, 1:5])
        tops = []
        for boxes in (found, regions)[: len(self.plan.tops)]:
            total = overlap(boxes, due).sum(dtype=self.dtype)
            tops.append(np.full((1, 1, 1, 1), total / self.dtype.type(count) if count else -1, self.dtype))
        return tops

    def grad(self, bottoms: Arrays, tops: Arrays, top_diffs: Arrays) -> None:
        for index, what in enumerate(("predictions", "regions", "truths")):
            refuse_gradient(self, index, what)


@layer("DecodeBBox")
class DecodeBBox(_NoGradient):
    """Regions (rows, 5) moved as the last 4 of 8 predictions say.

    In phase TRAIN without those that are inverted, and without those that overlap their truth (the last number of
    bottom 2) by `gt_iou_thr` or more.
    """

    def run(self, t: np.ndarray, regions: np.ndarray, *truths: np.ndarray) -> list[np.ndarray]:
        half = self.dtype.type(0.5)
        regions = regions.reshape(-1, 5)
        low, high = regions[:, 1:3], regions[:, 3:]
        means, deviations = _statistics(self, above_zero=True)
        t = t.reshape(-1, 8)[:, 4:] * deviations + means
        size = high - low + self.dtype.type(1)
        wanted = size * np.exp(t[:, 2:])
        first = t[:, :2] * size + half * (high + low) - (wanted - 1) / self.dtype.type(2)
        last = first + wanted - 1
        rows = np.concatenate([regions[:, :1], first, last], axis=1)
        if self.phase == 0:
            kept = ~(first > last).any(axis=1)
            for truth in truths:
                most = SINGLE(self.param.decode_bbox_param.gt_iou_thr)
                kept &= ~(flat_from(truth, 1)[:, -1].astype(SINGLE) >= most)
            rows = rows[kept]
        if not len(rows):
            raise InputError("DecodeBBox leaves no region: all are inverted, or overlap their truth too much")
        return [rows]


@layer("ProposalTarget")
class ProposalTarget(_NoGradient):
    """Regions to learn from, positive ones first: chosen among the given ones and the truths, by overlap.

    Positive and negative ones are drawn by a shuffle where there are too many; where there are too few negatives,
    regions of lesser overlap are taken in their order, and after them random boxes.
    """

    TRIALS = 1 << 20
    """Random boxes after which none is thought to be free of truths; the fork would go on."""

    def run(self, regions: np.ndarray, truths: np.ndarray) -> list[np.ndarray]:
        param = self.param.proposal_target_param
        truths = truths.reshape(-1, 7)
        given = np.concatenate([regions.reshape(-1, 5), truths[:, :5]])
        if (given[:, 0] >= param.num_img_per_batch).any():
            raise InputError(
                f"a region is of image {given[:, 0].max():g}: num_img_per_batch is {param.num_img_per_batch}"
            )
        boxes = np.concatenate([given[:, :1], _sizes(given[:, 1:])], axis=1)
        due = boxes[len(boxes) - len(truths) :]
        shared, of = self._matched(boxes, due)
        chosen, positive = self._chosen(shared, of, truths)
        count = param.batch_size if param.batch_size > 0 else len(chosen)
        if len(chosen) < count:
            boxes = np.concatenate([boxes, self._random(count - len(chosen), due)])
            chosen += range(len(boxes) - count + len(chosen), len(boxes))
        rows = boxes[chosen]
        at = np.array(chosen[:positive], np.int64)
        return self._tops(rows, due[of[at]], truths[of[at]], shared[at])[: len(self.plan.tops)]

    def _matched(self, boxes: np.ndarray, due: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Each box's largest overlap with a truth of its image, single precision, and which truth that is."""
        if not len(due):
            return np.zeros(len(boxes), SINGLE), np.full(len(boxes), -1)
        shared = overlap(boxes[:, None, 1:], due[None, :, 1:]).astype(SINGLE)
        shared[boxes[:, None, 0] != due[None, :, 0]] = -1
        of = shared.argmax(axis=1)
        most = shared.max(axis=1)
        return np.maximum(most, SINGLE(0)), np.where(most < 0, -1, of)

    def _chosen(self, shared: np.ndarray, of: np.ndarray, truths: np.ndarray) -> tuple[list[int], int]:
        """Places of the boxes that are taken, and how many of them, the first, are positive."""
        param = self.param.proposal_target_param
        above = shared >= SINGLE(param.fg_thr)
        between = ~above & (shared >= SINGLE(param.bg_thr_lw)) & (shared < SINGLE(param.bg_thr_hg))
        if (truths[of[above], 5] <= 0).any():
            raise InputError("a truth is of class 0 or less: classes begin at 1")
        positive = np.flatnonzero(above)
        positive = positive[truths[of[positive], 6] == 0].tolist()
        negative, others = np.flatnonzero(between).tolist(), np.flatnonzero(~above & ~between).tolist()
        size, most = len(positive) + len(negative), len(positive)
        if param.batch_size > 0:
            size = param.batch_size
            most = math.floor(float(SINGLE(param.fg_fraction) * SINGLE(size)) + 0.5)
        if len(positive) > most:
            self.opened.shuffle(positive)
            positive = positive[:most]
        left = size - len(positive)
        if len(negative) > left:
            self.opened.shuffle(negative)
            negative = negative[:left]
        else:
            negative += others[: left - len(negative)]
        return positive + negative, len(positive)

    def _random(self, count: int, due: np.ndarray) -> np.ndarray:
        """Boxes with no truth that they overlap by `fg_thr`; the fork looks for one more than it takes."""
        param, rng = self.param.proposal_target_param, caffe_rng()
        if min(param.img_width, param.img_height) <= 32:
            raise InputError(
                "proposal_target_param: too few regions: give img_width and img_height, above 32"
            )
        found: list[np.ndarray] = []
        for _ in range(self.TRIALS):
            image, x, y = rng.words(3) % np.array(
                [param.num_img_per_batch, param.img_width - 32, param.img_height - 32], np.uint32
            )
            width, height = rng.words(2) % np.array([param.img_width - x, param.img_height - y], np.uint32)
            box = np.array([image, x, y, max(width, 32), max(height, 32)], self.dtype)
            hers = due[due[:, 0] == box[0], 1:]
            if (overlap(box[None, 1:], hers).astype(SINGLE) >= SINGLE(param.fg_thr)).any():
                continue
            found.append(box)
            if len(found) > count:
                return np.stack(found[:count])
        raise InputError("proposal_target_param: too few regions, and truths leave no place for random ones")

    def _tops(
        self, rows: np.ndarray, due: np.ndarray, truths: np.ndarray, shared: np.ndarray
    ) -> list[np.ndarray]:
        """Of the rows that were taken; `due`, `truths` and `shared` are of the first, positive ones."""
        param, count, half = self.param.proposal_target_param, len(due), self.dtype.type(0.5)
        classes = truths[:, 5].astype(np.int64)
        if (classes < 1).any():
            raise InputError("a truth is of class 0 or less: classes begin at 1")
        if self.param.bbox_reg_param.cls_aware:
            slots, _ = class_indices(classes, param.cls_num)
        else:
            slots = np.minimum(classes, 1)
        box, due = rows[:count, 1:], due[:, 1:]
        shift = ((due[:, :2] + half * due[:, 2:]) - (box[:, :2] + half * box[:, 2:])) / box[:, 2:]
        means, deviations = _statistics(self)
        with np.errstate(all="ignore"):
            t = (np.concatenate([shift, np.log(due[:, 2:] / box[:, 2:])], axis=1) - means) / deviations
        width = self.plan.declared.tops[2][1]
        targets, weights = np.zeros((2, len(rows), width // 4, 4), self.dtype)
        targets[np.arange(count), slots], weights[np.arange(count), slots] = t, 1
        labels = np.zeros((len(rows), 1), self.dtype)
        labels[:count, 0] = classes
        matched = np.zeros((len(rows), 6), self.dtype)
        matched[:count] = np.column_stack([classes, due[:, :2], due[:, :2] + due[:, 2:] - 1, shared])
        corners = np.concatenate([rows[:, :3], rows[:, 1:3] + rows[:, 3:] - 1], axis=1)
        targets, weights = targets.reshape(len(rows), width), weights.reshape(len(rows), width)
        samples = self._sample_weights(len(rows), shared)[:, None]
        return [corners, labels, targets, weights, weights, matched, samples]

    def _sample_weights(self, count: int, shared: np.ndarray) -> np.ndarray:
        """Of the rows: positive ones together weigh `fg_fraction` of all, negative ones the rest."""
        param, weights = self.param.proposal_target_param, np.ones(count, self.dtype)
        positive = slice(len(shared))
        if param.iou_weighted:
            weights[positive] = shared
        above, below = weights[positive].sum(dtype=self.dtype), weights[len(shared) :].sum(dtype=self.dtype)
        if above != 0:
            part = SINGLE(param.fg_fraction)
            weights[positive] *= self.dtype.type(part * SINGLE(count)) / above
            if count > len(shared):
                weights[len(shared) :] *= self.dtype.type((SINGLE(1) - part) * SINGLE(count)) / below
        return weights
