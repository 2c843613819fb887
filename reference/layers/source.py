"""Layers without bottoms."""

from collections.abc import Sequence

import numpy as np

from prototxt.caffe_pb2 import FillerParameter
from prototxt.errors import InputError
from reference.layer import Arrays, Layer, Shape, layer


@layer("Input")
class Input(Layer):
    """A blob that the caller fills. Its shape is set once: later the caller may reshape the blob."""

    def setup(self, bottom: list, top: list) -> None:
        shapes = self.param.input_param.shape
        if len(shapes) not in (0, 1, len(top)):
            raise InputError(f"input_param has {len(shapes)} shapes for {len(top)} tops: give 0, 1 or one each")
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
    """A weight as a blob of the net."""

    def add_weights(self) -> None:
        shape = tuple(self.param.parameter_param.shape.dim)
        self.add_weight(shape, FillerParameter(value=0))

    def top_shapes(self) -> Sequence[Shape]:
        return [self.blobs[0].shape]

    def run(self) -> np.ndarray:
        return self.weight(0)

    def grad(self, bottoms: Arrays, tops: Arrays, top_diffs: Arrays) -> None:
        self.add_grad(0, top_diffs[0])
