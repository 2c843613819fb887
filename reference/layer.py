"""The base of the reference's layers, and the registry that finds them by Caffe's type name."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from prototxt.errors import InputError
from prototxt.own import own_param
from prototxt.plan import LayerPlan
from runtime.blob import Blob, BlobVec, shape_tops

LAYERS: dict[str, type["Layer"]] = {}
"""Caffe's layer type → our class."""

PYTHON_LAYERS: dict[tuple[str, str], type["Layer"]] = {}
"""(module, layer) of pycaffe layers that are built in → our class."""

Arrays = Sequence[np.ndarray]
Gradients = Sequence[np.ndarray | None]


def layer(*types: str) -> Callable[[type["Layer"]], type["Layer"]]:
    """Register a class under Caffe's layer type names."""

    def register(cls: type["Layer"]) -> type["Layer"]:
        LAYERS.update(dict.fromkeys(types, cls))
        return cls

    return register


class Layer:
    """A layer as functions of arrays; the net's blobs are handled here.

    What the layer accepts, its weights and its tops' shapes are declared in `prototxt.layers`. A class here is
    arithmetic: it writes `run` and `grad`; `set_up` prepares what does not change. Everything is computed in the
    net's dtype. A layer may keep what `run` computed for `grad` on `self`, as Caffe's layers do.

    Args:
        plan: the layer's plan.
        dtype: the net's.
        values: the weights' first values, as declared.
        opened: what the layer's set-up opened: a data layer's source.

    Attributes:
        param, phase: its LayerParameter (of a type of the user's own: an `OwnParam`), and Caffe's phase (0 TRAIN, 1
            TEST).
        blobs: the weights.
    """

    def __init__(self, plan: LayerPlan, dtype: np.dtype, values: Arrays = (), opened: Any = None):
        self.plan = plan
        self.param = own_param(plan.param)
        self.type = plan.type
        self.phase = plan.param.phase
        self.dtype = dtype
        self.opened = opened
        self.blobs = BlobVec(dtype=dtype)
        for value in values:
            blob = Blob(value.shape, dtype)
            blob.data[...] = value
            self.blobs.append(blob)
        self.set_up()

    # ---- what a layer class writes

    def set_up(self) -> None:
        """Prepare what every pass uses."""

    def run(self, *bottoms: np.ndarray) -> np.ndarray | Arrays | None:
        """The tops. One array may be returned bare; None leaves the tops' data alone."""
        raise InputError(f"{self.type} has no forward pass in the reference")

    def grad(self, bottoms: Arrays, tops: Arrays, top_diffs: Arrays) -> np.ndarray | Sequence | None:
        """The bottoms' gradients; None for one that has none. Weights' are added with `add_grad`.

        `bottoms` and `tops` are the blobs' data at this moment: a blob that was worked on in place holds
        the later values, in Caffe too.
        """
        raise InputError(f"{self.type} has no backward pass in the reference")

    # ---- what a layer class calls

    def weight(self, index: int) -> np.ndarray:
        return self.blobs[index].data

    def wants_weight(self, index: int) -> bool:
        """Whether weight `index` exists and needs a gradient."""
        return index < len(self.blobs) and self.plan.params[index].needs_gradient

    def add_grad(self, index: int, gradient: np.ndarray | np.floating) -> None:
        if self.wants_weight(index):
            self.blobs[index].diff[...] += gradient.reshape(self.blobs[index].shape)

    # ---- what the net calls

    def reshape(self, bottom: list[Blob], top: list[Blob]) -> None:
        """Give the tops their shapes, and the memory that they share with the bottom in Caffe."""
        shape_tops(self.plan, bottom, top)

    def forward(self, bottom: list[Blob], top: list[Blob]) -> None:
        result = self.run(*(blob.data for blob in bottom))
        for blob, array in zip(top, _listed(result, len(top)), strict=True):
            if array is not None:
                blob.data[...] = array

    def backward(self, top: list[Blob], propagate_down: list[bool], bottom: list[Blob]) -> None:
        self.propagate_down = propagate_down
        result = self.grad(
            [blob.data for blob in bottom], [blob.data for blob in top], [blob.diff for blob in top]
        )
        for blob, wanted, array in zip(bottom, propagate_down, _listed(result, len(bottom)), strict=True):
            if wanted and array is not None:
                # A layer in place may have given the blob more axes meanwhile.
                blob.diff[...] = array.reshape(blob.shape) if array.size == blob.count else array


def flat_from(x: np.ndarray, axis: int) -> np.ndarray:
    """`x` with the axes from `axis` on as one. (`reshape(…, -1)` does not take an array without values.)"""
    return x.reshape(*x.shape[:axis], math.prod(x.shape[axis:]))


def _listed(result: np.ndarray | Gradients | None, count: int) -> Gradients:
    if result is None:
        return [None] * count
    return [result] if isinstance(result, np.ndarray | np.generic) else result
