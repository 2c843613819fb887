"""Layers that pick: the largest values (ArgMax), or items of a batch (BatchReindex, Filter)."""

import numpy as np

from prototxt.errors import InputError
from prototxt.layers.windows import canonical_axis
from reference.layer import Arrays, Layer, Shape, layer
from reference.layers.checks import class_indices, refuse_gradient
from runtime.blob import Blob


@layer("ArgMax")
class ArgMax(Layer):
    """Indices of the `top_k` largest along `axis`, or of each whole item; no gradient, as in Caffe.

    Of equals the LAST comes first. With `out_max_val`: the values in place of the indices along an axis,
    in a second row below them for whole items.
    """

    def top_shapes(self, shape: Shape) -> list[Shape]:
        param = self.param.argmax_param
        self.axis = canonical_axis(param.axis, len(shape)) if param.HasField("axis") else None
        choices = int(np.prod(shape[1:])) if self.axis is None else shape[self.axis]
        if not 1 <= param.top_k <= choices:
            raise InputError(f"top_k {param.top_k} must be from 1 to the {choices} values to choose from")
        if self.axis is not None:
            return [(*shape[: self.axis], param.top_k, *shape[self.axis + 1 :])]
        return [(shape[0], 2 if param.out_max_val else 1, param.top_k, *(1,) * (len(shape) - 3))]

    def run(self, x: np.ndarray) -> np.ndarray:
        param = self.param.argmax_param
        rows = x.reshape(len(x), -1) if self.axis is None else np.moveaxis(x, self.axis, -1)
        backwards = np.argsort(-rows[..., ::-1], axis=-1, kind="stable")[..., : param.top_k]
        indices = rows.shape[-1] - 1 - backwards
        values = np.take_along_axis(rows, indices, -1)
        if self.axis is not None:
            return np.moveaxis(values if param.out_max_val else indices.astype(self.dtype), -1, self.axis)
        both = np.stack([indices.astype(self.dtype), values], axis=1)
        return both[:, : 2 if param.out_max_val else 1].reshape(self.top_shapes(x.shape)[0])

    def grad(self, bottoms: Arrays, tops: Arrays, top_diffs: Arrays) -> None:
        refuse_gradient(self, 0, "input")


@layer("BatchReindex")
class BatchReindex(Layer):
    """The items of bottom 0 that bottom 1 lists."""

    def top_shapes(self, shape: Shape, indices: Shape) -> list[Shape]:
        if len(indices) != 1:
            raise InputError(f"the indices must have one axis, not {indices}")
        return [(*indices, *shape[1:])]

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

    The tops' shapes follow from the selector's values; before the first forward pass they are whole.
    """

    def add_weights(self, *shapes: Shape) -> None:
        if len(self.plan.tops) != len(shapes) - 1:
            raise InputError(f"{len(shapes)} bottoms, the last one the selector, make {len(shapes) - 1} tops")
        self.seen = False

    def reshape(self, bottom: list[Blob], top: list[Blob]) -> None:
        *items, selector = bottom
        if any(n != 1 for n in selector.shape[1:]):
            raise InputError(f"the selector {selector.shape} must be 1 in all axes but the first")
        for blob in items:
            if blob.shape[:1] != selector.shape[:1]:
                raise InputError(f"the selector {selector.shape} does not select from {blob.shape}")
        self.chosen = np.flatnonzero(selector.data)
        count = len(self.chosen) if self.seen else selector.shape[0]
        self.seen = True
        for blob, out in zip(items, top, strict=True):
            out.reshape(count, *blob.shape[1:])

    def run(self, *bottoms: np.ndarray) -> Arrays:
        return [blob[self.chosen] for blob in bottoms[:-1]]

    def grad(self, bottoms: Arrays, tops: Arrays, top_diffs: Arrays) -> list[np.ndarray | None]:
        refuse_gradient(self, len(bottoms) - 1, "selector")
        diffs = [np.zeros_like(blob) for blob in bottoms[:-1]]
        for diff, top_diff in zip(diffs, top_diffs, strict=True):
            diff[self.chosen] = top_diff
        return [*diffs, None]
