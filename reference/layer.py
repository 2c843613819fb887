"""The base of the reference's layers, and the registry that finds them by Caffe's type name."""

from collections.abc import Callable, Sequence

import numpy as np

from prototxt.caffe_pb2 import FillerParameter
from prototxt.errors import InputError
from prototxt.plan import LayerPlan
from runtime.blob import Blob, BlobVec
from runtime.fillers import first_values
from runtime.rng import caffe_rng

LAYERS: dict[str, type["Layer"]] = {}
"""Caffe's layer type → our class."""

PYTHON_LAYERS: dict[tuple[str, str], type["Layer"]] = {}
"""(module, layer) of pycaffe layers that are built in → our class."""

Shape = tuple[int, ...]
Arrays = Sequence[np.ndarray]


def layer(*types: str) -> Callable[[type["Layer"]], type["Layer"]]:
    """Register a class under Caffe's layer type names."""

    def register(cls: type["Layer"]) -> type["Layer"]:
        LAYERS.update(dict.fromkeys(types, cls))
        return cls

    return register


class Layer:
    """A layer as functions of arrays; the net's blobs are handled here.

    A layer class writes `run` and `grad`, and where the defaults do not fit, `add_weights` and
    `top_shapes`. Everything is computed in the net's dtype. A layer may keep what `run` computed for
    `grad` on `self`, as Caffe's layers do.

    Attributes:
        plan, param, phase: the layer's plan, its LayerParameter, and Caffe's phase (0 TRAIN, 1 TEST).
        dtype: the net's.
        blobs: the weights.
    """

    def __init__(self, plan: LayerPlan, dtype: np.dtype):
        self.plan = plan
        self.param = plan.param
        self.type = plan.type
        self.phase = plan.param.phase
        self.dtype = dtype
        self.blobs = BlobVec(dtype=dtype)

    # ---- what a layer class writes

    def add_weights(self, *shapes: Shape) -> None:
        """Check the bottoms' shapes and make the weights with `add_weight`, in Caffe's order. Once."""

    def top_shapes(self, *shapes: Shape) -> Sequence[Shape]:
        """The tops' shapes. By default each top is like bottom 0."""
        return [shapes[0]] * len(self.plan.tops)

    def run(self, *bottoms: np.ndarray) -> np.ndarray | Arrays | None:
        """The tops. One array may be returned bare; None leaves the tops' data alone."""
        raise InputError(f'layer "{self.plan.name}": {self.type} has no forward pass in the reference')

    def grad(self, bottoms: Arrays, tops: Arrays, top_diffs: Arrays) -> np.ndarray | Sequence | None:
        """The bottoms' gradients; None for one that has none. Weights' are added with `add_grad`.

        `bottoms` and `tops` are the blobs' data at this moment: a blob that was worked on in place holds
        the later values, in Caffe too.
        """
        raise InputError(f'layer "{self.plan.name}": {self.type} has no backward pass in the reference')

    # ---- what a layer class calls

    def add_weight(self, shape: Shape, filler: FillerParameter) -> None:
        blob = Blob(shape, self.dtype)
        blob.data[...] = first_values(self.param, len(self.blobs), shape, filler, caffe_rng())
        self.blobs.append(blob)

    def weight(self, index: int) -> np.ndarray:
        return self.blobs[index].data

    def wants_weight(self, index: int) -> bool:
        """Whether weight `index` exists and needs a gradient."""
        return index < len(self.blobs) and self.plan.params[index].needs_gradient

    def add_grad(self, index: int, gradient: np.ndarray) -> None:
        if self.wants_weight(index):
            self.blobs[index].diff[...] += gradient.reshape(self.blobs[index].shape)

    # ---- what the net calls

    def setup(self, bottom: list[Blob], top: list[Blob]) -> None:
        self.add_weights(*(blob.shape for blob in bottom))

    def reshape(self, bottom: list[Blob], top: list[Blob]) -> None:
        for blob, shape in zip(top, self.top_shapes(*(blob.shape for blob in bottom)), strict=True):
            blob.reshape(*shape)

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
                blob.diff[...] = array


def _listed(result: np.ndarray | Arrays | None, count: int) -> Arrays:
    if result is None:
        return [None] * count
    return [result] if isinstance(result, np.ndarray | np.generic) else result
