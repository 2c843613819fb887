"""Layers that pick: the largest values (ArgMax), or items of a batch (BatchReindex, Filter)."""

import numpy as np

from prototxt.layers.declare import legacy_shape
from prototxt.layers.windows import canonical_axis
from reference.checks import class_indices, refuse_gradient
from reference.layer import Arrays, Layer, flat_from, layer
from runtime.blob import Blob
from runtime.labels import check_pixels


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
    """Features of single pixels, interpolated in maps that are `compression_rate` times smaller than the image.

    The two cells of a coordinate are its floor and ceiling, both at least 0. Weights and sums are double. The gradient
    is added up for every map if the first one wants it.
    """

    def run(self, *bottoms: np.ndarray) -> np.ndarray:
        *maps, pixels = bottoms
        self.taps = [self._cells(pixels, i, each) for i, each in enumerate(maps)]
        found = []
        for each, taps in zip(maps, self.taps, strict=True):
            values = each.reshape(legacy_shape(each.shape)).astype(np.float64)
            found.append(sum(values[image, :, y, x] * weight[:, None] for image, y, x, weight in taps))
        return np.concatenate(found, axis=1).astype(self.dtype)

    def grad(self, bottoms: Arrays, tops: Arrays, top_diffs: Arrays) -> list[np.ndarray | None]:
        if not self.propagate_down[0]:
            return [None] * len(bottoms)
        diffs: list[np.ndarray | None] = []
        start = 0
        for each, taps in zip(bottoms, self.taps, strict=False):
            shape = legacy_shape(each.shape)
            part = top_diffs[0][:, start : start + shape[1]]
            start += shape[1]
            diff = np.zeros(shape, self.dtype)
            for image, y, x, weight in taps:
                np.add.at(diff, (image, slice(None), y, x), (part * weight[:, None]).astype(self.dtype))
            diffs.append(diff.reshape(each.shape))
        return [*diffs, None]

    def _cells(self, pixels: np.ndarray, index: int, each: np.ndarray) -> list[tuple[np.ndarray, ...]]:
        """(image, row, column, weight) of each of a pixel's four cells; those of weight 0 stay within the map."""
        param = self.param.rand_comp_param
        rate, shape = param.compression_rate[index], legacy_shape(each.shape)
        pad = self.dtype.type((rate - 1) / 2 if param.pad else 0)
        image = pixels[:, 0].astype(np.int64)
        sides = []
        for column in (1, 2):
            place = (pixels[:, column] - pad) / self.dtype.type(rate)
            low, high = (np.maximum(f(place).astype(np.int64), 0) for f in (np.floor, np.ceil))
            part = np.where(low == high, 0, place.astype(np.float64) - low)
            sides.append([(low, 1 - part), (high, part)])
        check_pixels(sides[0][1][0].max(), sides[1][1][0].max(), image.min(), image.max(), shape, rate)
        return [(image, y, x, by_y * by_x) for y, by_y in sides[0] for x, by_x in sides[1]]
