"""SSD's priors, detections, and their evaluation."""

import numpy as np

from prototxt.caffe_pb2 import NonMaximumSuppressionParameter
from prototxt.errors import InputError
from prototxt.layers.declare import legacy_shape
from prototxt.layers.detection import evaluated_classes, outline, prior_offsets, prior_sizes, saves_output
from reference.layer import Arrays, Layer, layer
from reference.layers.boxes import decoded, intersections, priors_of, truths_of
from runtime.blob import Blob
from runtime.data.detections import DetectionFiles, in_pixels, pixel_overlaps, read_sizes


@layer("PriorBox")
class PriorBox(Layer):
    """Boxes around the places of a feature map, in fractions of the image, and their variances."""

    def run(self, features: np.ndarray, image: np.ndarray) -> np.ndarray:
        param, single = self.param.prior_box_param, np.float32
        _, _, rows, columns = legacy_shape(features.shape)
        if param.HasField("img_size"):
            height = width = param.img_size
        elif param.HasField("img_h"):
            height, width = param.img_h, param.img_w
        else:
            _, _, height, width = legacy_shape(image.shape)
        # Centres and sizes in pixels are float32 in Caffe, the fractions of them double until they are stored.
        down, right = single(height) / single(rows), single(width) / single(columns)
        if param.HasField("step"):
            down = right = single(param.step)
        elif param.HasField("step_h"):
            down, right = single(param.step_h), single(param.step_w)
        offsets = np.array(prior_offsets(param), dtype=single)
        y = ((np.arange(rows, dtype=single)[:, None] + offsets) * down).astype(np.float64)
        x = ((np.arange(columns, dtype=single) + single(param.offset)) * right).astype(np.float64)
        halves = np.array(prior_sizes(param), dtype=single).astype(np.float64) / 2
        boxes = np.empty((rows, columns, len(halves), 4))
        boxes[..., 0] = (x[:, None] - halves[:, 0]) / width
        boxes[..., 1] = ((y - halves[:, 1]) / height)[:, None]
        boxes[..., 2] = (x[:, None] + halves[:, 0]) / width
        boxes[..., 3] = ((y + halves[:, 1]) / height)[:, None]
        if param.clip:
            boxes = boxes.clip(0, 1)
        variances = np.broadcast_to(np.array(param.variance or [0.1]), (boxes.size // 4, 4))
        return np.stack([boxes.reshape(-1), variances.reshape(-1)])[None].astype(self.dtype)

    def grad(self, bottoms: Arrays, tops: Arrays, top_diffs: Arrays) -> list[None]:
        return [None, None]


class _Rows(Layer):
    """A layer whose top has as many rows as were found."""

    def forward(self, bottom: list[Blob], top: list[Blob]) -> None:
        rows = self.run(*(blob.data for blob in bottom))
        top[0].reshape(1, 1, *rows.shape)
        top[0].data[...] = rows

    def grad(self, bottoms: Arrays, tops: Arrays, top_diffs: Arrays) -> None:
        raise InputError(f"{self.type} has no gradient to give, in Caffe neither")


@layer("DetectionOutput")
class DetectionOutput(_Rows):
    """Rows [image, label, score, box] of what is left of the predictions after suppression.

    TextBoxes++'s go on with the box's outline, which suppression does not look at: four corners, or two and a height.
    """

    def set_up(self) -> None:
        saves = saves_output(self.param)
        self.files = DetectionFiles(self.param.detection_output_param) if saves else None

    def run(self, loc: np.ndarray, conf: np.ndarray, priors: np.ndarray, *image: np.ndarray) -> np.ndarray:
        param = self.param.detection_output_param
        num, classes = len(loc), param.num_classes
        scores = conf.reshape(num, -1, classes)
        shape = priors.shape
        priors, variances = priors_of(priors, scores.shape[1])
        if param.variance_encoded_in_target:
            variances = np.ones_like(variances)
        further = outline(self.param, loc.shape, shape)
        codes = loc.reshape(num, scores.shape[1], -1, 4 + further)
        found = []
        for i in range(num):
            boxes = decoded(param.code_type, priors[:, None], variances[:, None], codes[i, ..., :4])
            if further:
                outlines = _outlined(priors[:, None], variances[:, None], codes[i, ..., 4:])
                boxes = np.concatenate([boxes, outlines], axis=-1)
            rows = [
                self._of_class(i, c, scores[i, :, c], boxes[:, 0 if param.share_location else c])
                for c in range(classes)
                if c != param.background_label_id
            ]
            found.append(self._best(np.concatenate(rows)) if rows else np.zeros((0, 7 + further), self.dtype))
        rows = np.concatenate(found)
        if self.files:
            self.files.add(rows, num)
        if len(rows):
            return rows
        none = np.full((num, 7 + further), -1, self.dtype)
        none[:, 0] = np.arange(num)
        return none

    def _of_class(self, image: int, label: int, scores: np.ndarray, boxes: np.ndarray) -> np.ndarray:
        param = self.param.detection_output_param
        lowest = param.confidence_threshold if param.HasField("confidence_threshold") else -_LARGEST
        above = np.flatnonzero(scores > self.dtype.type(lowest))  # never a score that is not a number
        ranks = above[_descending(scores[above], param.nms_param)]
        kept = ranks[suppressed(boxes[ranks, :4], param.nms_param)]
        marks = np.broadcast_to(np.array([image, label], self.dtype), (len(kept), 2))
        return np.concatenate([marks, scores[kept, None], boxes[kept]], axis=1)

    def _best(self, rows: np.ndarray) -> np.ndarray:
        """An image's best rows, by label, and by score within a label."""
        most = self.param.detection_output_param.keep_top_k
        if most < 0 or len(rows) <= most:
            return rows
        best = rows[np.argsort(-rows[:, 2], kind="stable")[:most]]
        return best[np.argsort(best[:, 1], kind="stable")]


def _outlined(priors: np.ndarray, variances: np.ndarray, t: np.ndarray) -> np.ndarray:
    """Polygons (…, 8), each corner shifted from the prior's; or (…, 5), shifted from its centre, and a height."""
    sizes = np.tile(priors[..., 2:] - priors[..., :2], 2)
    shifts = np.tile(variances[..., :2], 2) * sizes
    if t.shape[-1] == 8:
        return priors[..., [0, 1, 2, 1, 2, 3, 0, 3]] + np.tile(shifts, 2) * t
    centres = np.tile((priors[..., :2] + priors[..., 2:]) / t.dtype.type(2), 2)
    heights = np.exp(variances[..., 3:] * t[..., 4:]) * sizes[..., 1:2]
    return np.concatenate([centres + shifts * t[..., :4], heights], axis=-1)


_LARGEST = float(np.finfo(np.float32).max)


def _descending(scores: np.ndarray, param: NonMaximumSuppressionParameter) -> np.ndarray:
    """The places of the top_k largest scores; equal ones in their order."""
    count = len(scores)
    if param.HasField("top_k") and 0 <= param.top_k < count:
        count = param.top_k
    if not count:
        return np.zeros(0, np.int64)
    # Only what reaches the last that counts is sorted.
    least = np.partition(scores, len(scores) - count)[len(scores) - count]
    near = np.flatnonzero(scores >= least)
    return near[np.argsort(-scores[near], kind="stable")[:count]]


def suppressed(boxes: np.ndarray, param: NonMaximumSuppressionParameter) -> np.ndarray:
    """Of boxes (n, 4), the best first, the places of those that no better one which is left overlaps too much."""
    threshold = boxes.dtype.type(param.nms_threshold)
    if param.eta < 1 and threshold > 0.5:
        return _suppressed_adaptively(boxes, threshold, boxes.dtype.type(param.eta))
    kept = np.ones(len(boxes), bool)
    # By blocks: what is kept of one takes boxes out of all that follow.
    for start in range(0, len(boxes), _BLOCK):
        block = slice(start, start + _BLOCK)
        hit = np.triu(~(intersections(boxes[block, None], boxes[block]) <= threshold), 1)
        open_ = kept[block].copy()
        # A box stays if none that stays hits it: settled from the front, so that this ends.
        while True:
            again = open_ & ~(hit & kept[block, None]).any(axis=0)
            if (again == kept[block]).all():
                break
            kept[block] = again
        left = start + np.flatnonzero(kept[block])
        rest = start + _BLOCK + np.flatnonzero(kept[start + _BLOCK :])
        hit = ~(intersections(boxes[left, None], boxes[rest]) <= threshold)
        kept[rest[hit.any(axis=0)]] = False
    return np.flatnonzero(kept)


_BLOCK = 64


def _suppressed_adaptively(boxes: np.ndarray, threshold: np.floating, eta: np.floating) -> np.ndarray:
    """As `suppressed`; with each box that is kept the threshold falls by eta as long as it is above 0.5."""
    overlap = intersections(boxes[:, None], boxes)
    kept: list[int] = []
    for i in range(len(boxes)):
        if (overlap[i, kept] <= threshold).all():
            kept.append(i)
            if threshold > 0.5:
                threshold = threshold * eta
    return np.array(kept, np.int64)


@layer("DetectionEvaluate")
class DetectionEvaluate(_Rows):
    """Rows [-1, class, truths, -1, -1], then [image, label, score, true, false] for each detection.

    With a name_size_file, overlaps are those in pixels of its images, which come in its order, pass after pass.
    """

    def set_up(self) -> None:
        file = self.param.detection_evaluate_param.name_size_file
        self.sizes = [size for _, size in read_sizes(file)] if file else []
        self.seen = 0

    def run(self, detections: np.ndarray, truth: np.ndarray) -> np.ndarray:
        param = self.param.detection_evaluate_param
        background = param.background_label_id
        found = detections.reshape(-1, 7)
        rows = truth.reshape(-1, 8)
        ends = np.flatnonzero(rows[:, 0].astype(np.int64) == -1)  # reading stops there
        images, labels, boxes, difficult = truths_of(rows[: ends[0]] if len(ends) else rows, background)
        counted = ~difficult | param.evaluate_difficult_gt
        top = np.zeros((evaluated_classes(self.param) + int((found[:, 1] != -1).sum()), 5), self.dtype)
        classes = [c for c in range(param.num_classes) if c != background]
        for row, c in zip(top, classes, strict=False):
            row[:] = -1, c, (counted & (labels == c)).sum(), -1, -1
        where, what = found[:, 0].astype(np.int64), found[:, 1].astype(np.int64)
        if ((what == background) & (where != -1)).any():
            raise InputError(f"the detections have one of the background label {background}")
        at = len(classes)
        pairs = np.stack([where, what], axis=1)[(where != -1) & (what != -1)]
        sizes = self._sizes(np.unique(where[where != -1]))
        for image, label in np.unique(pairs, axis=0):
            mine = found[(where == image) & (what == label)]
            of = (images == image) & (labels == label)
            if of.any():
                mine = mine[np.argsort(-mine[:, 2], kind="stable")]
                judged = self._judged(mine[:, 3:], boxes[of], counted[of], sizes.get(image))
            else:
                judged = np.broadcast_to(np.array([0, 1]), (len(mine), 2))
            top[at : at + len(mine)] = np.concatenate([mine[:, [0, 1, 2]], judged], axis=1)
            top[at : at + len(mine), :2] = image, label
            at += len(mine)
        return top

    def _sizes(self, images: np.ndarray) -> dict[int, tuple[int, int]]:
        """The images' sizes, where a file tells them."""
        found = {}
        for image in images if self.sizes else ():
            found[int(image)] = self.sizes[self.seen]
            self.seen = (self.seen + 1) % len(self.sizes)
        return found

    def _judged(
        self, boxes: np.ndarray, truths: np.ndarray, counted: np.ndarray, size: tuple[int, int] | None
    ) -> np.ndarray:
        """Whether each box, the best first, is a true and whether it is a false one; (n, 2)."""
        if size is None:
            overlap = intersections(boxes[:, None], truths)
        else:
            param = self.param.detection_evaluate_param
            resize = param.resize_param if param.HasField("resize_param") else None
            overlap = pixel_overlaps(in_pixels(boxes, size, resize), in_pixels(truths, size, resize))
        best = overlap.argmax(axis=1)
        threshold = self.param.detection_evaluate_param.overlap_threshold
        hits = overlap.max(axis=1) >= self.dtype.type(threshold)
        neither = hits & ~counted[best]
        first = np.zeros(len(boxes), bool)
        finders = np.flatnonzero(hits & counted[best])
        first[finders[np.unique(best[finders], return_index=True)[1]]] = True
        return np.stack([first, ~first & ~neither], axis=1)
