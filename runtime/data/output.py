"""HDF5Output's file: what one pass computed; and whether layers may write files at all."""

import contextlib
from collections.abc import Iterator

import numpy as np

from prototxt.caffe_pb2 import HDF5OutputParameter
from prototxt.errors import InputError
from prototxt.layers.declare import legacy_shape
from weights.hdf5 import new_hdf5

_held_back = 0


@contextlib.contextmanager
def no_output_files() -> Iterator[None]:
    """Within it no layer (HDF5Output, MatWrite, DetectionOutput) writes: for what looks at a net and should not change
    the disk."""
    global _held_back
    _held_back += 1
    try:
        yield
    finally:
        _held_back -= 1


def held_back() -> bool:
    """Whether layers write nothing now."""
    return _held_back > 0


class HDF5Pass:
    """The datasets `data` and `label`, of 4 axes each, in `hdf5_output_param.file_name`.

    As in Caffe the file holds one pass: a second one is refused, never written over the first.
    """

    def __init__(self, param: HDF5OutputParameter):
        self.path = param.file_name
        self.written = False

    def write(self, data: np.ndarray, label: np.ndarray) -> None:
        """Raises InputError for a second pass, and where the file cannot be written."""
        if held_back():
            return
        if self.written:
            raise InputError(
                f"{self.path} holds one pass already, and no more, as in Caffe: run the net once"
            )
        with new_hdf5(self.path) as file:
            for name, values in (("data", data), ("label", label)):
                file.create_dataset(name, data=values.reshape(legacy_shape(values.shape)))
        self.written = True
