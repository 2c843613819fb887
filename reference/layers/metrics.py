"""Accuracy."""

import numpy as np

from prototxt.layers.declare import legacy_shape
from prototxt.layers.windows import canonical_axis
from reference.checks import class_indices, refuse_gradient
from reference.layer import Arrays, Layer, layer


@layer("Accuracy")
class Accuracy(Layer):
    """How many of the labels are among the `top_k` scores along `axis`, as a part of all; top 1: by class.

    Another class with the same score counts as better. Without labels to count, it is 0.
    """

    def run(self, scores: np.ndarray, labels: np.ndarray) -> list[np.ndarray]:
        param = self.param.accuracy_param
        axis = canonical_axis(param.axis, scores.ndim)
        classes = scores.shape[axis]
        ignored = param.ignore_label if param.HasField("ignore_label") else None
        labels, counted = class_indices(labels.reshape(-1), classes, ignored)
        rows = np.moveaxis(scores, axis, -1).reshape(-1, classes)
        own = np.take_along_axis(rows, labels[:, None], 1)
        others_as_good = (rows >= own).sum(axis=1) - 1
        hits = np.bincount(labels[counted & (others_as_good < param.top_k)], minlength=classes)
        seen = np.bincount(labels[counted], minlength=classes)
        total = self.dtype.type(hits.sum()) / self.dtype.type(max(seen.sum(), 1))
        per_class = hits.astype(self.dtype) / np.maximum(seen, 1).astype(self.dtype)
        return [total, per_class][: len(self.plan.tops)]

    def grad(self, bottoms: Arrays, tops: Arrays, top_diffs: Arrays) -> None:
        refuse_gradient(self, 0, "scores")
        refuse_gradient(self, 1, "labels")


@layer("EltwiseAccuracy")
class EltwiseAccuracy(Layer):
    """The share of places whose label is among the `top_k` scores; of equal ones the higher class is better.

    A label that no class has is wrong. It is not a number where every place is ignored.
    """

    def run(self, scores: np.ndarray, labels: np.ndarray) -> np.ndarray:
        param = self.param.eltwise_accuracy_param
        scores = scores.reshape(legacy_shape(scores.shape))
        labels = labels.reshape(scores.shape[0], 1, *scores.shape[2:]).astype(np.int64)
        known = (labels >= 0) & (labels < scores.shape[1])
        own = np.take_along_axis(scores, np.where(known, labels, 0), 1)
        higher = np.arange(scores.shape[1])[:, None, None] > labels
        better = ((scores > own) | ((scores == own) & higher)).sum(axis=1, keepdims=True)
        right = known & (better < param.top_k)
        counted = np.ones_like(known) if not param.HasField("ignore_label") else labels != param.ignore_label
        with np.errstate(invalid="ignore"):
            share = self.dtype.type((right & counted).sum()) / self.dtype.type(counted.sum())
        return np.full((1, 1, 1, 1), share, self.dtype)

    def grad(self, bottoms: Arrays, tops: Arrays, top_diffs: Arrays) -> None:
        refuse_gradient(self, 0, "scores")
        refuse_gradient(self, 1, "labels")
