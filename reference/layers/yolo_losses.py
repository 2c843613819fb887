"""MobileNet-YOLO's losses, and how it evaluates segmentation."""

import math

import numpy as np

from prototxt.caffe_pb2 import Yolov3Parameter
from prototxt.errors import InputError
from prototxt.layers.declare import legacy_shape
from prototxt.layers.yolo_losses import TRUTHS
from reference.checks import refuse_gradient
from reference.layer import Arrays, Layer, layer
from runtime.resized_bytes import resized_bytes

_TINY = 1e-6  # the fork's guard in CIOU


def _sigmoid(x: np.ndarray) -> np.ndarray:
    with np.errstate(over="ignore"):
        return (1 / (1 + np.exp(-x.astype(np.float64)))).astype(x.dtype)


def _corners(box: np.ndarray) -> np.ndarray:
    """[left, top, right, bottom] of [x, y, width, height], x and y in the middle."""
    half = box[..., 2:] / box.dtype.type(2)
    return np.concatenate([box[..., :2] - half, box[..., :2] + half], axis=-1)


def overlap(a: np.ndarray, b: np.ndarray, kind: int) -> np.ndarray:
    """Intersection over union of boxes that broadcast, less the term that GIOU, DIOU or CIOU takes off."""
    ca, cb = _corners(a), _corners(b)
    sides = np.minimum(ca[..., 2:], cb[..., 2:]) - np.maximum(ca[..., :2], cb[..., :2])
    shared = np.where((sides < 0).any(axis=-1), a.dtype.type(0), sides.prod(axis=-1))
    union = a[..., 2:].prod(axis=-1) + b[..., 2:].prod(axis=-1) - shared
    around = np.maximum(ca[..., 2:], cb[..., 2:]) - np.minimum(ca[..., :2], cb[..., :2])
    far = ((a[..., :2] - b[..., :2]) ** 2).sum(axis=-1)
    with np.errstate(all="ignore"):
        iou = shared / union
        if kind == Yolov3Parameter.GIOU:
            size = around.prod(axis=-1)
            less = (size - union) / size
        elif kind == Yolov3Parameter.DIOU:
            size = (around**2).sum(axis=-1)
            less = (far / size) ** 0.6
        elif kind == Yolov3Parameter.CIOU:
            size = (around**2).sum(axis=-1)
            turn = np.arctan(b[..., 2] / b[..., 3]) - np.arctan(a[..., 2] / a[..., 3])
            shape = 4 / math.pi**2 * turn**2
            less = far / size + shape / (1 - iou + shape + _TINY) * shape
        else:
            return iou.astype(a.dtype)
        return np.where(size == 0, iou, iou - less).astype(a.dtype)


