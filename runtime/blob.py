"""Caffe's Blob: a shape over memory that outlives reshaping."""

import math
from collections.abc import Sequence

import numpy as np

from prototxt.layers.memory import GIVE_THEIR_DIFF, shares_memory
from prototxt.plan import LayerPlan


class _Memory:
    """A flat array that several blobs may share.

    Attributes:
        lent: a script has, or had, a view of it: it stays where it is.
    """

    def __init__(self, dtype: np.dtype):
        self.flat = np.zeros(0, dtype)
        self.lent = False

    def reserve(self, count: int) -> None:
        if count > self.flat.size:
            # As Caffe's SyncedMemory: larger memory is new and zero; smaller shapes keep what is there.
            self.flat = np.zeros(count, self.flat.dtype)


class Blob:
    """An array and its gradient.

    `data` and `diff` are writable views of the blob's memory, never copies: what a script writes, the next
    forward reads, and what that computes, an older view shows. A reshape within the capacity keeps the values (so a
    label blob that a script sets once stays set); a larger one starts from zeros.
    """

    def __init__(self, shape: Sequence[int] = (0,), dtype: np.dtype | type = np.float32):
        self._data = _Memory(np.dtype(dtype))
        self._diff = _Memory(np.dtype(dtype))
        self._shape: tuple[int, ...] = ()
        self._count = 1
        self.reshape(*shape)

    def reshape(self, *dims: int) -> None:
        """Give the blob another shape; `()` is a single number."""
        if dims != self._shape:
            self._shape = tuple(int(d) for d in dims)
            if any(d < 0 for d in self._shape):
                raise ValueError(f"blob shape {self._shape}: a size is negative")
            self._count = math.prod(self._shape)
        self._data.reserve(self._count)
        self._diff.reserve(self._count)

    @property
    def shape(self) -> tuple[int, ...]:
        return self._shape

    @property
    def count(self) -> int:
        return self._count

    @property
    def data(self) -> np.ndarray:
        self._data.lent = True
        return self.values

    @data.setter
    def data(self, value: np.ndarray) -> None:
        raise AttributeError("can't set attribute: write into it, blob.data[...] = value")

    @property
    def values(self) -> np.ndarray:
        """`data` for an engine, which holds on to it no longer than until the next `take`."""
        return self._data.flat[: self._count].reshape(self._shape)

    def take(self, data: np.ndarray) -> bool:
        """Make `data` (C-contiguous, of the blob's shape) its memory, and that of whatever shares it.

        Returns:
            False, and nothing has happened, where a script may hold a view of the present memory: copy into it.
        """
        if self._data.lent or self._data.flat.size != data.size:
            return False
        self._data.flat = data.reshape(-1)
        return True

    @property
    def diff(self) -> np.ndarray:
        return self._diff.flat[: self._count].reshape(self._shape)

    @diff.setter
    def diff(self, value: np.ndarray) -> None:
        raise AttributeError("can't set attribute: write into it, blob.diff[...] = value")

    def share_data(self, other: "Blob") -> None:
        self._data = other._data

    def share_diff(self, other: "Blob") -> None:
        self._diff = other._diff

    def use_memory(self, data: np.ndarray) -> None:
        """Make `data` (C-contiguous) this blob's memory; its shape becomes the blob's."""
        self._data.flat = data.reshape(-1)
        self.reshape(*data.shape)

    @property
    def num(self) -> int:
        return self._legacy(0)

    @property
    def channels(self) -> int:
        return self._legacy(1)

    @property
    def height(self) -> int:
        return self._legacy(2)

    @property
    def width(self) -> int:
        return self._legacy(3)

    def _legacy(self, axis: int) -> int:
        if len(self._shape) > 4:
            raise ValueError(
                f"num, channels, height and width are for up to 4 axes; this blob is {self._shape}"
            )
        return self._shape[axis] if axis < len(self._shape) else 1

    def __repr__(self) -> str:
        return f"Blob{self._shape}"


class BlobVec(list):
    """A layer's weight blobs; `add_blob(*shape)` is what Python layers call in their set-up."""

    def __init__(self, blobs: Sequence[Blob] = (), dtype: np.dtype | type = np.float32):
        super().__init__(blobs)
        self._dtype = dtype

    def add_blob(self, *shape: int) -> None:
        self.append(Blob(shape, self._dtype))


def shape_tops(plan: LayerPlan, bottom: Sequence[Blob], tops: Sequence[Blob]) -> None:
    """Give a layer's tops their shapes, and the memory that they share with the bottom, as Caffe's Reshape does.

    Split shares the data. Reshape, and Concat and Slice of one blob, share the diff too, and do nothing backwards.
    Flatten, and Permute where it moves nothing, share their top's diff with the bottom in the backward pass.
    """
    for top, shape in zip(tops, plan.top_shapes(*(blob.shape for blob in bottom)), strict=True):
        top.reshape(*shape)
    if not shares_memory(plan):
        return
    for top in tops:
        top.share_data(bottom[0])
        if plan.type not in ("Split", *GIVE_THEIR_DIFF):
            top.share_diff(bottom[0])
