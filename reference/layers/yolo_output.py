"""Boxes from YOLO's maps (yolo_detection_output_layer.cpp, yolov3_detection_output_layer.cpp of MobileNet-YOLO)."""

import numpy as np

from reference.arithmetic import logistic
from reference.layer import Arrays, Layer, layer
from reference.layers.normalisation import softmax
from runtime.blob import Blob


class _Output(Layer):
    """Suppresses among all boxes of a batch, whatever their class or image, and names image 0 in every row."""

    threshold: float

    def reshape(self, bottom: list[Blob], top: list[Blob]) -> None:
        top[0].reshape(1, 1, 1, 7)

    def forward(self, bottom: list[Blob], top: list[Blob]) -> None:
        rows = self.run(*(blob.data for blob in bottom))
        top[0].reshape(*rows.shape)
        top[0].data[...] = rows

    def run(self, *maps: np.ndarray) -> np.ndarray:
        candidates = np.concatenate([self.candidates(i, each) for i, each in enumerate(maps)])
        candidates = candidates[np.argsort(-candidates[:, 1], kind="stable")]
        kept = self._kept(candidates[:, 2:].astype(np.float32))
        rows = np.full((len(kept) or len(maps[-1]), 7), -1, self.dtype)
        rows[:, 0] = 0 if kept else np.arange(len(rows))
        if kept:
            label, score, x, y, width, height = candidates[kept].T
            rows[:, 1:3] = np.stack([label + 1, score], axis=1)
            rows[:, 3:] = np.stack([x - width / 2, y - height / 2, x + width / 2, y + height / 2], axis=1)
        return rows[None, None]

    def candidates(self, index: int, x: np.ndarray) -> np.ndarray:
        """(n, 6): class, score, centre, size, in the order of the fork's loops."""
        raise NotImplementedError

    def grad(self, bottoms: Arrays, tops: Arrays, top_diffs: Arrays) -> None:
        """Nothing: the bottoms' gradients stay as they are."""

    def _kept(self, boxes: np.ndarray) -> list[int]:
        # The same box again, of a lesser class, falls with the first: it is left out before the slow part.
        left, kept = np.arange(len(boxes)), []
        if len(boxes):
            _, first, same = np.unique(boxes, axis=0, return_index=True, return_inverse=True)
            falls = _overlap(boxes, boxes) >= self.threshold
            left = left[~falls | (first[same.reshape(-1)] == left)]
        while len(left):
            kept.append(int(left[0]))
            overlap = _overlap(boxes[left[0]], boxes[left[1:]])
            left = left[1:][~(overlap >= np.float32(self.threshold))]
        return kept


def _overlap(one: np.ndarray, others: np.ndarray) -> np.ndarray:
    with np.errstate(all="ignore"):
        start = np.maximum(one[..., :2] - one[..., 2:] / 2, others[..., :2] - others[..., 2:] / 2)
        stop = np.minimum(one[..., :2] + one[..., 2:] / 2, others[..., :2] + others[..., 2:] / 2)
        width, height = (stop - start)[..., 0], (stop - start)[..., 1]
        common = np.where((width < 0) | (height < 0), np.float32(0), width * height)
        return common / (one[..., 2] * one[..., 3] + others[..., 2] * others[..., 3] - common)


@layer("YoloDetectionOutput")
class YoloDetectionOutput(_Output):
    """For each anchor of each cell the best class, if softmax times the logistic object score reaches the threshold."""

    def set_up(self) -> None:
        self.threshold = self.param.yolo_detection_output_param.nms_threshold

    def candidates(self, index: int, x: np.ndarray) -> np.ndarray:
        param, side = self.param.yolo_detection_output_param, x.shape[3]
        values = x.transpose(0, 2, 3, 1).reshape(len(x), side, side, param.num_box, -1)
        classes = softmax(values[..., 5 : 5 + param.num_classes], -1)
        label = classes.argmax(axis=-1)
        score = logistic(values[..., 4]) * classes.max(axis=-1)
        _, row, column, anchor = np.indices(score.shape)
        biases = np.array(param.biases, np.float32).astype(self.dtype).reshape(-1, 2)[anchor]
        found = np.stack(
            [
                label,
                score,
                (column + logistic(values[..., 0])) / side,
                (row + logistic(values[..., 1])) / side,
                np.exp(values[..., 2]) * biases[..., 0] / side,
                np.exp(values[..., 3]) * biases[..., 1] / side,
            ],
            axis=-1,
        ).astype(self.dtype)
        return found[score >= self.dtype.type(param.confidence_threshold)]


@layer("Yolov3DetectionOutput")
class Yolov3DetectionOutput(_Output):
    """For each anchor of each cell all classes whose logistic score times the object's is above the threshold.

    (correct_yolo_boxes changes nothing: it is given maps of the net's own proportions.)
    """

    def set_up(self) -> None:
        self.threshold = self.param.yolov3_detection_output_param.nms_threshold

    def candidates(self, index: int, x: np.ndarray) -> np.ndarray:
        param = self.param.yolov3_detection_output_param
        height, width = x.shape[2:]
        first = index * (len(param.mask) // param.mask_group_num)
        length = 5 + param.num_classes
        values = x[:, : param.num_box * length].reshape(len(x), param.num_box, length, height, width)
        values = values.transpose(0, 3, 4, 1, 2)
        scores = logistic(values[..., 5:]) * logistic(values[..., 4:5])
        image, row, column, n, label = np.nonzero(scores > self.dtype.type(param.confidence_threshold))
        tx, ty, tw, th = values[image, row, column, n, :4].T
        biases = np.array(param.biases, np.float32).astype(self.dtype)
        anchor, scale = np.array(param.mask)[first + n], param.anchors_scale[index]
        columns = [
            label,
            scores[image, row, column, n, label],
            (column + logistic(tx)) / width,
            (row + logistic(ty)) / height,
            np.exp(tw) * biases[2 * anchor] / (width * scale),
            np.exp(th) * biases[2 * anchor + 1] / (height * scale),
        ]
        return np.stack(columns, axis=1).astype(self.dtype)
