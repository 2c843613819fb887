"""Accuracy."""

import numpy as np

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
