"""The layers of YOLO v2 as intel/caffe has them."""

from collections.abc import Sequence

import numpy as np

from prototxt.caffe_pb2 import EvalDetectionParameter
from prototxt.errors import InputError
from prototxt.layers.yolo import EVALUATED_ANCHORS
from reference.arithmetic import logistic
from reference.checks import refuse_gradient
from reference.layer import Arrays, Layer, layer
from reference.layers.normalisation import softmax

SINGLE = np.float32


def _overlap(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Intersection over union of boxes (…, 4), [x, y, width, height] with x and y in the middle, that broadcast."""
    two = a.dtype.type(2)
    sides = []
    for axis in (0, 1):
        low = np.maximum(a[..., axis] - a[..., axis + 2] / two, b[..., axis] - b[..., axis + 2] / two)
        high = np.minimum(a[..., axis] + a[..., axis + 2] / two, b[..., axis] + b[..., axis + 2] / two)
        sides.append(high - low)
    shared = sides[0] * sides[1]
    union = a[..., 2] * a[..., 3] + b[..., 2] * b[..., 3] - shared
    with np.errstate(all="ignore"):
        return np.where((sides[0] < 0) | (sides[1] < 0), a.dtype.type(0), shared / union)


def _by_anchor(x: np.ndarray, anchors: int) -> np.ndarray:
    """A map as (num, rows, columns, anchors, numbers)."""
    num, channels, height, width = x.shape
    return x.transpose(0, 2, 3, 1).reshape(num, height, width, anchors, channels // anchors).copy()


def _boxes(cells: np.ndarray, biases: Sequence[float]) -> np.ndarray:
    """Predicted boxes (…, rows, columns, anchors, 4) in fractions of the image."""
    side, anchors = cells.shape[-3], cells.shape[-2]
    kind = cells.dtype.type
    place = np.arange(side, dtype=cells.dtype)
    sizes = np.array(biases[: 2 * anchors], cells.dtype).reshape(anchors, 2)
    x = (place[:, None] + logistic(cells[..., 0])) / kind(side)
    y = (place[:, None, None] + logistic(cells[..., 1])) / kind(side)
    with np.errstate(over="ignore"):
        size = np.exp(cells[..., 2:4]) * sizes / kind(side)
    return np.concatenate([x[..., None], y[..., None], size], axis=-1)


def _truths(rows: np.ndarray, images: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Images, classes from 0 on, whole numbers, and boxes [x, y, width, height] of truths.

    Raises:
        InputError: an image that there is not.
    """
    rows = rows.reshape(-1, 8)
    rows = rows[rows[:, 0].astype(np.int64) != -1]
    image = rows[:, 0].astype(np.int64)
    wrong = (image < 0) | (image >= images)
    if wrong.any():
        raise InputError(f"a truth is of image {image[wrong][0]}, of {images}")
    low, high = rows[:, 3:5], rows[:, 5:7]
    boxes = np.concatenate([(low + high) / rows.dtype.type(2), high - low], axis=1)
    return image, (rows[:, 1] - 1).astype(np.int64), boxes


@layer("RegionLoss")
class RegionLoss(Layer):
    """The sum of the squares of the gradients that YOLO v2 takes, which are what goes back, over the images.

    Each truth takes the anchor of its place whose shape is most alike; the last truth of an anchor wins. A truth that
    is alike to none, having no area, takes the first anchor of all.
    """

    def run(self, x: np.ndarray, rows: np.ndarray) -> np.floating:
        param, kind = self.param.region_loss_param, self.dtype.type
        cells = _by_anchor(x, param.num)
        if np.isnan(cells[..., 4:]).any():
            raise InputError("a score is not a number")
        raw = cells[..., :4]
        objects, classes = logistic(cells[..., 4]), softmax(cells[..., 5:], cells.ndim - 1)
        image, label, boxes = _truths(rows, len(x))
        slopes = np.zeros_like(cells)
        predicted = _boxes(cells, param.biases)
        slopes[..., 4] = kind(param.noobject_scale) * objects * objects * (1 - objects)
        for b in range(len(x)):
            best = np.zeros(objects.shape[1:], SINGLE)
            for box in boxes[image == b]:
                best = np.fmax(best, _overlap(predicted[b], box).astype(SINGLE))
            slopes[b, ..., 4][best > SINGLE(param.thresh)] = 0
        order = np.argsort(image, kind="stable")
        for b, c, box in zip(image[order], label[order], boxes[order], strict=True):
            self._of_truth(slopes, raw, objects, classes, (b, c, box))
        num, _, side, _ = x.shape
        self.slopes = slopes.reshape(num, side, side, -1).transpose(0, 3, 1, 2)
        return (self.slopes * self.slopes).sum(dtype=self.dtype)

    def _of_truth(
        self,
        slopes: np.ndarray,
        raw: np.ndarray,
        objects: np.ndarray,
        classes: np.ndarray,
        truth: tuple[int, int, np.ndarray],
    ) -> None:
        param, kind, (b, c, box) = self.param.region_loss_param, self.dtype.type, truth
        side = kind(param.side)
        column, row = (int(v) if 0 <= v < param.side else -1 for v in (box[:2] * side).tolist())
        if min(row, column) < 0:
            raise InputError(
                f"a truth's middle ({float(box[0]):g}, {float(box[1]):g}) is outside of the image"
            )
        biases = np.array(param.biases[: 2 * param.num], self.dtype).reshape(-1, 2)
        shapes = biases if param.bias_match else np.exp(raw[b, row, column, :, 2:]) * biases
        nowhere = np.zeros_like(shapes)
        alike = _overlap(
            np.concatenate([nowhere, shapes / side], axis=1),
            np.concatenate([[0, 0], box[2:]]).astype(self.dtype),
        ).astype(SINGLE)
        found = (b, row, column, int(np.nanargmax(np.where(alike > 0, alike, 0))))
        at = found if (alike > 0).any() else (0, 0, 0, 0)
        place, scale = np.array([column, row], self.dtype), kind(param.coord_scale)
        inside = logistic(raw[at][:2])
        shift = np.clip((box[:2] * side - place) - inside, -1, 1)
        slopes[at][:2] = -scale * shift * inside * (1 - inside)
        with np.errstate(divide="ignore", invalid="ignore"):
            due = np.log(box[2:] * side / biases[at[3]])
        slopes[at][2:4] = -scale * np.clip(due - raw[at][2:], -1, 1)
        likely = objects[at]
        slopes[at][4] = -kind(param.object_scale) * 2 * (1 - likely) ** 3 * (likely * (1 - likely))
        slopes[at][5:] = -kind(param.class_scale) * ((np.arange(param.num_class) == c) - classes[at])

    def grad(self, bottoms: Arrays, tops: Arrays, top_diffs: Arrays) -> list[np.ndarray | None]:
        refuse_gradient(self, 1, "truths")
        return [self.slopes * (top_diffs[0] / self.dtype.type(len(self.slopes))), None]


@layer("EvalDetection")
class EvalDetection(Layer):
    """Each image's truths by class, and its detections, by class and score: [class, score, true, false].

    One that overlaps a truth of its class too little is neither, unless there is none. Without `nms` (below 0, the
    default) nothing is detected. Of equal scores the fork's order is anyone's; here the earlier place comes first.
    """

    def run(self, x: np.ndarray, rows: np.ndarray, *unused: np.ndarray) -> np.ndarray:
        param = self.param.eval_detection_param
        cells = _by_anchor(x, param.num_object)[..., :EVALUATED_ANCHORS, :]
        image, label, boxes = _truths(rows, len(x) + 1)  # the fork takes one image more, and reads past it
        counted = image < len(x)
        wrong = label[counted][(label[counted] < 0) | (label[counted] >= param.num_class)]
        if wrong.size:
            raise InputError(f"a truth is of class {wrong[0] + 1}, of {param.num_class}: classes begin at 1")
        top = np.zeros((len(x), self.plan.declared.tops[0][1]), self.dtype)
        for b in range(len(x)):
            mine = image == b
            np.add.at(top[b], label[mine], 1)
            found = self._found(cells[b].astype(SINGLE), label[mine], boxes[mine].astype(SINGLE))
            top[b, param.num_class : param.num_class + found.size] = found.reshape(-1)
        return top

    def _found(self, cells: np.ndarray, label: np.ndarray, truths: np.ndarray) -> np.ndarray:
        param = self.param.eval_detection_param
        if param.nms < 0:
            return np.zeros((0, 4), SINGLE)
        likely = logistic(cells[..., 4]).reshape(-1)
        classes = softmax(cells[..., 5:], cells.ndim - 1).reshape(len(likely), -1)
        kind, most = classes.argmax(axis=1), classes.max(axis=1)
        kinds = EvalDetectionParameter
        score = {kinds.OBJ: likely, kinds.PROB: most}.get(param.score_type, likely * most)
        boxes = _boxes(cells, param.biases).reshape(-1, 4)
        order = np.argsort(-score, kind="stable")
        kept = np.ones(len(order), bool)
        for i in range(len(order)):
            if kept[i]:
                hit = _overlap(boxes[order[i]], boxes[order[i + 1 :]]) >= SINGLE(param.nms)
                kept[i + 1 :] &= ~hit
        order = order[kept]
        order = order[score[order].astype(np.float64) >= 0.005]
        order = order[np.argsort(kind[order], kind="stable")]
        judged = np.zeros((len(order), 2), SINGLE)
        for c in np.unique(kind[order]):
            mine = np.flatnonzero(kind[order] == c)
            if not (label == c).any():
                judged[mine, 1] = 1
                continue
            shared = _overlap(boxes[order[mine]][:, None], truths[label == c])
            which, seen = shared.argmax(axis=1), set()
            for row, truth, most_shared in zip(mine, which.tolist(), shared.max(axis=1), strict=True):
                if most_shared >= SINGLE(param.threshold):
                    judged[row, int(truth in seen)] = 1
                    seen.add(truth)
        return np.column_stack([kind[order], score[order], judged])

    def grad(self, bottoms: Arrays, tops: Arrays, top_diffs: Arrays) -> None:
        raise InputError(f"{self.type} has no gradient to give, in Caffe neither")