def _uphill(pred: np.ndarray, truth: np.ndarray, kind: int) -> np.ndarray:
    """How the overlap grows with the box's x, y, width and height, as published: the sizes' as if not halved."""
    (left, top, right, bottom), (tl, tt, tr, tb) = _corners(pred), _corners(truth)
    top, bottom, left, right = min(top, bottom), max(top, bottom), min(left, right), max(left, right)
    straight = _corners(pred)[:2] < _corners(pred)[2:]
    width, height = right - left, bottom - top
    across, down = min(right, tr) - max(left, tl), min(bottom, tb) - max(top, tt)
    shared = across * down
    union = width * height + (tb - tt) * (tr - tl) - shared
    # By top, bottom, left, right.
    d_area = np.array([-width, width, -height, height])
    held = [top > tt, bottom < tb, left > tl, right < tr]
    d_shared = np.array([-across, across, -down, down]) * held
    d_union = d_area - d_shared
    wide, high = max(right, tr) - min(left, tl), max(bottom, tb) - min(top, tt)
    beyond = [top < tt, bottom > tb, left < tl, right > tr]
    d_around = np.array([-wide, wide, -high, high]) * beyond
    apart = across <= 0 or down <= 0
    slopes = (union * d_shared - shared * d_union) / (union * union) if union > 0 else np.zeros(4)
    for i, upright in ((0, straight[1]), (2, straight[0])):
        if not upright:
            slopes[i] = slopes[i + 1]
    if kind == Yolov3Parameter.GIOU:
        around = wide * high
        more = (around * d_union - union * d_around) / (around * around) if around else np.full(4, np.nan)
        slopes = more if apart else slopes + (more if around > 0 else 0)
    by_top, by_bottom, by_left, by_right = slopes
    found = np.array([by_left + by_right, by_top + by_bottom, by_right - by_left, by_bottom - by_top])
    if kind not in (Yolov3Parameter.DIOU, Yolov3Parameter.CIOU):
        return found
    far = ((pred[:2] - truth[:2]) ** 2).sum()
    wide, high = (
        max(pred[i] + pred[i + 2] / 2, truth[i] + truth[i + 2] / 2)
        - min(pred[i] - pred[i + 2] / 2, truth[i] - truth[i + 2] / 2)
        for i in (0, 1)
    )
    square = wide * wide + high * high
    over_top, over_bottom, over_left, over_right = map(float, beyond)
    grows = np.array(
        [
            2 * wide * (over_right - over_left),
            2 * high * (over_bottom - over_top),
            wide * (over_right + over_left),
            high * (over_bottom + over_top),
        ]
    )
    back = np.array([*(2 * (truth[:2] - pred[:2]) * square - grows[:2] * far), *(grows[2:] * far)])
    if kind == Yolov3Parameter.CIOU:
        turn = np.arctan(truth[2] / truth[3]) - np.arctan(pred[2] / pred[3])
        shape = 4 / math.pi**2 * turn**2
        alpha = shape / (1 - shared / union + shape + _TINY)
        bent = alpha * 8 / math.pi**2 * turn * np.array([0, 0, pred[3], -pred[2]])
    else:
        bent = np.zeros(4)
    more = back / (square * square) + bent
    return more if apart else found + (more if square > 0 else 0)


