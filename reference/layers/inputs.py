"""Layers without bottoms that read no file."""

import numpy as np

from prototxt.layers.inputs import dummy_fillers
from reference.layer import Arrays, Layer, layer
from runtime.blob import Blob
from runtime.fillers import fill
from runtime.rng import caffe_rng


@layer("Input")
class Input(Layer):
    """A blob that the caller fills. Its shape is set once: later the caller may reshape the blob."""

    def reshape(self, bottom: list[Blob], top: list[Blob]) -> None:
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

    def forward(self, bottom: list[Blob], top: list[Blob]) -> None:
        top[0].share_data(self.blobs[0])

    def grad(self, bottoms: Arrays, tops: Arrays, top_diffs: Arrays) -> None:
        if self.wants_weight(0):
            self.blobs[0].diff[...] = top_diffs[0]


@layer("DummyData")
class DummyData(Layer):
    """Blobs from fillers: constants once, everything else anew in every forward pass."""

    def set_up(self) -> None:
        self.fillers = dummy_fillers(self.param, len(self.plan.tops))
        self.filled = False

    def reshape(self, bottom: list[Blob], top: list[Blob]) -> None:
        for blob, filler in zip(top, self.fillers, strict=True):
            if filler.type == "constant" and not self.filled:
                blob.data[...] = filler.value
        self.filled = True

    def run(self) -> list[np.ndarray | None]:
        return [
            None if filler.type == "constant" else fill(shape, filler, caffe_rng())
            for shape, filler in zip(self.plan.declared.tops, self.fillers, strict=True)
        ]

    def grad(self, bottoms: Arrays, tops: Arrays, top_diffs: Arrays) -> None:
        return None
