"""Accuracy."""

import math

import numpy as np

from prototxt.errors import InputError
from prototxt.layers.windows import canonical_axis
from reference.layer import Arrays, Layer, Shape, layer
from reference.layers.checks import class_indices, refuse_gradient


@layer("Accuracy")
class Accuracy(Layer):
    """How many of the labels are among the `top_k` scores along `axis`, as a part of all; top 1: by class.

    Another class with the same score counts as better. Without labels to count, it is 0.
    """

    def top_shapes(self, scores: Shape, labels: Shape) -> list[Shape]:
        param = self.param.accuracy_param
        self.axis = canonical_axis(param.axis, len(scores))
        classes = scores[self.axis]
        due = math.prod(scores) // classes
        if math.prod(labels) != due:
            raise InputError(f"{due} labels are due for scores {scores} along axis {self.axis}, not {labels}")
        if param.top_k > classes:
            raise InputError(f"top_k {param.top_k} must be at most the {classes} classes")
        return [(), (classes,)][: len(self.plan.tops)]

    def run(self, scores: np.ndarray, labels: np.ndarray) -> list[np.ndarray]:
        param = self.param.accuracy_param
        classes = scores.shape[self.axis]
        ignored = param.ignore_label if param.HasField("ignore_label") else None
        labels, counted = class_indices(labels.reshape(-1), classes, ignored)
        rows = np.moveaxis(scores, self.axis, -1).reshape(-1, classes)
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