@layer("Yolov3")
class Yolov3(Layer):
    """The sum of the squares of the slopes that YOLO v3 takes, over the images; those slopes go back.

    A score of an object is pushed to 0 where the box overlaps no truth by more than `thresh`. Each truth's place is
    pushed to it, for the anchor of all that is most alike if it is in `mask`, and for the others in `mask` that are
    more alike than `iou_thresh`. (What is left out is the one whose number among all anchors is the first's number in
    `mask`, as published.) Later truths overwrite; with an overlap as the loss of boxes and `accumulate` its slopes add
    up, and the loss counts 1 less the overlap for the boxes, but slopes for the scores.

    With `use_logic_gradient` the slopes of x, y and scores are multiplied by s · (1 - s); where the loss of boxes is an
    overlap, by x · (1 - x) of the raw x and y, as published.
    """

    def run(self, x: np.ndarray, rows: np.ndarray) -> np.floating:
        self.settings = self.param.yolov3_param
        self.shape = legacy_shape(x.shape)
        num, _, *self.size = self.shape
        self.raw = x.reshape(num, self.settings.num, -1, *self.size)
        self.values = _sigmoid(self.raw)
        self.values[:, :, 2:4] = self.raw[:, :, 2:4]
        self.anchors = np.array(self.settings.biases, self.dtype)[
            : len(self.settings.biases) // 2 * 2
        ].reshape(-1, 2)
        self.across = np.array(self.size[::-1], self.dtype)
        self.network = self.across * self.settings.anchors_scale
        self.slopes = np.zeros_like(self.raw)
        self.missed, self.count = self.dtype.type(0), 0
        for b, truths in enumerate(rows.reshape(-1)[: num * TRUTHS * 5].reshape(num, TRUTHS, 5)):
            if (truths[:, 3:] < 0).any():
                raise InputError("a truth has a negative size")
            self._of_background(b, truths[: _first_zero(truths[:, 1])])
            for truth in truths[: _first_zero(truths[:, 3])]:
                self._of_truth(b, truth)
        boxes = self.settings.iou_loss == Yolov3Parameter.MSE
        counted = self.slopes if boxes else self.slopes[:, :, 4:]
        loss = (counted * counted).sum(dtype=self.dtype)
        if not boxes and self.count:
            loss += self.dtype.type(self.settings.iou_normalizer) * self.missed / self.dtype.type(self.count)
        return loss / self.dtype.type(num)

    def _of_background(self, b: int, truths: np.ndarray) -> None:
        y, x = np.mgrid[: self.size[0], : self.size[1]].astype(self.dtype)
        best = np.zeros((self.settings.num, *self.size), self.dtype)
        for n, anchor in enumerate(self.settings.mask[: self.settings.num]):
            values = self.values[b, n]
            with np.errstate(over="ignore"):
                boxes = np.stack(
                    [
                        (x + values[0]) / self.across[0],
                        (y + values[1]) / self.across[1],
                        np.exp(values[2]) * self.anchors[anchor, 0] / self.network[0],
                        np.exp(values[3]) * self.anchors[anchor, 1] / self.network[1],
                    ],
                    axis=-1,
                )
            for truth in truths:
                best[n] = np.fmax(best[n], overlap(boxes, truth[1:], self.settings.iou_loss))
        score = self.values[b, :, 4]
        self.slopes[b, :, 4] = np.where(best > self.dtype.type(self.settings.thresh), 0, score)

    def _of_truth(self, b: int, truth: np.ndarray) -> None:
        settings, mask = self.settings, list(self.settings.mask[: self.settings.num])
        column, row = (int(place) for place in truth[1:3] * self.across)
        if not (0 <= column < self.size[1] and 0 <= row < self.size[0] and (truth[1:3] >= 0).all()):
            raise InputError(f"a truth's middle ({truth[1]:g}, {truth[2]:g}) is outside of the image")
        if not 0 <= truth[0] < settings.num_class:
            raise InputError(f"a truth is of class {truth[0]:g}, of {settings.num_class} from 0 on")
        still = np.zeros((len(self.anchors), 2), self.dtype)
        shapes = np.concatenate([still, self.anchors / self.network], axis=1)
        alike = overlap(shapes, np.array([0, 0, *truth[3:]], self.dtype), settings.iou_loss)
        best = int(np.argmax(np.nan_to_num(alike, nan=-np.inf)))
        best = best if alike[best] > 0 else -1
        if best in mask:
            best = mask.index(best)
            self._towards((b, best, row, column), truth)
        for n in range(len(self.anchors)):
            if (
                n in mask
                and n != best
                and settings.iou_thresh < 1
                and alike[n] > self.dtype.type(settings.iou_thresh)
            ):
                self._towards((b, mask.index(n), row, column), truth)

    def _towards(self, at: tuple[int, int, int, int], truth: np.ndarray) -> None:
        settings, (b, n, row, column) = self.settings, at
        values, slopes = self.values[b, n, :, row, column], self.slopes[b, n, :, row, column]
        anchor = self.anchors[settings.mask[n]]
        scale = self.dtype.type(settings.coord_scale) * (2 - truth[3] * truth[4])
        place = np.array([column, row], self.dtype)
        if settings.iou_loss == Yolov3Parameter.MSE:
            with np.errstate(all="ignore"):
                due = np.concatenate(
                    [truth[1:3] * self.across - place, np.log(truth[3:] * self.network / anchor)]
                )
            slopes[:4] = -scale * (due - values[:4])
        else:
            with np.errstate(all="ignore"):
                sizes = np.exp(values[2:4]) * anchor / self.network
                pred = np.concatenate([(place + values[:2]) / self.across, sizes])
                known = (
                    settings.iou_loss if settings.iou_loss != Yolov3Parameter.IOU else Yolov3Parameter.DIOU
                )
                self.missed += 1 - overlap(pred, truth[1:], known)
                pred[2:][pred[2:] == 0] = 1
                steps = _uphill(pred, truth[1:], settings.iou_loss) * [1, 1, *np.exp(values[2:4])]
                steps = steps * settings.iou_normalizer
            steps[~np.isfinite(steps)] = 0
            steps = np.clip(steps, -settings.max_delta, settings.max_delta)
            if not settings.accumulate:
                slopes[:4] = 0
            slopes[:4] -= steps.astype(self.dtype)
        self.count += 1
        factor = settings.object_scale if settings.use_logic_gradient else 1
        slopes[4] = -(1 - values[4]) * self.dtype.type(factor)
        self._towards_class(values[5:], slopes[5:], int(truth[0]))

    def _towards_class(self, likely: np.ndarray, slopes: np.ndarray, c: int) -> None:
        settings, scale = self.settings, self.dtype.type(self.settings.class_scale)
        due = (np.arange(len(likely)) == c).astype(self.dtype)
        smooth = self.dtype.type(settings.label_smooth_eps)
        soft = due * (1 - smooth) + self.dtype.type(0.5) * smooth
        if slopes[c]:  # of an earlier truth: only this class is set anew
            slopes[c] = -scale * (soft[c] - likely[c])
        elif settings.use_focal_loss:
            chance = likely[c] + self.dtype.type(1e-15)
            focus = -(1 - chance) * (2 * chance * np.log(chance) + chance - 1) / 2
            slopes[...] = -scale * (due - likely) * focus
        else:
            slopes[...] = -scale * (soft - likely)

    def grad(self, bottoms: Arrays, tops: Arrays, top_diffs: Arrays) -> list[np.ndarray | None]:
        refuse_gradient(self, 1, "truths")
        slopes = self.slopes
        if self.settings.use_logic_gradient:
            values = self.values.copy()
            if self.settings.iou_loss != Yolov3Parameter.MSE:
                values[:, :, :2] = self.raw[:, :, :2]
            turned = (1 - values) * values
            turned[:, :, 2:4] = 1
            slopes = slopes * turned
        dx = slopes * (top_diffs[0] / self.dtype.type(self.shape[0]))
        return [dx.reshape(bottoms[0].shape), None]


