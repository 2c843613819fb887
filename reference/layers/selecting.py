"""Layers that pick: the largest values (ArgMax), or items of a batch (BatchReindex, Filter)."""

import numpy as np

from prototxt.layers.windows import canonical_axis
from reference.checks import class_indices, refuse_gradient
from reference.layer import Arrays, Layer, flat_from, layer
from runtime.blob import Blob


@layer("ArgMax")
class ArgMax(Layer):
    """Indices of the `top_k` largest along `axis`, or of each whole item; no gradient, as in Caffe.

    Of equals the LAST comes first. With `out_max_val`: the values in place of the indices along an axis,
    in a second row below them for whole items.
    """

    def run(self, x: np.ndarray) -> np.ndarray:
        param = self.param.argmax_param
        axis = canonical_axis(param.axis, x.ndim) if param.HasField("axis") else None
        rows = flat_from(x, 1) if axis is None else np.moveaxis(x, axis, -1)
        backwards = np.argsort(-rows[..., ::-1], axis=-1, kind="stable")[..., : param.top_k]
        indices = rows.shape[-1] - 1 - backwards
        values = np.take_along_axis(rows, indices, -1)
        if axis is not None:
            return np.moveaxis(values if param.out_max_val else indices.astype(self.dtype), -1, axis)
        both = np.stack([indices.astype(self.dtype), values], axis=1)
        return both[:, : 2 if param.out_max_val else 1].reshape(self.plan.top_shapes(x.shape)[0])

    def grad(self, bottoms: Arrays, tops: Arrays, top_diffs: Arrays) -> None:
        refuse_gradient(self, 0, "input")


@layer("BatchReindex")
class BatchReindex(Layer):
    """The items of bottom 0 that bottom 1 lists."""

    def run(self, x: np.ndarray, indices: np.ndarray) -> np.ndarray:
        self.indices, _ = class_indices(indices, len(x), what="index")
        return x[self.indices]

    def grad(self, bottoms: Arrays, tops: Arrays, top_diffs: Arrays) -> list[np.ndarray | None]:
        refuse_gradient(self, 1, "indices")
        dx = np.zeros_like(bottoms[0])
        np.add.at(dx, self.indices, top_diffs[0])
        return [dx, None]


@layer("Filter")
class Filter(Layer):
    """The items of each bottom for which the last bottom, the selector, is not 0.

    The tops' shapes follow from the selector's values, in each forward pass.
    """

    def forward(self, bottom: list[Blob], top: list[Blob]) -> None:
        *items, selector = bottom
        self.chosen = np.flatnonzero(selector.data)
        for blob, out in zip(items, top, strict=True):
            out.reshape(len(self.chosen), *blob.shape[1:])
            out.data[...] = blob.data[self.chosen]

    def grad(self, bottoms: Arrays, tops: Arrays, top_diffs: Arrays) -> list[np.ndarray | None]:
        refuse_gradient(self, len(bottoms) - 1, "selector")
        diffs = [np.zeros_like(blob) for blob in bottoms[:-1]]
        for diff, top_diff in zip(diffs, top_diffs, strict=True):
            diff[self.chosen] = top_diff
        return [*diffs, None]


@layer("LabelSpecificAdd")
class LabelSpecificAdd(Layer):
    """Adds `bias` to each item's score for its label, where that is above -bias; in TRAIN only.

    `transform_test` changes nothing, as in happynear's code, which asks for TRAIN as well. With `bias_base` the
    bias follows the number of passes.
    """

    def set_up(self) -> None:
        self.iteration = self.param.label_specific_add_param.iteration
        self.bias = self.dtype.type(self.param.label_specific_add_param.bias)

    def run(self, scores: np.ndarray, labels: np.ndarray) -> list[np.ndarray | None]:
        param = self.param.label_specific_add_param
        if self.phase != 0:
            return [scores, None][: len(self.plan.tops)]
        if param.HasField("bias_base"):
            grown = param.bias_base + (1 + param.bias_gamma * self.iteration) ** param.bias_power - 1
            self.bias = self.dtype.type(min(max(grown, param.bias_min), param.bias_max))
            self.iteration += 1
        rows = scores.reshape(len(scores), -1).copy()
        index, _ = class_indices(labels.reshape(-1)[: len(rows)], rows.shape[1])
        items = np.arange(len(rows))
        own = rows[items, index]
        rows[items, index] = np.where(own > -self.bias, own + self.bias, own)
        return [rows.reshape(scores.shape), self.bias][: len(self.plan.tops)]

    def grad(self, bottoms: Arrays, tops: Arrays, top_diffs: Arrays) -> list[np.ndarray | None]:
        return [top_diffs[0], None]
