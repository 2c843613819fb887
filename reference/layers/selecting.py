"""Layers that pick: the largest values (ArgMax), or items of a batch (BatchReindex, Filter)."""

import numpy as np

from prototxt.errors import InputError
from prototxt.layers.declare import legacy_shape
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


@layer("RandBI")
class RandBI(Layer):
    """At each place the values of all maps' channels, bilinearly, side by side.

    Places are shifted, with `pad`, and divided by each map's compression_rate; those before the first row or column
    are in it, those behind the last are refused. Where the first map gets no gradient none does.
    """

    def run(self, *bottoms: np.ndarray) -> np.ndarray:
        maps, places = bottoms[:-1], bottoms[-1]
        self.taps = [self._taps(k, x.reshape(legacy_shape(x.shape)), places) for k, x in enumerate(maps)]
        columns = []
        for x, (image, taps) in zip(maps, self.taps, strict=True):
            x = x.reshape(legacy_shape(x.shape))
            columns.append(sum(x[image, :, row, column] * weight[:, None] for row, column, weight in taps))
        return np.concatenate(columns, axis=1)

    def grad(self, bottoms: Arrays, tops: Arrays, top_diffs: Arrays) -> list[np.ndarray | None] | None:
        if not self.propagate_down[0]:
            return None
        diffs, start = [], 0
        for x, (image, taps) in zip(bottoms, self.taps, strict=False):
            dx = np.zeros(legacy_shape(x.shape), self.dtype)
            dy = top_diffs[0][:, start : start + dx.shape[1]]
            for row, column, weight in taps:
                np.add.at(dx, (image, slice(None), row, column), dy * weight[:, None])
            start += dx.shape[1]
            diffs.append(dx.reshape(x.shape))
        return [*diffs, None]

    def _taps(self, k: int, x: np.ndarray, places: np.ndarray) -> tuple[np.ndarray, list[tuple]]:
        """Each place's item, and the (row, column, weight) of the four values around it."""
        param, kind = self.param.rand_comp_param, self.dtype.type
        rate = param.compression_rate[k]
        shift = kind((rate - 1) / 2 if param.pad else 0)
        image = places[:, 0].astype(np.int64)
        sides = []
        for axis, size in ((1, x.shape[2]), (2, x.shape[3])):
            at = (places[:, axis] - shift) / kind(rate)
            with np.errstate(invalid="ignore"):
                low, high = (np.maximum(edge(at), 0).astype(np.int64) for edge in (np.floor, np.ceil))
            if (high >= size).any() or not np.isfinite(at).all():
                worst = float(at[(high >= size) | ~np.isfinite(at)][0])
                raise InputError(
                    f"place {worst:g} of a map of {size} rows or columns, bottom {k}, is outside of it"
                )
            part = np.where(low == high, kind(0), at - low)
            sides.append(((low, 1 - part), (high, part)))
        if (image < 0).any() or (image >= len(x)).any():
            raise InputError(f"a place is of item {image[(image < 0) | (image >= len(x))][0]}, of {len(x)}")
        return image, [(row, column, a * b) for row, a in sides[0] for column, b in sides[1]]