def _first_zero(values: np.ndarray) -> int:
    zeros = np.flatnonzero(values == 0)
    return int(zeros[0]) if zeros.size else len(values)


@layer("YoloSeg")
class YoloSeg(Layer):
    """The sum of the squares of scaled differences of sigmoids and labels, over the images; the differences go back.

    Where a label is above 0.5, they are scaled by `object_scale` and 2 less the class's places over the others, which
    bottom 2 counts; elsewhere by `object_scale`.
    """

    def run(self, x: np.ndarray, labels: np.ndarray, places: np.ndarray) -> np.floating:
        shape = legacy_shape(x.shape)
        x, labels, places = x.reshape(shape), labels.reshape(shape), places.reshape(shape[0], shape[1])
        with np.errstate(all="ignore"):
            shares = places.sum(axis=0) / (self.dtype.type(shape[2] * shape[3]) - places).sum(axis=0)
        scale = self.dtype.type(self.param.yolo_seg_param.object_scale)
        scales = np.where(labels > 0.5, scale * (2 - shares)[:, None, None], scale)
        self.slopes = (_sigmoid(x) - labels) * scales
        return (self.slopes * self.slopes).sum(dtype=self.dtype) / self.dtype.type(shape[0])

    def grad(self, bottoms: Arrays, tops: Arrays, top_diffs: Arrays) -> list[np.ndarray | None]:
        dx = self.slopes * (top_diffs[0] / self.dtype.type(len(self.slopes)))
        return [dx.reshape(bottoms[0].shape), None, None]


@layer("SegmentationEvaluate")
class SegmentationEvaluate(Layer):
    """Intersection over union of what is above `threshold`, for each class, of the first image alone.

    Scores of another size than the labels are made bytes and enlarged, linearly; then a class without labels has -1.
    """

    def run(self, scores: np.ndarray, labels: np.ndarray) -> np.ndarray:
        threshold = np.float32(self.param.segmentation_evaluate_param.threshold)
        scores, labels = (x.reshape(legacy_shape(x.shape))[0] for x in (scores, labels))
        truth = labels > threshold
        if scores.shape == labels.shape:
            found, none = scores > threshold, 0.0
        else:
            found = resized_bytes(scores, labels.shape[1:]) > int(threshold * np.float32(255))
            none = -1.0
        shared = (found & truth).sum(axis=(1, 2))
        either = (found | truth).sum(axis=(1, 2))
        without = np.where(truth.any(axis=(1, 2)), 0.0, none)
        top = np.where(shared > 0, shared / np.maximum(either, 1), without)
        return top.astype(self.dtype).reshape(1, 1, 1, -1)
