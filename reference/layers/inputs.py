"""Layers without bottoms."""

from collections.abc import Sequence

import numpy as np

from prototxt.caffe_pb2 import FillerParameter
from prototxt.errors import InputError
from reference.layer import Arrays, Layer, Shape, layer
from runtime.blob import Blob
from runtime.fillers import fill
from runtime.rng import caffe_rng


@layer("Input")
class Input(Layer):
    """A blob that the caller fills. Its shape is set once: later the caller may reshape the blob."""

    def setup(self, bottom: list, top: list) -> None:
        shapes = self.param.input_param.shape
        if len(shapes) not in (0, 1, len(top)):
            raise InputError(
                f"input_param has {len(shapes)} shapes for {len(top)} tops: give 0, 1 or one each"
            )
        for i, blob in enumerate(top):
            if shapes:
                blob.reshape(*shapes[i if len(shapes) > 1 else 0].dim)

    def reshape(self, bottom: list, top: list) -> None:
        pass

    def run(self) -> None:
        return None

    def grad(self, bottoms: Arrays, tops: Arrays, top_diffs: Arrays) -> None:
        return None


@layer("Parameter")
class Parameter(Layer):
    """A weight as a blob of the net, in one memory: what writes to the blob writes to the weight.

    So in Caffe its gradient is the last pass's alone, not a sum over `iter_size`.
    """

    def add_weights(self) -> None:
        shape = tuple(self.param.parameter_param.shape.dim)
        self.add_weight(shape, FillerParameter(value=0))

    def top_shapes(self) -> Sequence[Shape]:
        return [self.blobs[0].shape]

    def forward(self, bottom: list[Blob], top: list[Blob]) -> None:
        top[0].share_data(self.blobs[0])

    def grad(self, bottoms: Arrays, tops: Arrays, top_diffs: Arrays) -> None:
        if self.wants_weight(0):
            self.blobs[0].diff[...] = top_diffs[0]


@layer("DummyData")
class DummyData(Layer):
    """Blobs from fillers: constants once, everything else anew in every forward pass."""

    def setup(self, bottom: list, top: list) -> None:
        param = self.param.dummy_data_param
        legacy = [list(getattr(param, name)) for name in ("num", "channels", "height", "width")]
        if any(legacy):
            if param.shape:
                raise InputError("dummy_data_param has shape and the older num … width: give one kind")
            shapes = list(zip(*(_one_each(dims, len(top), "num … width") for dims in legacy), strict=True))
        else:
            shapes = [s.dim for s in _one_each(list(param.shape), len(top), "shape")]
        self.fillers = _one_each(list(param.data_filler) or [FillerParameter()], len(top), "data_filler")
        for blob, shape, filler in zip(top, shapes, self.fillers, strict=True):
            blob.reshape(*shape)
            if filler.type == "constant":
                blob.data[...] = filler.value
        self.shapes = [blob.shape for blob in top]

    def reshape(self, bottom: list, top: list) -> None:
        pass

    def run(self) -> list[np.ndarray | None]:
        return [
            None if filler.type == "constant" else fill(shape, filler, caffe_rng())
            for shape, filler in zip(self.shapes, self.fillers, strict=True)
        ]

    def grad(self, bottoms: Arrays, tops: Arrays, top_diffs: Arrays) -> None:
        return None


def _one_each(values: list, count: int, what: str) -> list:
    """One value for each of `count` tops, of one for all or one each."""
    if len(values) not in (1, count):
        raise InputError(f"dummy_data_param has {len(values)} {what} for {count} tops: give 1 or one each")
    return values * count if len(values) == 1 else values
